"""Summaries of an evaluation: accuracy, deferral rate, speed, and which differences are significant."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..answers.answering import Counts
from ..answers.checkers import Checker
from ..answers.problems import Task
from ..errors import CorpusError
from ..options import STRATEGIES
from ..traces.record import Record
from .costs import AnswerCosts, StepTimes, answer_costs, confidence
from .records import RecordFolder, models_alone
from .references import MEASURES, Above, Experts, Reference, above, reference
from .statistics import PairedDifference, paired_difference, wilson_interval

__all__ = ["ArmSummary", "Comparison", "Summary", "summarize"]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """The results of one arm.

    Attributes:
        name: the arm.
        rate: the wanted deferral rate; None for a model alone.
        n_problems: problems that it answered.
        n_correct: answers that the checker accepted.
        accuracy: ``n_correct / n_problems``, 0 to 1.
        low: lower end of the accuracy's 95% interval (Wilson).
        high: upper end of that interval.
        deferral_rate: share of the tokens that were deferred, 0 to 1.
        shares: name of each of several experts -> share of the tokens on its turn, 0 to 1. Empty with one expert, and
            for another model or pair.
        n_tokens: tokens written.
        tokens_per_s: tokens per second without the prefill, over the answers that were written alone; None if there is
            none.
        n_timed: the number of these answers.
        assistant_calls_per_token: how often the assistant was asked for each token written.
        runs_per_token: how often the turn went from the base to the assistant, for each token written.
        base_steps_per_token: how often the base gave a distribution, for each token written. A hold needs none.
        n_cut_off: answers that ended at ``max_tokens``.
        n_without_answer: texts in which the checker found no answer.
        s_per_problem: seconds for an answer, prefill included, computed from counts and the step times in
            ``meta.json``: the time on a machine that does nothing else. None without step times.
        ms_per_token: milliseconds for a token without the prefill, computed in the same way; None without step times.
    """

    name: str
    rate: float | None
    n_problems: int
    n_correct: int
    accuracy: float
    low: float
    high: float
    deferral_rate: float
    n_tokens: int
    tokens_per_s: float | None
    n_timed: int
    assistant_calls_per_token: float
    runs_per_token: float
    base_steps_per_token: float
    n_cut_off: int
    n_without_answer: int
    s_per_problem: float | None = None
    ms_per_token: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two arms on the problems that both answered.

    Attributes:
        arm: the first arm.
        other: the second arm.
        n_problems: problems that both answered.
        difference: accuracy of ``arm`` minus that of ``other``, with its interval and p-value.
    """

    arm: str
    other: str
    n_problems: int
    difference: PairedDifference


@dataclass(frozen=True)
class Summary:
    """An evaluation.

    Attributes:
        meta: the models and options of the answers.
        checker: the checker that judged them.
        arms: the models alone first, then heads by name and rate.
        comparisons: every two arms.
        references: results of routing whole problems to an expert, at the arms' wanted rates. Empty without answers
            of the base alone and an expert alone.
        above: how far each arm is above that at equal cost, by every known cost.
        experts: name of each expert -> the base and this expert alone, for curves; without those that lack answers.
    """

    meta: dict[str, Any]
    checker: str
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    references: tuple[Reference, ...] = ()
    above: tuple[Above, ...] = ()
    experts: Mapping[str, Experts] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "meta": self.meta,
            "checker": self.checker,
            "arms": [_without(asdict(arm), "shares") for arm in self.arms],
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
            "references": [_without(asdict(reference), "expert") for reference in self.references],
            "above": [_without(asdict(above), "expert") for above in self.above],
        }


def _without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    """The fields without this one where it is empty: reports of a pair with one assistant never had it."""
    return fields if fields[name] else {key: value for key, value in fields.items() if key != name}


def summarize(folder: RecordFolder, task: Task, checker: Checker) -> Summary:
    """Judges and compares the answers to ``task`` that are in ``folder``.

    Raises:
        CorpusError: the answers are to another task, or there are none.
    """
    if folder.meta.get("task_sha256") != task.digest:
        raise CorpusError(
            f"{folder.path} holds answers to {folder.meta.get('task', 'another task')}, but {task.path} is another file"
        )
    problems = {problem.index: problem for problem in task.problems}
    names = models_alone(folder.meta)
    steps = StepTimes.from_dict(folder.meta["steps"], names[1:]) if "steps" in folder.meta else None
    arms: list[ArmSummary] = []
    judged: dict[str, dict[int, bool]] = {}
    answers: dict[str, _Answers] = {}
    for name in sorted(folder.arms(), key=lambda name: _place(folder, names, name)):
        records = {i: record for i, record in folder.read(name).items() if i in problems}
        if not records:
            continue
        verdicts = {
            i: checker.check(record.text, problems[i].answer, problems[i].prompt) for i, record in records.items()
        }
        judged[name] = {i: verdict.correct for i, verdict in verdicts.items()}
        n_without = sum(verdict.extracted is None for verdict in verdicts.values())
        facts = folder.meta["arms"][name]
        own_steps = steps
        if "expert" in facts or "pair" in facts:
            own, of_experts = name.partition("@")[0], folder.meta.get("expert_steps", {})
            own_steps = StepTimes.from_dict(of_experts[own]) if own in of_experts else None
        # Tokens of a pair with this assistant count as those of the pair itself do.
        other = "expert" in facts or (
            "pair" in facts and facts["pair"].get("assistant") != folder.meta.get("assistant_model")
        )
        strategy = facts.get("strategy", STRATEGIES[0])
        answers[name] = _Answers(records, judged[name], own_steps, facts.get("head", "never"), other, strategy)
        arms.append(_arm(name, facts.get("rate"), answers[name], n_without, () if other else names[1:]))
    if not arms:
        raise CorpusError(f"{folder.path} holds no answer to these problems; run colm evaluate without --report-only")
    comparisons = []
    for arm, other in itertools.combinations(judged, 2):
        both = sorted(set(judged[arm]) & set(judged[other]))
        if both:
            difference = paired_difference(_column(judged[arm], both), _column(judged[other], both))
            comparisons.append(Comparison(arm, other, len(both), difference))
    experts, references, higher = _references(names, arms, answers)
    return Summary(folder.meta, checker.name, tuple(arms), tuple(comparisons), references, higher, experts)


@dataclass(frozen=True)
class _Answers:
    """What one arm answered."""

    records: dict[int, Record]
    correct: dict[int, bool]
    steps: StepTimes | None
    head: str
    expert: bool  # another model, or a pair with another assistant: its tokens are not this assistant's
    strategy: str = STRATEGIES[0]

    def costs(self, problems: list[int] | None = None) -> AnswerCosts:
        chosen = self.records.values() if problems is None else [self.records[i] for i in problems]
        return answer_costs(list(chosen), self.steps, self.head, self.strategy)

    def right(self, problems: list[int]) -> npt.NDArray[np.float64]:
        return _column(self.correct, problems).astype(np.float64)


def _references(
    names: Sequence[str], arms: list[ArmSummary], answers: dict[str, _Answers]
) -> tuple[dict[str, Experts], tuple[Reference, ...], tuple[Above, ...]]:
    """Chord and router to each expert, and how far the other arms lie above them."""
    base_name, *others = names
    several = len(others) > 1
    known: dict[str, Experts] = {}
    references: list[Reference] = []
    higher: list[Above] = []
    rates = sorted({arm.rate for arm in arms if arm.rate is not None})
    for name in others:
        if base_name not in answers or name not in answers:
            continue
        base, expert = answers[base_name], answers[name]
        both = sorted(set(base.records) & set(expert.records))
        if not both:
            continue

        def experts(problems: list[int], base: _Answers = base, expert: _Answers = expert) -> Experts:
            return Experts(
                base.right(problems),
                expert.right(problems),
                base.costs(problems),
                expert.costs(problems),
                confidence([base.records[i] for i in problems]),
            )

        for arm in arms:
            own = answers[arm.name]
            problems = [i for i in both if i in own.records]
            if arm.name not in names and not own.expert and problems:
                # A token of one expert costs what it costs, so with several only seconds can be compared.
                measures = MEASURES[:-1] if several else MEASURES
                costs = own.costs(problems)
                higher += above(
                    arm.name, own.right(problems), costs, experts(problems), measures, name if several else ""
                )
        known[name] = experts(both)
        references += (row for rate in rates for row in reference(rate, known[name], name if several else ""))
    return known, tuple(references), tuple(higher)


def _place(folder: RecordFolder, names: Sequence[str], name: str) -> tuple[int, str, float]:
    """The models alone (``names``) first, then heads by name, each by its rates."""
    rate = folder.meta["arms"][name].get("rate") or 0.0
    if name in names:
        return names.index(name), "", 0.0
    return len(names), name.partition("@")[0], rate


def _column(judged: dict[int, bool], problems: list[int]) -> npt.NDArray[np.bool_]:
    return np.array([judged[i] for i in problems], dtype=bool)


def _arm(name: str, rate: float | None, answers: _Answers, n_without: int, experts: Sequence[str] = ()) -> ArmSummary:
    records = list(answers.records.values())
    n_correct = sum(answers.correct.values())
    counts = Counts.of(records)
    timed = [record for record in records if record.n_parallel == 1]
    seconds = sum(record.decode_s for record in timed)
    low, high = wilson_interval(n_correct, len(records))
    costs = answers.costs()
    per_problem, per_token = costs.of("steps per problem"), costs.of("steps per token")
    return ArmSummary(
        name=name,
        rate=rate,
        n_problems=len(records),
        n_correct=n_correct,
        accuracy=n_correct / len(records),
        low=low,
        high=high,
        deferral_rate=counts.deferral_rate,
        n_tokens=counts.n_tokens,
        tokens_per_s=sum(record.n_tokens for record in timed) / seconds if seconds > 0 else None,
        n_timed=len(timed),
        assistant_calls_per_token=counts.per_token(counts.assistant_calls),
        runs_per_token=counts.per_token(counts.n_runs),
        base_steps_per_token=counts.per_token(counts.base_steps),
        n_cut_off=sum(record.finish_reason == "length" for record in records),
        n_without_answer=n_without,
        s_per_problem=None if per_problem is None else float(per_problem[0].mean()),
        ms_per_token=None if per_token is None else counts.per_token(1000 * float(per_token[0].sum())),
        shares={
            expert: counts.per_token(sum(record.experts.count(str(number)) for record in records))
            for number, expert in enumerate(experts, start=1)
            if len(experts) > 1
        },
    )
