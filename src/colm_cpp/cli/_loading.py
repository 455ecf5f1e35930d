"""Loading a pair for a command, with a line of progress on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._output import is_terminal

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..learn.scoring import Scorer
    from ..sources.pair_file import Preset

__all__ = ["load_pair", "load_progress", "load_scorer"]


def load_pair(
    chosen: Preset,
    head: str | None = None,
    *,
    options: Mapping[str, Any],
    base_options: Mapping[str, Any],
    assistant_options: Mapping[str, Any],
    check_memory: bool = True,
    show_progress: bool = True,
    **slots: Any,
) -> Pair:
    """:func:`colm_cpp.load`; hub files are fetched first, since the hub's client draws a bar of its own."""
    from ..engine.loading import load
    from ..sources.names import find_models

    chosen = find_models(chosen, remote=True)
    with load_progress(show_progress) as progress:
        return load(
            pair=chosen,
            head=head,
            base_options=dict(base_options),  # type: ignore[arg-type]  # names are checked by load()
            assistant_options=dict(assistant_options),  # type: ignore[arg-type]
            progress=progress,
            check_memory=check_memory,
            **slots,
            **dict(options),
        )


def load_scorer(
    chosen: Preset,
    *,
    options: Mapping[str, Any],
    base_options: Mapping[str, Any],
    assistant_options: Mapping[str, Any],
    check_memory: bool = True,
    show_progress: bool = True,
    weights_of: Pair | None = None,
    by_bytes: bool = False,
) -> Scorer:
    """A :class:`colm_cpp.learn.Scorer`. With ``weights_of`` nothing is loaded."""
    from ..learn.scoring import Scorer
    from ..sources.names import find_models

    chosen = find_models(chosen)
    shared, of_base, of_assistant = chosen.load_options(options, base_options, assistant_options)
    experts = {
        # As load() does: what is given for all replaces what a pair's file says of one.
        expert.name: {"model": expert.model, **{k: v for k, v in expert.options.items() if k not in options}}
        for expert in chosen.experts
    }
    with load_progress(show_progress) as progress:
        return Scorer(
            chosen.base,
            chosen.assistant or None,
            experts=experts or None,
            base_options=of_base,  # type: ignore[arg-type]  # names are checked by Scorer
            assistant_options=of_assistant,  # type: ignore[arg-type]
            progress=progress,
            check_memory=check_memory,
            weights_of=weights_of,
            by_bytes=by_bytes,
            **shared,
        )


@contextlib.contextmanager
def load_progress(shown: bool) -> Iterator[Callable[[float], None] | None]:
    """What ``progress=`` of a load can be given: a bar on a terminal where ``shown``, else None."""
    if not shown or not is_terminal("stderr"):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (TextColumn("loading"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=1.0)
        yield lambda done: bar.update(task, completed=done)
