"""``colm tune``: train an adapter of the base together with the head."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

import click

from ..options.tuning import FILE_TYPES, TuneOptions
from ._flags import typed
from ._help import SectionedCommand, option, path_option
from ._options import collect, from_table, table_of
from ._pair import model_arguments

__all__ = ["tune"]

_TUNING = table_of(TuneOptions)


@click.command(cls=SectionedCommand)
@click.argument("scores", nargs=-1, required=True, type=click.Path(path_type=Path))
@model_arguments
@path_option(
    "Output",
    "--out",
    "-o",
    required=True,
    help="Folder for the tuned pair: adapter, head, pair.toml, card.md and the checkpoint.",
)
@path_option(
    "Texts",
    "--texts",
    multiple=True,
    help="With --objective sft: more texts for the adapter, a file as for 'colm score'. They need no scores. The texts "
    "in SCORES are left out. Can be given several times.",
)
@from_table(_TUNING)
@path_option(
    "Adapter",
    "--adapter",
    help="Start from this adapter: a file, or a folder made by 'colm tune'. Its rank and alpha are kept.",
)
@option(
    "Output",
    "--merge",
    type=click.Choice(FILE_TYPES),
    metavar="TYPE",
    help="Also merge the adapter into the base and write the folder's merged-TYPE.gguf, such as q4_k_m; see "
    "'colm merge'.",
)
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@option("Output", "--quiet", "-q", is_flag=True, help="Do not show progress.")
@click.pass_context
def tune(
    ctx: click.Context,
    /,
    scores: tuple[Path, ...],
    base: str | None,
    assistant: str | None,
    pair: str | None,
    out: Path,
    adapter: Path | None,
    texts: tuple[Path, ...],
    merge: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Train a LoRA adapter of the base together with a head.

    SCORES are folders made by 'colm score'. The result is a folder for --pair: 'colm calibrate --pair DIR PROMPTS',
    then 'colm generate --pair DIR'. --assistant says where the assistant is; without it, the file of its name beside
    the base is taken. This command needs pip install 'colm-cpp[tune]'. To continue after an interruption, run the same
    command again.
    """
    from dataclasses import asdict

    from ..corpus.selection import select
    from ..sources.hub import resolve
    from ..sources.pair_file import Preset
    from ..sources.preset import preset
    from ..tune import tune as run
    from ..tune.pair_folder import HELD_OUT_ROWS
    from ._output import print_json, warn
    from ._progress import meter
    from .merge import merge_shown, merged_place, report

    if pair is not None and (base is not None or assistant is not None):
        raise click.UsageError("--pair already gives both models; remove --base and --assistant, or remove --pair")
    tuned_base = base if pair is None else preset(pair)
    if isinstance(tuned_base, Preset):
        tuned_base.refuse_experts("colm tune", "give the base that was scored with --base")
    if tuned_base is None:
        raise click.UsageError("Missing option '--base'; give the base that was scored, or the pair with --pair.")
    options = TuneOptions(**collect(_TUNING, given))
    with meter("tuning", shown=not quiet) as bar:

        def on_agreement(found: Any) -> None:
            if not quiet:
                bar.say(
                    f"torch and llama.cpp agree: log-probabilities differ by {found.logprob:.4f} nats per token, "
                    f"hidden states by {found.hidden:.1%}; the most likely token is the same at {found.top:.1%} of "
                    f"{found.n_tokens} tokens"
                )

        def on_progress(progress: Any) -> None:
            held_out = progress.held_out
            if held_out is not None and not quiet:
                bar.say(
                    f"step {progress.step}: held-out NLL base {held_out.base_nll:.4f}, pair {held_out.joint_nll:.4f}, "
                    f"mean defer probability {held_out.mean_defer_prob:.3f}"
                )
            step, speed = f"step {progress.step} of {progress.n_steps}", f"{progress.tokens_per_s:.0f} tokens/s"
            bar.update(progress.step / progress.n_steps, f"{step}, loss {progress.loss:.4f}, {speed}")

        tuned = run(
            tuned_base,
            scores,
            out,
            options,
            assistant=assistant,
            adapter=adapter,
            texts=select(texts) if texts else None,
            command=typed(ctx),
            on_agreement=on_agreement,
            on_progress=on_progress,
            on_rescored=lambda share: bar.update(share, "reading the texts with the tuned base"),
        )
    for note in tuned.notes:
        warn(note)
    merged = None
    if merge is not None:
        file = resolve(tuned_base if isinstance(tuned_base, str) else tuned_base.base)
        merged = merge_shown(file, tuned.adapter, merged_place(tuned.adapter, merge), merge, force=True, quiet=quiet)
    if as_json:
        print_json(
            {
                "adapter": str(tuned.adapter),
                "merged": None if merged is None else str(merged.path),
                "head": None if tuned.head is None else str(tuned.head),
                "pair": str(tuned.pair),
                "card": str(tuned.card),
                "options": asdict(options),
                "agreement": asdict(tuned.agreement),
                "before": asdict(tuned.before),
                "best": asdict(tuned.best),
                "history": [asdict(measured) for measured in tuned.history],
                "texts": tuned.n_texts,
                "dtype": tuned.dtype,
            }
        )
        return
    click.echo(f"nats per token on {tuned.n_texts[1]} held-out texts      before   after")
    for label, name in HELD_OUT_ROWS:
        click.echo(f"{label:42s} {getattr(tuned.before, name):7.3f} {getattr(tuned.best, name):7.3f}")
    then = f"; calibrate it next: colm calibrate --pair {quote(str(out))} PROMPTS.jsonl" if tuned.head else ""
    click.echo(f"{tuned.pair}: best at step {tuned.best.step}{then}")
    if merged is not None:
        report(merged)
