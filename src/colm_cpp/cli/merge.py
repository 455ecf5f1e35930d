"""``colm merge``: an adapter and its base become one GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..tune.quantizing import FILE_TYPES
from ._files import check, force_option
from ._help import SectionedCommand
from ._output import echo, one_line, print_json
from ._pair import option

if TYPE_CHECKING:
    from ..tune import Merged

__all__ = ["merge", "merge_shown", "merged_place", "report"]


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
@click.argument("adapter", type=click.Path(path_type=Path))
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
    default="q4_k_m",
    metavar="TYPE",
    show_default=True,
    help=f"Type of the new file: {', '.join(FILE_TYPES)}.",
)
@option(
    "Output",
    "--out",
    "-o",
    type=click.Path(path_type=Path),
    help="The file to write. Unset: merged-TYPE.gguf beside the adapter.",
)
@force_option("Replace the file if it exists.")
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@option("Output", "--quiet", "-q", is_flag=True, help="Do not show progress.")
def merge(
    adapter: Path, base: str | None, type: str, out: Path | None, force: bool, as_json: bool, quiet: bool
) -> None:
    """Merge a LoRA adapter into its base, and write one GGUF file.

    ADAPTER is a GGUF file, or a folder made by 'colm tune'. The new file is as fast as the base was, and needs no
    adapter. Its weights are quantised by llama.cpp.
    """
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
