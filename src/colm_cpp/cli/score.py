"""``colm score``: read texts once with both models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ._files import read_by
from ._help import SectionedCommand
from ._pair import answer_options, chosen_models, loading, option, pair_arguments, parallel_option

__all__ = ["score"]


@click.command(cls=SectionedCommand)
@click.argument("corpus", nargs=-1, required=True, type=click.Path())
@pair_arguments
@option("Texts", "--out", "-o", required=True, type=click.Path(path_type=Path), help="The folder for the scores.")
@option("Texts", "--limit", type=int, metavar="N", help="Rows at most. A larger limit later goes on from there.")
@option("Texts", "--seed", type=int, help="Draw the rows at random; also the seed of --respond.")
@option("Texts", "--strict", is_flag=True, help="Stop at the first row that cannot be used.")
@option("Texts", "--chat/--no-chat", default=None, help="The base's chat template. Unset: where it has one.")
@option("Texts", "--system", metavar="TEXT", help="A system message before every prompt.")
@option(
    "Texts",
    "--top-logprobs",
    "top_k",
    type=int,
    default=10,
    show_default=True,
    help="The base's largest log-probabilities to keep.",
)
@option("Answers", "--respond", is_flag=True, help="Let the assistant write the completions first.")
@option(
    "Answers",
    "--head",
    metavar="HEAD",
    help="Let the pair write them instead, with this head, as for 'colm generate'.",
)
@option("Answers", "--defer-rate", type=float, metavar="RATE", help="The share of tokens that --head defers.")
@answer_options("Answers", None)
@parallel_option("Answers", "Answers that --respond writes at once.")
def score(corpus: tuple[str, ...], out: Path, **values: Any) -> None:
    """Read the texts of CORPUS with both models and keep what each thought of every token.

    CORPUS are JSON lines with prompt and completion or with messages, or plain text files. What was interrupted goes
    on when the command is given again.
    """
    from ..learn.scores import folder_files
    from ..learn.scoring import score as run
    from ..learn.selection import select
    from ..output_file import refuse_inputs
    from ._loading import load_scorer
    from ._output import echo, log_to_stderr
    from ._progress import meter

    models = chosen_models(values)[:2]
    respond = values["respond"]
    if values["head"] is not None and not respond:
        raise click.UsageError("--head is for answers that the pair writes; add --respond")
    if values["defer_rate"] is not None and values["head"] is None:
        raise click.UsageError("--defer-rate is of answers that the pair writes; add --head and --respond")
    refuse_inputs(folder_files(out), read_by(values, *models, *corpus))
    texts = select(corpus, limit=values["limit"], seed=values["seed"], needs_completion=not respond)
    shown = not values["quiet"]
    with log_to_stderr(values["verbose"]):
        if respond:
            texts = _respond(texts, out, models, values)
        with (
            load_scorer(*models, **loading(values)) as scorer,
            meter("scoring", shown=shown) as bar,
        ):
            start = time.monotonic()

            def on_progress(progress: Any) -> None:
                for row in progress.bad_rows:
                    bar.say(f"colm: warning: {row}")
                speed = progress.n_read / max(time.monotonic() - start, 1e-9)
                bar.update(progress.share, f"{progress.done.n_tokens} tokens scored, {speed:.1f} tokens/s read")

            done = run(
                scorer,
                texts,
                out,
                chat=values["chat"],
                system=values["system"],
                top_k=values["top_k"],
                strict=values["strict"],
                on_progress=on_progress,
            )
    left_out = f", {_counted(done.n_bad, 'row')} left out" if done.n_bad else ""
    cut = f", {_counted(done.n_truncated, 'text')} cut at the end of the context" if done.n_truncated else ""
    echo(f"{out}: {_counted(done.n_tokens, 'token')} of {_counted(done.n_texts, 'text')}{left_out}{cut}")


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _respond(texts: Any, out: Path, models: tuple[str, str], values: dict[str, Any]) -> Any:
    from ..learn.respond import respond
    from ._loading import load_pair
    from ._progress import meter

    head = values["head"] or "always"
    options = {"max_tokens": values["max_tokens"], "temperature": values["temperature"], "seed": values["seed"] or 0}
    if values["defer_rate"] is not None:
        options["defer_rate"] = values["defer_rate"]
    with (
        load_pair(*models, head, **loading(values)) as pair,
        meter("answering", shown=not values["quiet"]) as bar,
    ):
        start = time.monotonic()

        def on_progress(progress: Any) -> None:
            if progress.bad_row is not None:
                bar.say(f"colm: warning: {progress.bad_row}")
            speed = progress.n_tokens / max(time.monotonic() - start, 1e-9)
            bar.update(progress.done / max(progress.total, 1), f"{progress.done} answers, {speed:.1f} tokens/s")

        return respond(
            pair,
            texts,
            out,
            options,
            head=head,
            chat=values["chat"],
            system=values["system"],
            strict=values["strict"],
            n_parallel=values["n_parallel"],
            on_progress=on_progress,
        )
