"""Answers that are one of several choices, by letter or by text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ._verdict import CHARACTERS, Verdict

__all__ = ["Choice"]

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
        prompt = prompt.translate(CHARACTERS)
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
        answer = answer.translate(CHARACTERS).strip()
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
    text = text.translate(CHARACTERS).replace("*", "").replace("`", "").replace("$", "")
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
class Choice:
    """Reads, in this order: the last statement "the answer is ..." that names a choice; the last label in brackets (or
    a label alone on the last line); the choice whose text comes last in the last sentence. ``extracted`` is the label.

    Without choices in the prompt, ``extracted`` is the label, or the text of the last statement, or the whole text.
    """

    name: ClassVar[str] = "choice"

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
