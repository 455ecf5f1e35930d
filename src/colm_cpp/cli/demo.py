"""``colm demo``: what deferral looks like, with the pair in the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ._help import SectionedCommand, option
from ._pair import color_option

if TYPE_CHECKING:
    from ..answers.problems import Problem
    from ..engine.pair import Pair
    from ..evaluate.demo import Answer
    from ..report.demo import Solution

__all__ = ["demo"]

_N_SHOWN = 3


@dataclass(frozen=True)
class _Models:
    """What is shown, of two models or of three.

    Attributes:
        pair: the name of their preset.
        titles: who solves -> what the tables call it.
        compared: those whose solutions are shown beside each other.
        shares: what the tables call the tokens of each expert.
        whose: what the key calls them.
        more: what to try next.
    """

    pair: str
    titles: dict[str, str]
    compared: tuple[str, ...]
    shares: tuple[str, ...]
    whose: tuple[str, ...]
    more: str

    def problems(self, *, skip: int = 0, limit: int | None = None) -> tuple[Problem, ...]:
        """Those in the package."""
        from ..evaluate.demo import PROBLEMS, THREE_PROBLEMS, demo_problems

        return demo_problems(skip=skip, limit=limit, file=THREE_PROBLEMS if self is _THREE else PROBLEMS)

    def solve(
        self,
        pair: Pair,
        problems: Sequence[Problem],
        who: Sequence[str],
        n_parallel: int = 16,
        on_answer: Callable[[Answer], None] | None = None,
    ) -> list[Answer]:
        """Their solutions."""
        from ..evaluate.demo import answer_all, answer_arms
        from ..evaluate.demo_three import arms_of_several

        if self is not _THREE:
            return answer_all(pair, problems, arms=who, n_parallel=n_parallel, on_answer=on_answer)
        arms = [arm for arm in arms_of_several(pair) if arm.name in who]
        return answer_arms(pair, problems, arms, n_parallel=n_parallel, on_answer=on_answer)


_PROBLEM = (
    "The workshop had 5 drawers with 131 pencils in each drawer. Then 214 pencils were sold. How many pencils remain?"
)
_NEXT = f"""\
What next?
  colm demo --prompt "{_PROBLEM}"
  colm generate "{_PROBLEM}" --pair demo --chat --temperature 0
  colm generate "{_PROBLEM}" --pair demo --chat --temperature 0 --threshold 1    # the base alone
To use your own models: colm generate --help. To train your own head: docs/training.md."""
_ERRAND = "Tom buys 4 packets of lemons at the market and pays with 900 cents. How many cents does Tom get back?"
_NEXT_OF_THREE = f"""\
What next?
  colm demo --three --prompt "{_ERRAND}"
  colm generate "{_ERRAND}" --pair demo-three --chat --temperature 0
To use your own models: docs/experts.md."""

_TWO = _Models(
    "demo",
    {"base": "base alone", "assistant": "assistant alone", "random": "both, at random", "together": "together"},
    ("base", "assistant", "together"),
    ("assistant's tokens",),
    ("the assistant",),
    _NEXT,
)
_THREE = _Models(
    "demo-three",
    {
        "base": "base alone",
        "sums": "sums alone",
        "almanac": "almanac alone",
        "base+sums": "base and sums",
        "base+almanac": "base and almanac",
        "together": "all three",
    },
    ("base", "base+sums", "base+almanac", "together"),
    ("by sums", "by almanac"),
    ("sums", "the almanac"),
    _NEXT_OF_THREE,
)


@click.command(cls=SectionedCommand)
@option("Texts", "--prompt", metavar="TEXT", help="Your own word problem, instead of three from the package.")
@option(
    "Texts",
    "--sample",
    type=click.IntRange(0, 500),
    default=50,
    help="Number of problems for the accuracy table; 0: no table. The package has 500, for --three 300.",
)
@option("Models", "--three", is_flag=True, help="Show three models: stories, sums and an almanac of facts.")
@color_option("Colour the experts' tokens.")
@option("Output", "--quiet", "-q", is_flag=True, help="Do not show progress.")
@option("Output", "--verbose", "-v", is_flag=True, help="Show llama.cpp's log on stderr.")
def demo(prompt: str | None, sample: int, three: bool, color: str, quiet: bool, verbose: bool) -> None:
    """Watch tiny models solve word problems, alone and together.

    The models are in the package, so no network is needed. The base can tell stories but cannot do sums. The assistant
    can do sums but cannot tell stories. The head has learned from texts when to defer to the assistant. With --three,
    problems also need a fact, which only a third model knows: an almanac.
    """
    from ..answers.problems import Problem
    from ..engine.loading import load
    from ..errors import TokenizeError
    from ..report.demo import print_key, print_solutions
    from ._output import is_terminal, leave_stdout, log_to_stderr, open_console, wants_color

    if prompt is not None and not prompt.strip():
        raise TokenizeError("the prompt is empty; give a word problem")
    console = open_console("stdout", wants_color(color, "stdout"))
    plain = not is_terminal("stdout")
    models = _THREE if three else _TWO

    def show(pair: Pair, problems: Sequence[Problem]) -> None:
        for number, problem in enumerate(problems, start=1):
            title = "Your problem" if prompt is not None else f"Problem {number}"
            answered = models.solve(pair, [problem], models.compared, len(models.compared))
            solved = [_solution(answer, models.titles[answer.arm], known=prompt is None) for answer in answered]
            print_solutions(console, title, problem.prompt, solved, plain=plain)

    try:
        with log_to_stderr(verbose), load(models.pair) as pair:
            print_key(console, models.whose)
            if prompt is not None:
                show(pair, [Problem(0, ({"role": "user", "content": prompt},), "", prompt)])
                return
            show(pair, models.problems(limit=_N_SHOWN))
            if sample:
                _count(models, pair, sample, console, plain=plain, shown=not quiet)
        console.print(models.more, soft_wrap=True)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        leave_stdout()


def _solution(answer: Answer, title: str, *, known: bool) -> Solution:
    from ..report.demo import Solution
    from ..report.traces import traced

    text = traced(answer.record, answer.arm)
    if not known:
        return Solution(title, text)
    if answer.right:
        verdict = f"right: {answer.found}"
    elif answer.found:
        verdict = f"wrong: {answer.found} instead of {answer.problem.answer}"
    else:
        verdict = f"no answer; the right one is {answer.problem.answer}"
    return Solution(title, text, verdict, answer.right)


def _count(models: _Models, pair: Pair, n: int, console: Any, *, plain: bool, shown: bool) -> None:
    from ..evaluate.demo import tally
    from ..evaluate.demo_three import shares
    from ..report.demo import print_scores
    from ._progress import meter

    problems = models.problems(skip=_N_SHOWN, limit=n)
    total = len(problems) * len(models.titles)
    done = 0
    with meter("solving", shown=shown) as bar:

        def on_answer(answer: Answer) -> None:
            nonlocal done
            done += 1
            bar.update(done / total, f"{done} of {total} solutions")

        answered = models.solve(pair, problems, tuple(models.titles), on_answer=on_answer)
    console.print(
        f"{len(problems)} problems; their situations and sums were in no training text ({bar.seconds():.0f} s)",
        style="bold",
        soft_wrap=plain,
    )
    rows = []
    for arm, title in models.titles.items():
        own = [answer for answer in answered if answer.arm == arm]
        count = tally(own)
        rows.append((title, count.n_problems, count.n_right, shares(own, len(models.shares))))
    print_scores(console, rows, plain=plain, shares=models.shares)
    console.print()
