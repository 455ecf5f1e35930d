"""The results of a benchmark: tables for the terminal, and a plot."""

from __future__ import annotations

import importlib
import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..evaluate.advice import Advice, advice_lines
from ..evaluate.bench import Bench, verdict
from ..evaluate.steps import BATCH_SIZES
from ..extras import require
from .terminal import safe
from .visible import on_one_line

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["check_plot", "plot_bytes", "print_advice", "print_bench"]

_COLORS = ("#0e7c93", "#b4531f", "#5b3f8c", "#3f7d20", "#8c1d40", "#806000")


def print_bench(console: Console, bench: Bench, *, plain: bool) -> None:
    """Shows the measurements and the verdict.

    Args:
        console: where to.
        bench: the measurements.
        plain: columns of text, without rules.
    """
    from rich import box
    from rich.table import Table

    def table(*columns: str) -> Table:
        made = Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False)
        for i, column in enumerate(columns):
            made.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
        return made

    def say(text: str, style: str = "") -> None:
        console.print(safe(console, on_one_line(text)), style=style, soft_wrap=plain)

    threads = "" if bench.n_threads is None else f", {bench.n_threads} threads"
    experts = ", ".join(f"{name} {file}" for name, file in bench.experts.items())
    say(f"base {bench.base}, {experts}, head {bench.head}{threads}", "bold")
    steps = table("decode time in ms by batch size", *(str(size) for size in BATCH_SIZES))
    for name, sizes in (("base", bench.steps.base), *bench.steps.experts.items()):
        steps.add_row(name, *(f"{1000 * sizes[size].median:.1f}" for size in BATCH_SIZES))
    steps.add_row("base with hidden state", f"{1000 * bench.steps.base_hidden.median:.1f}")
    console.print(steps)
    ratio = bench.overhead
    say(f"engine time divided by decode time: {ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})")

    arms = table("configuration", "tokens/s", "", "predicted", "deferred", "calls/token")
    for arm in bench.arms:
        arms.add_row(
            arm.title,
            f"{arm.tokens_per_s.median:.1f}",
            f"({arm.tokens_per_s.low:.1f} to {arm.tokens_per_s.high:.1f})",
            "" if arm.predicted is None else f"{arm.predicted:.1f}",
            f"{arm.deferral_rate:.0%}",
            f"{arm.assistant_calls:.2f}",
        )
    console.print(arms)
    if bench.peak_bytes is not None:
        say(f"peak memory of this process: {bench.peak_bytes / 2**30:.2f} GiB")
    say("")
    say(verdict(bench), "bold")


def print_advice(console: Console, advice: Advice, *, plain: bool) -> None:
    """Shows the advice, one line for each thing. Arguments are those of :func:`print_bench`."""
    console.print()
    console.print("advice (predicted from decode times, each change alone)", style="bold")
    for line in advice_lines(advice):
        console.print(safe(console, on_one_line(line)), soft_wrap=plain)


def check_plot(path: Path) -> None:
    """Says before anything is measured whether a plot of that name can be made.

    Raises:
        MissingDependency: Matplotlib is not installed.
        OptionError: Matplotlib knows no files of that ending.
    """
    require("matplotlib", "a plot")
    known = importlib.import_module("matplotlib.backend_bases").FigureCanvasBase.get_supported_filetypes()
    if _format(path) not in known:
        raise OptionError(f"a plot cannot be a {path.suffix} file; the possible types are {', '.join(sorted(known))}")


def _format(path: Path) -> str:
    return path.suffix.removeprefix(".").lower() or "png"


def plot_bytes(bench: Bench, path: Path) -> bytes:
    """The plot as a file of the type that ``path`` names, png where it names none.

    Tokens/s by deferral rate, measured and predicted; base and assistant alone as lines.

    Raises:
        MissingDependency: Matplotlib is not installed.
    """
    require("matplotlib", "a plot").use("Agg")
    figure: Any = importlib.import_module("matplotlib.figure").Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    rated = [arm for arm in bench.arms if arm.rate is not None and arm.n_texts == 1]
    lines = [(name, lookahead) for name in dict.fromkeys(arm.name for arm in rated) for lookahead in (0, "auto")]
    for (name, lookahead), color in zip(lines, itertools.cycle(_COLORS), strict=False):
        label = name if lookahead == 0 else f"{name}, with look-ahead"
        arms = sorted(
            (arm for arm in rated if (arm.name, arm.lookahead) == (name, lookahead)), key=lambda arm: arm.deferral_rate
        )
        rates = [100 * arm.deferral_rate for arm in arms]
        middle = [arm.tokens_per_s.median for arm in arms]
        below = [arm.tokens_per_s.median - arm.tokens_per_s.low for arm in arms]
        above = [arm.tokens_per_s.high - arm.tokens_per_s.median for arm in arms]
        axes.errorbar(rates, middle, yerr=[below, above], marker="o", capsize=3, color=color, label=label)
        if lookahead == 0:
            predicted = [arm.predicted for arm in arms]
            said = "predicted from decode times" if len(lines) == 2 else None
            axes.plot(rates, predicted, ":", color=color, label=said)
    for name, style in zip(("base", *bench.experts), itertools.cycle(("--", "-.")), strict=False):
        name = f"{name} alone"
        arm = bench.arm(name)
        if arm is not None:
            axes.axhline(arm.tokens_per_s.median, color="0.35", linestyle=style, label=name)
    axes.set_xlabel("deferred tokens (%)")
    axes.set_ylabel("tokens per second (median, quartiles)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    data = io.BytesIO()
    figure.savefig(data, format=_format(path), dpi=120, metadata={"Software": None} if _format(path) == "png" else None)
    return data.getvalue()
