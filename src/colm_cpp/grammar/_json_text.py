"""How JSON values are written, as pieces of GBNF."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, NamedTuple

from ._languages import ANY, Languages, Ranges, Term, complement, union

__all__ = ["SHARED_RULES", "Bound", "json_literal", "literal", "number_term", "string_chars", "text_chars"]

# Numbers without bounds have so many digits at most: a model that writes digits forever would never end.
MOST_DIGITS = 19
# Decimal texts that are compared with a bound have so many digits, which floats tell apart.
_EXACT_DIGITS = 15

# White space is one blank or the beginning of a line: a model that writes it forever would never end either.
SHARED_RULES = {
    "ws": '| " " | "\\n" [ \\t]{0,20}',
    "hex": "[0-9a-fA-F]",
    # Surrogates come in pairs.
    "char": (
        '[^"\\\\\\x00-\\x1F\\x7F] | "\\\\" (["\\\\/bfnrt] | "u" ([0-9abcefABCEF] hex{3} | [dD] [0-7] hex{2} | '
        '[dD] [89abAB] hex{2} "\\\\u" [dD] [c-fC-F] hex{2}))'
    ),
    "string": '"\\"" char* "\\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,18})',
    "number": 'integer ("." [0-9]{1,19})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
}
_SHORT = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}
_RAW: Ranges = complement(((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)))


class Bound(NamedTuple):
    """A bound of a number, and whether the number may be equal to it."""

    value: Decimal
    inclusive: bool


def literal(text: str) -> str:
    """GBNF that matches this text; no surrogates."""
    quoted = "".join(
        f"\\{c}" if c in '"\\' else c if " " <= c != "\x7f" else f"\\x{ord(c):02X}" if c < "\x80" else c for c in text
    )
    return f'"{quoted}"'


def json_literal(value: Any) -> str:
    """JSON of a value as it is written for ``enum`` and ``const``: without blanks, characters as they are."""
    if isinstance(value, str):
        return '"' + "".join(_escaped(ord(c)) or c for c in value) + '"'
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict):
        return "{" + ",".join(f"{json_literal(key)}:{json_literal(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(json_literal, value)) + "]"
    return repr(value)


def _escaped(code: int) -> str:
    if code in _SHORT:
        return "\\" + _SHORT[code]
    return f"\\u{code:04x}" if code < 0x20 or code == 0x7F or 0xD800 <= code <= 0xDFFF else ""


def text_chars(ranges: Ranges) -> str:
    """GBNF for one character of the set."""
    return "[" + "".join(_class_char(a) if a == b else f"{_class_char(a)}-{_class_char(b)}" for a, b in ranges) + "]"


def _class_char(code: int) -> str:
    if chr(code).isascii() and chr(code).isalnum():
        return chr(code)
    return f"\\x{code:02X}" if code < 0x80 else f"\\U{code:08X}"


def string_chars(ranges: Ranges) -> list[str]:
    """GBNF alternatives for one character of the set, as it stands inside a JSON string."""
    outside = complement(ranges)
    raw = complement(union(outside, complement(_RAW)))
    escaped = [_escaped(c) for a, b in ranges if a < 0x80 for c in range(a, min(b, 0x7F) + 1) if _escaped(c)]
    alternatives = [text_chars(raw)] if raw else []
    short = "".join(text[1] for text in escaped if len(text) == 2)
    if short:
        alternatives.append('"\\\\" [' + short.replace("\\", "\\\\") + "]")
    long = [text for text in escaped if len(text) > 2]
    # What has a short form need not have another.
    for start in ("\\u000", "\\u001", "\\u007"):
        ends = "".join(text[5] for text in long if text.startswith(start))
        if ends:
            alternatives.append(f"{literal(start)} [{ends}]")
    return alternatives


def number_term(
    languages: Languages, low: Bound | None, high: Bound | None, multiples: Iterable[Decimal], *, integer: bool
) -> Term:
    """Texts of the numbers between the bounds that are multiples of all ``multiples``, in plain decimals."""
    of = languages
    digit = of.chars(((0x30, 0x39),))
    if integer:
        low = low and Bound(_whole(low, up=True), inclusive=True)
        high = high and Bound(_whole(high, up=False), inclusive=True)
    n_whole = max(len(_digits(bound)[0]) for bound in (low, high, Bound(Decimal(0), inclusive=True)) if bound)
    if integer:
        shape = _whole_shape(of, max(MOST_DIGITS, n_whole))
    else:
        fraction = of.cat(of.literal("."), of.repeat(digit, 1, None))
        shape = of.cat(_whole_shape(of, max(_EXACT_DIGITS, n_whole)), of.repeat(fraction, 0, 1))
        n_places = max((len(_digits(bound)[1]) for bound in (low, high) if bound), default=0)
        shape = of.both(shape, of.repeat(of.chars(ANY), 1, max(_EXACT_DIGITS, n_whole + n_places) + 1))
    for multiple in multiples:
        whole, places = _digits(Bound(multiple, inclusive=True))
        shape = of.both(shape, of.multiple(int(whole + places), len(places)))
    above = _between(of, shape, low, high)
    below = _between(of, shape, high and _negative(high), low and _negative(low))
    return of.alt(above, of.cat(of.literal("-"), below))


def _negative(bound: Bound) -> Bound:
    return Bound(bound.value.copy_negate(), bound.inclusive)


def _whole(bound: Bound, *, up: bool) -> Decimal:
    whole = bound.value.to_integral_value(ROUND_CEILING if up else ROUND_FLOOR)
    return whole + (1 if up else -1) if whole == bound.value and not bound.inclusive else whole


def _digits(bound: Bound) -> tuple[str, str]:
    whole, _, fraction = format(abs(bound.value), "f").partition(".")
    return whole.lstrip("0") or "0", fraction.rstrip("0")


def _whole_shape(of: Languages, n_digits: int) -> Term:
    digit = of.chars(((0x30, 0x39),))
    return of.alt(of.literal("0"), of.cat(of.chars(((0x31, 0x39),)), of.repeat(digit, 0, n_digits - 1)))


def _between(of: Languages, shape: Term, low: Bound | None, high: Bound | None) -> Term:
    """Those of the texts of numbers without a sign."""
    if low is not None and (low.value > 0 or (low.value == 0 and not low.inclusive)):
        shape = of.both(shape, _above(of, low))
    if high is not None:
        if high.value < 0:
            return of.nothing
        shape = of.both(shape, of.negate(_above(of, Bound(high.value, not high.inclusive))))
    return shape


def _above(of: Languages, bound: Bound) -> Term:
    """Decimals above a bound that is 0 or more, or equal to it where it is inclusive."""
    whole, fraction = _digits(bound)
    digit = of.chars(((0x30, 0x39),))
    digits = of.repeat(digit, 0, None)
    nonzero = of.cat(of.repeat(of.literal("0"), 0, None), of.chars(((0x31, 0x39),)), digits)
    longer = of.cat(of.chars(((0x31, 0x39),)), of.repeat(digit, len(whole), None), of.repeat(_tail(of), 0, 1))
    larger = [longer]
    for i, c in enumerate(whole):
        if c < "9":
            more = of.chars(((ord(c) + 1, 0x39),))
            others = of.repeat(digit, len(whole) - i - 1, len(whole) - i - 1)
            larger.append(of.cat(of.literal(whole[:i]), more, others, of.repeat(_tail(of), 0, 1)))
    same = of.literal(whole)
    for i, c in enumerate(fraction):
        if c < "9":
            more = of.chars(((ord(c) + 1, 0x39),))
            larger.append(of.cat(same, of.literal("." + fraction[:i]), more, digits))
    exactly = of.cat(same, of.literal("." + fraction)) if fraction else same
    if bound.inclusive:
        larger.append(of.cat(exactly, digits if fraction else of.repeat(_tail(of), 0, 1)))
    else:
        larger.append(of.cat(exactly, nonzero if fraction else of.cat(of.literal("."), nonzero)))
    return of.alt(*larger)


def _tail(of: Languages) -> Term:
    return of.cat(of.literal("."), of.repeat(of.chars(((0x30, 0x39),)), 1, None))
