"""``colm calibrate``: the threshold for each deferral rate."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..errors import HeadError, OptionError
from ..options import split_head
from ..sources.names import NamedHead, find_head, refuse_unknown_expert
from ._experts import expert_arguments
from ._files import check, read_by
from ._help import SectionedCommand, option, path_option
from ._pair import answer_options, chosen_models, loading, models_again, pair_arguments, parallel_option, slots

if TYPE_CHECKING:
    from ..learn.calibration import Calibrated
    from ..sources.pair_file import Preset

__all__ = ["calibrate"]


@click.command(cls=SectionedCommand)
@click.argument("files", nargs=-1, required=True, metavar="[HEAD] PROMPTS...", type=click.Path())
@pair_arguments
@expert_arguments
@option("Texts", "--skip", type=int, default=0, help="Number of rows to skip in each file.")
@option("Texts", "--limit", type=int, default=16, help="Maximum number of prompts per file.")
@answer_options("Texts", "Seed for sampling.")
@option("Texts", "--chat/--no-chat", default=None, help="Apply the base's chat template. Unset: if it has one.")
@parallel_option("Texts", "Number of answers to write at the same time.")
@option(
    "Head",
    "--hold",
    type=int,
    default=1,
    help="Number of tokens that the assistant writes each time that the head defers. The table is for this number.",
)
@option(
    "Head",
    "--leave-threshold",
    type=float,
    help="After a token of the assistant, compare with this threshold. The table is for this value.",
)
@path_option("Head", "--out", "-o", help="The head file to write.  [default: the head itself]")
@option(
    "Head",
    "--rate",
    "rates",
    type=float,
    multiple=True,
    help="A deferral rate to measure, above 0 and below 1. Repeatable.  [default: 0.1, 0.2, 0.4 and 0.6]",
)
@option("Head", "--default-rate", type=float, help="Make the threshold for this deferral rate the head's default.")
@option("Head", "--force", is_flag=True, help="Replace the file of --out, or the calibration table in the head.")
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(files: tuple[str, ...], out: Path | None, as_json: bool, **values: Any) -> None:
    """Find the threshold of a head for each deferral rate from 5% to 95%.

    The pair answers PROMPTS, and the thresholds come from these answers. PROMPTS are JSON-lines files with 'prompt' or
    'messages'. Use prompts that the head was not trained on. HEAD is a head file, the name of a head in the package, or
    confidence. A head in the package and confidence need --out, the name of a new head file. With --pair, HEAD may be
    left out: then the pair's own head is calibrated. With several experts, a head that says when to defer but not to
    whom needs the name of an expert after it, such as confidence:math. The table is for all deferred tokens together;
    the report has the share of each expert.

    The result is a calibration table in the head file, in steps of 5%. --defer-rate reads this table. The weights of
    the head do not change. Without --out, the table is written into the head's own file. If that already has a table,
    --force replaces it. If the command fails, the file does not change. A head can have a table for each --hold and
    --leave-threshold.
    """
    from ..answers.problems import load_prompts
    from ..corpus.texts import uses_chat
    from ..engine.prepared import undirected
    from ..heads.head import Head
    from ..heads.tables import PLAIN, Runs, find_table
    from ..learn.calibration import CHECKED_RATES
    from ..learn.calibration import calibrate as run
    from ..sources.hub import is_hub_spec
    from ._loading import load_pair
    from ._output import log_to_stderr, print_json, warn
    from ._progress import meter

    chosen = chosen_models(values)
    models = chosen.without_head()
    head, prompts = _head_and_prompts(files, chosen)
    experts = chosen.names[1:]
    head, who = split_head(head, experts)
    refuse_unknown_expert(head, experts)
    named = find_head(head)
    if named.place is None and head != "confidence":
        raise HeadError(
            f"the {named.kind} head {head!a} has no file for a calibration table; calibrate a head file or confidence, "
            "or use --target-rate of 'colm generate'"
        )
    in_package = named.kind == "packaged" or (head is chosen.head and chosen.packaged)
    local = named.place is not None and not in_package and not is_hub_spec(named.place)
    own = os.path.expanduser(named.place) if local and named.place is not None else None
    target = out or (None if own is None else Path(own))
    if target is None:
        raise click.UsageError(
            f"--out is needed, because {head} is not a local head file; give a name for the new file"
        )
    in_place = own is not None and _same(target, own)
    read = read_by(values, *models.files(), *prompts, None if in_place else named.place)
    check("the head" if out is None else "--out", target, force=values["force"] or in_place, inputs=read)
    file = named.file()
    loaded = None if file is None else Head.load(file)
    if loaded is not None and who is not None:
        if len(loaded.expert_names) > 1:
            raise HeadError(f"the head {head} chooses the expert by itself; leave out ':{who}'")
        loaded = loaded.replace(expert_names=(who,))
    directed = () if loaded is None else loaded.expert_names
    if len(experts) > 1 and who is None and len(directed) < 2 and not {*directed} & {*experts}:
        raise undirected(head, experts, f"{head}:{experts[0]}")
    runs = Runs.of(values)
    if in_place and not values["force"] and loaded is not None and find_table(loaded, runs) is not None:
        which = "" if runs == PLAIN else f" for {runs}"
        raise OptionError(
            f"{target} already has a calibration table{which}; give --force to replace it, or another file with --out"
        )
    problems = [p for path in prompts for p in load_prompts(path, skip=values["skip"], limit=values["limit"])]
    rates = values["rates"] or CHECKED_RATES
    options = {key: values[key] for key in ("max_tokens", "temperature", "seed")} | runs.facts()
    with (
        log_to_stderr(values["verbose"]),
        load_pair(models, **loading(values), **slots(values)) as pair,
        meter("calibrating", shown=not values["quiet"]) as bar,
    ):
        if loaded is None:
            loaded = Head.confidence(
                pair.n_embd,
                base_name=pair.base["name"] or None,
                assistant_name=pair.experts[who or pair.names[1]]["name"] or None,
                vocab_fingerprint=pair.vocab_fingerprint,
                expert_names=() if who is None else (who,),
            )

        phases: list[str] = []

        def on_text(what: str, done: int, total: int, record: Any) -> None:
            if done == 1:
                phases.append(what)
            # A rate that is measured again takes longer than was foreseen: the bar waits for it.
            share = (len(set(phases)) - 1 + done / total) / (1 + len(set(rates)))
            bar.update(share, f"{what}: {record.n_deferred} of {record.n_tokens} tokens deferred")

        use_chat = uses_chat(pair.base, values["chat"])
        result = run(
            pair,
            loaded,
            problems,
            options,
            chat=use_chat,
            rates=rates,
            default_rate=values["default_rate"],
            n_parallel=values["n_parallel"],
            on_text=on_text,
        )
    result.head.save(target)
    for rate, measured in result.off.items():
        nearest = f"for the deferral rate {rate:.0%}, the closest measured rate is {measured:.1%}; "
        why = "other thresholds give the same texts, so the search stopped; " if rate in result.stuck else ""
        warn(f"{nearest}{why}use more prompts or longer texts for a more exact table")
    if as_json:
        rows: list[list[Any]] = [[m.wanted, m.threshold, m.measured, m.n_tokens] for m in result.measurements]
        for row, m in zip(rows, result.measurements, strict=True):
            row += [dict(m.experts)] if m.experts else []
        table = {str(rate): threshold for rate, threshold in result.table.items()}
        facts = {"hold": runs.hold, "leave_threshold": runs.leave_threshold, "thresholds": table}
        print_json({"head": str(target), **facts, "measurements": rows})
    else:
        rate = 0.2 if values["default_rate"] is None else values["default_rate"]
        is_own = in_place and head is chosen.head
        given = "" if is_own else f" --head {quote(str(target))}"
        _report(
            result, target, f"colm generate PROMPT {models_again(values)}{given} --defer-rate {rate:g}{runs.flags()}"
        )


def _head_and_prompts(files: tuple[str, ...], chosen: Preset) -> tuple[str, tuple[str, ...]]:
    """The head, and the files of prompts. The head of ``--pair`` need not be named."""
    experts = chosen.names[1:]
    refuse_unknown_expert(files[0], experts)
    first = find_head(split_head(files[0], experts)[0])
    if chosen.file is not None and not _is_head(first):
        if chosen.head is None:
            raise click.UsageError(f"{chosen.file} has no head; give HEAD before the prompts")
        return chosen.head, files
    if len(files) < 2:
        raise click.UsageError("Missing argument 'PROMPTS...'; give the files of prompts after the head")
    return files[0], files[1:]


def _is_head(named: NamedHead) -> bool:
    """Whether this is a head rather than a file of prompts."""
    return named.kind in ("training-free", "packaged") or (named.place or "").lower().endswith(".gguf")


def _same(one: Path, other: str) -> bool:
    return one.exists() and os.path.exists(other) and os.path.samefile(one, other)


def _report(result: Calibrated, target: Path, next_command: str) -> None:
    from ._output import echo

    names = list(result.measurements[0].experts)
    widths = [max(len(name), 6) for name in names]
    titles = "".join(f"  {name:>{width}}" for name, width in zip(names, widths, strict=True))
    echo(f"wanted  threshold  measured  tokens{titles}")
    for m in result.measurements:
        shares = (n / max(m.n_tokens, 1) for n in m.experts.values())
        each = "".join(f"  {share:{width}.1%}" for share, width in zip(shares, widths, strict=True))
        echo(f"{m.wanted:6.0%}  {m.threshold:9.4g}  {m.measured:8.1%}  {m.n_tokens:6d}{each}")
    echo("rate    threshold")
    for rate, threshold in result.table.items():
        echo(f"{rate:6.0%}  {threshold:9.4g}")
    echo(f"{target}: calibrated; try {next_command}")
