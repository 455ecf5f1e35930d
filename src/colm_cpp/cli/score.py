"""``colm score``: run all models over texts."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._shown import counted
from ..errors import OptionError
from ._across import across_options, check_across, cluster_of
from ._experts import expert_arguments
from ._files import check_folder, read_by
from ._help import SectionedCommand, option, path_option
from ._pair import answer_options, chosen_models, loading, pair_arguments, parallel_option, slots

if TYPE_CHECKING:
    from ..cluster.ray_cluster import Cluster
    from ..engine.pair import Pair

__all__ = ["score"]


@click.command(cls=SectionedCommand)
@click.argument("corpus", nargs=-1, required=True, type=click.Path())
@pair_arguments
@expert_arguments
@path_option("Texts", "--out", "-o", required=True, help="Folder for the scores.")
@option(
    "Texts",
    "--limit",
    type=int,
    metavar="N",
    help="Maximum number of rows. A later run with a larger limit continues from there.",
)
@across_options("Texts", "texts")
@option("Texts", "--seed", type=int, help="Choose the rows at random with this seed. It is also the seed of --respond.")
@option(
    "Texts",
    "--strict",
    is_flag=True,
    help="Stop at the first row that cannot be used. Unset: skip such rows with a warning.",
)
@option("Texts", "--chat/--no-chat", default=None, help="Apply the base's chat template. Unset: if it has one.")
@option("Texts", "--system", metavar="TEXT", help="System message to put before every prompt.")
@option(
    "Texts",
    "--top-logprobs",
    "top_k",
    type=int,
    default=10,
    help="Number of the base's largest log-probabilities to store per token.",
)
@option(
    "Texts",
    "--by-bytes",
    is_flag=True,
    help="For models with unlike vocabularies: score a segment by all sequences of tokens that write its bytes, not "
    "only by the tokens of each model's tokenizer. Slow: about two decodes for each byte and model.",
)
@option("Answers", "--respond", is_flag=True, help="First let the assistant write the completions.")
@option(
    "Answers",
    "--head",
    metavar="HEAD",
    help="With --respond: let the pair write the completions with this head (see --head of 'colm generate').",
)
@option("Answers", "--defer-rate", type=float, metavar="RATE", help="With --head: share of tokens to defer, 0 to 1.")
@answer_options("Answers", None)
@parallel_option("Answers", "Number of answers that --respond writes at the same time.")
def score(corpus: tuple[str, ...], out: Path, **values: Any) -> None:
    """Run all models over CORPUS and store what training needs for every token.

    Each file of CORPUS is a plain text, or has JSON lines with 'prompt' and 'completion' or with 'messages'. The scores
    are log-probabilities of all models and hidden states of the base. Models with unlike vocabularies are scored by
    segments: a segment ends where a token of each model ends. To continue after an interruption, run the same command
    again.
    """
    from ..corpus.selection import select
    from ..files.output_file import refuse_inputs
    from ..learn.scorer import check_by_bytes
    from ..learn.scores import Scores, folder_files
    from ..learn.scoring import score as run
    from ..learn.segments import lengths
    from ._loading import load_pair, load_scorer
    from ._output import echo, log_to_stderr
    from ._progress import meter

    models = chosen_models(values).without_head()
    models.refuse_remote("colm score")
    if values["system"] is None:
        values["system"] = models.system
    respond = values["respond"]
    if values["head"] is not None and not respond:
        raise click.UsageError("--head needs --respond; add --respond, or remove --head")
    if values["defer_rate"] is not None and values["head"] is None:
        raise click.UsageError("--defer-rate needs --head and --respond; add them, or remove --defer-rate")
    if respond and len(models.models) > 2:
        raise OptionError(
            "--respond lets one assistant or a pair write the completions, and there are several experts; give texts "
            "with completions, or --base and one --expert"
        )
    check_across(values)
    check_folder(out)
    refuse_inputs(folder_files(out), read_by(values, *models.files(), *corpus))
    texts = select(
        corpus, limit=values["limit"], seed=values["seed"], needs_completion=not respond, shard=values["shard"]
    )
    shown = not values["quiet"]
    with log_to_stderr(values["verbose"]), contextlib.ExitStack() as loaded:
        pair = cluster = None
        load = {**loading(values), "show_progress": False}
        recipe: dict[str, Any] = {"scorer": partial(load_scorer, models, **load, by_bytes=values["by_bytes"])}
        if respond:
            head = values["head"] or "always"
            recipe["pair"] = partial(load_pair, models, head, **load, **slots(values))
            pair = loaded.enter_context(load_pair(models, head, **loading(values), **slots(values)))
            if values["by_bytes"]:
                check_by_bytes(pair.one_vocabulary)  # before answers are written
            cluster = loaded.enter_context(cluster_of(values, pair, **recipe))
            texts = _respond(pair, texts, out, values, cluster)
            pair.forget()  # the contexts that only answering needed
        scorer = loaded.enter_context(
            load_scorer(models, weights_of=pair, **loading(values), by_bytes=values["by_bytes"])
        )
        if pair is not None:
            pair.close()
        else:
            cluster = loaded.enter_context(cluster_of(values, scorer, **recipe))
        unit = "token" if scorer.one_vocabulary else "segment"
        with meter("scoring", shown=shown) as bar:

            def on_progress(progress: Any) -> None:
                for row in progress.bad_rows:
                    bar.say(f"colm: warning: {row}")
                note = f"{progress.done.n_tokens} {unit}s scored, {bar.speed(progress.n_read)} read"
                bar.update(progress.share, note)

            done = run(
                scorer,
                texts,
                out,
                chat=values["chat"],
                system=values["system"],
                top_k=values["top_k"],
                strict=values["strict"],
                on_progress=on_progress,
                compute=None if cluster is None else cluster.score,
            )
    left_out = f", {counted(done.n_bad, 'row')} skipped" if done.n_bad else ""
    cut = f", {counted(done.n_truncated, 'text')} truncated to the context length" if done.n_truncated else ""
    echo(f"{out}: {counted(done.n_tokens, unit)} of {counted(done.n_texts, 'text')}{left_out}{cut}")
    if unit == "segment":
        share, length = lengths(Scores(out))
        echo(
            f"segments lie between places where tokens of all models end: {share:.1f} for 100 tokens of the base, "
            f"{length:.1f} bytes long on average"
        )


def _respond(pair: Pair, texts: Any, out: Path, values: dict[str, Any], cluster: Cluster | None) -> Any:
    from ..learn.respond import respond
    from ._progress import meter

    head = values["head"] or "always"
    options = {"max_tokens": values["max_tokens"], "temperature": values["temperature"], "seed": values["seed"] or 0}
    if values["defer_rate"] is not None:
        options["defer_rate"] = values["defer_rate"]
    with meter("answering", shown=not values["quiet"]) as bar:

        def on_progress(progress: Any) -> None:
            if progress.bad_row is not None:
                bar.say(f"colm: warning: {progress.bad_row}")
            note = f"{progress.done} answers, {bar.speed(progress.n_tokens)}"
            bar.update(progress.done / max(progress.total, 1), note)

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
            compute=None if cluster is None else cluster.answer,
        )
