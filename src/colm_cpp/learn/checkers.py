"""Is a generated text the right answer?

:func:`make_checker` gives one of :data:`CHECKERS`. A checker never raises over what a model wrote: a text in which no
answer can be found is simply not correct.
"""

from __future__ import annotations

import ast
import contextlib
import math
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Protocol

from ..errors import OptionError

__all__ = ["CHECKERS", "Checker", "Verdict", "make_checker"]

CHECKERS: tuple[str, ...] = ("boxed", "number", "choice", "exact", "regex", "python")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker makes of one text.

    Attributes:
        correct: whether the text gives the answer.
        extracted: what was read from the text as its answer; None: nothing was found. For ``python``, what became
            of the code: ``"passed"``, ``"failed: AssertionError"``, ``"timed out"``, ``"no code"``.
    """

    correct: bool
    extracted: str | None


class Checker(Protocol):
    """Judges texts; :func:`make_checker` makes one."""

    @property
    def name(self) -> str:
        """Which of :data:`CHECKERS` it is."""

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        """Judges one text.

        Args:
            text: what was generated.
            answer: the reference; for ``python``, the tests.
            prompt: what was asked: choices and code stubs are read from it.
        """


def make_checker(
    name: str, *, pattern: str | None = None, time_limit: float = 10.0, memory_limit_mb: int = 1024
) -> Checker:
    """Makes a checker.

    ``boxed``
        The last complete ``\\boxed{...}`` holds the number (or text) of the reference. Thousands commas, currency,
        percent and degree signs, LaTeX spacing and a unit after the number make no difference, so ``5 cm`` equals
        ``5 feet``. Two whole numbers must be equal; other numbers may differ by 1e-6 of the reference. What is no
        number is compared as text, without regard to case, spacing and dollar signs.
    ``number``
        The last number in the text, read and compared likewise.
    ``choice``
        The choice that the text settles on, by letter or by the choice's text; the choices are read from the prompt.
        The last "the answer is ..." counts, else the last "(c)", else the choice named last in the last sentence.
        Where a statement's words are one choice's text in full but its letter is another's, the text counts. A
        reference that is a lone letter is a label.
    ``exact``
        The text itself, white space collapsed.
    ``regex``
        What the last non-empty match of ``pattern`` captured.
    ``python``
        The code in the text passes the tests in the reference: they raise on failure, and call whatever has to be
        called. It runs in a process of its own, with limits on time and, except on Windows, on memory and the size of
        files. **This is no sandbox**: the code can read, change and send whatever the user can. Use a container or
        a virtual machine for models that you do not trust.

    For ``boxed``, ``number`` the reference may be a number, a ``\\boxed{}`` or a solution that ends in ``#### 26``.

    Args:
        name: one of :data:`CHECKERS`.
        pattern: for ``regex``, which needs it: a regular expression with one capture group, or none for the whole
            match. A pattern that backtracks without end does so here too.
        time_limit: for ``python``: seconds of wall time for one text, more than 0, at most 3600.
        memory_limit_mb: for ``python``: MiB of address space, at least 64. Windows has no such limit, and macOS may
            not enforce it.

    Raises:
        OptionError: there is no checker of that name, or an option is missing, superfluous or out of range.
    """
    if name not in CHECKERS:
        raise OptionError(f"checker is {name!r}, but there are only {', '.join(CHECKERS)}")
    if not 0.0 < time_limit <= 3600.0:  # also refuses NaN
        raise OptionError(f"time_limit is {time_limit}, but it lies above 0 and at most at 3600 seconds")
    if isinstance(memory_limit_mb, bool) or not isinstance(memory_limit_mb, int) or not 64 <= memory_limit_mb < 2**31:
        raise OptionError(f"memory_limit_mb is {memory_limit_mb}, but it is a whole number of at least 64 MiB")
    if name == "regex":
        return _Regex(_compiled(pattern))
    if pattern is not None:
        raise OptionError(f"pattern is {pattern!r}, but only the checker regex has a pattern, not {name}")
    if name == "boxed":
        return _Boxed()
    if name == "number":
        return _Number()
    if name == "choice":
        return _Choice()
    if name == "exact":
        return _Exact()
    return _Python(float(time_limit), memory_limit_mb)


def _compiled(pattern: str | None) -> re.Pattern[str]:
    if not pattern:
        raise OptionError("pattern is missing, but the checker regex needs one")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise OptionError(f"pattern is {pattern!r}, which is no regular expression ({error})") from error
    if compiled.groups > 1:
        raise OptionError(
            f"pattern is {pattern!r} with {compiled.groups} capture groups, but it may have one; "
            "write (?:...) for the others"
        )
    return compiled


# --- exact, regex ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Exact:
    @property
    def name(self) -> str:
        return "exact"

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        found = " ".join(text.split())
        return Verdict(found == " ".join(answer.split()), found or None)


@dataclass(frozen=True, slots=True)
class _Regex:
    pattern: re.Pattern[str]

    @property
    def name(self) -> str:
        return "regex"

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        found = None
        for match in self.pattern.finditer(text):
            # A pattern such as \d* matches the empty string at every end of a text.
            found = (match[self.pattern.groups] or "").strip() or found
        return Verdict(found is not None and found == answer.strip(), found)


# --- numbers --------------------------------------------------------------------------------------------------------

# Minus signs and dashes, non-breaking and thin spaces, and the full-width forms that CJK models write.
_CHARACTERS: Mapping[int, str] = {
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2212, 0xFE63), "-"),
    **dict.fromkeys((0xA0, 0x2002, 0x2003, 0x2009, 0x202F, 0x3000), " "),
    **dict.fromkeys((0x200B, 0x2060, 0xFEFF), ""),
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
}
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
    text = text.translate(_CHARACTERS)
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
class _Boxed:
    @property
    def name(self) -> str:
        return "boxed"

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
class _Number:
    @property
    def name(self) -> str:
        return "number"

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


# --- choices --------------------------------------------------------------------------------------------------------

_CHOICE_LINE = re.compile(r"\s*(?:[-*]\s+)?[*]*[(\[]?([A-Z])[.):\]][*]*\s+(\S.*?)\s*")
_INLINE_LABEL = re.compile(r"(?:(?<=\s)|(?<=[,;:])|^)[(]?([A-Z])\)\s*", re.MULTILINE)
_STATEMENT = re.compile(
    r"\b(?:answer|choice|option)\b(?:,?[ ](?!is\b)[\w']+){0,6}?,?\s*"
    r"(?P<verb>\bis\b|:|=|(?P<modal>\b(?:must|should|could|would|might|may|can|will)[ ](?:\w+[ ])?be\b))\s*:?\s*",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"(?<!\w)[(\[]\s?(?:(?:label|option|choice|letter|answer):?\s)?(?:([A-Za-z])\s?[)\]]|([A-Z])[.:]\s)"
    r"|\b(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Ll]abel):?\s([A-Z])(?!\w)"
)
# A letter without brackets at the head of a statement. "A" and "a" may be articles, so what follows must tell.
_BARE = re.compile(
    r"[\"'\u201c\u2018]?([A-Za-z])[\"'\u201d\u2019]?(?P<after>[.,;:!?)\]]|$|\s+(?:because|since)\b|\s+-+\s)"
)
_SENTENCE_END = re.compile(r"(?<!\b[A-Za-z])[.!?](?=\s|$)")
_TOKEN = re.compile(r"[-+]?[0-9]+(?:[.,/:][0-9]+)*|[^\W\d_]+(?:'[^\W\d_]+)*(?:\+\+|#)?|[+/=<>%^]|\d")
_STATEMENTS_READ, _STATEMENT_LENGTH = 100, 400  # bounds for a model that says the same for ever
_HEDGES = re.compile("the|a|an|to|be|either|most|likely|probably|definitely|indeed|therefore|simply")


@dataclass(frozen=True, slots=True)
class _Options:
    """The choices of a prompt.

    Attributes:
        texts: label in upper case -> text, in the order of the prompt; empty where the prompt has no choices.
        words: label -> the text's words, joined by spaces.
    """

    texts: Mapping[str, str]
    words: Mapping[str, str]

    @classmethod
    def of(cls, prompt: str) -> _Options:
        prompt = prompt.translate(_CHARACTERS)
        texts = _last_run(
            [(m[1], m[2]) for line in prompt.splitlines() if (m := _CHOICE_LINE.fullmatch(line)) is not None]
        )
        if not texts:  # all on one line: "(A) x (B) y"
            labels = list(_INLINE_LABEL.finditer(prompt))
            ends = [*(label.start() for label in labels), len(prompt)][1:]
            texts = _last_run(
                [
                    (label[1], prompt[label.end() : end].partition("\n")[0].strip(" ,;\t\r"))
                    for label, end in zip(labels, ends, strict=True)
                ]
            )
        return cls(texts, {label: _words(text) for label, text in texts.items()})

    def labels(self) -> str:
        return "".join(self.texts) or "ABCDEFGHIJ"

    def label_of(self, answer: str) -> str | None:
        """The choice that a reference stands for; a lone letter is a label even if it is also a choice's text."""
        answer = answer.translate(_CHARACTERS).strip()
        letter = re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]*", answer)
        if letter and letter[1].upper() in self.labels():
            return letter[1].upper()
        for same in (str.casefold, _words):  # "C" and "C++" may have the same words
            for label, text in self.texts.items():
                if same(text) == same(answer) and same(answer):
                    return label
        named = re.match(r"([A-Z])[.):]\s+(.*)", answer) or re.fullmatch(r"\(([A-Za-z])\)\s*(.*)", answer)
        if named and _words(named[2]) == self.words.get(named[1].upper()):
            return named[1].upper()
        named = re.fullmatch(r"(.*\S)\s*\(([A-Za-z])\)\.?", answer)
        if named and _words(named[1]) == self.words.get(named[2].upper()):
            return named[2].upper()
        return None


def _last_run(rows: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The last labels that run A, B, ...: earlier ones belong to the examples that precede the question."""
    runs: list[dict[str, str]] = []
    for label, text in rows:
        if label == "A":
            runs.append({label: text})
        elif runs and len(runs[-1]) == ord(label) - ord("A"):
            runs[-1][label] = text
    return next((run for run in reversed(runs) if len(run) >= 2 and all(run.values())), {})


def _words(text: str) -> str:
    return " ".join(_TOKEN.findall(text.replace("\u2019", "'").casefold()))


def _without_hedges(words: str) -> str:
    tokens = words.split()
    while len(tokens) > 1 and _HEDGES.fullmatch(tokens[0]):
        del tokens[0]
    return " ".join(tokens)


def _mentions(text: str, options: _Options) -> list[str]:
    """The labels of the choices whose texts occur in a text, in that order; "work" in "work hard" is no occurrence."""
    padded = f" {_words(text)} "
    spans: list[tuple[int, int, str]] = []
    for label, words in options.words.items():
        start = padded.find(f" {words} ") if words else -1
        while start >= 0:
            spans.append((start + 1, start + 1 + len(words), label))
            start = padded.find(f" {words} ", start + 1)
    found: list[str] = []
    reach, previous, within = 0, (0, 0), False
    for begin, end, label in sorted(spans, key=lambda span: (span[0], -span[1], span[2])):
        if (begin, end) != previous:  # of two choices with the same text neither is within the other
            within = end <= reach
            reach, previous = max(reach, end), (begin, end)
        if not within:
            found.append(label)
    return found


def _clean(text: str) -> str:
    text = text.translate(_CHARACTERS).replace("*", "").replace("`", "").replace("$", "")
    text = re.sub(r"\\(?:text(?:bf|it|rm)?|math(?:rm|bf))\s?\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\f?box(?:ed)?\s?\{\s*\(?([A-Za-z])\)?\.?\s*\}", r"(\1)", text)
    text = re.sub(r"\\f?box(?:ed)?\s?\{([^{}]*)\}", r"\1", text)
    return re.sub(r"\\[()\[\]]", "", text)


def _first_sentence(text: str) -> str:
    line = text.partition("\n")[0]
    end = _SENTENCE_END.search(line)
    return line[: end.start() + 1] if end else line


def _statement_label(tail: str, options: _Options, *, colon: bool, modal: bool) -> str | None:
    """The choice that a statement "the answer is ..." names.

    Of several labels the first counts: "(b), not (c)". Where the statement's words are precisely the text of one choice
    but the label is another's, the words count: writing a whole text by mistake is less likely than writing one letter
    by mistake, and the letter only looks the text up. Any other words leave the label as it is.
    """
    tail = _first_sentence(tail)
    if re.match(r"(?:not|neither)\b", tail, re.IGNORECASE):
        return None
    label, rest = None, tail
    rests = [tail]  # "e. coli" is a text, though it looks like a label and a text
    bare = _BARE.match(tail)
    # "the answer is a" was cut off before its noun; "Answer: a" was not.
    if bare and bare[1].upper() in options.labels() and (bare[1] != "a" or colon or bare["after"]):
        label, rest = bare[1].upper(), tail[bare.end() :]
    else:
        for match in _LABEL.finditer(tail):
            letter = (match[1] or match[2] or match[3]).upper()
            if letter in options.labels():
                label, rest = letter, tail[: match.start()] + " " + tail[match.end() :]
                rests = []
                break
    rests.append(rest)
    said = {_without_hedges(_words(part)) for part in rests} - {""}
    exact = [other for other, text in options.words.items() if _without_hedges(text) in said]
    if exact:
        return label if label in exact else exact[0]
    if label is None and not modal:  # after "must be" a choice's word is often part of a description
        label = next(iter(_mentions(rest, options)), None)
    return label


def _statements(text: str) -> Iterator[tuple[str, bool, bool]]:
    """(what follows, whether after a colon, whether after "could be" and the like) of statements, the last first."""
    for match in list(_STATEMENT.finditer(text))[: -_STATEMENTS_READ - 1 : -1]:
        colon = match["verb"] in (":", "=") or ":" in match[0]
        yield text[match.end() : match.end() + _STATEMENT_LENGTH], colon, match["modal"] is not None


def _last_label(text: str, options: _Options) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines:
        alone = re.fullmatch(r"([A-Za-z])[.):]*", lines[-1])
        if alone is None and len(lines) == 1:
            alone = re.match(r"([A-Z])[.):]+\s", lines[0])
        if alone and alone[1].upper() in options.labels():
            return alone[1].upper()
    found = None
    for match in _LABEL.finditer(text):
        letter = (match[1] or match[2] or match[3]).upper()
        found = letter if letter in options.labels() else found
    return found


def _chosen(text: str, options: _Options) -> str | None:
    for tail, colon, modal in _statements(text):
        label = _statement_label(tail, options, colon=colon, modal=modal)
        if label is not None:
            return label
    label = _last_label(text, options)
    if label is not None:
        return label
    sentences = [part for part in re.split(r"(?<=[.!?])\s+|\n", text) if part.strip()]
    mentioned = _mentions(sentences[-1], options) if sentences else []
    return mentioned[-1] if mentioned else None


@dataclass(frozen=True, slots=True)
class _Choice:
    """Reads, in this order: the last statement "the answer is ..." that names a choice; the last label in brackets (or
    a label alone on the last line); the choice whose text comes last in the last sentence. ``extracted`` is the label.

    Without choices in the prompt, ``extracted`` is the label, or the text of the last statement, or the whole text.
    """

    @property
    def name(self) -> str:
        return "choice"

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        options = _Options.of(prompt)
        text = _clean(text)
        wanted = options.label_of(answer)
        label = _chosen(text, options)
        if options.texts and wanted is not None:
            # Two choices may have the same text.
            correct = label is not None and (label == wanted or options.texts[label] == options.texts[wanted])
            return Verdict(correct, label)
        if wanted is not None:
            return Verdict(label == wanted, label)
        return self._without_choices(text, answer)

    @staticmethod
    def _without_choices(text: str, answer: str) -> Verdict:
        wanted = _without_hedges(_words(answer))
        stated = [_first_sentence(tail) for tail, _, modal in _statements(text) if not modal][:1]
        for found in (*stated, text):
            words = _without_hedges(_words(_LABEL.sub(" ", found)))
            if words:
                return Verdict(words == wanted, found.strip().rstrip("."))
        return Verdict(False, None)


# --- python ---------------------------------------------------------------------------------------------------------

_OUTPUT_KEPT = 64 * 1024
_FILE_LIMIT = 16 * 1024 * 1024
_MAX_SOURCE = 1_000_000
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^`]*")
_PYTHON = frozenset({"python", "python3", "py", "py3"})

# Runs code and tests and writes its last line itself: the code may leave early, whatever its exit status, but it cannot
# write this line by accident. Leaving by os._exit keeps the code's exit handlers and threads from having the last word.
_RUNNER = """
import os, sys, types
token, seconds, memory, file_size = sys.argv[1:]
del sys.argv[1:]
try:
    import resource
except ImportError:
    resource = None
for name, limit in (("AS", int(memory)), ("CPU", int(seconds)), ("FSIZE", int(file_size)), ("CORE", 0)):
    try:
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # At the hard limit of CPU time the kernel kills without saying why.
        most = limit if name != "CPU" or limit == hard else limit + 1
        resource.setrlimit(kind, (limit, most))
    except (AttributeError, ValueError, OSError):
        pass
def run(token, leave=os._exit, write=os.write, out=os.dup(1), run_code=exec, make=compile, stdout=sys.stdout):
    try:
        sources = []
        for file in ("code.py", "tests.py"):
            with open(os.path.join(os.pardir, file), encoding="utf-8") as stream:
                sources.append(stream.read())
        module = types.ModuleType("solution")
        sys.modules["solution"] = module  # dataclasses and typing look modules up by name
        for source in sources:
            run_code(make(source, "solution.py", "exec", dont_inherit=True), module.__dict__)
        outcome = "passed"
    except BaseException as error:
        outcome = "failed " + type(error).__name__
    try:
        stdout.flush()
    except BaseException:
        pass
    write(out, ("\\n" + token + " " + outcome + "\\n").encode("utf-8", "replace"))
    leave(0)
run(token)
"""


@dataclass(frozen=True, slots=True)
class _Block:
    """A fenced block: its language in lower case, its text, and whether its fence was closed."""

    language: str
    text: str
    closed: bool


def _blocks(text: str) -> list[_Block]:
    blocks: list[_Block] = []
    opening: re.Match[str] | None = None
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").split("\n"):
        fence = _FENCE.fullmatch(line)
        if opening is not None and fence is not None:
            closing = fence["marks"] == line.strip() and fence["marks"].startswith(opening["marks"])
            if closing or fence["language"]:  # a fence that names a language opens a block, whatever is open
                blocks.append(_Block(opening["language"].lower(), "\n".join([*lines, ""]), closing))
                opening, lines = None if closing else fence, []
                continue
        if opening is None:
            opening, lines = fence, []
        else:  # in a list the whole block is indented
            indent = opening["indent"]
            lines.append(line[len(indent) :] if line.startswith(indent) else line.lstrip())
    if opening is not None:
        blocks.append(_Block(opening["language"].lower(), "\n".join(lines), False))
    return blocks


def _tree(source: str) -> ast.Module | None:
    if len(source) > _MAX_SOURCE:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in generated code
            tree = ast.parse(source)
            compile(tree, "solution.py", "exec", dont_inherit=True)  # finds more, such as "return" outside a function
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _unfinished(source: str) -> str | None:
    """The name of the function that ends a source and has no body yet, docstring apart."""
    source = source.rstrip()
    last_line = source.rpartition("\n")[2]
    own = last_line[: len(last_line) - len(last_line.lstrip())]
    for indent in dict.fromkeys((own, "    ", "  ", "\t")):  # a docstring need not end at the indentation of the body
        tree = _tree(f"{source}\n{indent}pass\n") if indent else None
        if tree is not None:
            last = tree.body[-1]
            if isinstance(last, (ast.FunctionDef, ast.AsyncFunctionDef)) and not _has_body(last):
                return last.name
            break
    return None


def _has_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return not all(
        isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in function.body
    )


def _stub(prompt: str) -> tuple[str, str] | None:
    """(source, function) of the unfinished function that a prompt ends in, or that its last code block ends in."""
    blocks = _blocks(prompt)
    if blocks:
        source = blocks[-1].text
        name = _unfinished(source)
        return (source, name) if name else None
    lines = prompt.splitlines(keepends=True)
    starts = [0] + [
        number for number, line in enumerate(lines) if re.match(r"(?:async\s+def|def|class|import|from)\b|@", line)
    ]
    for start in starts[:1] + starts[1:][-100:]:  # prose before the code does not parse
        source = "".join(lines[start:])
        name = _unfinished(source)
        if name:
            return source, name
    return None


def _defines(source: str, name: str) -> bool:
    # By text, so that code with an error in it does not become a function within the stub.
    return (
        re.search(rf"^(?:async\s+)?def\s+{re.escape(name)}\s*\(|^{re.escape(name)}\s*=", source, re.MULTILINE)
        is not None
    )


def _joined(stub: str, name: str, code: str) -> str:
    """A stub and its continuation, the indentation repaired that a chat template or a tokeniser took from it."""
    if stub.rpartition("\n")[2].strip() and not code.startswith("\n"):
        stub += "\n"
    first, newline, rest = code.partition("\n")
    body = first + newline + "".join(_until_unindented(rest))
    indented = "".join("    " + line if line.strip() else line for line in code.splitlines(keepends=True))
    for candidate in (code, "    " + code.lstrip(" "), indented, body, "    " + body.lstrip(" ")):
        tree = _tree(stub + candidate)
        functions = (
            [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))] if tree else []
        )
        # "return x" without its indentation would stand after a function that has a docstring alone.
        if any(function.name == name and _has_body(function) for function in functions):
            return stub + candidate
    return stub + code


def _until_unindented(text: str) -> Iterator[str]:
    for line in text.splitlines(keepends=True):
        if line.strip() and not line[0].isspace():
            return  # prose after the function, or another one that was cut off
        yield line


def _program(text: str, prompt: str) -> str | None:
    """The code to run, or None where the text has none."""
    stub = _stub(prompt)
    prompt_blocks = _blocks(prompt)
    if prompt_blocks and not prompt_blocks[-1].closed:
        text = "```python\n" + text
    blocks = [block for block in _blocks(text) if block.text.strip()]
    blocks = [block for block in blocks if block.language in _PYTHON] or blocks
    if blocks:
        # After the solution many models show how to call it, in a block of its own.
        defining = [block for block in blocks if stub and _defines(block.text, stub[1])]
        code = (defining or blocks)[-1].text
    else:
        code = "\n".join(line for line in text.split("\n") if not _FENCE.fullmatch(line.rstrip("\r")))
    if not code.strip():
        return None
    if stub is None:
        return code
    if not _defines(code, stub[1]):
        return _joined(*stub, code)
    # The solution may use what precedes its stub: imports and other functions.
    if re.search(r"^from\s+__future__\b", code, re.MULTILINE):
        return code  # that import has to come first
    return f"{_before_last_function(stub[0])}\n{code}"


def _before_last_function(stub: str) -> str:
    start = max(match.start() for match in re.finditer(r"^(?:async\s+)?def\b", stub, re.MULTILINE))
    before = stub[:start].rstrip()
    while before.rpartition("\n")[2].startswith("@"):  # decorators
        before = before.rpartition("\n")[0].rstrip()
    return before


@dataclass(frozen=True, slots=True)
class _Python:
    time_limit: float
    memory_limit_mb: int

    @property
    def name(self) -> str:
        return "python"

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        program = _program(text, prompt)
        if program is None:
            return Verdict(False, "no code")
        outcome = self._run(program, answer)
        return Verdict(outcome == "passed", outcome)

    def _run(self, program: str, tests: str) -> str:
        token = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="colm-check-", ignore_cleanup_errors=True) as folder:
            work = Path(folder, "work")
            work.mkdir()
            for name, source in (("code.py", program), ("tests.py", tests), ("runner.py", _RUNNER)):
                # Lone surrogates, which a model's broken bytes may become, have no UTF-8.
                Path(folder, name).write_bytes(source.encode("utf-8", "replace"))
            limits = (math.ceil(self.time_limit) + 1, self.memory_limit_mb * 1024 * 1024, _FILE_LIMIT)
            command = [sys.executable, "-I", "-B", str(Path(folder, "runner.py")), token, *map(str, limits)]
            with subprocess.Popen(
                command,
                cwd=work,
                env=_environment(str(work)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # of no effect on Windows
            ) as process:
                assert process.stdout is not None
                tail = bytearray()
                reader = threading.Thread(target=_read_tail, args=(process.stdout, tail), daemon=True)
                reader.start()
                timed_out = False
                try:
                    process.wait(timeout=self.time_limit)
                except subprocess.TimeoutExpired:
                    timed_out = True
                finally:
                    _kill(process)
                # A grandchild in a session of its own survives and holds the pipe open: its output is not awaited.
                reader.join(timeout=2.0)
                if reader.is_alive():
                    process.stdout = None  # closing it would wait for the reader, which closes it in the end
        last = bytes(tail).decode("utf-8", "replace").rstrip("\n").rpartition("\n")[2]
        found, _, outcome = last.partition(" ")
        if found == token:
            return outcome.replace("failed ", "failed: ", 1)
        if timed_out:
            return "timed out"
        if process.returncode < 0:
            with contextlib.suppress(ValueError):
                killer = signal.Signals(-process.returncode).name
                return "timed out" if killer == "SIGXCPU" else f"failed: {killer}"
        return "failed: ended before the tests"


def _read_tail(stream: IO[bytes], tail: bytearray) -> None:
    """Reads to the end and keeps the last part, where the outcome is."""
    with contextlib.suppress(OSError, ValueError), stream:
        while chunk := os.read(stream.fileno(), _OUTPUT_KEPT):
            tail += chunk
            del tail[:-_OUTPUT_KEPT]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and, except on Windows, whatever it started in its session."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(home: str) -> dict[str, str]:
    kept = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    for name in ("HOME", "TMPDIR", "TEMP", "TMP"):
        environment[name] = home
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # each thread takes address space
        environment[name] = "1"
    return environment
