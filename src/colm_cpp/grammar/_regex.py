"""Regular expressions of JSON schemas (ECMA-262, the part that JSON Schema recommends) as sets of strings."""

from __future__ import annotations

from ._languages import Languages, Ranges, Term, complement, union

__all__ = ["NotSupported", "parse"]

_DIGIT: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Ranges = (
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
)
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_PUNCTUATION = set("^$\\.*+?()[]{}|/-#&~%:,;=!<>@`'\" _")
_MOST_REPEATS = 1000
_MOST_DEPTH = 50
_MOST_CHARACTERS = 2000


class NotSupported(ValueError):
    """A part of the expression that has no automaton here; the message names it."""


def parse(pattern: str, languages: Languages) -> Term:
    """The strings in which the expression is found somewhere, as ``pattern`` of JSON Schema asks.

    Raises:
        NotSupported: look-around, back-references, ``\\b``, ``\\p``, an anchor inside a group, or no expression at all.
    """
    if len(pattern) > _MOST_CHARACTERS:
        raise NotSupported(f"{len(pattern)} characters; at most {_MOST_CHARACTERS} are read")
    found = languages.patterns.get(pattern)
    if found is None:
        languages.spend(4 * len(pattern))
        found = languages.patterns[pattern] = _Parser(pattern, languages).all()
    return found


class _Parser:
    def __init__(self, pattern: str, languages: Languages) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self._of = languages

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def all(self) -> Term:
        terms = []
        while True:
            start = self._of.empty if self._take("^") else self._of.everything
            body = self._sequence()
            end = self._of.empty if self._take("$") else self._of.everything
            terms.append(self._of.cat(start, body, end))
            if self._at == len(self._text):
                return self._of.alt(*terms)
            if not self._take("|"):
                raise NotSupported(f"{self._peek()!r} at character {self._at}")

    def _alternatives(self) -> Term:
        terms = [self._sequence()]
        while self._take("|"):
            terms.append(self._sequence())
        return self._of.alt(*terms)

    def _sequence(self) -> Term:
        parts = []
        while (c := self._peek()) and c not in "|)$":
            parts.append(self._repeated(self._atom()))
        if self._peek() == "$" and (self._depth > 0 or self._text[self._at + 1 : self._at + 2] not in ("", "|")):
            raise NotSupported(f"an anchor inside the expression, at character {self._at}")
        return self._of.cat(*parts)

    def _repeated(self, term: Term) -> Term:
        c = self._peek()
        if c and c in "*+?":
            self._at += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[c]
        elif c == "{":
            low, high = self._counts()
        else:
            return term
        self._take("?")  # a lazy repetition finds the same strings
        if self._peek() in ("*", "+", "?", "{"):
            raise NotSupported(f"a repetition of a repetition, at character {self._at}")
        return self._of.repeat(term, low, high)

    def _counts(self) -> tuple[int, int | None]:
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if end < 0 or not (low.isascii() and low.isdigit()) or not (high == "" or (high.isascii() and high.isdigit())):
            raise NotSupported(f"a brace at character {self._at} that is no {{m,n}}")
        if max(len(low), len(high)) > 6 or max(int(low), int(high or 0)) > _MOST_REPEATS:
            raise NotSupported(f"more than {_MOST_REPEATS} repetitions, at character {self._at}")
        self._at = end + 1
        least = int(low)
        most = int(high) if high else None if comma else least
        if most is not None and most < least:
            raise NotSupported(f"a maximum below the minimum, before character {self._at}")
        return least, most

    def _atom(self) -> Term:
        start = self._at
        c = self._text[self._at]
        self._at += 1
        if c == "(":
            return self._group(start)
        if c == "[":
            return self._of.chars(self._class(start))
        if c == ".":
            return self._of.chars(complement(_LINE_ENDS))
        if c == "\\":
            return self._of.chars(self._escape(start))
        if c == "^":
            raise NotSupported(f"an anchor inside the expression, at character {start}")
        if c in "*+?{}]":
            raise NotSupported(f"{c!r} at character {start}")
        return self._of.chars(((ord(c), ord(c)),))

    def _group(self, start: int) -> Term:
        if self._take("?") and not self._take(":"):
            name_end = self._text.find(">", self._at)
            if not self._take("<") or self._peek() in ("=", "!") or name_end < 0:
                raise NotSupported(f"the group {self._text[start : start + 3]!r} at character {start}")
            self._at = name_end + 1
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise NotSupported(f"more than {_MOST_DEPTH} groups inside each other")
        term = self._alternatives()
        self._depth -= 1
        if not self._take(")"):
            raise NotSupported(f"a group that does not end, from character {start}")
        return term

    def _class(self, start: int) -> Ranges:
        inverse = self._take("^")
        sets: list[Ranges] = []
        while not self._take("]"):
            low = self._class_member(start)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = self._class_member(start)
                if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or low[0][0] > high[0][0]:
                    raise NotSupported(f"a range before character {self._at} that does not ascend")
                low = ((low[0][0], high[0][1]),)
            sets.append(low)
        found = union(*sets)
        # Without surrogates, which no text holds.
        return complement(found) if inverse else complement(complement(found))

    def _class_member(self, start: int) -> Ranges:
        if self._at >= len(self._text):
            raise NotSupported(f"a class that does not end, from character {start}")
        c = self._text[self._at]
        self._at += 1
        if c == "\\":
            if self._take("b"):
                return ((0x08, 0x08),)
            return self._escape(self._at - 1)
        return ((ord(c), ord(c)),)

    def _escape(self, start: int) -> Ranges:
        c = self._peek()
        self._at += 1
        if c.lower() in _CLASSES and c:
            found = _CLASSES[c.lower()]
            return found if c.islower() else complement(found)
        if c in _CONTROLS:
            return ((_CONTROLS[c],) * 2,)
        if c == "0" and not self._peek().isdigit():
            return ((0, 0),)
        if c == "c" and self._peek().isascii() and self._peek().isalpha():
            self._at += 1
            return ((ord(self._text[self._at - 1]) % 32,) * 2,)
        if c in ("x", "u"):
            return ((self._code_point(c, start),) * 2,)
        if c in _PUNCTUATION and c:
            return ((ord(c), ord(c)),)
        raise NotSupported(f"the escape {self._text[start : start + 2]!r} at character {start}")

    def _code_point(self, kind: str, start: int) -> int:
        if kind == "u" and self._take("{"):
            digits, brace, _ = self._text[self._at : self._at + 8].partition("}")
            self._at += len(digits) + 1
            whole = brace == "}"
        else:
            length = 2 if kind == "x" else 4
            digits = self._text[self._at : self._at + length]
            self._at += length
            whole = len(digits) == length
        hexadecimal = digits != "" and all(d in "0123456789abcdefABCDEF" for d in digits)
        value = int(digits, 16) if whole and hexadecimal else 0xD800
        if value > 0x10FFFF or 0xD800 <= value <= 0xDFFF:
            raise NotSupported(f"the escape {self._text[start : self._at]!r} at character {start}")
        return value
