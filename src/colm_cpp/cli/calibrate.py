"""``colm calibrate``: from thresholds to deferral rates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ColmError, HeadError, OptionError
from ._files import check, read_by
from ._help import SectionedCommand
from ._pair import answer_options, chosen_models, loading, option, pair_arguments, parallel_option

if TYPE_CHECKING:
    from ..learn.calibration import Calibrated

__all__ = ["calibrate"]


@click.command(cls=SectionedCommand)
@click.argument("head")
@click.argument("prompts", nargs=-1, required=True, type=click.Path())
@pair_arguments
@option("Texts", "--skip", type=int, default=0, show_default=True, help="Rows of each file to pass over.")
@option("Texts", "--limit", type=int, default=16, show_default=True, help="Prompts of each file at most.")
@answer_options("Texts", "Of sampling.")
@option("Texts", "--chat/--no-chat", default=None, help="The base's chat template. Unset: where it has one.")
@parallel_option("Texts", "Texts written at once.")
@option("Head", "--out", "-o", type=click.Path(path_type=Path), help="The head file to write.  [default: HEAD itself]")
@option("Head", "--default-rate", type=float, help="Make the threshold of this rate the head's default.")
@option("Head", "--force", is_flag=True, help="Replace the file of --out, or the calibration table that HEAD has.")
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(head: str, prompts: tuple[str, ...], out: Path | None, as_json: bool, **values: Any) -> None:
    """Measure at which thresholds HEAD defers 5, 10, ... 95% of what the pair writes on PROMPTS.

    HEAD is a head file, a head in the package by name, or confidence: the last two give a new file, --out. PROMPTS are
    JSON lines with prompt or messages that the head was not trained on. The table goes into the head file, whose
    weights stay as they are; --defer-rate reads it. Without --out, HEAD itself gets its first table, and another one
    with --force. Whatever fails, HEAD stays as it was.
    """
    from ..heads import Head
    from ..hub import is_hub_spec
    from ..learn.calibration import CHECKED_RATES
    from ..learn.calibration import calibrate as run
    from ..learn.tasks import load_prompts
    from ..learn.texts import uses_chat
    from ..names import find_head
    from ._loading import load_pair
    from ._output import echo, log_to_stderr, one_line, print_json
    from ._progress import meter

    models = chosen_models(values)[:2]
    named = find_head(head)
    if named.place is None and head != "confidence":
        raise HeadError(
            f"head {head!a} is a {named.kind} one, and no file could hold its table; calibrate a head file or "
            "confidence, or let --target-rate of 'colm generate' keep to a rate"
        )
    own = os.path.expanduser(head) if named.kind == "file" and not is_hub_spec(head) else None
    target = out or (None if own is None else Path(own))
    if target is None:
        raise click.UsageError(f"--out is needed: {head} is no file of yours that the table could go into")
    in_place = own is not None and _same(target, own)
    read = read_by(values, *models, *prompts, None if in_place else named.place)
    check("HEAD" if out is None else "--out", target, force=values["force"] or in_place, inputs=read)
    file = named.file()
    loaded = None if file is None else Head.load(file)
    if in_place and loaded is not None and loaded.rates and not values["force"]:
        raise OptionError(f"{target} has a calibration table; give --force to replace it, or another file as --out")
    problems = [p for path in prompts for p in load_prompts(path, skip=values["skip"], limit=values["limit"])]
    options = {"max_tokens": values["max_tokens"], "temperature": values["temperature"], "seed": values["seed"]}
    with (
        log_to_stderr(values["verbose"]),
        load_pair(*models, None, **loading(values)) as pair,
        meter("calibrating", shown=not values["quiet"]) as bar,
    ):
        if loaded is None:
            loaded = Head.confidence(
                pair.n_embd,
                base_name=pair.base["name"] or None,
                assistant_name=pair.assistant["name"] or None,
                vocab_fingerprint=pair.vocab_fingerprint,
            )

        phases: list[str] = []

        def on_text(what: str, done: int, total: int, record: Any) -> None:
            if done == 1:
                phases.append(what)
            # A rate that is measured again takes longer than was foreseen: the bar waits for it.
            share = (len(set(phases)) - 1 + done / total) / (1 + len(CHECKED_RATES))
            bar.update(share, f"{what}: {record.n_deferred} of {record.n_tokens} tokens deferred")

        use_chat = uses_chat(pair.base, values["chat"])
        result = run(
            pair,
            loaded,
            problems,
            options,
            chat=use_chat,
            default_rate=values["default_rate"],
            n_parallel=values["n_parallel"],
            on_text=on_text,
        )
    result.head.save(target)  # before anything more can fail
    try:
        result = _with_youden(result, models, values)
    except ColmError as error:
        echo(one_line(f"colm: warning: the best threshold (Youden) is missing: {error}"), err=True)
    else:
        result.head.save(target)
    for rate, measured in result.off.items():
        nearest = f"colm: warning: at {rate:.0%} the nearest that was measured is {measured:.1%}; "
        if rate in result.stuck:
            why = "other thresholds give texts that were measured already, so the search ended; "
        else:
            why = ""
        echo(one_line(f"{nearest}{why}more prompts or longer texts give a steadier table"), err=True)
    if as_json:
        rows = [[m.wanted, m.threshold, m.measured, m.n_tokens] for m in result.measurements]
        table = dict(zip(map(str, result.head.rates), result.head.thresholds, strict=True))
        print_json({"head": str(target), "thresholds": table, "measurements": rows, "youden": result.youden})
    else:
        _report(result, target)


def _same(one: Path, other: str) -> bool:
    return one.exists() and os.path.exists(other) and os.path.samefile(one, other)


def _with_youden(result: Calibrated, models: tuple[str, str], values: dict[str, Any]) -> Calibrated:
    from ..learn.calibration import add_youden
    from ._loading import load_scorer

    # The same models again, loaded for reading whole texts rather than for writing one.
    longest = max((len(text.tokens) for text in result.base_texts), default=2)
    scorer = load_scorer(*models, n_ctx=max(longest, 2), **loading(values))
    with scorer:
        return add_youden(result, scorer)


def _report(result: Calibrated, target: Path) -> None:
    from ._output import echo

    echo("wanted  threshold  measured  tokens")
    for m in result.measurements:
        echo(f"{m.wanted:6.0%}  {m.threshold:9.4g}  {m.measured:8.1%}  {m.n_tokens:6d}")
    echo("rate    threshold")
    for rate, threshold in zip(result.head.rates, result.head.thresholds, strict=True):
        echo(f"{rate:6.0%}  {threshold:9.4g}")
    if result.youden is not None:
        echo(
            f"threshold {result.youden['threshold']:.4g} best tells where the models differ "
            f"(Youden's J {result.youden['j']:.3f})"
        )
    echo(f"{target}: calibrated; try colm generate --head {target} --defer-rate 0.2")
