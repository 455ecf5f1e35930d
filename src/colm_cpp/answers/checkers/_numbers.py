"""Answers that are numbers: in a box, or the last of a text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from ._verdict import CHARACTERS, Verdict

__all__ = ["Boxed", "Number"]

_REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\!|\\(?:left|right)(?![A-Za-z])|\{\}", ""),
        (r"\{,\}", ","),
        (r"(?<=[0-9])\\,(?=[0-9]{3}(?![0-9]))", ""),
        (r"\\[,;: ]|~|\\q?quad(?![A-Za-z])|\\\\", " "),
        (r"\\\$", "$"),
        (r"\\?%", ""),
        (r"\\[()\[\]]", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\^\s?(?:\\circ(?![A-Za-z])|\{\s?\\circ\s?\})|\\degrees?(?![A-Za-z])|\u00b0", ""),
        *2 * [(r"\\(?:text(?:bf|it|rm|tt)?|math(?:rm|bf|it|sf)|mbox|operatorname)\s?\{([^{}]*)\}", r" \1 ")],
        (r"\s\^", "^"),
        (
            r"(?<=[0-9])\s?(?:\\times|\\cdot|\u00d7|\*)\s?10\s?\^\s?(?:\{([-+]?[0-9]{1,3})\}|([-+]?[0-9]{1,3}))",
            r"e\1\2",
        ),
    )
)

_DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_MAGNITUDES: Mapping[str, int] = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# A number without its sign: a fraction with or without whole part, or a decimal.
_UNSIGNED = rf"""
    (?:(?<![0-9A-Za-z)\]}}])[$\u00a3\u20ac\u00a5]\s?(?P<inner>-)?)?
    (?:
        (?:(?P<whole>{_DIGITS})\s?)?\\frac\s?
        (?:\{{\s?(?P<top>[-+]?{_DIGITS})\s?\}}\s?\{{\s?(?P<bottom>[-+]?{_DIGITS})\s?\}}|(?P<top1>[0-9])\s?(?P<bottom1>[0-9]))
      | (?<![/0-9])(?:(?P<whole2>[0-9]+)\s)?(?P<top2>{_DIGITS})\s?/\s?(?P<bottom2>{_DIGITS})(?![/0-9])
      | (?P<value>{_DIGITS})(?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9A-Za-z]))?
    )
    (?:\s?(?P<magnitude>{"|".join(_MAGNITUDES)})s?(?![A-Za-z]))?
"""
_WHOLE_NUMBER = re.compile(rf"(?P<sign>[-+])?\s?{_UNSIGNED}", re.VERBOSE | re.IGNORECASE)
# Within a text a minus counts only where it cannot join two things: "5-3" and "pages 3-4" hold no negative number.
_ANY_NUMBER = re.compile(
    rf"(?P<sign>(?<![0-9A-Za-z)\]}}$.\-])-(?=[$\u00a3\u20ac\u00a50-9.\\])|(?<==\s)-\s|(?<==)-\s)?{_UNSIGNED}",
    re.VERBOSE | re.IGNORECASE,
)
_PREFIX = re.compile(
    r"(?:[A-Za-z][A-Za-z ]*:|(?:about|approximately|approx|around|roughly|USD|US|Rs)\b\.?|\\approx|\u2248)\s*",
    re.IGNORECASE,
)
_UNIT = re.compile(r"[A-Za-z]+\.?(?:\^?\{?-?[0-9]\}?|[\u00b2\u00b3])?(?:(?:\s*[/\u00b7-]\s*|\s+)|$)")
_ATTACHED_UNITS = re.compile(
    "[kmc]?g|lbs?|oz|[kcm]m|ft|in|mi|mph|km/?h|[mcd]l|[kmg]b|hrs?|mins?|secs?|usd|eur|gbp|st|nd|rd|th", re.IGNORECASE
)
# Letters that are units rather than unknowns, and words that make "5 ..." something else than 5.
_LETTER_UNITS = frozenset("mgshl")
_NO_UNITS = re.compile("pi|am|pm|or|to|plus|minus|times|mod|sqrt|over", re.IGNORECASE)
_MAX_DIGITS = 400  # a looping model writes digits for ever; reading them as one number takes quadratic time


def _rewritten(text: str) -> str:
    text = text.translate(CHARACTERS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text


def _value(match: re.Match[str]) -> Fraction | None:
    """The number that a match of _UNSIGNED with a sign stands for; None where it has none (x/0, endless digits)."""
    if len(match[0]) > _MAX_DIGITS:
        return None

    def number(group: str) -> Fraction:
        return Fraction((match[group] or "0").replace(",", ""))

    if match["value"] is not None:
        value = number("value") * Fraction(10) ** int(match["exponent"] or 0)
    else:
        top = number("top") + number("top1") + number("top2")
        bottom = number("bottom") + number("bottom1") + number("bottom2")
        if bottom == 0:
            return None
        value = top / bottom
        if match["whole"] or 0 <= value < 1:  # "in 2020 3/2" is no mixed number
            value += number("whole") + number("whole2")
    if match["magnitude"]:
        value *= _MAGNITUDES[match["magnitude"].lower()]
    return value if ((match["sign"] or "").strip() == "-") == (match["inner"] == "-") else -value


def _is_unit(rest: str) -> bool:
    """Whether what follows a number merely names what is counted."""
    if not rest.strip():
        return True
    word = re.match(r"[A-Za-z]+", rest)
    if word and not _ATTACHED_UNITS.fullmatch(word[0]):
        return False  # "2x" and "3pi" are no numbers with a unit
    rest = rest.strip()
    if rest.startswith("(") and rest.endswith(")"):
        rest = rest[1:-1]
    position = 0
    while position < len(rest):
        match = _UNIT.match(rest, position)
        if match is None:
            return False
        word = re.match(r"[A-Za-z]+", match[0])
        name = word[0].lower() if word else ""
        if _NO_UNITS.fullmatch(name) or (
            len(name) == 1 and name not in _LETTER_UNITS and not (name == "a" and position)
        ):
            return False
        position = match.end()
    return True


def _right_side(text: str) -> str:
    """What follows the last equals sign, unless the text lists several equations."""
    parts = re.split(r"(?<![<>!=])=(?!=)|\\approx(?![A-Za-z])|\u2248", text)
    if len(parts) > 2 and re.search(r",(?![0-9]{3})|;|\b(?:and|or)\b", "=".join(parts[:-1])):
        return text
    return parts[-1]


def _parse_number(text: str) -> Fraction | None:
    """The number that the whole of a rewritten text stands for, or None."""
    text = _right_side(text.replace("*", " ") if "**" in text else text)
    text = text.strip().rstrip(".").strip()
    if text.startswith("$") and text.endswith("$"):
        text = text.strip("$").strip()
    prefix = _PREFIX.match(text)
    text = text[prefix.end() :] if prefix else text
    match = _WHOLE_NUMBER.match(text)
    if match is None:
        return None
    return _value(match) if _is_unit(text[match.end() :].replace("$", "")) else None


def _as_text(text: str) -> str:
    """A rewritten text without what makes no difference to its meaning."""
    text = text.replace("$", "").strip().rstrip(".").strip().casefold()
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"(?<![^\W_]) | (?![^\W_])", "", text)


def _same_number(value: Fraction, reference: Fraction) -> bool:
    if value.denominator == reference.denominator == 1:
        return value == reference  # 1e-6 of a large whole number is more than one
    return abs(value - reference) * 10**6 <= abs(reference)


def _reference(answer: str) -> str:
    if "####" in answer:
        return answer.rpartition("####")[2]
    return _last_box(answer) or answer


_BARE_BOX = re.compile(
    r"\\f?boxed(?![A-Za-z{])\s*"
    r"((?:[-+]|\\?\$)*(?:\\[dtc]?frac\s*(?:\{[^{}]*\}\s*\{[^{}]*\}|[0-9] ?[0-9])|[^\s\\{}$]+))"
)


def _last_box(text: str) -> str | None:
    """What the last complete, non-empty box holds."""
    found: list[tuple[int, str]] = []  # (where it begins, what it holds)
    open_braces: list[tuple[int, int]] = []  # (where its box begins or -1, where what it holds begins)
    starts = {match.end(): match.start() for match in re.finditer(r"\\f?box(?:ed)?\s*\{", text)}
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            open_braces.append((starts.get(match.end(), -1), match.end()))
        elif match[0] == "}" and open_braces:
            begin, inside = open_braces.pop()
            if begin >= 0:
                found.append((begin, text[inside : match.start()]))
    # TeX would box one token, but a model means the whole number or word.
    for match in _BARE_BOX.finditer(text):
        held = match[1].rstrip(".,;:!?" if "(" in match[1] else ".,;:!?)")
        found.append((match.start(), held))
    return max(((begin, held.strip()) for begin, held in found if held.strip()), default=(0, None))[1]


@dataclass(frozen=True, slots=True)
class Boxed:
    """Compares the last complete box, as a number or as text."""

    name: ClassVar[str] = "boxed"

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        found = _last_box(text)
        if found is None:
            return Verdict(False, None)
        got, wanted = _rewritten(found), _rewritten(_reference(answer))
        value, reference = _parse_number(got), _parse_number(wanted)
        if value is not None and reference is not None:
            return Verdict(_same_number(value, reference), found)
        texts = {_as_text(got), _as_text(_right_side(got))}
        return Verdict(bool(texts & {_as_text(wanted), _as_text(_right_side(wanted))} - {""}), found)


@dataclass(frozen=True, slots=True)
class Number:
    """Compares the last number of the text."""

    name: ClassVar[str] = "number"

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        match = self._last(_rewritten(text))
        if match is None:
            return Verdict(False, None)
        wanted = _rewritten(_reference(answer))
        reference = _parse_number(wanted)
        if reference is None:  # a sentence as the reference
            last = self._last(wanted)
            reference = _value(last) if last else None
        value = _value(match)
        correct = value is not None and reference is not None and _same_number(value, reference)
        return Verdict(correct, match[0].strip())

    @staticmethod
    def _last(text: str) -> re.Match[str] | None:
        found = None
        for match in _ANY_NUMBER.finditer(text):
            found = match
        return found
