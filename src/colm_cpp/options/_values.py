"""Values of options that are more than a number or a word."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from .._numbers import integer, real
from .._shown import shown
from ..errors import OptionError

__all__ = ["biases", "strings"]

_DECIMAL = re.compile(r"-?[0-9]{1,10}")


def strings(given: object) -> list[str]:
    """``stop`` as a list.

    Raises:
        OptionError: it is neither a string nor strings, or no text can contain one of them.
    """
    try:
        found = [] if given is None else [given] if isinstance(given, str) else list(given)  # type: ignore[call-overload]
    except TypeError:  # a 0-dimensional array claims to be iterable
        raise OptionError(f"stop is {shown(given)}; give a string or a list of strings") from None
    for text in found:
        if not isinstance(text, str):
            raise OptionError(f"stop holds {shown(text)}; each stop string must be a str")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise OptionError(
                f"the stop string {shown(text)} holds a lone surrogate, so no text can contain it"
            ) from None
    return found


def biases(given: object) -> list[tuple[int, float]]:
    """``logit_bias`` as the extension takes it.

    Raises:
        OptionError: it is no dict of token id -> number, or names an id twice.
    """
    if given is not None and not isinstance(given, Mapping):
        raise OptionError(f"logit_bias is {shown(given)}; give a dict of token id -> bias")
    found: dict[int, float] = {}
    for key, bias in (given or {}).items():
        # The keys of a JSON object are strings. int() would accept other forms, and fails on thousands of digits.
        token = int(key) if isinstance(key, str) and _DECIMAL.fullmatch(key) else key
        number = integer("a token of logit_bias", token, -(2**31), 2**31 - 1)
        if number in found:
            raise OptionError(f"logit_bias names token {number} twice, as a number and as a string; leave one out")
        found[number] = -math.inf if bias == "-inf" else real("a logit_bias", bias)
    return list(found.items())
