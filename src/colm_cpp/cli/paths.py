"""``colm paths``: what follows either model's token, where they would write different ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._help import SectionedCommand, option
from ._pair import chosen_models, loading, pair_arguments, parallel_option, slots

__all__ = ["paths"]

TOLD_AT = 0.02  # the share after which the time of the whole is foreseen


@click.command(cls=SectionedCommand)
@click.argument("scores", type=click.Path(path_type=Path))
@pair_arguments
@option(
    "Paths",
    "--tokens",
    "n_tokens",
    type=int,
    default=32,
    help="Maximum number of tokens per path, its first token included.",
)
@parallel_option("Paths", "Number of paths to write at the same time.", default=16)
@option("Paths", "--dry-run", is_flag=True, help="Only print how much there is to write.")
def paths(scores: Path, **values: Any) -> None:
    """Write how the text goes on from either model's token, for training with '--label continuation'.

    SCORES is a folder made by 'colm score'. Wherever the most likely tokens of the two models differ, the assistant
    continues the text from both. The paths are stored in the folder. To continue after an interruption, run the same
    command again.
    """
    from ..learn.continuation import continue_paths, plan
    from ..learn.forks import Continuations
    from ..learn.scores import Scores
    from ._loading import load_pair
    from ._output import echo, log_to_stderr
    from ._progress import meter

    models = chosen_models(values).without_head()
    models.refuse_remote("colm paths")
    folder = Scores(scores)
    given = loading(values)
    # Room for a path behind the longest text that can have been scored.
    given["options"].setdefault("n_ctx", int(folder.meta["n_ctx"]) + values["n_tokens"])
    shown = not values["quiet"]
    with (
        log_to_stderr(values["verbose"]),
        load_pair(models, "always", **given, **slots(values)) as pair,
        meter("writing paths", shown=shown) as bar,
    ):
        told = False

        def on_plan(left: Any) -> None:
            if shown or values["dry_run"]:
                bar.say(_planned(left))

        def on_progress(progress: Any) -> None:
            nonlocal told
            if shown and not told and TOLD_AT <= progress.share < 1.0:
                told = True
                in_all = bar.seconds() / progress.share
                bar.say(f"about {in_all:.0f} seconds in all, judged by the first {progress.share:.0%}")
            bar.update(progress.share, f"{progress.n_written} tokens, {bar.speed(progress.n_written)} written")

        if values["dry_run"]:
            on_plan(plan(pair, folder, values["n_tokens"]))
            return
        done = continue_paths(
            pair,
            folder,
            n_tokens=values["n_tokens"],
            n_parallel=values["n_parallel"],
            on_plan=on_plan,
            on_progress=on_progress,
        )
    echo(
        f"{scores}: paths of {done.n_positions} positions, {done.n_written} tokens written and {done.n_read} read in "
        f"{bar.seconds():.1f} seconds"
    )
    found = Continuations(folder)
    differ = float((folder["base_top"] != folder["assistant_top"]).mean())
    part = float(found.divergent.mean())
    echo(
        f"of {len(folder)} tokens, {1 - differ:.1%} identical, {differ - part:.1%} neutral, {part:.1%} divergent; the "
        f"base's tokens cost {found.cost.mean():.3f} nats per token"
    )


def _planned(left: Any) -> str:
    return (
        f"{left.n_texts} texts, {left.n_scored} tokens; the models differ at {left.n_positions} of them. To write: at "
        f"most {left.n_to_write} tokens ({left.n_known} are known from the scores). To read first: about "
        f"{left.n_to_read} tokens"
    )
