"""``colm tune``: train an adapter of the base together with the head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..tune.options import DTYPES, OBJECTIVES, TuneOptions
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
    help="The base that was scored: a GGUF file or hf:org/repo/file.gguf.",
)
@option(
    "Output",
    "--out",
    "-o",
    required=True,
    type=click.Path(path_type=Path),
    help="The folder for adapter, head and checkpoint.",
)
@option(
    "Objective",
    "--objective",
    type=click.Choice(OBJECTIVES),
    default=_DEFAULTS.objective,
    show_default=True,
    help="marginal: adapter and head together, on the paper's likelihood. sft: the adapter alone. regret: the adapter "
    "by cross-entropy, the head by regret.",
)
@_number("Objective", "cost", "Price of a deferred token in nats.")
@option(
    "Objective",
    "--label",
    type=click.Choice(["a", "b", "differ"]),
    default=_DEFAULTS.label,
    show_default=True,
    help="The weak label that the head starts from.",
)
@option(
    "Objective",
    "--features",
    default=_DEFAULTS.features,
    show_default=True,
    help="What the head sees beside the hidden state.",
)
@_number("Adapter", "rank", "Rank of the LoRA matrices.")
@_number("Adapter", "alpha", "The adapter is scaled by alpha / rank.")
@_number("Training", "epochs", "Passes over the training texts.")
@_number("Training", "learning_rate", "Highest learning rate of the adapter.")
@_number("Training", "head_learning_rate", "Highest learning rate of the head.")
@_number("Training", "warm_up", "Share of the steps in which the learning rate rises.")
@_number("Training", "batch_texts", "Texts for each step.")
@_number("Training", "pass_tokens", "Tokens of one forward pass; memory grows with it.")
@_number("Training", "max_grad_norm", "Scale gradients down to this norm.")
@_number("Training", "weight_decay", "Weight decay of the adapter.")
@_number("Training", "held_out", "Share of the texts that end the training and are reported on.")
@_number("Training", "evaluations", "Measurements on the held-out texts in each epoch.")
@_number("Training", "patience", "Measurements without a better held-out loss before training stops.")
@option("Training", "--checkpointing", is_flag=True, help="Less memory, a third slower.")
@option(
    "Training",
    "--dtype",
    type=click.Choice(DTYPES),
    default=_DEFAULTS.dtype,
    show_default=True,
    help="Of the frozen weights. auto: bfloat16 where the machine computes it faster.",
)
@_number("Training", "seed", "Of the held-out texts, their order, and the first weights.")
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@option("Output", "--quiet", "-q", is_flag=True, help="No progress.")
def tune(scores: tuple[Path, ...], base: str, out: Path, as_json: bool, quiet: bool, **given: Any) -> None:
    """Train a LoRA adapter of the base, and a head with it, on SCORES, folders made by colm score.

    Needs pip install 'colm-cpp[tune]'. A run that was interrupted goes on when the command is given again.
    """
    from dataclasses import asdict

    from ..hub import resolve
    from ..tune import tune as run
    from ._output import print_json
    from ._progress import meter

    options = TuneOptions(**given)
    with meter("tuning", shown=not quiet) as bar:

        def on_agreement(found: Any) -> None:
            if not quiet:
                bar.say(
                    f"torch and llama.cpp agree: {found.logprob:.4f} nats a token, hidden states {found.hidden:.1%}, "
                    f"likeliest tokens equal at {found.top:.1%} of {found.n_tokens}"
                )

        def on_progress(progress: Any) -> None:
            held_out = progress.held_out
            if held_out is not None and not quiet:
                bar.say(
                    f"step {progress.step}: held out base {held_out.base_nll:.4f}, both {held_out.joint_nll:.4f}, mean "
                    f"defer probability {held_out.mean_defer_prob:.3f}"
                )
            step, speed = f"step {progress.step} of {progress.n_steps}", f"{progress.tokens_per_s:.0f} tokens/s"
            bar.update(progress.step / progress.n_steps, f"{step}, loss {progress.loss:.4f}, {speed}")

        tuned = run(resolve(base), scores, out, options, on_agreement=on_agreement, on_progress=on_progress)
    if as_json:
        print_json(
            {
                "adapter": str(tuned.adapter),
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
        ("both, by the head", "joint_nll"),
        ("the better one at each token", "oracle_nll"),
        ("mean defer probability", "mean_defer_prob"),
    ):
        click.echo(f"{label:42s} {getattr(tuned.before, name):7.3f} {getattr(tuned.best, name):7.3f}")
    click.echo(f"{tuned.adapter}: best at step {tuned.best.step}")
