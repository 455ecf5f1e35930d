"""``colm tune``: train an adapter of the base together with the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..tune.options import DTYPES, OBJECTIVES, TuneOptions
from ..tune.quantizing import FILE_TYPES
from ._help import SectionedCommand
from ._options import Command
from ._pair import option

__all__ = ["tune"]

_DEFAULTS = TuneOptions()


def _number(section: str, name: str, help: str) -> Callable[[Command], Command]:
    default = getattr(_DEFAULTS, name)
    flag = "--" + name.replace("_", "-")
    return option(section, flag, type=type(default), default=default, show_default=True, help=help)


@click.command(cls=SectionedCommand)
@click.argument("scores", nargs=-1, required=True, type=click.Path(path_type=Path))
@option(
    "Models",
    "--base",
    required=True,
    metavar="MODEL",
    help="The base model that was scored: a GGUF file or hf:org/repo/file.gguf.",
)
@option(
    "Output",
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the adapter, the head and the checkpoint.",
)
@option(
    "Objective",
    "--objective",
    type=click.Choice(OBJECTIVES),
    default=_DEFAULTS.objective,
    show_default=True,
    help="What to train on. marginal: adapter and head together, on the likelihood of the texts under the pair. sft: "
    "the adapter alone, by cross-entropy. regret: the adapter by cross-entropy, and the head by regret.",
)
@_number("Objective", "cost", "Cost of a deferred token in nats.")
@option(
    "Objective",
    "--label",
    type=click.Choice(["a", "b", "differ"]),
    default=_DEFAULTS.label,
    show_default=True,
    help="Weak labels that the head starts from, as for 'colm train'.",
)
@option(
    "Objective",
    "--features",
    default=_DEFAULTS.features,
    show_default=True,
    help="Inputs of the head besides the hidden state, as for 'colm train'.",
)
@_number("Adapter", "rank", "Rank of the LoRA matrices.")
@_number("Adapter", "alpha", "The scale of the adapter is alpha / rank.")
@_number("Training", "epochs", "Number of passes over the training texts.")
@_number("Training", "learning_rate", "Highest learning rate of the adapter.")
@_number("Training", "head_learning_rate", "Highest learning rate of the head.")
@_number("Training", "warm_up", "Share of the steps during which the learning rate rises.")
@_number("Training", "batch_texts", "Number of texts per step.")
@_number("Training", "pass_tokens", "Number of tokens per forward pass. A larger number needs more memory.")
@_number("Training", "max_grad_norm", "Maximum gradient norm; larger gradients are scaled down.")
@_number("Training", "weight_decay", "Weight decay of the adapter.")
@_number(
    "Training", "held_out", "Share of the texts to hold out. Training stops by their loss, and the report covers them."
)
@_number("Training", "evaluations", "Number of evaluations on the held-out texts per epoch.")
@_number("Training", "patience", "Stop after this many evaluations without a better held-out loss.")
@option(
    "Training",
    "--checkpointing",
    is_flag=True,
    help="Compute activations again in the backward pass: less memory, a third slower.",
)
@option(
    "Training",
    "--dtype",
    type=click.Choice(DTYPES),
    default=_DEFAULTS.dtype,
    show_default=True,
    help="Data type of the frozen weights. auto: bfloat16 if this machine computes it faster, else float32.",
)
@_number("Training", "seed", "Seed for the held-out texts, the order of the others, and the first weights.")
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
def tune(
    scores: tuple[Path, ...], base: str, out: Path, merge: str | None, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Train a LoRA adapter of the base together with a head.

    SCORES are folders made by 'colm score'. This command needs pip install 'colm-cpp[tune]'. To continue after an
    interruption, run the same command again.
    """
    from dataclasses import asdict

    from ..hub import resolve
    from ..tune import tune as run
    from ._output import print_json
    from ._progress import meter
    from .merge import merge_shown, merged_place, report

    options = TuneOptions(**given)
    base = resolve(base)
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

        tuned = run(base, scores, out, options, on_agreement=on_agreement, on_progress=on_progress)
    merged = None
    if merge is not None:
        merged = merge_shown(base, tuned.adapter, merged_place(tuned.adapter, merge), merge, force=True, quiet=quiet)
    if as_json:
        print_json(
            {
                "adapter": str(tuned.adapter),
                "merged": None if merged is None else str(merged.path),
                "head": None if tuned.head is None else str(tuned.head),
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
    for label, name in (
        ("base", "base_nll"),
        ("assistant", "assistant_nll"),
        ("pair with this head", "joint_nll"),
        ("better model at each token", "oracle_nll"),
        ("mean defer probability", "mean_defer_prob"),
    ):
        click.echo(f"{label:42s} {getattr(tuned.before, name):7.3f} {getattr(tuned.best, name):7.3f}")
    click.echo(f"{tuned.adapter}: best at step {tuned.best.step}")
    if merged is not None:
        report(merged)
