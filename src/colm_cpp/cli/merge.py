"""``colm merge``: an adapter and its base become one GGUF file, or the folders of shards one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options.tuning import FILE_TYPES
from ._files import check, check_folder, force_option
from ._help import SectionedCommand, option, path_option
from ._output import echo, one_line, print_json

if TYPE_CHECKING:
    from ..tune import Merged

__all__ = ["merge", "merge_shown", "merged_place", "report"]

DEFAULT_TYPE = "q4_k_m"


def merged_place(adapter: Path, type: str) -> Path:
    """Where the merged file goes if no name is given: beside the adapter."""
    return adapter.with_name(f"merged-{type}.gguf")


def merge_shown(base: str, adapter: Path, out: Path, type: str, *, force: bool, quiet: bool) -> Merged:
    """Merges with a bar."""
    from ..tune import merge as run
    from ._progress import meter

    with meter("merging", shown=not quiet) as bar:
        return run(base, adapter, out, type, force=force, on_progress=lambda share: bar.update(share, ""))


def report(merged: Merged) -> None:
    """Prints what was written."""
    fallback = f"; {merged.n_fallback} of them in a larger type, for their width" if merged.n_fallback else ""
    echo(
        one_line(
            f"{merged.path}: {merged.type}, {merged.bytes / 1e6:.1f} MB, {merged.n_tensors} tensors{fallback}; "
            f"{merged.n_changed} changed by the adapter"
        )
    )


@click.command(cls=SectionedCommand)
@click.argument("sources", metavar="ADAPTER | SHARD...", nargs=-1, required=True, type=click.Path(path_type=Path))
@option(
    "Models",
    "--base",
    metavar="MODEL",
    help="The base model of the adapter: a GGUF file or hf:org/repo/file.gguf. Unset: that of the folder's pair.toml.",
)
@option(
    "Output",
    "--type",
    type=click.Choice(FILE_TYPES),
    metavar="TYPE",
    help=f"Type of the new file: {', '.join(FILE_TYPES)}.  [default: {DEFAULT_TYPE}]",
)
@path_option(
    "Output",
    "--out",
    "-o",
    help="The file to write, or the folder for shards. Unset: merged-TYPE.gguf beside the adapter.",
)
@force_option("Replace the file if it exists.")
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@option("Output", "--quiet", "-q", is_flag=True, help="Do not show progress.")
def merge(
    sources: tuple[Path, ...],
    base: str | None,
    type: str | None,
    out: Path | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Merge a LoRA adapter into its base, or join the shards of several machines.

    ADAPTER is a GGUF file, or a folder made by 'colm tune'. The new GGUF file is as fast as the base was, and needs no
    adapter. Its weights are quantised by llama.cpp.

    The folders SHARD are those of 'colm score --shard' or 'colm evaluate --shard', all of one run. The new folder is
    the one that a single machine writes.
    """
    from ..files.shards import kind_of_shards

    if len(sources) > 1 or kind_of_shards(sources) is not None:
        given = {"--base": base, "--type": type, "--force": force}
        for name in (name for name, value in given.items() if value):
            raise click.UsageError(f"{name} is for an adapter, and folders of shards were given; remove {name}")
        if out is None:
            raise click.UsageError("Missing option '--out'; give a new folder for the joined shards.")
        _join(sources, out, as_json=as_json)
    else:
        _merge_adapter(sources[0], base, type or DEFAULT_TYPE, out, force=force, as_json=as_json, quiet=quiet)


def _join(folders: tuple[Path, ...], out: Path, *, as_json: bool) -> None:
    from dataclasses import asdict

    from ..learn.shards import merge_shards

    check_folder(out)
    joined = merge_shards(folders, out)
    if as_json:
        print_json({**asdict(joined), "path": str(joined.path)})
    else:
        text = f"{joined.path}: {joined.what} of {joined.n_shards} shards, {joined.n} rows, {joined.n_tokens} tokens"
        echo(one_line(text))


def _merge_adapter(
    adapter: Path, base: str | None, type: str, out: Path | None, *, force: bool, as_json: bool, quiet: bool
) -> None:
    from dataclasses import asdict

    from ..sources.hub import resolve
    from ..sources.preset import preset

    if base is None:
        if not adapter.is_dir():
            raise click.UsageError("Missing option '--base'; give the base model of the adapter.")
        base = preset(str(adapter)).base
    file = adapter / "adapter.gguf" if adapter.is_dir() else adapter
    target = merged_place(file, type) if out is None else out
    path = resolve(base)
    check("--out", target, force=force, inputs=[file, path])
    merged = merge_shown(path, file, target, type, force=force, quiet=quiet)
    if as_json:
        print_json({**asdict(merged), "path": str(merged.path)})
    else:
        report(merged)
