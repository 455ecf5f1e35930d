"""What all answers have: ids, counts of tokens, log-probabilities, and who wrote each token."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable, Sequence
from typing import Any

from ..engine.pair import Pair
from ..results import Stats, Token

__all__ = ["by_text", "chat_logprobs", "finish_reason", "finite", "new_id", "now", "token_facts", "usage"]

_IMPOSSIBLE = -9999.0  # what the published API has for minus infinity


def new_id(prefix: str) -> str:
    """An id of an answer or of a part of it."""
    return f"{prefix}{secrets.token_hex(12)}"


def now() -> int:
    """Seconds since 1970."""
    return int(time.time())


def finish_reason(reason: str | None) -> str:
    """Why a text ended, in the words of the published API."""
    return "length" if reason == "length" else "stop"


def finite(logprob: float) -> float:
    """A log-probability that JSON can hold."""
    return logprob if math.isfinite(logprob) else _IMPOSSIBLE


def usage(n_prompt: int, stats: Iterable[Stats], n_cached: int = 0) -> dict[str, Any]:
    """Tokens read and written by a request; ``n_cached`` of the prompt's were read before."""
    n_written = sum(s.generated_tokens for s in stats)
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_written,
        "total_tokens": n_prompt + n_written,
        "prompt_tokens_details": {"cached_tokens": n_cached},
    }


def token_facts(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Who wrote each token: ``id``, ``text``, ``source``, ``defer_prob`` (null where the head was not asked)."""
    return [
        {"id": token.id, "text": token.text, "source": token.source, "defer_prob": token.defer_prob} for token in tokens
    ]


def chat_logprobs(pair: Pair, tokens: Sequence[Token]) -> dict[str, Any]:
    """Log-probabilities in the form of chat completions."""
    return {
        "content": [
            {
                **_entry(pair.detokenize([token.id], special=True, model=token.source), token.logprob),
                "top_logprobs": [_entry(top.text, top.logprob) for top in token.top_logprobs],
            }
            for token in tokens
        ],
        "refusal": None,
    }


def by_text(likeliest: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The likeliest tokens as the legacy form has them. Of parts of characters, which look the same, the likeliest."""
    named: dict[str, float] = {}
    for text, logprob in likeliest:
        named.setdefault(text, finite(logprob))
    return named


def _entry(text: str, logprob: float) -> dict[str, Any]:
    # A part of a character has no text, and so no bytes that are known here.
    whole = "\ufffd" not in text
    return {"token": text, "logprob": finite(logprob), "bytes": list(text.encode()) if whole else None}
