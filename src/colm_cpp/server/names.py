"""Model names are ways of writing: ``demo`` is a pair, ``demo@20%`` a rate, ``demo:base`` or ``demo:math`` a model."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .._shown import shown
from ..options import ASSISTANT, BASE
from .errors import ApiError

__all__ = ["MIXTURE", "Way", "read_name", "ways_of"]

MIXTURE = "mixture"  # the suffix that is no model
RATES = (5, 10, 20, 40)  # those that /v1/models lists; any other works
_RATE = re.compile(r"(.+)@([0-9]{1,3}(?:\.[0-9]{1,6})?)%", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Way:
    """What a model name stands for.

    Attributes:
        name: the whole name.
        pair: the pair's name.
        suffix: what stands behind it; "" for the pair as it is.
        options: options of the house that the suffix sets.
    """

    name: str
    pair: str
    suffix: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def _suffixes(experts: Sequence[str]) -> dict[str, tuple[dict[str, Any], str]]:
    """What each suffix of a pair with these experts sets, and what it does."""
    alone = {
        f":{name}": (
            {"head": "always" if len(experts) == 1 else f"always:{name}"},
            "the assistant alone" if name == ASSISTANT else f"the expert {name} alone",
        )
        for name in experts
    }
    mixed = "both, (1 - p) base + p assistant" if len(experts) == 1 else "all models by their probabilities"
    return {
        f":{BASE}": ({"head": "never"}, "the base alone"),
        **alone,
        f":{MIXTURE}": ({"strategy": "compose", "threshold": 0.0}, f"the mixture of {mixed}"),
    }


def read_name(name: str, pairs: Mapping[str, Sequence[str]]) -> Way:
    """The way of writing of that name.

    Args:
        name: a model name of a request.
        pairs: the names of the experts of each pair.

    Raises:
        ApiError: 404, there is none.
    """
    if name in pairs:
        return Way(name, name)
    pair, colon, suffix = name.rpartition(":")
    if pair in pairs and colon + suffix in (known := _suffixes(pairs[pair])):
        return Way(name, pair, colon + suffix, known[colon + suffix][0])
    match = _RATE.fullmatch(name)
    if match is not None and match[1] in pairs:
        rate = float(match[2]) / 100
        if not 0.0 <= rate <= 1.0 or not math.isfinite(rate):
            raise ApiError(404, f"model is {shown(name)}; a rate is 0% to 100%", param="model", code="model_not_found")
        return Way(name, match[1], name.removeprefix(match[1]), {"defer_rate": rate})
    first = pair if pair in pairs else next(iter(pairs), "demo")
    raise ApiError(
        404,
        f"there is no model {shown(name)}; the pairs are {', '.join(pairs)}, each also as {first}@20%, "
        + ", ".join(f"{first}{suffix}" for suffix in _suffixes(pairs.get(first, (ASSISTANT,)))),
        param="model",
        code="model_not_found",
    )


def ways_of(pair: str, experts: Sequence[str], *, has_rates: bool) -> dict[str, str]:
    """The names of a pair's ways of writing, with what they do."""
    ways = {pair: "the pair at its head's threshold"}
    if has_rates:
        by = "the assistant" if len(experts) == 1 else "the experts"
        ways |= {f"{pair}@{rate}%": f"the pair, {rate}% of the tokens by {by}" for rate in RATES}
    return ways | {f"{pair}{suffix}": about for suffix, (_, about) in _suffixes(experts).items()}
