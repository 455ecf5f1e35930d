"""The problems that come with the demo pair, and who gets them right. No part of ``import colm_cpp``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..answers.answering import Arm, Counts, answers
from ..answers.checkers import make_checker
from ..answers.problems import Problem, load_task
from ..engine.pair import DEFAULT_THRESHOLD
from ..heads.head import Head
from ..sources.preset import DEMO_FOLDER, DEMO_THREE_FOLDER
from ..traces.record import Record

if TYPE_CHECKING:
    import os

    from ..engine.pair import Pair

__all__ = [
    "ANSWER_PATTERN",
    "ARMS",
    "MAX_TOKENS",
    "PROBLEMS",
    "THREE_PROBLEMS",
    "Answer",
    "Tally",
    "answer_all",
    "answer_arms",
    "demo_problems",
    "own_arm",
    "tally",
]

PROBLEMS = DEMO_FOLDER / "problems.jsonl"
"""500 problems in situations, and with numbers, that neither model was trained on."""

THREE_PROBLEMS = DEMO_THREE_FOLDER / "problems.jsonl"
"""300 problems for three models. They need a fact which they do not state; no model was trained on goods in plots."""

ANSWER_PATTERN = r"Answer: (\d+)"
"""Where a solution says what comes out."""

ARMS = ("base", "assistant", "random", "together")
"""Each model alone; both, deferring at random as often as the head does; both, as the head decides."""

MAX_TOKENS = 128
"""Of a solution; the longest that the pair was trained on has about 80."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One solution.

    Attributes:
        arm: one of :data:`ARMS`.
        problem: what was asked.
        record: what was written, and by whom.
        found: the number that it says comes out; empty where it says none.
        right: whether that is the number that does.
    """

    arm: str
    problem: Problem
    record: Record
    found: str
    right: bool


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of an arm's problems.

    Attributes:
        n_problems: how many it solved.
        n_right: of these, rightly.
        deferral_rate: share of the tokens on the assistant's turn, 0 to 1.
    """

    n_problems: int
    n_right: int
    deferral_rate: float

    @property
    def accuracy(self) -> float:
        """Share of the problems that were solved rightly, 0 to 1."""
        return self.n_right / self.n_problems


def demo_problems(
    *, skip: int = 0, limit: int | None = None, file: str | os.PathLike[str] = PROBLEMS
) -> tuple[Problem, ...]:
    """The problems in the package, each with its answer.

    Args:
        skip: problems to pass over.
        limit: problems at most. None: all.
        file: other problems, such as :data:`THREE_PROBLEMS`.
    """
    return load_task(file, skip=skip, limit=limit).problems


def answer_all(
    pair: Pair,
    problems: Sequence[Problem],
    *,
    arms: Iterable[str] = ARMS,
    n_parallel: int = 16,
    on_answer: Callable[[Answer], None] | None = None,
) -> list[Answer]:
    """Has every problem solved by every arm, greedily.

    Args:
        pair: the demo pair.
        problems: some of :func:`demo_problems`, or others that begin alike.
        arms: who solves them; ``random`` needs ``together`` beside it, whose rate it defers at.
        n_parallel: solutions written at once.
        on_answer: called with each as it is finished.

    Returns:
        The answers by arm, in the order of ``arms``, and by problem.
    """
    wanted = tuple(arms)
    chosen = {
        "base": Arm("base", "never", DEFAULT_THRESHOLD, None, {}),
        "assistant": Arm("assistant", "always", DEFAULT_THRESHOLD, None, {}),
        "together": own_arm(pair),
    }
    others = [chosen[name] for name in wanted if name != "random"]
    found = answer_arms(pair, problems, others, n_parallel=n_parallel, on_answer=on_answer)
    if "random" in wanted:
        rate = tally([answer for answer in found if answer.arm == "together"]).deferral_rate
        arm = Arm("random", "random", 1.0 - rate, None, {})
        found += answer_arms(pair, problems, [arm], n_parallel=n_parallel, on_answer=on_answer)
    return sorted(found, key=lambda answer: wanted.index(answer.arm))


def answer_arms(
    pair: Pair,
    problems: Sequence[Problem],
    arms: Sequence[Arm],
    *,
    n_parallel: int = 16,
    on_answer: Callable[[Answer], None] | None = None,
) -> list[Answer]:
    """Has every problem solved by each of these arms, greedily. Returns the answers by arm and by problem."""
    checker = make_checker("regex", pattern=ANSWER_PATTERN)
    options = {"max_tokens": MAX_TOKENS, "temperature": 0.0}
    asked = [(problem, arm) for problem in problems for arm in arms]
    found = []
    with closing(answers(pair, asked, options, chat=True, n_parallel=n_parallel)) as written:
        for number, record in written:
            problem, arm = asked[number]
            verdict = checker.check(record.text, problem.answer, problem.prompt)
            found.append(Answer(arm.name, problem, record, verdict.extracted or "", verdict.correct))
            if on_answer is not None:
                on_answer(found[-1])
    names = [arm.name for arm in arms]
    return sorted(found, key=lambda answer: (names.index(answer.arm), answer.problem.index))


def own_arm(pair: Pair) -> Arm:
    """The arm ``together``: the pair's own head at its default threshold."""
    head = pair.head
    if not isinstance(head, Head):
        head = Head.load(str(head))
    return Arm(
        "together", head, DEFAULT_THRESHOLD if head.default_threshold is None else head.default_threshold, None, {}
    )


def tally(answered: Sequence[Answer]) -> Tally:
    """Counts the answers of one arm; there is at least one."""
    n_right = sum(answer.right for answer in answered)
    return Tally(len(answered), n_right, Counts.of(answer.record for answer in answered).deferral_rate)
