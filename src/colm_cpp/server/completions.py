"""``POST /v1/completions``, the legacy form that evaluation harnesses use."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..options import GenerationOptions
from ..results import Completion, Token
from .answers import by_text, finish_reason, finite, new_id, now, token_facts, usage
from .errors import ApiError, Json
from .likelihoods import PromptLogprobs, prompt_logprobs
from .options import options_for, own_fields
from .schemas import MAX_PROMPTS, CompletionRequest
from .service import Job, Service, all_of, merged
from .sse import event
from .texts import Text

__all__ = ["router"]

router = APIRouter()
DEFAULT_MAX_TOKENS = 16  # of the published API


@router.post("/v1/completions", response_class=Json)
async def completions(body: CompletionRequest, request: Request) -> Response:
    """Continues texts."""
    service: Service = request.app.state.service
    prompts = _prompts(body)
    n = body.n or 1
    if body.best_of not in (None, n):
        raise ApiError(
            400, f"best_of is {body.best_of}, and n is {n}; all texts are sent, so give n alone", param="best_of"
        )
    if n * len(prompts) > MAX_PROMPTS:
        raise ApiError(
            400, f"n is {n} for {len(prompts)} prompts; a request may ask for {MAX_PROMPTS} texts", param="n"
        )
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options needs stream: true", param="stream_options")
    if body.max_tokens == 0 and not body.echo:
        raise ApiError(400, "max_tokens is 0; only echo can do without a token", param="max_tokens")
    async with contextlib.AsyncExitStack() as stack:
        job = await stack.enter_async_context(service.job(body.model, n * len(prompts)))
        own = own_fields(body.colm, job.pair.names[1:], chat=False)
        ids = await asyncio.to_thread(_tokenized, job, prompts)
        most = job.limit(DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens)

        def options(number: int) -> GenerationOptions:
            n_ctx = job.pair.n_ctx
            return options_for(job.way, body, own, max_tokens=most, logprobs=body.logprobs, n_ctx=n_ctx, number=number)

        await job.make([prompt for prompt in ids for _ in range(n)], lambda number: options(number % n))
        return await job.answered(request, _Answer(job, body, ids, n, most, options(0)), stack, in_events=body.stream)


def _prompts(body: CompletionRequest) -> list[str | list[int]]:
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    return [prompt] if isinstance(prompt[0], int) else list(prompt)


def _tokenized(job: Job, prompts: Sequence[str | list[int]]) -> list[list[int]]:
    return [job.pair.prompt_tokens(prompt) for prompt in prompts]


class _Logprobs:
    """Log-probabilities in the legacy form: lists that go on from piece to piece."""

    def __init__(self, job: Job, *, wants_top: bool) -> None:
        self._job = job
        self._at = 0
        self._wants_top = wants_top

    def of(self, tokens: Sequence[Token]) -> dict[str, Any]:
        """Those of written tokens."""
        made = self._empty()
        for token in tokens:
            text = self._job.pair.detokenize([token.id], special=True, model=token.source)
            top = by_text((top.text, top.logprob) for top in token.top_logprobs)
            if top:  # the token itself is there, likely or not
                top.setdefault(text, finite(token.logprob))
            self._add(made, text, finite(token.logprob), top if self._wants_top else None)
        return made

    def of_prompt(self, prompt: PromptLogprobs) -> dict[str, Any]:
        """Those of a prompt. Its first token has none, because nothing stands before it."""
        made = self._empty()
        for text, logprob, top in zip(prompt.texts, prompt.logprobs, prompt.top, strict=True):
            self._add(made, text, logprob, top)
        return made

    @staticmethod
    def _empty() -> dict[str, Any]:
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def _add(self, made: dict[str, Any], text: str, logprob: float | None, top: dict[str, float] | None) -> None:
        made["tokens"].append(text)
        made["token_logprobs"].append(logprob)
        made["top_logprobs"].append(top)
        made["text_offset"].append(self._at)
        self._at += len(text)


class _Answer:
    """One answer, whole or in pieces."""

    def __init__(
        self,
        job: Job,
        body: CompletionRequest,
        ids: list[list[int]],
        n: int,
        most: int | None,
        options: GenerationOptions,
    ) -> None:
        self._job = job
        self._body = body
        self._ids = ids
        self._n = n
        self._most = most
        self._options = options
        self._facts = {
            "id": new_id("cmpl-"),
            "object": "text_completion",
            "created": now(),
            "model": body.model,
            "system_fingerprint": f"colm-{job.pair.vocab_fingerprint}",
        }

    async def _prompts(self) -> list[tuple[str, PromptLogprobs | None]]:
        """What ``echo`` sends of each prompt."""
        if not self._body.echo:
            return [("", None)] * len(self._ids)
        job = self._job
        if isinstance(self._body.prompt, str):
            texts = [self._body.prompt]
        elif isinstance(self._body.prompt[0], str):
            texts = list(self._body.prompt)
        else:
            texts = await asyncio.to_thread(lambda: [job.pair.detokenize(ids) for ids in self._ids])
        if self._body.logprobs is None:
            return [(text, None) for text in texts]
        async with job.turns.turn():  # reading takes the place of a text
            known = await prompt_logprobs(job, self._options, self._ids, self._body.logprobs)
        return list(zip(texts, known, strict=True))

    def _n_cached(self) -> int:
        return sum(text.n_cached for text in self._job.texts[:: self._n])

    async def _written(self, text: Text) -> Completion | None:
        return None if self._most == 0 else await self._job.write(text)

    async def whole(self) -> dict[str, Any]:
        """All choices at once."""
        job = self._job
        prompts = await self._prompts()
        written = await all_of([self._written(text) for text in job.texts])
        choices = []
        for number, completion in enumerate(written):
            text, known = prompts[number // self._n]
            choice: dict[str, Any] = {"index": number, "text": text, "finish_reason": "length", "logprobs": None}
            lists = _Logprobs(job, wants_top=bool(self._body.logprobs))
            if self._body.logprobs is not None:
                choice["logprobs"] = lists._empty() if known is None else lists.of_prompt(known)
            if completion is not None:
                choice["text"] += completion.text
                choice["finish_reason"] = finish_reason(completion.finish_reason)
                if self._body.logprobs is not None:
                    # lm-evaluation-harness takes the last entry for a written one, so an ending token counts as one.
                    ended = [] if completion.end_token is None else [completion.end_token]
                    for name, values in lists.of([*completion.tokens, *ended]).items():
                        choice["logprobs"][name] += values
                choice["colm"] = {"tokens": token_facts(completion.tokens), "stats": completion.stats.to_dict()}
            choices.append(choice)
        counts = usage(sum(map(len, self._ids)), [c.stats for c in written if c is not None], self._n_cached())
        return {**self._facts, "choices": choices, "usage": counts}

    async def events(self) -> AsyncIterator[bytes]:
        """The choices in pieces, as they are written."""
        texts = self._job.texts
        wants_usage = self._body.stream_options is not None and bool(self._body.stream_options.include_usage)
        facts = {**self._facts, "usage": None} if wants_usage else self._facts
        prompts = await self._prompts()
        streams = [self._pieces(i, text, *prompts[i // self._n]) for i, text in enumerate(texts)]
        async with contextlib.aclosing(merged(streams)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield event({**facts, "choices": [piece]})
        if wants_usage:
            stats = [] if self._most == 0 else [text.stats for text in texts]
            yield event({**facts, "choices": [], "usage": usage(sum(map(len, self._ids)), stats, self._n_cached())})
        yield event("[DONE]")

    async def _pieces(
        self, number: int, text: Text, prompt: str, known: PromptLogprobs | None
    ) -> AsyncIterator[dict[str, Any]]:
        lists = _Logprobs(self._job, wants_top=bool(self._body.logprobs))
        wants = self._body.logprobs is not None

        def piece(text: str, logprobs: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
            return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": None, **more}

        if self._body.echo:
            yield piece(prompt, None if known is None else lists.of_prompt(known))
        if self._most == 0:
            yield piece("", None, finish_reason="length")
            return
        async with contextlib.aclosing(self._job.bunches(text)) as bunches:  # type: ignore[type-var]
            async for bunch in bunches:
                written = "".join(token.text for token in bunch)
                yield piece(written, lists.of(bunch) if wants else None, colm={"tokens": token_facts(bunch)})
        reason = finish_reason(text.finish_reason)
        ended = lists.of([text.end_token]) if wants and text.end_token is not None else None
        yield piece("", ended, finish_reason=reason, colm={"tokens": [], "stats": text.stats.to_dict()})
