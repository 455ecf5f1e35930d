"""Loading a pair for a command, with a line of progress on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._output import is_terminal

if TYPE_CHECKING:
    from ..pair import Pair

__all__ = ["load_pair", "load_progress"]


def load_pair(
    base: str,
    assistant: str,
    head: str | None,
    *,
    options: Mapping[str, Any],
    base_options: Mapping[str, Any],
    assistant_options: Mapping[str, Any],
    check_memory: bool = True,
    show_progress: bool = True,
) -> Pair:
    """:func:`colm_cpp.load`; hub files are fetched first, since the hub's client draws a bar of its own."""
    from ..hub import resolve
    from ..loading import load

    paths = resolve(base), resolve(assistant)
    with load_progress(show_progress) as progress:
        return load(
            paths[0],
            paths[1],
            head,
            base_options=dict(base_options),  # type: ignore[arg-type]  # names are checked by load()
            assistant_options=dict(assistant_options),  # type: ignore[arg-type]
            progress=progress,
            check_memory=check_memory,
            **dict(options),
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
