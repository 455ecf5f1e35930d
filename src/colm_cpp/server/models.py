"""Routes that say what there is: models, tokens, health, metrics."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ..options import BASE
from .errors import ApiError, Json
from .messages import for_template
from .names import ways_of
from .registry import Entry
from .schemas import DetokenizeRequest, TokenizeRequest
from .service import Service

__all__ = ["router"]

router = APIRouter()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _facts(entry: Entry) -> dict[str, Any]:
    return {"pair": entry.name, "models": [BASE, *entry.experts], "loaded": entry.pair is not None}


def _models(service: Service) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "object": "model",
            "created": entry.created,
            "owned_by": "colm-cpp",
            "colm": {**_facts(entry), "about": about},
        }
        for entry in service.registry.entries.values()
        for name, about in ways_of(entry.name, entry.experts, has_rates=entry.has_rates).items()
    ]


@router.get("/v1/models", response_class=Json)
async def models(request: Request) -> Response:
    """Every way of writing by its name."""
    return Json({"object": "list", "data": _models(_service(request))})


@router.get("/v1/models/{model:path}", response_class=Json)
async def one_model(model: str, request: Request) -> Response:
    """One way of writing; any rate has a name, listed or not."""
    service = _service(request)
    way = service.registry.way(model)
    entry = service.registry.entries[way.pair]
    listed = {"id": model, "object": "model", "created": entry.created, "owned_by": "colm-cpp", "colm": _facts(entry)}
    return Json(listed)


@router.head("/health", include_in_schema=False)
@router.get("/health", response_class=Json)
async def health(request: Request) -> Response:
    """Whether the server takes requests; needs no key."""
    closing = _service(request).texts.closing
    return Json({"status": "shutting down" if closing else "ok"}, 503 if closing else 200)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Counters, as Prometheus reads them."""
    return Response(_service(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.post("/tokenize", response_class=Json)
async def tokenize(body: TokenizeRequest, request: Request) -> Response:
    """Token ids of a text or of a conversation: vLLM's answer and llama.cpp's in one."""
    service = _service(request)
    given = [name for name in ("prompt", "content", "messages") if getattr(body, name) is not None]
    if len(given) != 1:
        raise ApiError(400, "give one of prompt, content and messages", param=given[1] if given else "prompt")
    add_special = body.add_special_tokens if body.add_special is None else body.add_special
    way = service.registry.way(body.model)
    async with service.registry.use(way.pair) as (pair, _):

        def answer() -> Response:
            if body.messages is not None:
                ids = pair.tokenize_chat(for_template(body.messages))
            else:
                text = body.prompt if body.prompt is not None else body.content or ""
                ids = pair.tokenize(text, add_special=add_special, parse_special=body.parse_special)
            facts: dict[str, Any] = {"count": len(ids), "max_model_len": pair.n_ctx, "tokens": ids}
            facts["colm"] = {"one_vocabulary": pair.one_vocabulary}
            if body.with_pieces or body.return_token_strs:
                pieces = [pair.detokenize([token], special=True) for token in ids]
                if body.with_pieces:
                    facts["tokens"] = [{"id": token, "piece": piece} for token, piece in zip(ids, pieces, strict=True)]
                if body.return_token_strs:
                    facts["token_strs"] = pieces
            return Json(facts)

        return await asyncio.to_thread(answer)  # a text may have millions of tokens


@router.post("/detokenize", response_class=Json)
async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
    """The text of token ids: ``prompt`` is vLLM's name for it, ``content`` llama.cpp's."""
    service = _service(request)
    way = service.registry.way(body.model)
    async with service.registry.use(way.pair) as (pair, _):
        text = await asyncio.to_thread(lambda: pair.detokenize(body.tokens, special=True))
        return Json({"prompt": text, "content": text})


@router.get("/tokenizer_info", response_class=Json)
async def tokenizer_info(request: Request, model: str | None = None) -> Response:
    """What evaluation harnesses ask about the tokenizer."""
    service = _service(request)
    way = service.registry.way(model)
    async with service.registry.use(way.pair) as (pair, _):
        base = pair.base
        return Json(
            {
                "tokenizer_class": base["vocab_type"],
                "bos_token": base["bos_token"] or None,
                "eos_token": base["eos_token"] or None,
                "pad_token": None,
                "unk_token": None,
                "chat_template": base["chat_template"] or None,
                "add_bos_token": base["add_bos"],
                "model_max_length": pair.n_ctx,
                "vocab_size": pair.n_shared or pair.base["n_vocab"],
                "vocab_fingerprint": pair.vocab_fingerprint,
            }
        )
