"""``colm export``: a trained checkpoint becomes a head file."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import HeadMismatch
from ._files import check
from ._output import echo, one_line, warn

if TYPE_CHECKING:
    from ..heads.head import Head

__all__ = ["export"]


def _check_width(head: Head, path: str) -> None:
    """Raises HeadMismatch where the head is not as wide as the model's hidden state."""
    from ..engine.model_files import metadata

    found = metadata(path)
    width = found.get(f"{found.get('general.architecture')}.embedding_length")
    if width != head.n_embd:
        raise HeadMismatch(
            f"the head needs hidden states of width {head.n_embd}, but {path} has width {width}; give the base that "
            "the head was trained on"
        )


@click.command()
@click.argument("source")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--base-name", metavar="NAME", help="Name of the base that the head was trained for.")
@click.option("--assistant-name", metavar="NAME", help="Name of the assistant that the head was trained for.")
@click.option("--name", metavar="NAME", help="Name of the head.")
@click.option("--threshold", type=float, metavar="ETA", help="Default threshold of the head, 0 to 1.")
@click.option("--base", metavar="MODEL", help="Check that the head fits this base, and record its vocabulary.")
@click.option(
    "--expert-names",
    metavar="NAMES",
    help="Names of the experts of the head's outputs, in their order and joined by commas, such as math,code.",
)
@click.option(
    "--row",
    type=int,
    multiple=True,
    help="If SOURCE is a folder: the row of the output matrix. Unset: the row of '<|defer|>'. Give one for each of "
    "several experts.",
)
@click.option("--force", is_flag=True, help="Replace OUTPUT if it exists.")
def export(source: str, output: Path, base: str | None, row: tuple[int, ...], force: bool, **names: Any) -> None:
    """Write the head file OUTPUT from SOURCE.

    SOURCE is a checkpoint folder in the Hugging Face layout, or a .npz, .npy, .safetensors, .bin or .pt file with
    the deferral vector or the layers of an MLP. With several --expert-names, each expert has an output: a row of an
    array [n_experts, n_embd], or of the last layer of an MLP.
    """
    from .. import _core
    from ..files.paths import to_native
    from ..heads.export import export_head
    from ..sources.names import find_model

    check("OUTPUT", output, force=force, inputs=[source, base])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        head = export_head(
            source,
            base_name=names["base_name"],
            assistant_name=names["assistant_name"],
            default_threshold=names["threshold"],
            name=names["name"],
            row=row if len(row) > 1 else row[0] if row else -1,
            expert_names=[name.strip() for name in (names["expert_names"] or "").split(",") if name.strip()],
        )
    if base is not None:
        path = find_model("base", base)
        _check_width(head, path)
        head = head.replace(vocab_fingerprint=_core.Vocabulary.loaded(to_native(path)).fingerprint)
    head.save(output)
    _report(head, output, [str(warning.message) for warning in caught])


def _report(head: Head, output: Path, complaints: list[str]) -> None:
    for complaint in complaints:
        warn(complaint)
    data = output.read_bytes()
    shapes = " -> ".join([str(head.weights[0].shape[1]), *(str(weight.shape[0]) for weight in head.weights)])
    echo(one_line(f"{output}: {head.kind} head, n_embd {head.n_embd}, layers {shapes}, {len(data)} bytes"))
    if head.expert_names:
        echo(f"experts {', '.join(head.expert_names)}")
    if head.vocab_fingerprint:
        echo(f"vocabulary {head.vocab_fingerprint}")
    echo(f"sha256 {hashlib.sha256(data).hexdigest()}")
