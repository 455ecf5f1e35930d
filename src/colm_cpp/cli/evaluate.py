"""``colm evaluate``: is the pair better than either model?"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from ..options import BASE, STRATEGIES, split_head
from ._across import across_options, check_across, cluster_of
from ._experts import expert_arguments
from ._files import check_folder, head_place, read_by
from ._help import SectionedCommand, option, path_option
from ._pair import answer_options, chosen_models, loading, pair_arguments, parallel_option, slots

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..sources.pair_file import Preset

__all__ = ["evaluate"]


@click.command(cls=SectionedCommand)
@click.argument("task", type=click.Path())
@pair_arguments
@expert_arguments
@option(
    "Configurations",
    "--head",
    "heads",
    multiple=True,
    metavar="[NAME=]HEAD",
    help="A head (see --head of 'colm generate'), and a name for it in the report. Repeatable. A token or a "
    "training-free head has no calibration table, so it runs once, with threshold 0.5.  [default: the head of --pair, "
    "with the name learned]",
)
@option(
    "Configurations",
    "--rate",
    "rates",
    multiple=True,
    type=float,
    help="A deferral rate for the heads and for random. Repeatable.  [default: 0.2]",
)
@option(
    "Configurations",
    "--hold",
    "holds",
    multiple=True,
    type=int,
    help="Number of tokens that the assistant writes each time that a head defers. A head needs a calibration table "
    "for each ('colm calibrate --hold'). Repeatable.  [default: 1]",
)
@option(
    "Configurations",
    "--leave-threshold",
    "leave_thresholds",
    multiple=True,
    type=float,
    help="After a token of the assistant, compare with this threshold. A head needs a calibration table for each. "
    "Repeatable.",
)
@option(
    "Configurations",
    "--strategy",
    "strategies",
    multiple=True,
    type=click.Choice(STRATEGIES),
    help="Distribution of a deferred token, as for 'colm generate'. Repeatable.  [default: defer]",
)
@option(
    "Configurations",
    "--arm",
    "arms",
    multiple=True,
    metavar="ARM",
    help="Another configuration: base, assistant (or an expert's name), random, pairs (with several experts: each head "
    "with the base and each expert), NAME=MODEL for another model alone, such as a fine-tuned "
    "base, NAME=PAIR for another pair (see --pair) with its own head at each --rate, or NAME=base:PAIR or "
    "NAME=assistant:PAIR for one model of another pair alone, with its adapter. --lora, --base-option and "
    "--assistant-option do not apply to these. Repeatable.  [default: all models alone, pairs and random]",
)
@option(
    "Task",
    "--checker",
    default="number",
    help="How to find and check the answer: boxed, number, choice, exact, regex or python.",
)
@option(
    "Task",
    "--pattern",
    metavar="REGEX",
    help="For the regex checker. The answer is the group, or the whole match without a group.",
)
@option("Task", "--skip", type=int, default=0, help="Number of rows to skip.")
@option("Task", "--limit", type=int, help="Maximum number of problems.")
@across_options("Task", "problems")
@answer_options("Task", "Seed of the first problem. Each later problem has the next seed.")
@option("Task", "--chat/--no-chat", default=None, help="Apply the base's chat template. Unset: if it has one.")
@parallel_option("Task", "Number of answers to write at the same time. Only answers written alone count for tokens/s.")
@path_option("Output", "--out", "-o", required=True, help="Folder for the answers and the report.")
@option("Output", "--report-only", is_flag=True, help="Compare the answers in --out; load no model.")
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object instead of the table.")
def evaluate(task: str, out: Path, as_json: bool, **values: Any) -> None:
    """Run each configuration on TASK and compare accuracy.

    TASK is a JSON-lines file with 'prompt' (or 'messages') and 'answer'. A configuration (an arm) is one model alone,
    or the pair with a head at a deferral rate. --out keeps the answers. To continue after an interruption, run the same
    command again. Later runs can add configurations and problems. The report is in report.md and report.json, with
    plots if Matplotlib is installed.
    """
    from ..answers.checkers import make_checker
    from ..answers.problems import load_task
    from ..errors import MissingDependency
    from ..evaluate.records import RecordFolder
    from ..evaluate.summary import summarize
    from ..extras import require
    from ..report.evaluation import write_plots, write_tables
    from ._output import echo, print_json, warn

    check_across(values)
    check_folder(out)
    models = None if values["report_only"] else chosen_models(values)
    checker = make_checker(values["checker"], pattern=values["pattern"])
    loaded = load_task(task, skip=values["skip"], limit=values["limit"], shard=values["shard"])
    for row in loaded.bad_rows:
        warn(str(row))
    try:
        require("matplotlib", "a plot")
        plots = True
    except MissingDependency as error:
        plots = False
        warn(f"no plots will be drawn: {error}")
    folder = RecordFolder.open(out) if models is None else _answer(loaded, out, models, values)
    summary = summarize(folder, loaded, checker)
    written = write_tables(summary, out)
    if as_json:
        print_json(summary.to_dict())
    else:
        echo(written["report.md"].read_text(encoding="utf-8"), nl=False)
    if plots:
        write_plots(summary, out)


def _other(name: str, given: str) -> Preset:
    """What NAME=... of --arm stands for: a pair, or with no head a model that answers alone."""
    from ..sources.hub import resolve
    from ..sources.pair_file import Preset
    from ..sources.preset import is_preset, preset

    which, colon, of = given.partition(":")
    if colon and which in ("base", "assistant"):
        known = preset(of)
        known.refuse_experts("colm evaluate", "give one of its models by its file")
        if which == "base":
            return replace(known.without_head(), assistant=known.base, assistant_options={})
        options = known.assistant_options
        return Preset(known.name, known.assistant, known.assistant, None, options=known.options, base_options=options)
    if is_preset(given):
        known = preset(given)
        known.refuse_experts("colm evaluate", "give one of its models by its file")
        if known.head is None:
            raise OptionError(f"--arm {name}={given}: this pair has no head; for its base give {name}=base:{given}")
        return known
    model = str(resolve(given))
    return Preset("", model, model, None)


def _answer(task: Any, out: Path, models: Preset, values: dict[str, Any]) -> Any:
    from ..answers.answering import check_heads
    from ..corpus.texts import uses_chat
    from ..evaluate.arms import make_arms, named_heads
    from ..evaluate.evaluation import evaluate as answer_all
    from ..evaluate.records import KIND, PAIRS, RecordFolder
    from ..files.output_file import refuse_inputs
    from ..heads.tables import Runs
    from ..sources.identity import models_identity
    from ._loading import load_pair
    from ._output import log_to_stderr
    from ._progress import meter

    of_pair = models.names[1:]
    heads = named_heads(values["heads"], of_pair)
    if not values["heads"] and models.head is not None:
        heads["learned"] = models.head
    names = values["arms"] or (BASE, *of_pair, "random", *([PAIRS] if len(of_pair) > 1 else []))
    others: dict[str, Preset] = {}
    for name, equals, model in (entry.partition("=") for entry in names):
        if equals and not model:
            raise OptionError(f"--arm {name}= has no model; give a name and a file, such as tuned=base-tuned.gguf")
        if name in others:
            raise OptionError(f"--arm {name}= is given twice; give one of the models another name")
        if equals:
            others[name] = _other(name, model)
    arms = make_arms(
        [name for name in names if name != "random" and "=" not in name],
        heads,
        tuple(dict.fromkeys(values["rates"])) or (0.2,),
        of_pair=of_pair,
        random="random" in names,
        experts=others,
        runs=[
            Runs.of({"hold": hold, "leave_threshold": leave})
            for leave in dict.fromkeys(values["leave_thresholds"] or (None,))
            for hold in dict.fromkeys(values["holds"] or (1,))
        ],
        strategies=tuple(dict.fromkeys(values["strategies"])) or STRATEGIES[:1],
    )
    options = {key: values[key] for key in ("max_tokens", "temperature", "seed")}
    records = [out / "records" / f"{arm.name}.jsonl" for arm in arms]
    outputs = [out / "meta.json", *(out / name for name in KIND.files), *records]
    of_others = [file for other in others.values() for file in (*other.files(), other.head and head_place(other.head))]
    files = [head_place(split_head(head, of_pair)[0]) for head in heads.values()]
    own = [*models.files(), task.path, *files]
    refuse_inputs(outputs, read_by(values, *own, *of_others))
    with (
        log_to_stderr(values["verbose"]),
        load_pair(models.without_head(), **loading(values), **slots(values)) as pair,
        contextlib.ExitStack() as loaded,
        meter("evaluating", shown=not values["quiet"]) as bar,
    ):
        experts = {name: loaded.enter_context(_load_other(other, values)) for name, other in others.items()}
        use_chat = uses_chat(pair.base, values["chat"])
        facts = {
            "system": models.system,
            "task": Path(task.path).name,
            "task_sha256": task.digest,
            "chat": use_chat,
            "options": options,
            **task.facts,
            **models_identity({BASE: pair.base, **pair.experts}, pair.vocab_fingerprint),
        }
        check_heads(pair, arms, experts)  # before the folder is made
        folder = RecordFolder.create_or_open(out, facts)
        load = {**loading(values), "show_progress": False}
        cluster = loaded.enter_context(
            cluster_of(
                values,
                pair,
                pair=partial(load_pair, models.without_head(), **load, **slots(values)),
                others={name: partial(_load_other, other, values) for name, other in others.items()},
            )
        )
        start, n_tokens = bar.seconds(), 0  # loading further models took until here

        def on_progress(progress: Any) -> None:
            nonlocal n_tokens
            n_tokens += progress.record.n_tokens
            speed = n_tokens / max(bar.seconds() - start, 1e-9)
            note = f"{progress.done} of {progress.total} answers, {speed:.1f} tokens/s"
            bar.update(progress.done / progress.total, note)

        answer_all(
            pair,
            task,
            folder,
            arms,
            options,
            chat=use_chat,
            n_parallel=values["n_parallel"],
            on_progress=on_progress,
            experts=experts,
            compute=None if cluster is None else cluster.write,
        )
    return folder


def _load_other(other: Preset, values: dict[str, Any]) -> Pair:
    from ._loading import load_pair

    given = {**loading(values), **slots(values)}
    given["options"].pop("lora", None)
    # The assistant of a model alone is never asked, and without repacking shares the base's memory.
    of_assistant = {"repack": False} if other.head is None else {}
    return load_pair(other.without_head(), **{**given, "base_options": {}, "assistant_options": of_assistant})
