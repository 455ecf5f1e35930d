"""What `colm demo` shows: one problem, solved by each model alone and together; then how many each gets right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ..results import BASE
from .terminal import append_token, mark_of, safe
from .traces import TracedText
from .visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["Solution", "print_key", "print_scores", "print_solutions"]

_NARROW = 24  # columns below which a text beside others is hard to read


@dataclass(frozen=True, slots=True)
class Solution:
    """One of the texts to compare.

    Attributes:
        name: who wrote it.
        text: its tokens.
        verdict: what its answer is worth, in a few words; empty where nobody knows.
        right: whether that is good; None where nobody knows.
    """

    name: str
    text: TracedText
    verdict: str = ""
    right: bool | None = None

    @property
    def mixed(self) -> bool:
        """Whether several models wrote it, so that it matters which wrote what."""
        return 0 < self.text.n_deferred < len(self.text.tokens)


def print_solutions(console: Console, title: str, prompt: str, solutions: Sequence[Solution], *, plain: bool) -> None:
    """Shows texts beside each other.

    Args:
        console: where to; the experts' tokens are coloured where it has colours, and stand in brackets where not.
        title: of the problem.
        prompt: the problem.
        solutions: its solutions.
        plain: one below the other, without a table. So it is on narrow consoles too.
    """
    console.print(safe(console, title), style="bold", soft_wrap=plain)
    console.print(safe(console, visible(prompt)), soft_wrap=plain)
    if plain or console.width < _NARROW * len(solutions):
        for solution in solutions:
            console.print()
            console.print(safe(console, f"{solution.name}:"), style="bold", soft_wrap=plain)
            console.print(_written(console, solution), soft_wrap=plain)
            if solution.verdict:
                console.print(_verdict(console, solution), soft_wrap=plain)
    else:
        console.print(_side_by_side(console, solutions))
    console.print()


def print_key(console: Console, experts: Sequence[str] = ("the assistant",)) -> None:
    """Says how the tokens of each expert are marked in what several models wrote."""
    from rich.text import Text

    only = len(experts) == 1
    shown = Text()
    for expert, name in enumerate(experts, start=1):
        style, opening, closing = mark_of(expert)
        if console.no_color:
            shown.append(f"{opening}in brackets{closing}" if only else f"{opening}like this{closing}")
        else:
            shown.append("In this colour" if only else "Like this", style=style)
        shown.append(f": written by {name}. ")
    of_all = " of 'together'" if only and console.no_color else ""
    shown.append(f"The other text{of_all} is written by the base.")
    console.print(shown, soft_wrap=True)
    console.print()


def _side_by_side(console: Console, solutions: Sequence[Solution]) -> object:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for solution in solutions:
        table.add_column(safe(console, solution.name), ratio=1, overflow="fold")
    table.add_row(*(_written(console, solution) for solution in solutions))
    if any(solution.verdict for solution in solutions):
        table.add_row(*(_verdict(console, solution) for solution in solutions))
    return table


def _written(console: Console, solution: Solution) -> Text:
    from rich.text import Text

    shown = Text()
    for expert, run in groupby(solution.text.tokens, key=lambda token: token.expert):
        # Who wrote it needs a mark in colourless text only where there are several to tell apart.
        marked = expert != BASE and (solution.mixed or not console.no_color)
        style, opening, closing = mark_of(expert)
        text = visible("".join(token.text for token in run))
        append_token(console, shown, text, marked, style=style, brackets=opening + closing)
    shown.rstrip()
    return shown


def _verdict(console: Console, solution: Solution) -> Text:
    from rich.text import Text

    sign = "" if solution.right is None else _sign(console, solution.right)
    style = "" if solution.right is None else "bold green" if solution.right else "bold red"
    return Text(safe(console, f"{sign}{solution.verdict}"), style=style)


def _sign(console: Console, right: bool) -> str:
    if not console.encoding.startswith("utf"):
        return ""
    return "✓ " if right else "✗ "


def print_scores(
    console: Console,
    rows: Sequence[tuple[str, int, int, Sequence[float]]],
    *,
    plain: bool,
    shares: Sequence[str] = ("assistant's tokens",),
) -> None:
    """Shows how many problems each got right.

    Args:
        console: where to.
        rows: name, problems, of these right, and the share of tokens that each expert wrote; the last is the one
            to look at.
        plain: as columns of text, without rules.
        shares: titles of these shares.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
    for name in ("who writes", "right", "", *shares):
        table.add_column(name, justify="left" if name in ("who writes", "") else "right")
    block = "█" if console.encoding.startswith("utf") else "#"
    for name, n, n_right, rates in rows:
        bar = block * round(20 * n_right / n)
        style = "bold" if name == rows[-1][0] else ""
        written = (f"{rate:.0%}" for rate in rates)
        table.add_row(safe(console, name), f"{n_right} of {n}", bar, *written, style=style)
    console.print(table)
