"""``colm bench``: how fast a pair is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ._files import check, force_option, read_by, write_result
from ._help import SectionedCommand
from ._pair import chosen_models, loading, option, pair_arguments

__all__ = ["bench"]


@click.command(cls=SectionedCommand)
@pair_arguments
@option(
    "Models",
    "--head",
    metavar="HEAD",
    help="A calibrated head, as for 'colm generate'. Without a calibration table, tokens are deferred at random.  "
    "[default: that of --pair]",
)
@option("Measuring", "--prompt", metavar="TEXT", help="What every text begins with. Unset: a word problem.")
@option("Measuring", "--tokens", "n_tokens", type=int, default=48, show_default=True, help="Length of each text.")
@option("Measuring", "--rounds", type=int, default=5, show_default=True, help="Turns of each way to write.")
@option("Output", "--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@option("Output", "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Write a plot (needs Matplotlib).")
@force_option("Replace the file of --plot if it exists.")
def bench(n_tokens: int, rounds: int, prompt: str | None, as_json: bool, plot: Path | None, **values: Any) -> None:
    """Measure a pair: its steps, and how fast both write together.

    One step of each model, batches by size, what the engine adds to them; then tokens per second at several deferral
    rates beside each model alone and what the steps predict, with and without look-ahead, and for many texts at once.
    All of them take turns; medians and quartiles are told.
    """
    from ..bench import PROMPT, run_bench
    from ..report.bench import check_plot, plot_bytes, print_bench
    from ._loading import load_pair
    from ._output import is_terminal, log_to_stderr, open_console, print_json, wants_color
    from ._progress import meter

    base, assistant, own_head = chosen_models(values)
    head = own_head if values["head"] is None else values["head"]
    check("--plot", plot, force=values["force"], inputs=read_by({**values, "head": head}, base, assistant))
    if plot is not None:
        check_plot(plot)
    with (
        log_to_stderr(values["verbose"]),
        load_pair(base, assistant, head or "random", **loading(values)) as pair,
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
    if as_json:
        print_json(measured.to_dict())
    else:
        plain = not is_terminal("stdout")
        console = open_console("stdout", wants_color("auto", "stdout"), width=120 if plain else None)
        print_bench(console, measured, plain=plain)
    if plot is not None:
        write_result("--plot", plot, plot_bytes(measured, plot))
