"""Advice from step times: which deferral rate, look-ahead, threads and type of file suit a pair on a machine.

:func:`advise` is a function of step times alone. :func:`time_settings` measures those of a pair that is loaded in
several ways, in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ..engine.pair import Pair
from ..heads.head import Head
from ..options import BASE
from ._deferring import at_rate, calibrated, greedy, together
from .steps import PROMPT, StepCosts, check_room, costs_of, schedule, time_calls

__all__ = [
    "Advice",
    "Change",
    "Drafts",
    "ExpertAdvice",
    "advice_lines",
    "advise",
    "seconds_per_token",
    "time_settings",
    "try_drafts",
]

Kind = Literal["lookahead", "threads", "type"]
CLEARLY = 1.05  # times as fast: a change that is worth making
_RATES = (0.05, 0.1, 0.2, 0.4)
_MOST_RATE, _LEAST_RATE = 0.2, 0.05  # of those at which changes are compared
_DRAFTS = range(2, 17)
_TRIED_DRAFT = 4  # deferred tokens
_TRIED_RATE = 0.4
_BOTH = "both"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that could be changed, the others staying as they are.

    Attributes:
        kind: what is changed.
        value: the new value: ``auto`` for look-ahead, a number of threads, or a type of file.
        of: of a type of file: the models that would have it (``base``, an expert's name, ``both``). Else "".
        tokens_per_s: predicted speed at the rate of the advice.
        gain: that speed over the one without the change.
        most_rate: as in :class:`ExpertAdvice`, with the change.
        needs: of look-ahead: the least acceptance rate, 0 to 1, at which it gains 5%; None where none is enough.
    """

    kind: Kind
    value: str
    of: str
    tokens_per_s: float
    gain: float
    most_rate: float
    needs: float | None = None

    @property
    def worth(self) -> bool:
        """Whether it gains 5% or more."""
        return self.gain >= CLEARLY


@dataclass(frozen=True, slots=True)
class ExpertAdvice:
    """Advice for deferring to one expert. All speeds are tokens per second, predicted from step times.

    Attributes:
        expert: its name.
        alone: speed of the expert alone.
        most_rate: the highest deferral rate, in steps of 1%, up to which the pair is faster than the expert alone; 0
            where it is not faster at 1%.
        base_share: seconds of a step of the base over those of the expert.
        rate: the deferral rate at which changes are compared.
        tokens_per_s: speed at that rate as the pair is.
        at_rates: deferral rate -> speed as the pair is.
        acceptance: the measured share of drafts that the expert accepts, 0 to 1; None if it was not measured.
        changes: the best change of each kind that was measured.
    """

    expert: str
    alone: float
    most_rate: float
    base_share: float
    rate: float
    tokens_per_s: float
    at_rates: dict[float, float]
    acceptance: float | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Advice:
    """Advice for a pair.

    Attributes:
        n_threads: the threads that the pair has now.
        experts: advice for each expert.
        notes: what was not measured, and why.
    """

    n_threads: int
    experts: tuple[ExpertAdvice, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, and the advice in words."""
        return {**asdict(self), "lines": advice_lines(self)}


def seconds_per_token(
    costs: StepCosts, expert: str, rate: float, *, hidden: bool, draft: int = 1, acceptance: float = 1.0
) -> float:
    """Predicted seconds of a token of one text.

    Args:
        costs: step times.
        expert: the expert that is deferred to.
        rate: the deferral rate, 0 to 1.
        hidden: the head reads the base's hidden state.
        draft: deferred tokens that share a call of the expert; 1: no look-ahead. The base drafts them, which takes
            ``draft / rate`` of its steps, and the first wrong one and all before it are kept.
        acceptance: the probability that a draft is accepted.
    """
    base = costs.base_hidden.median if hidden else costs.base[1].median
    if rate <= 0.0:
        return base
    kept = sum(acceptance**i for i in range(draft))
    return (draft * base + rate * costs.batch(expert, draft / rate)) / kept


def _ahead(costs: StepCosts, expert: str, rate: float, *, hidden: bool, acceptance: float | None) -> float:
    """The same with the draft that suits best; without look-ahead where ``acceptance`` is None."""
    drafts = (1,) if acceptance is None else (1, *_DRAFTS)
    sure = 1.0 if acceptance is None else acceptance
    return min(seconds_per_token(costs, expert, rate, hidden=hidden, draft=draft, acceptance=sure) for draft in drafts)


def _most_rate(costs: StepCosts, expert: str, *, hidden: bool, acceptance: float | None = None) -> float:
    alone = costs.experts[expert][1].median
    most = 0
    for percent in range(1, 101):
        if _ahead(costs, expert, percent / 100, hidden=hidden, acceptance=acceptance) >= alone:
            break
        most = percent
    return most / 100


def advise(
    costs: StepCosts,
    *,
    n_threads: int,
    drafts: Drafts,
    threads: Mapping[int, StepCosts],
    types: Mapping[str, StepCosts],
    notes: Sequence[str] = (),
) -> Advice:
    """What suits a pair.

    Args:
        costs: step times of the pair as it is.
        n_threads: the threads that it has.
        drafts: see :func:`try_drafts`.
        threads: step times with other numbers of threads.
        types: step times with all files in another type.
        notes: see :class:`Advice`.
    """
    experts = (_for_expert(costs, expert, drafts, threads, types) for expert in costs.experts)
    return Advice(n_threads, tuple(experts), tuple(notes))


def _for_expert(
    costs: StepCosts, expert: str, drafts: Drafts, threads: Mapping[int, StepCosts], types: Mapping[str, StepCosts]
) -> ExpertAdvice:
    hidden, acceptance = drafts.hidden, drafts.acceptance.get(expert)
    most = _most_rate(costs, expert, hidden=hidden)
    rate = min(_MOST_RATE, max(_LEAST_RATE, round(most / 2, 2)))
    now = seconds_per_token(costs, expert, rate, hidden=hidden)

    def change(kind: Kind, value: str, of: str, with_it: StepCosts) -> Change:
        seconds = seconds_per_token(with_it, expert, rate, hidden=hidden)
        return Change(kind, value, of, 1 / seconds, now / seconds, _most_rate(with_it, expert, hidden=hidden))

    changes = []
    if acceptance is not None:
        seconds = _ahead(costs, expert, rate, hidden=hidden, acceptance=acceptance)
        changes.append(
            Change(
                "lookahead",
                "auto",
                "",
                1 / seconds,
                now / seconds,
                _most_rate(costs, expert, hidden=hidden, acceptance=acceptance),
                _needed_acceptance(costs, expert, rate, now, hidden=hidden),
            )
        )
    of_threads = [change("threads", str(n), "", other) for n, other in threads.items()]
    of_types = [
        change("type", type, of, with_it)
        for type, other in types.items()
        for of, with_it in (
            (BASE, replace(costs, base=other.base, base_hidden=other.base_hidden)),
            (expert, replace(costs, experts=other.experts)),
            (_BOTH, other),
        )
    ]
    changes += [max(found, key=lambda change: change.gain) for found in (of_threads, of_types) if found]
    base = costs.base_hidden.median if hidden else costs.base[1].median
    alone = costs.experts[expert][1].median
    return ExpertAdvice(
        expert=expert,
        alone=1 / alone,
        most_rate=most,
        base_share=base / alone,
        rate=rate,
        tokens_per_s=1 / now,
        at_rates={at: 1 / seconds_per_token(costs, expert, at, hidden=hidden) for at in _RATES},
        acceptance=acceptance,
        changes=tuple(changes),
    )


def _needed_acceptance(costs: StepCosts, expert: str, rate: float, now: float, *, hidden: bool) -> float | None:
    shares = (percent / 100 for percent in range(101))
    return next((p for p in shares if now / _ahead(costs, expert, rate, hidden=hidden, acceptance=p) >= CLEARLY), None)


def advice_lines(advice: Advice) -> list[str]:
    """The advice in plain words: what to do, and what it would be worth."""
    only = len(advice.experts) == 1
    lines = []
    for found in advice.experts:
        whose = "the assistant" if only else found.expert
        said = [*_of_rate(found, whose), *(_of_change(change, found, advice, whose) for change in found.changes)]
        lines += said if only else [f"{found.expert}: {line}" for line in said]
    return [*lines, *advice.notes]


def _of_rate(found: ExpertAdvice, whose: str) -> Iterator[str]:
    at = f"At {found.rate:.0%} it writes {found.tokens_per_s:.1f} tokens/s"
    beside = f"{found.tokens_per_s / found.alone:.2f}x as fast as {whose} alone"
    if found.most_rate == 0.0:
        yield (
            f"Deferral rate: at no rate is this pair faster than {whose} alone ({found.alone:.1f} tokens/s), because a "
            f"step of the base takes {found.base_share:.0%} of the time of one of {whose}. Use a smaller base, a "
            f"larger model beside it, or {whose} alone. {at}, {beside}."
        )
    elif found.most_rate == 1.0:
        yield f"Deferral rate: at every rate this pair is faster than {whose} alone. {at}, {beside}."
    else:
        yield (
            f"Deferral rate: defer less than {found.most_rate + 0.01:.0%}; from there on {whose} alone is as fast "
            f"({found.alone:.1f} tokens/s). {at}, {beside}."
        )


def _of_change(change: Change, found: ExpertAdvice, advice: Advice, whose: str) -> str:
    worth = f"{change.gain:.2f}x as fast at {found.rate:.0%} deferred ({change.tokens_per_s:.1f} tokens/s)"
    until = ""
    if change.worth and change.most_rate > found.most_rate:
        until = f" Then the pair is faster than {whose} alone up to {change.most_rate:.0%}."
    if change.kind == "lookahead":
        accepted = f"{found.acceptance:.0%} of the drafts were accepted here"
        needs = "it gains nothing here even if all drafts are accepted"
        if change.needs is not None:
            needs = f"it gains where {change.needs:.0%} or more of them are accepted"
        advised = f"use --lookahead auto: {worth}" if change.worth else f"leave it off at {found.rate:.0%}"
        return f"Look-ahead: {advised}; {accepted}, and {needs}.{until}"
    if change.kind == "threads":
        if change.worth:
            return f"Threads: use --n-threads {change.value} instead of {advice.n_threads}: {worth}.{until}"
        return f"Threads: keep {advice.n_threads}; {change.value} would be {worth}."
    files = {BASE: "the base's file", _BOTH: "all files"}.get(change.of, f"{whose}'s file")
    type = change.value.upper()
    if change.worth:
        return (
            f"Type: {type} for {files} would be {worth}.{until} Its times were measured on files that were requantised "
            f"here; what it does to the answers was not. Make it from the original weights, and evaluate it."
        )
    return f"Type: keep your files; {type} for {files} would be {worth}."


@dataclass(frozen=True, slots=True)
class Drafts:
    """What a short text of each expert with the base tells.

    Attributes:
        acceptance: name of the expert -> the share of the drafts that it accepted, 0 to 1; None where there were none.
        hidden: whether the deciding head is one that was learned, which reads the base's hidden state.
    """

    acceptance: dict[str, float | None]
    hidden: bool


def try_drafts(pair: Pair, prompt: str = PROMPT, n_tokens: int = 48) -> Drafts:
    """Measures how many drafts of the base the experts of a loaded pair accept.

    Args:
        pair: the pair. ``random`` replaces a head without a calibration table.
        prompt: the prompt of the texts.
        n_tokens: tokens of each text.
    """
    experts = pair.names[1:]
    head: Head | str = calibrated(pair.head, experts) or "random"
    ways = list(together(head, experts).values())[-len(experts) :]
    found: dict[str, float | None] = {}
    for expert, way in zip(experts, ways, strict=True):
        options = {**at_rate(way, _TRIED_RATE), **greedy(n_tokens)}
        stats = pair.generate(prompt, head=way, lookahead=_TRIED_DRAFT, **options).stats
        found[expert] = stats.accepted_tokens / stats.drafted_tokens if stats.drafted_tokens else None
    return Drafts(found, isinstance(head, Head))


def time_settings(
    settings: Mapping[str, Callable[[], Pair]],
    rounds: int,
    on_progress: Callable[[float, str], None] | None = None,
) -> dict[str, StepCosts]:
    """Step times of a pair that is loaded in several ways, in turns, so that the machine's changes affect all.

    Args:
        settings: what to call each way -> a function that loads the pair. It is closed after each turn.
        rounds: turns of each, 1 or more.
        on_progress: called with the finished share, 0 to 1, and the name of what is measured.

    Raises:
        OptionError: the context is too small; ColmError: whatever a load raises.
    """
    say = on_progress or (lambda share, note: None)
    found: dict[str, list[dict[str, list[float]]]] = {name: [] for name in settings}
    done, n_turns = 0, rounds * len(settings)
    for number in range(rounds):
        for name in list(settings)[:: -1 if number % 2 else 1]:
            say(done / n_turns, name)
            with settings[name]() as pair:
                prompt_ids = pair.tokenize(PROMPT)
                check_room(pair, prompt_ids, 4, rounds)
                found[name].append(time_calls(pair, prompt_ids, schedule(prompt_ids, pair.names)))
            done += 1
    say(1.0, "done")
    return {name: costs_of(of) for name, of in found.items()}
