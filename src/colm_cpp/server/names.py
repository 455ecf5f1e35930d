"""Model names are ways of writing: ``demo`` is a pair, ``demo@20%`` a rate, ``demo:base`` one of its models."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .._shown import shown
from .errors import ApiError

__all__ = ["WAYS", "Way", "read_name", "ways_of"]

# What each suffix sets, and what it does.
WAYS: dict[str, tuple[dict[str, Any], str]] = {
    ":base": ({"head": "never"}, "the base alone"),
    ":assistant": ({"head": "always"}, "the assistant alone"),
    ":mixture": ({"strategy": "compose", "threshold": 0.0}, "the mixture of both, (1 - p) base + p assistant"),
}
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


def read_name(name: str, pairs: Mapping[str, Any]) -> Way:
    """The way of writing of that name. ApiError 404: there is none."""
    if name in pairs:
        return Way(name, name)
    for suffix, (options, _) in WAYS.items():
        if name.endswith(suffix) and (pair := name.removesuffix(suffix)) in pairs:
            return Way(name, pair, suffix, options)
    match = _RATE.fullmatch(name)
    if match is not None and match[1] in pairs:
        rate = float(match[2]) / 100
        if not 0.0 <= rate <= 1.0 or not math.isfinite(rate):
            raise ApiError(404, f"model is {shown(name)}; a rate is 0% to 100%", param="model", code="model_not_found")
        return Way(name, match[1], name.removeprefix(match[1]), {"defer_rate": rate})
    first = next(iter(pairs), "demo")
    raise ApiError(
        404,
        f"there is no model {shown(name)}; the pairs are {', '.join(pairs)}, each also as {first}@20%, "
        + ", ".join(f"{first}{suffix}" for suffix in WAYS),
        param="model",
        code="model_not_found",
    )


def ways_of(pair: str, *, has_rates: bool) -> dict[str, str]:
    """The names of a pair's ways of writing, with what they do."""
    ways = {pair: "the pair at its head's threshold"}
    if has_rates:
        ways |= {f"{pair}@{rate}%": f"the pair, {rate}% of the tokens by the assistant" for rate in RATES}
    return ways | {f"{pair}{suffix}": about for suffix, (_, about) in WAYS.items()}
