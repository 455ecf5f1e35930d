"""``POST /v1/chat/completions``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..engine.own_prompts import chat_prompt
from ..results import Token
from .answers import chat_logprobs, finish_reason, new_id, now, token_facts, usage
from .calls import Splitter
from .errors import ApiError, Json
from .messages import for_template
from .options import TEMPLATE_VARIABLES, options_for, own_fields
from .schemas import ChatRequest
from .service import Job, Service, all_of, merged
from .sse import event
from .texts import Text
from .tools import Form, form_of, tools_of

__all__ = ["router"]

router = APIRouter()


@router.post("/v1/chat/completions", response_class=Json)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """Answers a conversation."""
    service: Service = request.app.state.service
    async with contextlib.AsyncExitStack() as stack:
        n = body.n or 1
        job = await stack.enter_async_context(service.job(body.model, n))
        calls = await _prepare(job, body, n)
        return await job.answered(request, _Answer(job, body, calls), stack, in_events=body.stream)


async def _prepare(job: Job, body: ChatRequest, n: int) -> Form | None:
    """Makes the texts. Returns how calls are written where the model may call functions."""
    own = own_fields(body.colm, job.pair.names[1:], chat=True)
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise ApiError(400, "max_tokens and max_completion_tokens both set the same limit", param="max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    most = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    messages = for_template(body.messages)
    begun = _begun(messages) if body.continue_final_message else ""
    variables = own.get(TEMPLATE_VARIABLES)
    tools = tools_of(body.tools)

    def prepared() -> tuple[Form | None, Any]:
        parallel = body.parallel_tool_calls is not False
        form = form_of(job.pair, tools, body.tool_choice, parallel=parallel, variables=variables)
        return form, chat_prompt(job.pair, messages, begun=begun, template_variables=variables, tools=tools or None)

    calls, prompt = await asyncio.to_thread(prepared)
    await job.make(
        [prompt] * n,
        lambda number: options_for(
            job.way,
            body,
            own,
            max_tokens=job.limit(most),
            logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            grammar=None if calls is None else calls.grammar,
            n_ctx=job.pair.n_ctx,
            number=number,
        ),
    )
    return calls


def _begun(messages: list[dict[str, Any]]) -> str:
    """Takes the last message away, and returns its text."""
    last = messages.pop()
    if last["role"] != "assistant" or last.get("tool_calls") or not messages:
        raise ApiError(
            400,
            "continue_final_message goes on with the text of an answer; the last message must be the assistant's, "
            "behind another one and without tool_calls",
            param="continue_final_message",
        )
    return str(last["content"])


class _Answer:
    """One answer, whole or in pieces."""

    def __init__(self, job: Job, body: ChatRequest, calls: Form | None) -> None:
        self._job = job
        self._body = body
        self._calls = calls
        self._facts = {
            "id": new_id("chatcmpl-"),
            "created": now(),
            "model": body.model,
            "system_fingerprint": f"colm-{job.pair.vocab_fingerprint}",
        }

    async def whole(self) -> dict[str, Any]:
        """All choices at once."""
        job = self._job
        written = await all_of([job.write(text) for text in job.texts])
        choices = []
        for number, completion in enumerate(written):
            splitter = Splitter(self._calls)
            splitter.feed(completion.text)
            splitter.end()
            message: dict[str, Any] = {"role": "assistant", "content": splitter.content, "refusal": None}
            if splitter.calls:
                message["tool_calls"] = [call.to_dict() for call in splitter.calls]
                message["content"] = splitter.content or None
            reason = "tool_calls" if splitter.calls else finish_reason(completion.finish_reason)
            choices.append(
                {
                    "index": number,
                    "message": message,
                    "finish_reason": reason if completion.finish_reason != "length" else "length",
                    "logprobs": self._logprobs(completion.tokens),
                    "colm": {"tokens": token_facts(completion.tokens), "stats": completion.stats.to_dict()},
                }
            )
        counts = usage(job.texts[0].n_prompt, [completion.stats for completion in written], job.texts[0].n_cached)
        return {**self._facts, "object": "chat.completion", "choices": choices, "usage": counts}

    async def events(self) -> AsyncIterator[bytes]:
        """The choices in pieces, as they are written."""
        texts = self._job.texts
        wants_usage = self._body.stream_options is not None and bool(self._body.stream_options.include_usage)
        facts = {**self._facts, "object": "chat.completion.chunk"}
        if wants_usage:
            facts["usage"] = None
        async with contextlib.aclosing(merged([self._pieces(i, t) for i, t in enumerate(texts)])) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield event({**facts, "choices": [piece]})
        if wants_usage:
            counts = usage(texts[0].n_prompt, [text.stats for text in texts], texts[0].n_cached)
            yield event({**facts, "choices": [], "usage": counts})
        yield event("[DONE]")

    async def _pieces(self, number: int, text: Text) -> AsyncIterator[dict[str, Any]]:
        splitter = Splitter(self._calls)

        def piece(delta: dict[str, Any], tokens: list[Token], **more: Any) -> dict[str, Any]:
            colm = {"tokens": token_facts(tokens), **more.pop("colm", {})}
            made = {"index": number, "delta": delta, "logprobs": self._logprobs(tokens), "finish_reason": None}
            return {**made, "colm": colm, **more}

        yield piece({"role": "assistant", "content": ""}, [])
        async with contextlib.aclosing(self._job.bunches(text)) as bunches:  # type: ignore[type-var]
            async for bunch in bunches:
                deltas = splitter.feed("".join(token.text for token in bunch))
                for delta in deltas[:-1]:
                    yield piece(delta, [])
                yield piece(deltas[-1] if deltas else {}, bunch)
        for delta in splitter.end():
            yield piece(delta, [])
        reason = finish_reason(text.finish_reason)
        if splitter.calls and reason == "stop":
            reason = "tool_calls"
        yield piece({}, [], finish_reason=reason, colm={"stats": text.stats.to_dict()})

    def _logprobs(self, tokens: Any) -> dict[str, Any] | None:
        return chat_logprobs(self._job.pair, tokens) if self._body.logprobs and tokens else None
