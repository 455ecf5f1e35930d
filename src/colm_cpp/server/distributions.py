"""``/v1/colm/distributions``: one model's next-token distributions behind token ids.

A pair elsewhere that has the model as an expert asks for them (:mod:`.remote.colm`). Each position is a text of one
token in a slot of the loaded pair, so the KV cache keeps what the slot has read: a further position costs its own new
tokens. Positions of one request are read one after the other, each in a decode that other texts share.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from .._shown import shown
from ..engine.pair import Pair
from ..errors import ContextFull
from ..options import BASE, GenerationOptions
from ..remote.colm import MOST_IDS as MAX_IDS
from ..remote.colm import PATH
from ..remote.frames import MEDIA_TYPE, encode
from ..remote.protocol import Likeliest
from .answers import finite
from .errors import ApiError, Json
from .names import Way
from .registry import Entry
from .schemas import MAX_POSITIONS, DistributionsRequest
from .service import Job, Service
from .sse import unless_gone

__all__ = ["MAX_IDS", "router"]

router = APIRouter()


@router.get(PATH, response_class=Json)
async def limits(request: Request, model: str) -> Response:
    """What the other route takes for a model, and which vocabulary its ids are of."""
    service: Service = request.app.state.service
    way = service.registry.way(model)
    entry = service.registry.entries[way.pair]
    name = _model(way, entry)
    async with service.registry.use(way.pair) as (pair, _):
        _check_vocabulary(pair, way, name)
        facts = pair.base if name == BASE else pair.experts[name]
        return Json(
            {
                "model": model,
                "n_ctx": pair.n_ctx,
                "n_ids": pair.n_shared or facts["n_vocab"],
                "vocab_fingerprint": facts["vocab_fingerprint"],
                "max_positions": MAX_POSITIONS,
                "max_ids": MAX_IDS,
            }
        )


_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {}, "application/json": {}}, "description": "Binary, or JSON where it is accepted."}
}


@router.post(PATH, response_class=Response, responses=_ANSWERS)
async def distributions(body: DistributionsRequest, request: Request) -> Response:
    """The likeliest ids at positions of a text, by one model, with the probability of all others."""
    service: Service = request.app.state.service
    way = service.registry.way(body.model)
    name = _model(way, service.registry.entries[way.pair])
    counts = [len(body.tokens)] if body.counts is None else body.counts
    _check_counts(counts, len(body.tokens))
    async with service.job(body.model) as job:
        pair = job.pair
        _check_vocabulary(pair, way, name)
        _check_size(pair, counts, min(body.top_k, pair.base["n_vocab"]))
        found = await unless_gone(request, _read(job, body.tokens, counts, body.top_k))
    if "application/json" in request.headers.get("accept", ""):
        return Json(
            {
                "object": "colm.distributions",
                "model": body.model,
                "positions": [_in_json(count, one) for count, one in zip(counts, found, strict=True)],
            }
        )
    return Response(encode(counts, found), media_type=MEDIA_TYPE)


def _model(way: Way, entry: Entry) -> str:
    """The one model that a name stands for."""
    name = way.suffix.removeprefix(":")
    if name in (BASE, *entry.experts):
        return name
    models = " or ".join(f"{entry.name}:{each}" for each in (BASE, *entry.experts))
    raise ApiError(
        400, f"model is {shown(way.name)}, and distributions are those of one model; ask {models}", param="model"
    )


def _check_vocabulary(pair: Pair, way: Way, name: str) -> None:
    if name != BASE and not pair.one_vocabulary:
        raise ApiError(
            400,
            f"the models of {way.pair} have unlike vocabularies, and only {way.pair}:{BASE} reads ids alone; serve a "
            f"pair with {name} as its base",
            param="model",
        )


def _check_counts(counts: Sequence[int], n_tokens: int) -> None:
    if any(one >= other for one, other in itertools.pairwise(counts)):
        raise ApiError(400, f"counts is {shown(counts)}; it must rise", param="counts")
    if counts[0] < 1 or counts[-1] > n_tokens:
        raise ApiError(400, f"counts is {shown(counts)}; each must be from 1 to {n_tokens}", param="counts")


def _check_size(pair: Pair, counts: Sequence[int], k: int) -> None:
    if counts[-1] >= pair.n_ctx:
        raise ContextFull(
            f"tokens holds {counts[-1]} tokens before a position, and the context holds {pair.n_ctx}; the most is one "
            "less"
        )
    if len(counts) * k > MAX_IDS:
        raise ApiError(
            400,
            f"{len(counts)} positions with {k} ids each are more than {MAX_IDS} ids; ask for fewer positions or a "
            "smaller top_k",
            param="top_k",
        )


async def _read(job: Job, tokens: Sequence[int], counts: Sequence[int], top_k: int) -> list[Likeliest]:
    options = GenerationOptions.of(
        {**job.way.options, "max_tokens": 1, "temperature": 0.0, "logprobs": min(top_k, job.pair.base["n_vocab"])}
    )
    texts = await job.make([tokens[:count] for count in counts], lambda _: options)
    async with job.turns.turn():
        return [_likeliest(await job.likeliest(text)) for text in texts]


def _likeliest(listed: Sequence[tuple[int, float]]) -> Likeliest:
    ids, logprobs = [token for token, _ in listed], [logprob for _, logprob in listed]
    return Likeliest(ids, logprobs, max(0.0, 1.0 - float(np.exp(logprobs).sum())))


def _in_json(count: int, one: Likeliest) -> dict[str, Any]:
    return {"count": count, "tail": one.tail, "ids": one.ids, "logprobs": [finite(p) for p in one.logprobs]}
