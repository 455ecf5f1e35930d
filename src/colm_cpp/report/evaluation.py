"""The report of an evaluation: Markdown tables, JSON, and plots."""

from __future__ import annotations

import importlib
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluate.costs import ROUTER_TOKENS, Measure
from ..evaluate.records import models_alone
from ..evaluate.references import curve
from ..evaluate.statistics import FEW
from ..extras import require
from ..files.output_file import write_file

if TYPE_CHECKING:
    from ..evaluate.references import Above, Estimate
    from ..evaluate.summary import ArmSummary, Summary

__all__ = ["to_markdown", "write_plots", "write_tables"]

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by colour-blind people too


def to_markdown(summary: Summary) -> str:
    """The table of the arms, and the table of their differences."""
    meta = summary.meta
    experts = models_alone(meta)[1:] if "expert_models" in meta else ()  # of several; one is an assistant
    lines = [
        f"Task {meta['task']}, checker {summary.checker}, base {meta['base']}{_with(meta.get('base_adapters'))}, "
        f"{_experts(meta)}, max_tokens {meta['options']['max_tokens']}, "
        f"temperature {meta['options']['temperature']:g}.",
        "",
    ]
    counted = any(arm.s_per_problem is not None for arm in summary.arms)
    by_steps = ("s per problem (steps)", "ms per token (steps)") if counted else ()
    titles = (
        "arm",
        "problems",
        "accuracy",
        "95% interval",
        "deferral rate",
        *(f"by {name}" for name in experts),
        "expert calls per token" if experts else "assistant calls per token",
        "runs per token",
        "base steps per token",
        "tokens/s",
        "ended at max_tokens",
    )
    lines += _head(*titles, *by_steps)
    for arm in summary.arms:
        cells = [
            arm.name, str(arm.n_problems), f"{arm.accuracy:.1%}", f"{arm.low:.1%} to {arm.high:.1%}",
            f"{arm.deferral_rate:.1%}",
            *(f"{arm.shares[name]:.1%}" if arm.shares else "" for name in experts),
            f"{arm.assistant_calls_per_token:.3f}", f"{arm.runs_per_token:.3f}",
            f"{arm.base_steps_per_token:.3f}", _speed(arm), str(arm.n_cut_off),
        ]  # fmt: skip
        if counted:
            cells += [_number(arm.s_per_problem, 2), _number(arm.ms_per_token, 1)]
        lines.append(_row(*cells))
    for row in summary.references:
        a = row.accuracy
        cells = [row.name, str(row.n_problems), f"{a.value:.1%}", f"{a.low:.1%} to {a.high:.1%}", f"{row.rate:.1%}"]
        lines.append(_row(*cells, *[""] * (len(titles) + len(by_steps) - len(cells))))
    if summary.references:
        lines += ["", _what_references_are(summary)]
    for said in _others(summary):
        lines += ["", said]
    if any(arm.n_timed < arm.n_problems for arm in summary.arms):
        lines += ["", _timed_on(summary.arms)]
    lines += _above(summary)
    if summary.comparisons:
        lines += [
            "",
            "Difference in accuracy between two arms, A minus B, on the problems that both answered (interval: Tango's "
            "score interval; p: exact McNemar test):",
            "",
            *_head("A", "B", "problems", "A - B (points)", "95% interval", "p"),
        ]
        for c in summary.comparisons:
            d = c.difference
            lines.append(
                f"| {c.arm} | {c.other} | {c.n_problems} | {100 * d.difference:+.1f} | {100 * d.low:+.1f} to "
                f"{100 * d.high:+.1f} | {_p_value(d.p_value, c.n_problems)} |"
            )
    return "\n".join(lines) + "\n"


def _experts(meta: dict[str, Any]) -> str:
    if "expert_models" not in meta:
        name = (meta.get("experts") or ["assistant"])[0]
        return f"{name} {meta['assistant']}{_with(meta.get('assistant_adapters'))}"
    models = meta["expert_models"]
    named = (f"{name} {models[name]['name']}{_with(models[name]['adapters'])}" for name in models_alone(meta)[1:])
    return f"experts {', '.join(named)}"


def _with(adapters: Any) -> str:
    named = " and ".join(f"adapter {digest[:12]} at scale {scale:g}" for digest, scale in adapters or ())
    return f" with {named}" if named else ""


def _others(summary: Summary) -> list[str]:
    """A sentence for each other model and pair."""
    arms = {arm.name.partition("@")[0]: summary.meta["arms"].get(arm.name, {}) for arm in summary.arms}
    said = []
    for name, facts in arms.items():
        if "expert" in facts:
            said.append(f"{name} is the model {_model(facts['expert'])} alone.")
        elif "pair" in facts:
            pair = facts["pair"]
            base, assistant = _model(pair["base"]), _model(pair["assistant"])
            said.append(f"{name} is another pair: base {base}, assistant {assistant}, head {facts['head']}.")
    return said


def _model(identity: Any) -> str:
    return f"{identity.get('file') or identity['url']}{_with(identity.get('adapters'))}"


def _head(*titles: str) -> list[str]:
    return [_row(*titles), "|" + "---|" * len(titles)]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _what_references_are(summary: Summary) -> str:
    several = any(row.expert for row in summary.references)
    to, whom = ("+EXPERT", "the expert") if several else ("", "the assistant")
    said = (
        f"chord{to}@R is a baseline: {whom} alone answers problems chosen at random, and the base alone answers the "
        f"others. {whom.capitalize()} writes R% of all tokens."
    )
    if any(row.name.startswith("router") for row in summary.references):
        said += (
            f" router{to}@R does the same, but {whom} answers the problems where the base is least confident. The "
            f"confidence is the mean log-probability of the first {ROUTER_TOKENS} tokens of the base's own answer."
        )
        if several:
            said += " It does not say which expert a problem needs, so there is no router to several."
        return said
    return said + (
        f" There is no router{to}@R, because the base's answers have no log-probabilities (an older version wrote "
        "them). To get it, delete records/base.jsonl and run colm evaluate again."
    )


def _above(summary: Summary) -> list[str]:
    if not summary.above:
        return []
    routed = any(row.above_router is not None for row in summary.above)
    several = any(row.expert for row in summary.above)
    whom = "an expert" if several else "the assistant"
    titles = [
        "arm",
        *(["expert of the chord"] if several else []),
        "cost measure",
        "problems",
        "cost",
        f"chord: problems to {'it' if several else 'the assistant'}",
        "chord: accuracy",
        "arm - chord (points)",
        "95% interval",
    ]
    lines = [
        "",
        f"Accuracy of each arm minus the accuracy of sending whole problems to {whom} at the same cost "
        "(interval: bootstrap over the problems):",
        "",
        *_head(*titles, *(["router: accuracy", "arm - router (points)", "95% interval"] if routed else [])),
    ]
    for row in summary.above:
        few = "" if row.n_problems >= FEW else f" (too few: {row.n_problems} of at least {FEW} problems)"
        what, cost = _costs(row)
        cells = [
            row.arm, *([row.expert] if several else []), what, str(row.n_problems), cost,
            f"{row.share_of_problems:.0%}", f"{row.chord:.1%}",
            f"{100 * row.above_chord.value:+.1f}", f"{_points(row.above_chord)}{few}",
        ]  # fmt: skip
        if row.above_router is not None and row.router is not None:
            cells += [f"{row.router:.1%}", f"{100 * row.above_router.value:+.1f}", f"{_points(row.above_router)}{few}"]
        elif routed:
            cells += [""] * 3
        lines.append(_row(*cells))
    said = (
        "Time by steps is the number of decode steps of each model times the time of one step, which was measured when "
        "the evaluation began. Other work on the machine does not change it. Time by the clock was measured on the "
        "answers that were written one at a time; the other answers count with the same time per token. Time per "
        "problem includes the prefill, time per token does not."
    )
    if several:
        said += (
            " Shares of tokens are not compared, because a token of one expert costs another time than one of another."
        )
    return [*lines, "", said]


def _costs(row: Above) -> tuple[str, str]:
    if row.measure == "assistant tokens":
        return "share of tokens by the assistant", f"{row.cost:.1%}"
    how, _, of = row.measure.partition(" per ")
    shown = f"{row.cost:.2f} s" if of == "problem" else f"{1000 * row.cost:.1f} ms"
    return f"time per {of}, by {'the clock' if how == 'clock' else 'steps'}", shown


def _points(estimate: Estimate) -> str:
    return f"{100 * estimate.low:+.1f} to {100 * estimate.high:+.1f}"


def _p_value(p: float, n_problems: int) -> str:
    shown = "<0.001" if p < 0.001 else f"{p:.3f}"
    return shown if n_problems >= FEW else f"{shown} (too few: {n_problems} of at least {FEW} problems)"


def _speed(arm: ArmSummary) -> str:
    return "" if arm.tokens_per_s is None else f"{arm.tokens_per_s:.1f}"


def _timed_on(arms: Sequence[ArmSummary]) -> str:
    counts = sorted({arm.n_timed for arm in arms})
    if not counts[-1]:
        return "tokens/s is empty, because no answer was written alone."
    shown = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"tokens/s covers only the answers that were written one at a time: {shown} per arm."


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
    """accuracy_by_rate.png, accuracy_by_speed.png and accuracy_by_cost.png.

    Heads are curves, base and assistant lines or points; beside them is what sending whole problems to the assistant
    gives. Arms of which the speed or the cost is not known are left out of the latter two.

    Raises:
        MissingDependency: Matplotlib is not installed.
        OSError: they cannot be written.
    """
    require("matplotlib", "a plot").use("Agg")
    figure_module = importlib.import_module("matplotlib.figure")
    paths = []
    for plot in _PLOTS:
        shown = [arm for arm in summary.arms if plot.x_of(arm) is not None]
        if not shown:
            continue
        figure = figure_module.Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        _draw(axes, summary, shown, plot)
        axes.set_ylabel("correct answers (%), 95% interval")
        axes.set_ylim(0, math.ceil(min(100.0, 100 * max(arm.high for arm in summary.arms) + 5) / 10) * 10)
        axes.set_title(f"{summary.meta['task']}", fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        path = folder / f"{plot.name}.png"
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=120, metadata={"Software": None})
        write_file(path, data.getvalue())
        paths.append(path)
    return paths


@dataclass(frozen=True)
class _Plot:
    """Accuracy against something."""

    name: str
    title: str
    x_of: Callable[[ArmSummary], float | None]
    measure: Measure  # for the curves of chord and router
    of_cost: Callable[[Any], Any]  # where a cost of theirs lies


_PLOTS = (
    _Plot(
        "accuracy_by_rate", "deferral rate (% of tokens)", lambda arm: 100 * arm.deferral_rate, "assistant tokens",
        lambda cost: 100 * cost,
    ),
    _Plot(
        "accuracy_by_speed", "tokens per second", lambda arm: arm.tokens_per_s, "clock per token",
        lambda cost: 1 / cost,
    ),
    _Plot(
        "accuracy_by_cost", "seconds per problem, by steps", lambda arm: arm.s_per_problem, "steps per problem",
        lambda cost: cost,
    ),
)  # fmt: skip


_CURVES = {
    "chord": (":", "chord: random problems to "),
    "router": ("-.", "router: least confident problems to "),
}
_LINES = ("--", "-.", ":")


def _draw(axes: Any, summary: Summary, shown: Sequence[ArmSummary], plot: _Plot) -> None:
    by_rate, alone = plot.name == "accuracy_by_rate", models_alone(summary.meta)
    for i, (head, arms) in enumerate(_by_head(shown).items()):
        color = _COLORS[i % len(_COLORS)]
        if head in alone and by_rate:
            style = _LINES[alone.index(head) % len(_LINES)]
            axes.axhline(100 * arms[0].accuracy, color="0.35", linestyle=style, label=head)
            continue
        arms = sorted(arms, key=lambda arm: plot.x_of(arm) or 0.0)
        heights = [100 * arm.accuracy for arm in arms]
        below = [100 * (arm.accuracy - arm.low) for arm in arms]
        higher = [100 * (arm.high - arm.accuracy) for arm in arms]
        # One interval hides another where arms have the same rate.
        offset = 0.0 if not by_rate else 0.25 * (i % 4 - 1.5)
        axes.errorbar(
            [(plot.x_of(arm) or 0.0) + offset for arm in arms],
            heights,
            yerr=[below, higher],
            marker="o",
            capsize=3,
            color=color,
            label=head,
            linewidth=1.5,
            elinewidth=0.8,
        )
    for number, (expert, known) in enumerate(summary.experts.items()):
        for name, (costs, accuracy) in curve(plot.measure, known).items():
            line, label = _CURVES[name]
            to = "the assistant" if len(alone) == 2 else expert
            grey = str(0.25 + 0.4 * number / max(len(summary.experts), 1))
            axes.plot(plot.of_cost(costs), 100 * accuracy, line, color=grey, linewidth=1.2, label=label + to)
    if by_rate:
        axes.set_xlim(0, max(50.0, 5 + max((100 * a.deferral_rate for a in summary.arms if a.rate), default=45.0)))
    axes.set_xlabel(plot.title)


def _by_head(arms: Sequence[ArmSummary]) -> dict[str, list[ArmSummary]]:
    heads: dict[str, list[ArmSummary]] = {}
    for arm in arms:
        heads.setdefault(arm.name.partition("@")[0], []).append(arm)
    return heads
