"""``colm demo``: what deferral looks like, with the pair in the package."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ._help import SectionedCommand
from ._pair import color_option, option

if TYPE_CHECKING:
    from ..answers.problems import Problem
    from ..evaluate.demo import Answer
    from ..report.demo import Solution

__all__ = ["demo"]

_N_SHOWN = 3
_ALONE = ("base", "assistant", "together")
_NAMES = {
    "base": "base alone",
    "assistant": "assistant alone",
    "random": "both, at random",
    "together": "together",
}
_PROBLEM = (
    "The workshop had 5 drawers with 131 pencils in each drawer. Then 214 pencils were sold. How many pencils remain?"
)
_NEXT = f"""\
What next?
  colm demo --prompt "{_PROBLEM}"
  colm generate "{_PROBLEM}" --pair demo --chat --temperature 0
  colm generate "{_PROBLEM}" --pair demo --chat --temperature 0 --threshold 1    # the base alone
To use your own models: colm generate --help. To train your own head: docs/training.md."""


@click.command(cls=SectionedCommand)
@option("Texts", "--prompt", metavar="TEXT", help="Your own word problem, instead of three from the package.")
@option(
    "Texts",
    "--sample",
    type=click.IntRange(0, 500),
    default=50,
    show_default=True,
    help="Number of problems for the accuracy table; 0: no table.",
)
@color_option("Colour the assistant's tokens.")
@option("Output", "--quiet", "-q", is_flag=True, help="Do not show progress.")
@option("Output", "--verbose", "-v", is_flag=True, help="Show llama.cpp's log on stderr.")
def demo(prompt: str | None, sample: int, color: str, quiet: bool, verbose: bool) -> None:
    """Watch two tiny models solve word problems, alone and together.

    Both models are in the package, so no network is needed. The base can tell stories but cannot do sums. The assistant
    can do sums but cannot tell stories. The head has learned from texts when to defer to the assistant.
    """
    from ..answers.problems import Problem
    from ..engine.pair import Pair
    from ..errors import TokenizeError
    from ..evaluate.demo import demo_problems
    from ..report.demo import print_key, print_solutions
    from ._loading import load_demo
    from ._output import is_terminal, leave_stdout, log_to_stderr, open_console, wants_color

    if prompt is not None and not prompt.strip():
        raise TokenizeError("the prompt is empty; give a word problem")
    console = open_console("stdout", wants_color(color, "stdout"))
    plain = not is_terminal("stdout")

    def show(pair: Pair, problems: Sequence[Problem]) -> None:
        for number, problem in enumerate(problems, start=1):
            title = "Your problem" if prompt is not None else f"Problem {number}"
            solved = [_solution(answer, known=prompt is None) for answer in _solve(pair, [problem], _ALONE)]
            print_solutions(console, title, problem.prompt, solved, plain=plain)

    try:
        with log_to_stderr(verbose), load_demo() as pair:
            print_key(console)
            if prompt is not None:
                show(pair, [Problem(0, ({"role": "user", "content": prompt},), "", prompt)])
                return
            show(pair, demo_problems(limit=_N_SHOWN))
            if sample:
                _count(pair, sample, console, plain=plain, shown=not quiet)
        console.print(_NEXT, soft_wrap=True)
    except BrokenPipeError:  # whoever reads, such as head, has seen enough
        leave_stdout()


def _solve(pair: Any, problems: Sequence[Problem], arms: Sequence[str]) -> list[Answer]:
    from ..evaluate.demo import answer_all

    return answer_all(pair, problems, arms=arms, n_parallel=len(arms))


def _solution(answer: Answer, *, known: bool) -> Solution:
    from ..report.demo import Solution
    from ..report.traces import traced

    text = traced(answer.record, answer.arm)
    if not known:
        return Solution(_NAMES[answer.arm], text)
    if answer.right:
        verdict = f"right: {answer.found}"
    elif answer.found:
        verdict = f"wrong: {answer.found} instead of {answer.problem.answer}"
    else:
        verdict = f"no answer; the right one is {answer.problem.answer}"
    return Solution(_NAMES[answer.arm], text, verdict, answer.right)


def _count(pair: Any, n: int, console: Any, *, plain: bool, shown: bool) -> None:
    from ..evaluate.demo import ARMS, answer_all, demo_problems, tally
    from ..report.demo import print_scores
    from ._progress import meter

    problems = demo_problems(skip=_N_SHOWN, limit=n)
    total = len(problems) * len(ARMS)
    start = time.monotonic()
    done = 0
    with meter("solving", shown=shown) as bar:

        def on_answer(answer: Answer) -> None:
            nonlocal done
            done += 1
            bar.update(done / total, f"{done} of {total} solutions")

        answered = answer_all(pair, problems, on_answer=on_answer)
    counts = [tally([answer for answer in answered if answer.arm == arm]) for arm in ARMS]
    console.print(
        f"{len(problems)} problems; their situations and sums were in no training text "
        f"({time.monotonic() - start:.0f} s)",
        style="bold",
        soft_wrap=plain,
    )
    rows = [(_NAMES[count.arm], count.n_problems, count.n_right, count.deferral_rate) for count in counts]
    print_scores(console, rows, plain=plain)
    console.print()
