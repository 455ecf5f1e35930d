"""Requests as clients send them. Types are checked here; what values an option may have is up to the house's options.

A field that is not here is refused, with a reason if the published API has it (:mod:`.refused`).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .refused import without_nulls

__all__ = [
    "MAX_PROMPTS",
    "ChatRequest",
    "CompletionRequest",
    "DetokenizeRequest",
    "DistributionsRequest",
    "Message",
    "ResponsesRequest",
    "StreamOptions",
    "TokenizeRequest",
    "Tool",
]

MAX_CHOICES = 128
MAX_PROMPTS = 2048
MAX_POSITIONS = 64
Colm = Annotated[
    dict[str, Any] | None,
    Field(description="Options of colm: threshold, defer_rate, target_rate, strategy, lookahead, top_k and others."),
]
Ids = Annotated[list[int], Field(min_length=1)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(_Request):
    """How a stream is sent."""

    include_usage: bool | None = Field(None, description="Send a last chunk with the number of tokens.")
    include_obfuscation: Literal[False] | None = Field(None, description="Not supported.")


class _Text(_Request):
    """What the routes have in common."""

    route: ClassVar[str]
    model: str = Field(description="A pair, or a way of writing: demo, demo@20%, demo:base.")
    stream: bool | None = Field(None, description="Send the text as it is written, as server-sent events.")
    temperature: float | None = Field(None, description="Sampling temperature; 0 is greedy.")
    top_p: float | None = Field(None, description="Nucleus sampling; 1 is off.")
    user: str | None = Field(None, description="Whom the request is for. It has no effect on the text.")
    safety_identifier: str | None = Field(None, description="As user.")
    colm: Colm = None

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, given: Any) -> Any:
        return without_nulls(cls.route, given)


class _Sampled(_Text):
    frequency_penalty: float | None = Field(None, description="Subtracted for each time that a token was written.")
    presence_penalty: float | None = Field(None, description="Subtracted once from each token that was written.")
    logit_bias: dict[str, float] | None = Field(None, description="Added to the logits of tokens, by their ids.")
    max_tokens: int | None = Field(None, description="The most tokens to write.")
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(None, description="Texts to write.")
    seed: int | None = Field(None, description="Seed of sampling; text i of several has seed + i.")
    stop: str | list[str] | None = Field(None, description="Strings that end the text.")
    stream_options: StreamOptions | None = None


class TextPart(_Request):
    """A part of a message's content."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None
    parsed: Any = None


class CalledFunction(_Request):
    """A function that the model called."""

    name: str
    arguments: str
    parsed_arguments: Any = Field(default=None, description="What OpenAI's clients add; it is not read.")


class ToolCall(_Request):
    """A call in a message of the assistant."""

    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None


class Message(_Request):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    colm: Any = Field(default=None, description="What this server sent with the message; it is not read.")
    parsed: Any = Field(default=None, description="What OpenAI's clients add; it is not read.")
    annotations: list[Any] | None = Field(
        default=None, description="What other servers send with a message; it is not read."
    )
    audio: None = None
    function_call: None = None


class Function(_Request):
    """A function that the model may call."""

    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Request):
    """A tool of chat completions."""

    type: Literal["function"]
    function: Function


class ChosenFunction(_Request):
    """The name of the function that must be called."""

    name: str


class ToolChoice(_Request):
    """A tool that must be called."""

    type: Literal["function"]
    function: ChosenFunction


class ChatRequest(_Sampled):
    """``POST /v1/chat/completions``."""

    route = "/v1/chat/completions"
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(None, description="The most tokens to write.")
    logprobs: bool | None = Field(None, description="Report log-probabilities of the tokens.")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="And of the likeliest ones.")
    response_format: dict[str, Any] | None = Field(None, description="text, json_object or json_schema.")
    tools: list[Tool] | None = Field(None, description="Functions that the model may call.")
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = Field(None, description="Whether there may be several calls; true by default.")
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = Field(None, description="Slots find what was read before by themselves.")
    continue_final_message: bool | None = Field(
        None, description="Go on with the text of the last message, which must be the assistant's."
    )


class CompletionRequest(_Sampled):
    """``POST /v1/completions``."""

    route = "/v1/completions"
    prompt: (
        str
        | Ids
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]
    ) = Field(description="A text, token ids, or a list of either.")
    echo: bool | None = Field(None, description="Answer with the prompt before the text.")
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(None, description="Report so many likeliest tokens.")
    best_of: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = Field(None, description="Only the value of n.")
    response_format: dict[str, Any] | None = Field(None, description="text, json_object or json_schema.")


class FlatTool(Function):
    """A tool of the responses API."""

    type: Literal["function"]


class FlatChoice(_Request):
    """A tool of the responses API that must be called."""

    type: Literal["function"]
    name: str


class TextConfig(_Request):
    """The form of the text."""

    format: dict[str, Any] | None = None
    verbosity: Literal["medium"] | None = None


class InputItem(_Request):
    """One item of the input: a message, a call of a function or its result."""

    type: Literal["message", "function_call", "function_call_output"] | None = None
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[TextPart] | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    parsed_arguments: Any = None
    output: str | list[TextPart] | None = None


class ResponsesRequest(_Text):
    """``POST /v1/responses``."""

    route = "/v1/responses"
    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = Field(None, description="A system message before the input.")
    max_output_tokens: int | None = Field(None, description="The most tokens to write.")
    text: TextConfig | None = None
    tools: list[FlatTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    stream_options: StreamOptions | None = None


class TokenizeRequest(_Request):
    """``POST /tokenize``: vLLM's fields, or llama.cpp's."""

    model: str | None = None
    prompt: str | None = Field(None, description="The text (vLLM's name).")
    content: str | None = Field(None, description="The text (llama.cpp's name).")
    messages: list[Message] | None = Field(None, description="Or a conversation, as the chat template writes it.")
    add_special_tokens: bool = Field(True, description="Add BOS if the model asks for it.")
    add_special: bool | None = Field(None, description="The same, by llama.cpp's name.")
    parse_special: bool = Field(True, description="Recognise control tokens.")
    return_token_strs: bool | None = Field(None, description="Send the text of each token as token_strs.")
    with_pieces: bool | None = Field(None, description="Send tokens as objects with id and piece.")


class DetokenizeRequest(_Request):
    """``POST /detokenize``."""

    model: str | None = None
    tokens: Annotated[list[int], Field(max_length=1 << 20)]


class DistributionsRequest(_Request):
    """``POST /v1/colm/distributions``."""

    model: str = Field(description="One model of a pair: demo:base, demo:assistant.")
    tokens: Annotated[list[int], Field(min_length=1, max_length=1 << 20)] = Field(description="The text as token ids.")
    counts: Annotated[list[int], Field(min_length=1, max_length=MAX_POSITIONS)] | None = Field(
        None, description="After how many of the tokens, rising. By default after all of them."
    )
    top_k: Annotated[int, Field(ge=1, le=1 << 30)] = Field(
        description="How many of the likeliest ids to send; all of them where the vocabulary has no more."
    )
