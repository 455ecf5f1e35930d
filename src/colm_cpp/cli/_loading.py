"""Loading a pair for a command, with a line of progress on a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._output import is_terminal

if TYPE_CHECKING:
    from ..learn.scoring import Scorer
    from ..pair import Pair

__all__ = ["load_demo", "load_pair", "load_progress", "load_scorer"]


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
    from ..loading import load
    from ..names import find_model

    paths = find_model("base", base), find_model("assistant", assistant)
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


def load_demo() -> Pair:
    """The pair in the package."""
    from ..loading import load

    return load("demo")


def load_scorer(
    base: str,
    assistant: str,
    *,
    options: Mapping[str, Any],
    base_options: Mapping[str, Any],
    assistant_options: Mapping[str, Any],
    check_memory: bool = True,
    show_progress: bool = True,
    n_ctx: int | None = None,
) -> Scorer:
    """A :class:`colm_cpp.learn.Scorer`; ``n_ctx`` stands where the options name none."""
    from ..learn.scoring import Scorer
    from ..names import find_model

    paths = find_model("base", base), find_model("assistant", assistant)
    given = {} if n_ctx is None else {"n_ctx": n_ctx}
    with load_progress(show_progress) as progress:
        return Scorer(
            paths[0],
            paths[1],
            base_options=dict(base_options),  # type: ignore[arg-type]  # names are checked by Scorer
            assistant_options=dict(assistant_options),  # type: ignore[arg-type]
            progress=progress,
            check_memory=check_memory,
            **{**given, **options},
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
