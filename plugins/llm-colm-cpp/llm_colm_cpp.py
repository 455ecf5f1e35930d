"""Pairs of colm-cpp as models of the command ``llm``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal

import llm
from llm.parts import TextPart
from pydantic import Field

import colm_cpp as colm

PREFIX = "colm/"
NO_LIMIT = -1

_lock = threading.Lock()
_loaded: dict[str, colm.Pair] = {}


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Each preset, without loading it."""
    for preset in colm.presets():
        register(ColmPair(preset.name))


def loaded(name: str) -> colm.Pair:
    """The pair of that name. One is kept: another one takes its place, and its memory."""
    with _lock:
        if name not in _loaded:
            for other in list(_loaded):
                _loaded.pop(other).close()
            _loaded[name] = colm.load(name)
        return _loaded[name]


class Options(llm.Options):
    """What ``-o`` takes."""

    who: Literal["pair", "base", "assistant"] = Field("pair", description="Who writes: pair, base or assistant")
    rate: float | None = Field(None, ge=0, le=100, description="Percentage of the tokens that the pair defers")
    temperature: float | None = Field(None, ge=0, description="Sampling temperature; 0 is greedy")
    top_p: float | None = Field(None, ge=0, le=1, description="Nucleus sampling; 1 is off")
    max_tokens: int | None = Field(None, ge=-1, description="The most tokens; -1: until the context is full")
    seed: int | None = Field(None, ge=0, description="Seed of sampling")


class ColmPair(llm.Model):
    """A pair."""

    can_stream = True
    supports_schema = True
    Options = Options  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self.model_id = f"{PREFIX}{name}"
        self._name = name

    def __str__(self) -> str:
        return f"colm-cpp: {self.model_id}"

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str]:
        """Writes the answer token by token."""
        try:
            yield from self._answer(prompt, response)
        except colm.ColmError as error:
            raise llm.ModelError(str(error)) from error

    def _answer(self, prompt: llm.Prompt, response: llm.Response) -> Iterator[str]:
        pair = loaded(self._name)
        messages = [{"role": message.role, "content": _text(message)} for message in prompt.messages]
        options = _options(prompt)
        try:
            stream = pair.stream_chat(messages, **options)
        except colm.HeadError:
            if "defer_rate" not in options:
                raise
            # A head without a calibration table: the rate is reached by adjusting the threshold.
            options["target_rate"] = options.pop("defer_rate")
            stream = pair.stream_chat(messages, **options)
        with stream:
            for token in stream:
                yield token.text
            stats = stream.stats
        response.set_usage(input=stats.prompt_tokens, output=stats.generated_tokens)
        response.response_json = {"finish_reason": stream.finish_reason, "stats": stats.to_dict()}


def _text(message: Any) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def _options(prompt: llm.Prompt) -> dict[str, Any]:
    """The options of :meth:`colm_cpp.Pair.stream_chat`."""
    given: Any = prompt.options
    options: dict[str, Any] = {"max_tokens": NO_LIMIT}
    for name in ("temperature", "top_p", "max_tokens", "seed"):
        if getattr(given, name) is not None:
            options[name] = getattr(given, name)
    if given.who != "pair":
        if given.rate is not None:
            raise llm.ModelError(f"rate is {given.rate:g}, and who is {given.who}; a rate is for the pair, remove one")
        options["head"] = {"base": "never", "assistant": "always"}[given.who]
    elif given.rate is not None:
        options["defer_rate"] = given.rate / 100
    if prompt.schema:
        options["response_format"] = {"type": "json_schema", "json_schema": {"schema": prompt.schema}}
    return options
