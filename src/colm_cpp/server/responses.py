"""``POST /v1/responses``. Nothing is stored: the client sends the whole conversation as ``input``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..engine.own_prompts import chat_prompt
from ..results import Stats, Token
from .answers import chat_logprobs, new_id, now, token_facts
from .calls import Call, Splitter
from .errors import ApiError, Json
from .messages import for_template, plain_text
from .options import TEMPLATE_VARIABLES, options_for, own_fields
from .schemas import CalledFunction, FlatTool, Function, InputItem, Message, ResponsesRequest, Tool, ToolCall
from .service import Job, Service
from .sse import event
from .tools import Form, form_of, tools_of

__all__ = ["router"]

router = APIRouter()
_WANTS_LOGPROBS = "message.output_text.logprobs"


@router.post("/v1/responses", response_class=Json)
async def responses(body: ResponsesRequest, request: Request) -> Response:
    """Answers a conversation."""
    service: Service = request.app.state.service
    async with contextlib.AsyncExitStack() as stack:
        job = await stack.enter_async_context(service.job(body.model))
        answer = _Answer(job, body, await _prepare(job, body))
        return await job.answered(request, answer, stack, in_events=body.stream, error_name="error")


async def _prepare(job: Job, body: ResponsesRequest) -> Form | None:
    """Makes the text. Returns how calls are written where the model may call functions."""
    own = own_fields(body.colm, job.pair.names[1:], chat=True)
    wants_logprobs = bool(body.include)
    if body.top_logprobs is not None and not wants_logprobs:
        raise ApiError(400, f"top_logprobs needs include: [{_WANTS_LOGPROBS!r}]", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    if body.stream_options is not None and body.stream_options.include_usage is not None:
        raise ApiError(400, "stream_options.include_usage is a field of chat completions", param="stream_options")
    variables = own.get(TEMPLATE_VARIABLES)
    tools = tools_of([_tool(tool) for tool in body.tools or ()])
    messages = for_template(_messages(body))

    def prompt() -> tuple[Form | None, Any]:
        parallel = body.parallel_tool_calls is not False
        form = form_of(job.pair, tools, body.tool_choice, parallel=parallel, variables=variables)
        return form, chat_prompt(job.pair, messages, template_variables=variables, tools=tools or None)

    form, ids = await asyncio.to_thread(prompt)
    wanted = _response_format(body)

    def options(number: int) -> Any:
        return options_for(
            job.way,
            body,
            own,
            max_tokens=job.limit(body.max_output_tokens),
            logprobs=(body.top_logprobs or 0) if wants_logprobs else None,
            grammar=None if form is None else form.grammar,
            response_format=wanted,
            n_ctx=job.pair.n_ctx,
        )

    await job.make([ids], options)
    return form


def _tool(tool: FlatTool) -> Tool:
    function = Function(**tool.model_dump(exclude={"type"}))
    return Tool(type="function", function=function)


def _response_format(body: ResponsesRequest) -> dict[str, Any] | None:
    """``text.format`` as chat completions have it."""
    given = None if body.text is None else body.text.format
    if given is None or given.get("type") != "json_schema":
        return given
    return {"type": "json_schema", "json_schema": {name: value for name, value in given.items() if name != "type"}}


def _messages(body: ResponsesRequest) -> list[Message]:
    """``input`` and ``instructions`` as messages."""
    messages = [] if body.instructions is None else [Message(role="system", content=body.instructions)]
    if isinstance(body.input, str):
        return [*messages, Message(role="user", content=body.input)]
    for number, item in enumerate(body.input):
        place = f"input[{number}]"
        if item.type == "function_call":
            call = _call(item, place)
            last = messages[-1] if messages else None
            if last is not None and last.role == "assistant":  # calls of one turn
                last.tool_calls = [*(last.tool_calls or ()), call]
            else:
                messages.append(Message(role="assistant", tool_calls=[call]))
        elif item.type == "function_call_output":
            if item.call_id is None or item.output is None:
                raise ApiError(400, f"{place} needs call_id and output", param=place)
            output = plain_text(item.output, f"{place}.output")
            messages.append(Message(role="tool", tool_call_id=item.call_id, content=output))
        elif item.role is None or item.content is None:
            raise ApiError(400, f"{place} needs role and content", param=place)
        else:
            messages.append(Message(role=item.role, content=plain_text(item.content, f"{place}.content")))
    return messages


def _call(item: InputItem, place: str) -> ToolCall:
    if item.call_id is None or item.name is None or item.arguments is None:
        raise ApiError(400, f"{place} needs call_id, name and arguments", param=place)
    function = CalledFunction(name=item.name, arguments=item.arguments)
    return ToolCall(id=item.call_id, type="function", function=function)


class _Answer:
    """One answer, whole or in pieces."""

    def __init__(self, job: Job, body: ResponsesRequest, form: Form | None) -> None:
        self._job = job
        self._body = body
        self._form = form
        self._id = new_id("resp_")
        self._created = now()

    def _response(
        self,
        status: str,
        output: list[dict[str, Any]],
        *,
        stats: Stats | None = None,
        tokens: Sequence[Token] = (),
        reason: str | None = None,
    ) -> dict[str, Any]:
        body = self._body
        own: dict[str, Any] = {"tokens": token_facts(tokens)}
        usage = None
        if stats is not None:
            own["stats"] = stats.to_dict()
            n_prompt = self._job.texts[0].n_prompt
            usage = {
                "input_tokens": n_prompt,
                "input_tokens_details": {"cached_tokens": self._job.texts[0].n_cached},
                "output_tokens": stats.generated_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": n_prompt + stats.generated_tokens,
            }
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None if reason is None else {"reason": reason},
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": (body.text.format if body.text else None) or {"type": "text"}},
            "tool_choice": _dumped(body.tool_choice) or "auto",
            "tools": [_dumped(tool) for tool in body.tools or ()],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": usage,
            "user": body.user,
            "metadata": {},
            "colm": own,
        }

    def _part(self, text: str, tokens: Sequence[Token]) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs(tokens)}

    def _logprobs(self, tokens: Sequence[Token]) -> list[dict[str, Any]]:
        if not self._body.include or not tokens:
            return []
        content: list[dict[str, Any]] = chat_logprobs(self._job.pair, tokens)["content"]
        return content

    @staticmethod
    def _message(id: str, parts: list[dict[str, Any]], status: str) -> dict[str, Any]:
        return {"id": id, "type": "message", "status": status, "role": "assistant", "content": parts}

    @staticmethod
    def _called(call: Call, status: str) -> dict[str, Any]:
        facts = {"id": f"fc_{call.id}", "type": "function_call", "status": status, "call_id": call.id}
        return {**facts, "name": call.name, "arguments": call.arguments}

    async def whole(self) -> dict[str, Any]:
        """Everything at once."""
        written = await self._job.write(self._job.texts[0])
        splitter = Splitter(self._form)
        splitter.feed(written.text)
        splitter.end()
        complete = written.finish_reason != "length"
        status = "completed" if complete else "incomplete"
        output = []
        if splitter.content or not splitter.calls:
            output.append(self._message(new_id("msg_"), [self._part(splitter.content, written.tokens)], status))
        output += [self._called(call, status) for call in splitter.calls]
        reason = None if complete else "max_output_tokens"
        return self._response(status, output, stats=written.stats, tokens=written.tokens, reason=reason)

    async def events(self) -> AsyncIterator[bytes]:
        """The same in events."""
        number = -1

        def sent(kind: str, **facts: Any) -> bytes:
            nonlocal number
            number += 1
            return event({"type": kind, **facts, "sequence_number": number}, kind)

        yield sent("response.created", response=self._response("in_progress", []))
        yield sent("response.in_progress", response=self._response("in_progress", []))
        text = self._job.texts[0]
        items = _Items(self, sent)
        splitter = Splitter(self._form)
        tokens: list[Token] = []
        async with contextlib.aclosing(self._job.bunches(text)) as bunches:  # type: ignore[type-var]
            async for bunch in bunches:
                tokens += bunch
                deltas = splitter.feed("".join(token.text for token in bunch))
                for one in items.take(deltas, bunch):
                    yield one
        for one in items.take(splitter.end(), []):
            yield one
        complete = text.finish_reason != "length"
        status = "completed" if complete else "incomplete"
        for one in items.finish(splitter, tokens, status):
            yield one
        reason = None if complete else "max_output_tokens"
        last = self._response(status, items.done, stats=text.stats, tokens=tokens, reason=reason)
        yield sent(f"response.{status}", response=last)


class _Items:
    """The output items of a stream: a message, then calls."""

    def __init__(self, answer: _Answer, sent: Any) -> None:
        self._answer = answer
        self._sent = sent
        self._message: str | None = None  # its id, once it has begun
        self._calls: list[Call] = []
        self.done: list[dict[str, Any]] = []

    def take(self, deltas: Sequence[dict[str, Any]], tokens: Sequence[Token]) -> list[bytes]:
        """The events of these deltas, which these tokens made."""
        events: list[bytes] = []
        own = {"tokens": token_facts(tokens)}
        for delta in deltas:
            if "content" in delta:
                events += self._begin_message()
                place = {"item_id": self._message, "output_index": 0, "content_index": 0}
                facts = {"delta": delta["content"], "logprobs": self._answer._logprobs(tokens), "colm": own}
                events.append(self._sent("response.output_text.delta", **place, **facts))
                own, tokens = {"tokens": []}, []
            for piece in delta.get("tool_calls", ()):
                if "id" in piece:
                    call = Call(piece["function"]["name"], id=piece["id"])
                    self._calls.append(call)
                    item = self._answer._called(call, "in_progress")
                    events.append(self._sent("response.output_item.added", output_index=self._index(), item=item))
                else:
                    call, written = self._calls[-1], piece["function"]["arguments"]
                    call.arguments += written
                    place = {"item_id": f"fc_{call.id}", "output_index": self._index()}
                    events.append(
                        self._sent("response.function_call_arguments.delta", **place, delta=written, colm=own)
                    )
                    own, tokens = {"tokens": []}, []
        return events

    def _index(self) -> int:
        return len(self._calls) - 1 + (self._message is not None)

    def _begin_message(self) -> list[bytes]:
        if self._message is not None:
            return []
        self._message = new_id("msg_")
        item = self._answer._message(self._message, [], "in_progress")
        place = {"item_id": self._message, "output_index": 0, "content_index": 0}
        return [
            self._sent("response.output_item.added", output_index=0, item=item),
            self._sent("response.content_part.added", **place, part=self._answer._part("", [])),
        ]

    def finish(self, splitter: Splitter, tokens: Sequence[Token], status: str) -> list[bytes]:
        """The events that end all items."""
        events: list[bytes] = []
        if not self._calls:
            events += self._begin_message()
        if self._message is not None:
            part = self._answer._part(splitter.content, tokens)
            place = {"item_id": self._message, "output_index": 0, "content_index": 0}
            item = self._answer._message(self._message, [part], status)
            text, logprobs = part["text"], part["logprobs"]
            events.append(self._sent("response.output_text.done", **place, text=text, logprobs=logprobs))
            events.append(self._sent("response.content_part.done", **place, part=part))
            events.append(self._sent("response.output_item.done", output_index=0, item=item))
            self.done.append(item)
        for call in self._calls:
            item, index = self._answer._called(call, status), len(self.done)
            facts = {"item_id": item["id"], "output_index": index, "name": call.name, "arguments": call.arguments}
            events.append(self._sent("response.function_call_arguments.done", **facts))
            events.append(self._sent("response.output_item.done", output_index=index, item=item))
            self.done.append(item)
        return events


def _dumped(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value
