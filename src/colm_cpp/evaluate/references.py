"""Baselines that a pair must beat: routing whole problems to the assistant.

With several experts, each is the assistant of a chord and a router of its own.

The **chord** sends a random share of the problems to the assistant and the rest to the base. It costs nothing to build,
so a pair is only useful if it is above the chord at equal cost. The **question router** sends the problems of which the
base is least sure (like RouteLLM). It judges by the mean log-probability of the first tokens of the base's own answer.
The base has written these tokens in vain if the assistant then answers.

Intervals are percentiles over resamples of the problems (a seeded bootstrap). Every resample gets two more problems:
one that only the arm answers correctly, and one that only the arm does not. Agresti and Min (2005) do this for a
difference of proportions. No interval then has zero width, and intervals from few problems have the right coverage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .costs import ROUTER_TOKENS, AnswerCosts, Floats, Measure

__all__ = ["MEASURES", "Above", "Estimate", "Experts", "Reference", "above", "curve", "reference"]

MEASURES: tuple[Measure, ...] = (
    "steps per problem",
    "steps per token",
    "clock per problem",
    "clock per token",
    "assistant tokens",
)
N_RESAMPLES = 2000
_SEED = 0
_CHUNK = 1 << 20  # problems drawn at once
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval.

    Attributes:
        value: what was measured.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reference:
    """The result of routing whole problems, when the assistant writes a given share of the tokens.

    Attributes:
        name: ``chord@20`` or ``router@20``; with several experts ``chord+math@20``.
        rate: the share of the tokens that the assistant writes.
        n_problems: problems that base and assistant both answered.
        share_of_problems: share of the problems sent to the assistant, 0 to 1.
        accuracy: expected share of correct answers, 0 to 1.
        expert: of several experts, the one that is the assistant here; empty with one.
    """

    name: str
    rate: float
    n_problems: int
    share_of_problems: float
    accuracy: Estimate
    expert: str = ""


@dataclass(frozen=True, slots=True)
class Above:
    """How far an arm is above routing whole problems at equal cost.

    Attributes:
        arm: the arm.
        measure: the kind of cost: seconds per problem or per token, by step times or by the clock, or the assistant's
            share of the tokens.
        n_problems: problems that arm, base and assistant answered.
        cost: the arm's cost: seconds, or a share.
        share_of_problems: share of the problems that the chord sends to the assistant at this cost. 1 if the arm costs
            as much as the assistant alone, or more.
        chord: accuracy of the chord.
        above_chord: the arm's accuracy minus the chord's.
        router: accuracy of the question router; None if the base's log-probabilities are unknown.
        above_router: the arm's accuracy minus the router's.
        expert: of several experts, the one that chord and router ask; empty with one.
    """

    arm: str
    measure: Measure
    n_problems: int
    cost: float
    share_of_problems: float
    chord: float
    above_chord: Estimate
    router: float | None
    above_router: Estimate | None
    expert: str = ""


@dataclass(frozen=True)
class Experts:
    """Base and assistant alone on the same problems.

    Attributes:
        base: whether the base's answers are correct, ``[n]``.
        assistant: whether the assistant's answers are correct, ``[n]``.
        base_costs: costs of the base's answers.
        assistant_costs: costs of the assistant's answers.
        confidence: the base's confidence, which a question router uses, ``[n]``; None if unknown.
    """

    base: Floats
    assistant: Floats
    base_costs: AnswerCosts
    assistant_costs: AnswerCosts
    confidence: Floats | None

    def columns(self, measure: Measure) -> _Columns | None:
        """What the chord and the router need; None where the cost is not known or the assistant costs no more."""
        of_base, of_assistant = self.base_costs.of(measure), self.assistant_costs.of(measure)
        if of_base is None or of_assistant is None:
            return None
        if not of_assistant[0].sum() * of_base[1].sum() > of_base[0].sum() * of_assistant[1].sum():
            return None
        return _Columns(
            self.base, self.assistant, *of_base, *of_assistant, of_assistant[0] + self._begun(measure), self.confidence
        )

    def _begun(self, measure: Measure) -> Floats:
        """What the base's first tokens cost where the router then asks the assistant."""
        if measure == "assistant tokens":
            return np.zeros_like(self.base)
        n_tokens = self.base_costs.n_tokens
        begun = np.minimum(n_tokens, ROUTER_TOKENS) / np.maximum(n_tokens, 1.0)
        per_token = self.base_costs.of("clock per token" if measure.startswith("clock") else "steps per token")
        assert per_token is not None  # known wherever the measure is
        writing = begun * per_token[0]
        if measure.endswith("token"):
            return writing
        whole = self.base_costs.of(measure)
        assert whole is not None
        return whole[0] - per_token[0] + writing


@dataclass(frozen=True)
class _Columns:
    """For each problem: whether it is answered correctly, and the numerator and denominator of its cost."""

    base: Floats
    assistant: Floats
    base_cost: Floats
    base_of: Floats
    assistant_cost: Floats
    assistant_of: Floats
    routed_cost: Floats  # of a problem that the router sends to the assistant
    confidence: Floats | None

    def with_two_more(self, base: tuple[float, float], assistant: tuple[float, float]) -> _Columns:
        """Two more problems with these answers, which cost what problems do on average."""

        def more(column: Floats) -> Floats:
            return np.append(column, [column.mean()] * 2)

        middle = None if self.confidence is None else np.append(self.confidence, [np.median(self.confidence)] * 2)
        return _Columns(
            np.append(self.base, base),
            np.append(self.assistant, assistant),
            more(self.base_cost),
            more(self.base_of),
            more(self.assistant_cost),
            more(self.assistant_of),
            more(self.routed_cost),
            middle,
        )

    def share_at(self, weights: Floats, cost: Floats) -> Floats:
        """The share of problems that costs ``cost`` when they are sent at random, for each row of ``weights``."""
        below = cost * (weights @ self.base_of) - weights @ self.base_cost
        beyond = weights @ self.assistant_cost - cost * (weights @ self.assistant_of)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = below / (below + beyond)
        share = np.where(beyond <= 0, 1.0, np.where(below <= 0, 0.0, share))
        clipped: Floats = np.clip(np.nan_to_num(share, nan=0.0), 0.0, 1.0)
        return clipped

    def chord(self, weights: Floats, share: Floats) -> Floats:
        """Its expected accuracy where it sends ``share`` of the problems."""
        n = weights.sum(axis=1)
        accuracy: Floats = ((1 - share) * (weights @ self.base) + share * (weights @ self.assistant)) / n
        return accuracy

    def routed(self, weights: Floats) -> tuple[Floats, Floats, Floats]:
        """Share of problems sent, cost and accuracy as one problem after the other is sent, the least sure first."""
        assert self.confidence is not None
        order = np.argsort(self.confidence, kind="stable")
        w = weights[:, order]

        def moved(kept: Floats, sent: Floats) -> Floats:
            """The sum over all problems: ``kept`` of those that stay with the base, ``sent`` of the others."""
            change = np.cumsum(w * (sent - kept)[order], axis=1)
            return np.concatenate([np.zeros((len(w), 1)), change], axis=1) + (weights @ kept)[:, None]

        n = weights.sum(axis=1, keepdims=True)
        cost = moved(self.base_cost, self.routed_cost) / moved(self.base_of, self.assistant_of)
        sent = np.concatenate([np.zeros((len(w), 1)), np.cumsum(w, axis=1)], axis=1) / n
        return sent, cost, moved(self.base, self.assistant) / n

    def router(self, weights: Floats, cost: Floats) -> tuple[Floats, Floats]:
        """Share of problems sent and accuracy where the router sends as many problems as ``cost`` pays for."""
        sent, costs, accuracy = self.routed(weights)
        rows = np.arange(len(costs))
        within = costs <= cost[:, None] * (1 + 1e-12)
        last = np.where(within.any(axis=1), costs.shape[1] - 1 - np.argmax(within[:, ::-1], axis=1), 0)
        following = np.minimum(last + 1, costs.shape[1] - 1)
        step = costs[rows, following] - costs[rows, last]
        part = np.where(step > 0, (cost - costs[rows, last]) / np.where(step > 0, step, 1.0), 0.0)
        part = np.clip(part, 0.0, 1.0)  # of the next problem: sent with this probability
        at = [(1 - part) * values[rows, last] + part * values[rows, following] for values in (sent, accuracy)]
        return at[0], at[1]


def _resamples(n: int) -> Iterator[Floats]:
    """How often each of ``n`` problems is drawn, a row a resample, in pieces."""
    rng = np.random.default_rng(_SEED)
    rows = max(1, min(N_RESAMPLES, _CHUNK // n))
    for begin in range(0, N_RESAMPLES, rows):
        count = min(rows, N_RESAMPLES - begin)
        yield rng.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)


def _estimate(value: float, drawn: Sequence[Floats]) -> Estimate:
    low, high = np.quantile(np.concatenate(drawn), [_TAIL, 1 - _TAIL])
    # What was measured lies in its interval, wherever the two added problems moved that.
    return Estimate(value, min(float(low), value), max(float(high), value))


def above(
    arm: str,
    correct: Floats,
    costs: AnswerCosts,
    experts: Experts,
    measures: Sequence[Measure] = MEASURES,
    expert: str = "",
) -> list[Above]:
    """How far an arm is above chord and router, by every known cost.

    Args:
        arm: the arm's name.
        correct: whether the arm's answers are correct, ``[n]``.
        costs: costs of the arm's answers.
        experts: base and assistant on the same problems.
        measures: the costs to compare at.
        expert: of several experts, the one that is the assistant in ``experts``.
    """
    races = []
    for measure in measures:
        columns, own = experts.columns(measure), costs.of(measure)
        if columns is not None and own is not None:
            races.append(_Race(measure, correct, own, columns))
    if races:
        for weights in _resamples(correct.size + 2):
            for race in races:
                race.draw(weights)
    return [replace(race.result(arm), expert=expert) for race in races]


class _Race:
    """An arm against chord and router at one cost: what was measured, and what resamples give."""

    def __init__(self, measure: Measure, correct: Floats, own: tuple[Floats, Floats], columns: _Columns) -> None:
        self._measure, self._correct, self._own, self._columns = measure, correct, own, columns
        self._more = columns.with_two_more((0.0, 1.0), (0.0, 1.0))
        self._more_correct = np.append(correct, [1.0, 0.0])
        self._more_own = [np.append(column, [column.mean()] * 2) for column in own]
        self._over_chord: list[Floats] = []
        self._over_router: list[Floats] = []

    def draw(self, weights: Floats) -> None:
        """Adds resamples, a row each of how often a problem was drawn."""
        cost = (weights @ self._more_own[0]) / (weights @ self._more_own[1])
        right = weights @ self._more_correct / self._more_correct.size
        self._over_chord.append(right - self._more.chord(weights, self._more.share_at(weights, cost)))
        if self._more.confidence is not None:
            self._over_router.append(right - self._more.router(weights, cost)[1])

    def result(self, arm: str) -> Above:
        """The result."""
        ones = np.ones((1, self._correct.size))
        accuracy = float(self._correct.mean())
        cost = self._own[0].sum(keepdims=True) / self._own[1].sum(keepdims=True)
        share = self._columns.share_at(ones, cost)
        chord = float(self._columns.chord(ones, share)[0])
        router = over_router = None
        if self._columns.confidence is not None:
            router = float(self._columns.router(ones, cost)[1][0])
            over_router = _estimate(accuracy - router, self._over_router)
        return Above(
            arm=arm,
            measure=self._measure,
            n_problems=self._correct.size,
            cost=float(cost[0]),
            share_of_problems=float(share[0]),
            chord=chord,
            above_chord=_estimate(accuracy - chord, self._over_chord),
            router=router,
            above_router=over_router,
        )


def reference(rate: float, experts: Experts, expert: str = "") -> list[Reference]:
    """Chord and router where the assistant writes ``rate`` of the tokens, 0 to 1. ``expert``: as of :func:`above`."""
    columns = experts.columns("assistant tokens")
    if columns is None:
        return []
    n = columns.base.size
    ones, cost = np.ones((1, n)), np.array([rate])
    # One problem that everybody answers, and one that nobody does.
    more = columns.with_two_more((1.0, 0.0), (1.0, 0.0))
    resamples = list(_resamples(n + 2))
    share = columns.share_at(ones, cost)
    drawn = [more.chord(w, more.share_at(w, np.full(len(w), rate))) for w in resamples]
    found = [_reference("chord", rate, n, share, columns.chord(ones, share), drawn, expert)]
    if columns.confidence is not None:
        sent, accuracy = columns.router(ones, cost)
        drawn = [more.router(w, np.full(len(w), rate))[1] for w in resamples]
        found.append(_reference("router", rate, n, sent, accuracy, drawn, expert))
    return found


def _reference(
    kind: str, rate: float, n: int, share: Floats, accuracy: Floats, drawn: Sequence[Floats], expert: str
) -> Reference:
    value = _estimate(float(accuracy[0]), drawn)
    to = f"+{expert}" if expert else ""
    return Reference(f"{kind}{to}@{rate * 100:g}", rate, n, float(share[0]), value, expert)


def curve(measure: Measure, experts: Experts) -> dict[str, tuple[Floats, Floats]]:
    """Cost and accuracy of ``chord`` and ``router`` from the base alone to the assistant alone, for plots."""
    columns = experts.columns(measure)
    if columns is None:
        return {}
    share = np.linspace(0.0, 1.0, 101)
    cost = (1 - share) * columns.base_cost.sum() + share * columns.assistant_cost.sum()
    number = (1 - share) * columns.base_of.sum() + share * columns.assistant_of.sum()
    curves = {"chord": (cost / number, (1 - share) * columns.base.mean() + share * columns.assistant.mean())}
    if columns.confidence is not None:
        _, costs, accuracy = columns.routed(np.ones((1, columns.base.size)))
        curves["router"] = (costs[0], accuracy[0])
    return curves
