"""``colm pull``: what a pair or a model needs, from the hub to this disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ._output import echo, is_terminal, one_line, sized
from ._pair import complete_pairs

if TYPE_CHECKING:
    from ..sources.disk import FoundModel

__all__ = ["pull"]


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_pairs)
@click.option("--quiet", "-q", is_flag=True, help="Do not show progress.")
def pull(names: tuple[str, ...], quiet: bool) -> None:
    """Download what pairs need, or single files.

    NAME is the name of a preset (see 'colm models'), a folder with a pair.toml, such a file, or a file on the hub:
    hf:org/repo/file-pattern.gguf. Of a pair all models are downloaded, and its adapter and its head if they are on the
    hub. Then every file is checked: its SHA-256 if the hub has one, its header, and whether the vocabularies of a
    pair fit together. After an interruption run the same command again; complete files are not downloaded again.
    """
    from ..errors import LoadError
    from ..sources.disk import Library
    from ..sources.hub import is_hub_spec
    from ..sources.preset import preset

    shown = is_terminal("stderr") and not quiet
    for name in names:
        if is_hub_spec(name):
            _fetched(name, shown)
            continue
        known = preset(name)
        models = [_fetched(spec, shown) for spec in known.models]
        for other in (known.adapter and known.adapter[0], known.head):
            if other is not None and is_hub_spec(other):
                _fetched(other, shown)
        found = [model for model in models if model is not None]
        if len(found) < len(models):
            raise LoadError(f"{known.models[models.index(None)]} is no model; correct {known.file}")
        fits = [Library((), {}, {}).fit(found[0], other) for other in found[1:]]
        for fit in fits:
            if fit.why_not:
                raise LoadError(f"the models of {name} do not fit together: {fit.why_not}")
        n_shared = min(fit.n_shared for fit in fits)
        echo(one_line(f"{name}: the models share {n_shared} tokens. Try it: colm chat --pair {name}"))


def _fetched(spec: str, shown: bool) -> FoundModel | None:
    """Downloads and checks one file; None where it is no model."""
    from ..errors import LoadError
    from ..files.paths import parts_of
    from ..sources.disk import Place, look
    from ..sources.hub import is_hub_spec, resolve
    from ..sources.verify import verify

    file = Path(resolve(spec, progress=shown)).expanduser()
    parts = parts_of(file)
    if is_hub_spec(spec):
        for part in parts:
            verify(part)
    library = look([Place(file)], {})
    for why in library.unreadable.values():
        raise LoadError(why)
    echo(one_line(f"{spec}: {file} ({sized(sum(part.stat().st_size for part in parts))})"))
    return library.models[0] if library.models else None
