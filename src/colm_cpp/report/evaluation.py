"""An evaluation on paper: a Markdown table, JSON, and plots."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MissingDependency
from ..extras import require
from ..output_file import write_file

if TYPE_CHECKING:
    from ..learn.summary import ArmSummary, Summary

__all__ = ["to_markdown", "write_plots", "write_report", "write_tables"]

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by colour-blind people too


def to_markdown(summary: Summary) -> str:
    """The table of arms, and that of their differences."""
    meta = summary.meta
    lines = [
        f"Task {meta['task']}, checker {summary.checker}, base {meta['base']}, assistant {meta['assistant']}, "
        f"max_tokens {meta['options']['max_tokens']}, temperature {meta['options']['temperature']:g}.",
        "",
        "| arm | problems | accuracy | 95% interval | deferred | assistant calls per token | tokens/s | cut off |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm in summary.arms:
        lines.append(
            f"| {arm.name} | {arm.n_problems} | {arm.accuracy:.1%} | {arm.low:.1%} to {arm.high:.1%} | "
            f"{arm.deferral_rate:.1%} | {arm.assistant_calls_per_token:.3f} | {_speed(arm)} | {arm.n_cut_off} |"
        )
    if any(arm.n_timed < arm.n_problems for arm in summary.arms):
        lines += ["", _timed_on(summary.arms)]
    if summary.comparisons:
        lines += [
            "",
            "Differences in accuracy on the problems that both answered (paired bootstrap):",
            "",
            "| arm | less | problems | points | 95% interval | p |",
            "|---|---|---|---|---|---|",
        ]
        for c in summary.comparisons:
            d = c.difference
            lines.append(
                f"| {c.arm} | {c.other} | {c.n_problems} | {100 * d.difference:+.1f} | {100 * d.low:+.1f} to "
                f"{100 * d.high:+.1f} | {d.p_value:.3f} |"
            )
    return "\n".join(lines) + "\n"


def _speed(arm: ArmSummary) -> str:
    return "" if arm.tokens_per_s is None else f"{arm.tokens_per_s:.1f}"


def _timed_on(arms: Sequence[ArmSummary]) -> str:
    counts = sorted({arm.n_timed for arm in arms})
    if not counts[-1]:
        return "No answer was written alone, so there are no tokens/s."
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"Tokens/s are those of the {shown} answers of each arm that were written one at a time."


def write_report(summary: Summary, folder: str | os.PathLike[str]) -> tuple[dict[str, Path], str | None]:
    """Writes report.md and report.json, and the plots where Matplotlib is installed.

    Returns:
        The files by name, and what is missing, in a sentence.

    Raises:
        OSError: they cannot be written; those that were there before stay.
    """
    written = write_tables(summary, folder)
    try:
        plots = write_plots(summary, Path(folder))
    except MissingDependency as error:
        return written, str(error)
    return {**written, **{path.name: path for path in plots}}, None


def write_tables(summary: Summary, folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Writes report.md and report.json; those of an earlier call are replaced.

    Returns:
        The files by name.

    Raises:
        OSError: they cannot be written; those that were there before stay.
    """
    target = Path(folder)
    written = {name: target / name for name in ("report.md", "report.json")}
    write_file(written["report.md"], to_markdown(summary).encode())
    write_file(written["report.json"], (json.dumps(summary.to_dict(), indent=2, sort_keys=True) + "\n").encode())
    return written


def write_plots(summary: Summary, folder: Path) -> list[Path]:
    """accuracy_by_rate.png and accuracy_by_speed.png: heads as curves, base and assistant as lines.

    Arms of which no answer was timed are left out of the latter.

    Raises:
        MissingDependency: Matplotlib is not installed.
        OSError: they cannot be written.
    """
    require("matplotlib", "a plot").use("Agg")
    figure_module = importlib.import_module("matplotlib.figure")
    paths = []
    plots: tuple[tuple[str, str, Callable[[ArmSummary], float]], ...] = (
        ("accuracy_by_rate", "deferred tokens (%)", lambda arm: 100 * arm.deferral_rate),
        ("accuracy_by_speed", "tokens per second", lambda arm: arm.tokens_per_s or 0.0),
    )
    for name, title, x_of in plots:
        figure = figure_module.Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        by_rate = name == "accuracy_by_rate"
        shown = [arm for arm in summary.arms if by_rate or arm.tokens_per_s is not None]
        if not shown:
            continue
        for i, (head, arms) in enumerate(_by_head(shown).items()):
            color = _COLORS[i % len(_COLORS)]
            if head in ("base", "assistant") and by_rate:
                style = "--" if head == "base" else "-."
                axes.axhline(100 * arms[0].accuracy, color="0.35", linestyle=style, label=head)
                continue
            arms = sorted(arms, key=x_of)
            heights = [100 * arm.accuracy for arm in arms]
            below = [100 * (arm.accuracy - arm.low) for arm in arms]
            above = [100 * (arm.high - arm.accuracy) for arm in arms]
            # One interval hides another where arms have the same rate.
            offset = 0.0 if not by_rate else 0.25 * (i % 4 - 1.5)
            axes.errorbar(
                [x_of(arm) + offset for arm in arms],
                heights,
                yerr=[below, above],
                marker="o",
                capsize=3,
                color=color,
                label=head,
                linewidth=1.5,
                elinewidth=0.8,
            )
        if by_rate:
            axes.set_xlim(0, max(50.0, 5 + max((100 * a.deferral_rate for a in summary.arms if a.rate), default=45.0)))
        axes.set_xlabel(title)
        axes.set_ylabel("correct answers (%), 95% interval")
        axes.set_ylim(0, math.ceil(min(100.0, 100 * max(arm.high for arm in summary.arms) + 5) / 10) * 10)
        axes.set_title(f"{summary.meta['task']}", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        path = folder / f"{name}.png"
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=120, metadata={"Software": None})
        write_file(path, data.getvalue())
        paths.append(path)
    return paths


def _by_head(arms: Sequence[ArmSummary]) -> dict[str, list[ArmSummary]]:
    heads: dict[str, list[ArmSummary]] = {}
    for arm in arms:
        heads.setdefault(arm.name.partition("@")[0], []).append(arm)
    return heads
