"""``colm train``: train a head on scored texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..options.training import COST, TrainingOptions, costs_by_time
from ._files import check
from ._help import SectionedCommand, option, path_option
from ._options import ParamType, collect, from_table, table_of
from ._output import echo, print_json, sized, warn

if TYPE_CHECKING:
    from ..learn.choice_report import ChoiceReport
    from ..learn.metrics import Metrics
    from ..learn.training import Segments, Trained

__all__ = ["train"]

_TRAINING = table_of(TrainingOptions, {"top_k": "--top-logprobs", "use_hidden": "--use-hidden/--no-hidden"})


def _each_once(
    ctx: click.Context, param: click.Parameter, values: Sequence[tuple[str | None, float]]
) -> dict[str | None, float]:
    given: dict[str | None, float] = {}
    for name, value in values:
        if name in given:
            raise click.UsageError(
                f"{param.opts[0]} is given twice{'' if name is None else f' for {name}'}; remove one"
            )
        given[name] = value
    return given


class _OfExpert(ParamType):
    """``NAME=NUMBER``; where a plain number may stand for all experts, its name is None."""

    def __init__(self, number: str, *, plain: bool) -> None:
        self.plain = plain
        self.name = f"{number}|NAME={number}" if plain else f"NAME={number}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str | None, float]:
        name, equals, text = str(value).rpartition("=")
        try:
            number = float(text)
        except ValueError:
            number = None
        if number is None or not (name.strip() if equals else self.plain):
            either = "a number, or a name and a number," if self.plain else "a name and a number,"
            self.fail(f"{value!r} is not {self.name}; give {either} such as code=0.05", param, ctx)
        return name.strip() or None, number


@click.command(cls=SectionedCommand)
@click.argument("scores", nargs=-1, required=True, type=click.Path(path_type=Path))
@path_option("Head", "--out", "-o", required=True, help="The head file to write.")
@option("Head", "--name", metavar="NAME", help="Name of the head.")
@from_table(_TRAINING)
@option(
    "Objective",
    "--cost",
    type=_OfExpert("NATS", plain=True),
    multiple=True,
    callback=_each_once,
    default=[COST],
    help="Cost of a deferred token in nats, or of a token of one expert: code=0.05. Repeatable.",
)
@option(
    "Objective",
    "--step-ms",
    type=_OfExpert("MS", plain=False),
    multiple=True,
    callback=_each_once,
    help="Milliseconds of one decode of an expert, as 'colm bench' measures them: code=35. Give one for each expert. "
    "--cost is then the cost of the slowest, and the others cost less in proportion. Repeatable.",
)
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@option("Output", "--force", is_flag=True, help="Replace the head file if it exists.")
@option("Output", "--quiet", "-q", is_flag=True, help="Do not print a line for each iteration.")
def train(
    scores: tuple[Path, ...],
    out: Path,
    name: str | None,
    cost: dict[str | None, float],
    step_ms: dict[str, float],
    as_json: bool,
    force: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train a deferral head on SCORES, folders made by 'colm score'.

    With several experts the head also chooses the expert that writes. It learns that from the texts alone. The report
    has the share of each expert, the model that the head chooses where each model is best, and what it costs to drop an
    expert.
    """
    from ..extras import require
    from ..learn.scores import Scores
    from ..learn.training import train as run

    check("--out", out, force=force, inputs=scores)
    require("scipy.optimize", "colm train")
    folders = [Scores(folder) for folder in scores]
    options = TrainingOptions(cost=_cost(cost, step_ms, folders[0].experts), **collect(_TRAINING, given))

    def on_iteration(what: str, iteration: int, loss: float, held_out: float) -> None:
        if not quiet and not as_json:
            echo(f"{what} {iteration:3d}  training {loss:.5f}  held out {held_out:.5f}", err=True)

    trained = run(folders, options, name=name or out.stem, on_iteration=on_iteration)
    trained.head.save(out)
    for note in trained.notes:
        warn(note)
    if as_json:
        print_json(
            {
                "head": str(out),
                "options": asdict(options),
                "held_out": asdict(trained.held_out),
                "by_folder": {folder: asdict(metrics) for folder, metrics in trained.by_folder.items()},
                "training": asdict(trained.training),
                **({} if trained.experts is None else {"experts": asdict(trained.experts)}),
                **({} if trained.segments is None else {"segments": asdict(trained.segments)}),
                "notes": list(trained.notes),
            }
        )
    else:
        _report(trained, out)


def _cost(
    costs: Mapping[str | None, float], step_ms: Mapping[str, float], experts: Sequence[str]
) -> float | dict[str, float]:
    """``cost`` of the options: for all, or for each expert, those without one of their own included."""
    named = {name: value for name, value in costs.items() if name is not None}
    plain = costs.get(None, COST)
    if step_ms and named:
        raise click.UsageError("--step-ms sets the cost of every expert; leave out --cost NAME=NATS, or --step-ms")
    if step_ms:
        return costs_by_time(plain, step_ms)
    return {**dict.fromkeys(experts, plain), **named} if named else plain


def _report(trained: Trained, out: Path) -> None:
    columns: list[tuple[str, Metrics]] = [("held out", trained.held_out)]
    if len(trained.by_folder) > 1:
        columns += list(trained.by_folder.items())
    columns.append(("training", trained.training))
    other = "assistant" if trained.experts is None else "expert that the head names"
    titles = ["", *(title for title, _ in columns)]
    unit = "token" if trained.segments is None else "segment"
    rows = [["texts", *(f"{m.n_texts}" for _, m in columns)], [f"{unit}s", *(f"{m.n_tokens}" for _, m in columns)]]
    for label, field in (
        ("NLL of the base", "base_nll"),
        (f"NLL of the {other}", "assistant_nll"),
        (f"NLL of {'the pair' if trained.experts is None else 'all models'} with this head", "joint_nll"),
        (f"NLL of the {'better' if trained.experts is None else 'best'} model at each {unit}", "oracle_nll"),
        ("mean defer probability", "mean_defer_prob"),
        ("AUC, label a", "auc_a"),
        ("AUC, label a, confidence head", "confidence_auc_a"),
        ("AUC, most likely tokens differ", "auc_differ"),
        ("AUC, most likely tokens differ, confidence head", "confidence_auc_differ"),
        (f"share of {unit}s that differ", "differ_rate"),
        (f"regret of never deferring, nats per {unit}", "regret"),
    ):
        rows.append([label, *(_number(getattr(m, field)) for _, m in columns)])
    for rate in trained.held_out.saved:
        share = f"at rate {float(rate):.0%}"
        rows.append([f"share of regret saved {share}", *(_number(m.saved[rate]) for _, m in columns)])
        rows.append([f"  with the confidence head {share}", *(_number(m.confidence_saved[rate]) for _, m in columns)])
    if trained.held_out.parting is not None:
        parts = [m.parting for _, m in columns]
        for label, field in (
            ("share of neutral tokens", "neutral_rate"),
            ("share of divergent tokens", "divergent_rate"),
            ("AUC, divergent tokens", "auc"),
            ("AUC, divergent tokens, confidence head", "confidence_auc"),
            ("path cost of never deferring, nats per token", "cost"),
        ):
            rows.append([label, *(_number(getattr(part, field)) for part in parts)])
        for rate in trained.held_out.parting.found:
            for what, field in (("divergent tokens found", "found"), ("path cost saved", "saved")):
                for label, of in (
                    (f"share of {what} at rate {float(rate):.0%}", field),
                    ("  with the confidence head", f"confidence_{field}"),
                ):
                    rows.append([label, *(f"{getattr(part, of)[rate]:.3f}" for part in parts)])
    _show([titles, *rows])
    if trained.segments is not None:
        _report_segments(trained.segments, other)
    if trained.experts is not None:
        _report_experts(trained.experts)
    for what, fit in (("weak", trained.weak_fit), ("main", trained.main_fit)):
        if fit is not None:
            echo(f"{what} fit: {fit.n_iterations} iterations, best iteration {fit.best_iteration}, {fit.stopped}")
    names = trained.head.expert_names
    given = " ".join(f"--expert {name}={name.upper()}.gguf" for name in names) or "--assistant ASSISTANT.gguf"
    command = f"colm calibrate {quote(str(out))} PROMPTS.jsonl --base BASE.gguf {given}"
    echo(f"{out}: {trained.head.kind} head; calibrate it next: {command}")


def _report_segments(segments: Segments, other: str) -> None:
    """What does not depend on how long the segments are that the models' tokens make of a text."""
    echo("")
    echo(
        f"held out: {segments.n_bytes} bytes in {segments.n_segments} segments between places where tokens of all "
        "models end. NLL in nats per byte:"
    )
    losses = (segments.base_nll, segments.assistant_nll, segments.joint_nll, segments.oracle_nll)
    _show([["base", other, "with this head", "best at each segment"], [_number(loss) for loss in losses]])


def _show(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        echo("  ".join([row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))]))


def _report_experts(report: ChoiceReport) -> None:
    """Whom the head names on the held-out texts, and what each model is worth."""
    echo("")
    rows = [["held out", "NLL alone", "best", "mean probability", "named", "regret", "if dropped"]]
    for name, model in report.models.items():
        dropped = "" if model.without is None else f"{model.without:+.3f} nats"
        freed = f", -{sized(model.freed)}" if model.freed else ""
        shares = (f"{share:.1%}" for share in (model.best, model.share, model.named))
        rows.append([name, f"{model.nll:.3f}", *shares, _number(model.regret), dropped + freed])
    _show(rows)
    echo("")
    echo(f"who is best at a token (rows), and whom the head names at threshold {report.threshold:g} (columns):")
    names = list(report.confusion)
    _show([["tokens", *names], *([name, *(str(report.confusion[name][n]) for n in names)] for name in names)])
    if report.right is not None:
        echo(f"of the deferred tokens, {report.right:.1%} go to the best expert")
    echo("")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
