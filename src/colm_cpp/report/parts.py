r"""What kind of token each token is.

Every token has one part, the first of these that applies:

1. ``end``: the end of the text.
2. ``first``: the first token of the text.
3. ``code``: it begins inside a block fenced by ``` or ~~~, or inside inline code between backticks; the fences and
   backticks count, and so does white space in them. A block that is not closed reaches to the end of the text.
4. ``space``: nothing but white space.
5. The sign at which it begins, leading white space aside, decides:

   - ``operator``: ``+ - * / = < > % ^`` and their Unicode kin, and LaTeX commands that stand for operators, such as
     ``\times`` and ``\frac``, backslash and name alike. A hyphen inside a word is punctuation unless in a formula.
   - ``markup``: every other LaTeX command, the delimiters of formulas, the braces of commands, ``_`` and ``&`` in
     formulas; of Markdown, headings, bullets, quotation marks of a line, rules, ``**``, ``__`` and ``~~``; HTML tags.
   - ``digits``: a number, the points and commas inside it too.
   - ``piece``: the token goes on with a word (or number) that an earlier one began, or has no text because a
     character is not whole yet.
   - ``name``: the word is capitalised, is not "I", and stands neither in a formula nor at the beginning of a sentence.
   - ``word``: any other word.
   - ``punctuation``: all the rest, symbols included.

The kinds are told by form alone, so that a capitalised noun is a name and a name that begins a sentence is not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

from .traces import TracedText

__all__ = ["LABELS", "PARTS", "Part", "classify"]

Part = Literal[
    "first", "digits", "operator", "punctuation", "space", "code", "markup", "name", "word", "piece", "end"
]  # fmt: skip

LABELS: dict[Part, str] = {
    "first": "first token",
    "digits": "digits",
    "operator": "operators",
    "punctuation": "punctuation",
    "space": "white space",
    "code": "code",
    "markup": "LaTeX and markup",
    "name": "names",
    "word": "words",
    "piece": "pieces that continue a word",
    "end": "end of text",
}
"""The parts in the order of the tables, in words."""

PARTS: tuple[Part, ...] = tuple(LABELS)

_LATEX_OPERATORS = """
    times div cdot frac dfrac tfrac cfrac pm mp ast star le leq leqslant ge geq geqslant lt gt ne neq eq approx equiv
    sim simeq cong propto sqrt sum prod int oint lim log ln exp sin cos tan max min gcd mod bmod pmod binom oplus
    otimes cup cap subset subseteq in notin implies iff to rightarrow Rightarrow land lor neg over
"""
_OPERATOR_NAMES = frozenset(_LATEX_OPERATORS.split())
# Signs that look like others stand as escapes.
_SIGN = re.compile(
    r"""
      (?P<environment> \\(?:begin|end)\{[^{}\n]{0,40}\} )
    | (?P<delimiter>   \\[\[\]()] | \$\$ )
    | (?P<command>     \\[A-Za-z]+ )
    | (?P<escape>      \\(?:[^\sA-Za-z])? )
    | (?P<formula>     \$(?!\s)[^$\n]*[^\s$]\$(?!\d) )
    | (?P<paragraph>   \n[ \t]*\n )
    | (?P<line>        ^[ \t]*(?: \#{1,6}(?=[ \t]) | [-*+•](?=[ \t]) | >(?=[ \t]) | (?:-{3,}|\*{3,}|_{3,})[ \t]*$ ) )
    | (?P<tag>         </?[A-Za-z][\w-]{0,30}(?:\s+[\w-]+=(?:"[^"<>]*"|'[^'<>]*'))*\s*/?> )
    | (?P<emphasis>    \*{2,} | _{2,} | ~~ )
    | (?P<number>      \d+(?:[.,]\d+)* )
    | (?P<word>        [^\W\d_]+(?:['\u2019_][^\W\d_]+)* )
    | (?P<hyphen>      (?<=[^\W\d_])-(?=[^\W\d_]) )
    | (?P<operator>    [-+*/=<>%^\u00d7÷\u2212±∓≤≥≠≈≡·⋅∙√∑∏∫] )
    | (?P<brace>       [{}] )
    | (?P<index>       [_&] )
    """,
    re.VERBOSE | re.MULTILINE,
)
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)[^\n]+?(?<!`)\1(?!`)")
_LOOK_BACK = 24
_LINE_START = re.compile(r"[\s>#*_+\-•|]*(?:(?:\d+|[A-Za-z])[.)])?[\s*_\"\u201c\u2018'(\[]*")
_SENTENCE_START = re.compile(
    r"(?:[.!?:…][\"\u201d\u2019')\]*_]*\s+[\"\u201c\u2018'(\[*_]*|(?:^|\s)[\"\u201c\u2018'][*_]*)$"
)
_TITLE = re.compile(r"(?:^|\W)(?:Mr|Mrs|Ms|Dr|Prof|St)\.\s+$")


def classify(text: TracedText) -> tuple[Part, ...]:
    """The part of each token."""
    whole = text.text
    signs = _Signs(whole)
    parts: list[Part] = []
    begin = 0
    for i, token in enumerate(text.tokens):
        if text.ended and i == len(text.tokens) - 1:
            parts.append("end")
        elif i == 0:
            parts.append("first")
        else:
            parts.append(signs.part(begin, begin + len(token.text)))
        begin += len(token.text)
    return tuple(parts)


class _Signs:
    """The part of each character of a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._parts: list[Part] = ["punctuation"] * len(text)
        self._in_formula: set[int] = set()  # where words in formulas begin: the N of 8N continues no word
        begin = 0
        for code_begin, code_end in _code(text):
            self._scan(begin, code_begin)
            self._set(code_begin, code_end, "code")
            begin = code_end
        self._scan(begin, len(text))

    def part(self, begin: int, end: int) -> Part:
        """The part of the token of the characters ``begin`` to ``end``."""
        if begin == end:
            return "piece"
        if self._parts[begin] == "code":
            return "code"
        token = self._text[begin:end]
        at = begin + len(token) - len(token.lstrip())
        if at == end:
            return "space"
        part = self._parts[at]
        before = self._text[at - 1 : at]
        # A mark is a sign that Unicode puts above or below the letter before it.
        goes_on = part == "name" or (part == "word" and at not in self._in_formula) or _is_mark(self._text[at])
        return "piece" if goes_on and (before.isalnum() or _is_mark(before)) else part

    def _set(self, begin: int, end: int, part: Part) -> None:
        self._parts[begin:end] = [part] * (end - begin)

    def _scan(self, begin: int, end: int, formula: bool = False) -> None:
        """Finds the signs between two blocks of code."""
        braces = 0  # open braces that belong to commands
        last = -1  # where a command or its last argument ended
        for match in _SIGN.finditer(self._text, begin, end):
            kind, a, b = match.lastgroup, match.start(), match.end()
            if kind == "paragraph":
                formula, braces = False, 0  # nothing of LaTeX reaches over an empty line: one left open stays small
                continue
            if kind == "formula":
                self._set(a, b, "markup")
                self._scan_formula(a + 1, b - 1)
                continue
            if kind == "brace":
                if not (formula or braces or a == last):
                    continue
                braces = braces + 1 if match.group() == "{" else max(0, braces - 1)
                last = b
                self._set(a, b, "markup")
                continue
            if kind in ("command", "environment", "delimiter", "escape"):
                last = b
            if kind == "delimiter":
                formula = not formula if match.group() == "$$" else match.group() in ("\\(", "\\[")
            if kind == "word":
                self._word(a, b, formula)
            else:
                self._set(a, b, _part_of(kind, match.group(), formula))

    def _scan_formula(self, begin: int, end: int) -> None:
        self._set(begin, end, "punctuation")
        self._scan(begin, end, formula=True)

    def _word(self, begin: int, end: int, formula: bool) -> None:
        word = self._text[begin:end]
        capital = word[0].isupper() and word != "I" and not word.startswith(("I'", "I\u2019"))
        name = capital and not formula and not _begins_sentence(self._text, begin)
        self._parts[begin] = "name" if name else "word"
        if formula:
            self._in_formula.add(begin)
        self._set(begin + 1, end, "piece")


def _part_of(kind: str | None, sign: str, formula: bool) -> Part:
    if kind == "number":
        return "digits"
    if kind == "operator":
        return "operator"
    if kind == "command":
        return "operator" if sign[1:] in _OPERATOR_NAMES else "markup"
    if kind == "hyphen":
        return "operator" if formula else "punctuation"
    if kind == "index":
        return "markup" if formula else "punctuation"
    return "markup"


def _is_mark(character: str) -> bool:
    return character != "" and unicodedata.category(character).startswith("M")


def _begins_sentence(text: str, at: int) -> bool:
    begin = max(0, at - _LOOK_BACK)
    before = text[begin:at]
    line = before.rfind("\n") + 1
    if (line or begin == 0) and _LINE_START.fullmatch(before[line:]):
        return True
    return _SENTENCE_START.search(before) is not None and _TITLE.search(before) is None


def _code(text: str) -> Iterator[tuple[int, int]]:
    """The code, in order."""
    begin = 0
    for fence_begin, fence_end in _fenced(text):
        yield from (match.span() for match in _INLINE_CODE.finditer(text, begin, fence_begin))
        yield fence_begin, fence_end
        begin = fence_end
    yield from (match.span() for match in _INLINE_CODE.finditer(text, begin))


def _fenced(text: str) -> Iterator[tuple[int, int]]:
    opened: re.Match[str] | None = None
    for match in _FENCE.finditer(text):
        mark, rest = match.groups()
        if opened is None:
            if "`" not in rest:  # ```code``` on one line is inline code
                opened = match
        elif mark.startswith(opened[1]) and not rest.strip():
            yield opened.start(1), match.end()
            opened = None
    if opened is not None:
        yield opened.start(1), len(text)
