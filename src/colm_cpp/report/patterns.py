"""What is deferred: by kind of token, in which runs, which tokens, and where in the text.

Pure functions of :class:`~.traces.TracedText`. A share of nothing is None.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ..evaluate.statistics import wilson_interval
from ..results import Token
from .parts import PARTS, Part, classify
from .traces import TracedText

__all__ = ["Example", "Patterns", "expert_names", "find_patterns", "interval", "percent"]

RUN_LENGTHS = ("1", "2", "3", "4", "5-8", "9+")
"""The classes of run lengths, in tokens."""

MAX_TOKENS = 20
"""Most deferred token texts listed."""

_MAX_EXAMPLES = 3
_CONTEXT = 6  # tokens on each side of an example
_TENTHS = 10


@dataclass(frozen=True, slots=True)
class PartCount:
    """Deferral of one kind of token.

    Attributes:
        part: the kind; see :mod:`.parts`.
        tokens: tokens of this kind.
        deferred: how many were deferred.
        rate: deferred / tokens.
        share: share of all deferrals that fell on this kind.
        mean_defer_prob: mean probability of deferral over the tokens of which it is known.
        lift: rate / overall rate: above 1 where this kind is deferred more than the average token.
        low: lower end of the rate's 95% interval (Wilson), as if every token were drawn alone.
        high: its upper end.
        experts: of the deferred ones, how many each of several experts wrote; empty for one assistant.
    """

    part: Part
    tokens: int
    deferred: int
    rate: float | None
    share: float | None
    mean_defer_prob: float | None
    lift: float | None
    low: float | None
    high: float | None
    experts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Runs:
    """Consecutive deferrals; a run ends with its text at the latest.

    Attributes:
        lengths: runs by length in tokens, one entry for each of ``RUN_LENGTHS``.
        runs: number of runs.
        mean: mean length in tokens.
        longest: greatest length in tokens; 0 without runs.
    """

    lengths: dict[str, int]
    runs: int
    mean: float | None
    longest: int


@dataclass(frozen=True, slots=True)
class Example:
    """A deferred token where it stands.

    Attributes:
        title: the text's title.
        position: the token's place in the text, counted from 0.
        before: text of the tokens before it.
        token: its text.
        after: text of the tokens after it.
    """

    title: str
    position: int
    before: str
    token: str
    after: str


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Deferral of one token text.

    Attributes:
        text: the text, its leading blank included.
        tokens: how often it occurs.
        deferred: how often it was deferred.
        rate: deferred / tokens.
        examples: up to three deferred ones, from different texts where there are enough.
        low: lower end of the rate's 95% interval (Wilson).
        high: its upper end.
    """

    text: str
    tokens: int
    deferred: int
    rate: float
    examples: tuple[Example, ...]
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TenthCount:
    """Deferral in one tenth of the texts.

    Attributes:
        tokens: tokens in it; token i of n, counted from 0, lies in tenth 10 i // n.
        deferred: how many were deferred.
        rate: deferred / tokens.
    """

    tokens: int
    deferred: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class Patterns:
    """What is deferred.

    Attributes:
        texts: number of texts.
        tokens: number of tokens, ends of texts included.
        deferred: how many were deferred.
        rate: deferred / tokens.
        mean_defer_prob: mean probability of deferral over the tokens of which it is known.
        parts: one entry for each of ``PARTS``, in that order.
        runs: consecutive deferrals.
        min_count: the fewest occurrences with which a token text is listed.
        most_deferred: token texts by rate, at most ``MAX_TOKENS``; those never deferred are left out.
        tenths: ten entries, from the beginning of the texts to their end.
        experts: how many tokens each of several experts wrote, by its name; empty for one assistant.
    """

    texts: int
    tokens: int
    deferred: int
    rate: float | None
    mean_defer_prob: float | None
    parts: tuple[PartCount, ...]
    runs: Runs
    min_count: int
    most_deferred: tuple[TokenCount, ...]
    tenths: tuple[TenthCount, ...]
    experts: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, those of several experts only where there are several."""
        value = dataclasses.asdict(self)
        for counts in [] if self.experts else [value, *value["parts"]]:
            del counts["experts"]
        return value


def find_patterns(texts: Sequence[TracedText], *, min_count: int = 5) -> Patterns:
    """Counts what is deferred.

    Args:
        texts: the texts; there may be none.
        min_count: the fewest occurrences with which a token text is listed, at least 1. Of rare ones the rate says
            little.
    """
    tokens = [token for text in texts for token in text.tokens]
    deferred = sum(token.deferred for token in tokens)
    rate = _ratio(deferred, len(tokens))
    experts = expert_names(texts)
    return Patterns(
        texts=len(texts),
        tokens=len(tokens),
        deferred=deferred,
        rate=rate,
        mean_defer_prob=_mean_defer_prob(tokens),
        parts=_count_parts(texts, deferred, rate, experts),
        runs=_count_runs(texts),
        min_count=min_count,
        most_deferred=_most_deferred(texts, min_count),
        tenths=_count_tenths(texts),
        experts=_by_expert(tokens, experts),
    )


def expert_names(texts: Iterable[TracedText]) -> list[str]:
    """The names of the experts that wrote tokens, by their numbers; none where there is but one assistant."""
    found = sorted({(token.expert, token.source) for text in texts for token in text.tokens if token.deferred})
    return [name for _, name in found] if any(name != "assistant" for _, name in found) else []


def _by_expert(tokens: Iterable[Token], experts: Iterable[str]) -> dict[str, int]:
    written = Counter(token.source for token in tokens)
    return {name: written[name] for name in experts}


def _ratio(count: float, of: float | None) -> float | None:
    return count / of if of else None


def _mean_defer_prob(tokens: Iterable[Token]) -> float | None:
    known = [token.defer_prob for token in tokens if token.defer_prob is not None]
    return _ratio(sum(known), len(known))


def _count_parts(
    texts: Sequence[TracedText], all_deferred: int, overall: float | None, experts: Sequence[str]
) -> tuple[PartCount, ...]:
    of_part: dict[Part, list[Token]] = {part: [] for part in PARTS}
    for text in texts:
        for part, token in zip(classify(text), text.tokens, strict=True):
            of_part[part].append(token)
    counts = []
    for part, tokens in of_part.items():
        deferred = sum(token.deferred for token in tokens)
        rate = _ratio(deferred, len(tokens))
        low, high = wilson_interval(deferred, len(tokens)) if tokens else (None, None)
        counts.append(
            PartCount(
                part=part,
                tokens=len(tokens),
                deferred=deferred,
                rate=rate,
                share=_ratio(deferred, all_deferred),
                mean_defer_prob=_mean_defer_prob(tokens),
                lift=None if rate is None else _ratio(rate, overall),
                low=low,
                high=high,
                experts=_by_expert(tokens, experts),
            )
        )
    return tuple(counts)


def _count_runs(texts: Sequence[TracedText]) -> Runs:
    found = [
        len(list(run))
        for text in texts
        for deferred, run in groupby(text.tokens, key=lambda token: token.deferred)
        if deferred
    ]
    classes = Counter(_run_class(length) for length in found)
    return Runs(
        lengths={name: classes[name] for name in RUN_LENGTHS},
        runs=len(found),
        mean=_ratio(sum(found), len(found)),
        longest=max(found, default=0),
    )


def _run_class(length: int) -> str:
    return str(length) if length <= 4 else "5-8" if length <= 8 else "9+"


def _most_deferred(texts: Sequence[TracedText], min_count: int) -> tuple[TokenCount, ...]:
    count: Counter[str] = Counter()
    places: dict[str, list[tuple[int, int]]] = {}
    for t, text in enumerate(texts):
        for i, token in enumerate(text.tokens):
            if not token.text:  # the end of a text, or a character that is not whole
                continue
            count[token.text] += 1
            if token.deferred:
                places.setdefault(token.text, []).append((t, i))
    often = [piece for piece in places if count[piece] >= min_count]
    # By rate, then by count; the text itself makes the order the same every time.
    often.sort(key=lambda piece: (-len(places[piece]) / count[piece], -len(places[piece]), piece))
    return tuple(
        TokenCount(
            text=piece,
            tokens=count[piece],
            deferred=len(places[piece]),
            rate=len(places[piece]) / count[piece],
            examples=tuple(_example(texts[t], i) for t, i in _spread(places[piece])),
            low=low,
            high=high,
        )
        for piece in often[:MAX_TOKENS]
        for low, high in [wilson_interval(len(places[piece]), count[piece])]
    )


def percent(value: float | None) -> str:
    """A share for a table."""
    return "-" if value is None else f"{value:.1%}"


def interval(count: PartCount | TokenCount) -> str:
    """The 95% interval of a rate for a table."""
    return "-" if count.low is None or count.high is None else f"{count.low:.0%} to {count.high:.0%}"


def _spread(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """A few places, the first of each text before the second of any."""
    first = {t: (t, i) for t, i in reversed(places)}
    chosen = sorted(first.values())[:_MAX_EXAMPLES]
    chosen += [place for place in places if place not in chosen][: _MAX_EXAMPLES - len(chosen)]
    return sorted(chosen)


def _example(text: TracedText, i: int) -> Example:
    before = "".join(token.text for token in text.tokens[max(0, i - _CONTEXT) : i])
    after = "".join(token.text for token in text.tokens[i + 1 : i + 1 + _CONTEXT])
    return Example(text.title, i, before, text.tokens[i].text, after)


def _count_tenths(texts: Sequence[TracedText]) -> tuple[TenthCount, ...]:
    tokens, deferred = [0] * _TENTHS, [0] * _TENTHS
    for text in texts:
        for i, token in enumerate(text.tokens):
            tenth = _TENTHS * i // len(text.tokens)
            tokens[tenth] += 1
            deferred[tenth] += token.deferred
    return tuple(TenthCount(n, d, _ratio(d, n)) for n, d in zip(tokens, deferred, strict=True))
