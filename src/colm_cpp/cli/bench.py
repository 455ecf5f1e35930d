"""``colm bench``: how fast a pair is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..options.tuning import FILE_TYPES
from ._advice import NO_TYPE, advice_of
from ._experts import expert_arguments
from ._files import check, force_option, read_by, write_result
from ._help import SectionedCommand, option, path_option
from ._pair import chosen_models, loading, pair_arguments, slots

__all__ = ["bench"]


@click.command(cls=SectionedCommand)
@pair_arguments
@expert_arguments
@option(
    "Models",
    "--head",
    metavar="HEAD",
    help="A calibrated head (see --head of 'colm generate'). If it has no calibration table, tokens are deferred at "
    "random; with several experts, to one after another.  [default: the head of --pair]",
)
@option("Measuring", "--prompt", metavar="TEXT", help="The prompt of every text. Unset: a word problem.")
@option("Measuring", "--tokens", "n_tokens", type=int, default=48, help="Length of each text in tokens.")
@option("Measuring", "--rounds", type=int, default=5, help="Number of measurements of each configuration.")
@option(
    "Measuring",
    "--advise",
    is_flag=True,
    help="After that, load the pair in other ways, and say which deferral rate, look-ahead, threads and type of file "
    "suit it.",
)
@option(
    "Measuring",
    "--advise-type",
    type=click.Choice((*FILE_TYPES, NO_TYPE)),
    metavar="TYPE",
    help="With --advise: the type to compare the files with, as --type of 'colm merge', or none. Copies of all files "
    "are made in it and deleted at the end.  [default: q4_0, or q4_k_m if the files are q4_0]",
)
@option("Output", "--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@path_option("Output", "--plot", metavar="FILE", help="Write a plot to FILE. Needs Matplotlib.")
@force_option("Replace the file of --plot if it exists.")
def bench(
    n_tokens: int, rounds: int, prompt: str | None, advise: bool, as_json: bool, plot: Path | None, **values: Any
) -> None:
    """Measure how fast a pair is on this machine.

    First it measures the decode time of each model for several batch sizes, and the overhead of the engine. Then it
    measures tokens per second: each model alone, the pair at several deferral rates with and without look-ahead, and
    many texts at once. It also shows the speed that the decode times predict. The configurations take turns. The
    results are medians and quartiles.

    With --advise it also measures the decode times with another number of threads and with the files in another type.
    From them it predicts what each change would be worth.
    """
    from ..evaluate.advice import try_drafts
    from ..evaluate.bench import run_bench
    from ..evaluate.steps import PROMPT
    from ..report.bench import check_plot, plot_bytes, print_advice, print_bench
    from ._loading import load_pair
    from ._output import is_terminal, log_to_stderr, open_console, print_json, wants_color
    from ._progress import meter

    if values["advise_type"] is not None and not advise:
        raise click.UsageError("--advise-type is for --advise, which was not given; add it, or remove --advise-type")
    models = chosen_models(values)
    models.refuse_remote("colm bench")
    head = models.head if values["head"] is None else values["head"]
    check("--plot", plot, force=values["force"], inputs=read_by({**values, "head": head}, *models.files()))
    if plot is not None:
        check_plot(plot)
    undirected = "never" if len(models.experts) > 1 else "random"  # run_bench directs it to each expert
    with (
        log_to_stderr(values["verbose"]),
        load_pair(
            models, values["head"] or (None if models.head else undirected), **loading(values), **slots(values)
        ) as pair,
        meter("measuring", shown=not values["quiet"]) as bar,
    ):
        measured = run_bench(
            pair,
            prompt=PROMPT if prompt is None else prompt,
            n_tokens=n_tokens,
            rounds=rounds,
            n_threads=values["n_threads"],
            on_progress=bar.update,
        )
        drafts = try_drafts(pair, PROMPT if prompt is None else prompt, n_tokens) if advise else None
    advice = None
    if drafts is not None:
        with log_to_stderr(values["verbose"]), meter("measuring for advice", shown=not values["quiet"]) as bar:
            advice = advice_of(models, values, drafts, rounds, bar)
    if as_json:
        print_json(measured.to_dict() if advice is None else {**measured.to_dict(), "advice": advice.to_dict()})
    else:
        plain = not is_terminal("stdout")
        console = open_console("stdout", wants_color("auto", "stdout"), width=120 if plain else None)
        print_bench(console, measured, plain=plain)
        if advice is not None:
            print_advice(console, advice, plain=plain)
    if plot is not None:
        write_result("--plot", plot, plot_bytes(measured, plot))
