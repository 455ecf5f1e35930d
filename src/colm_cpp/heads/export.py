"""Making a head out of what training leaves behind: checkpoints, arrays, state dicts."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .._shown import listed, shortened, shown
from ..errors import HeadError, LoadError, OptionError
from ._checkpoints import INPUT_MATRICES, OUTPUT_MATRICES, read_deferral_row
from ._tensorfiles import UNNAMED, TensorFile, open_tensors
from .checks import MAX_EMBD, MAX_WEIGHTS, names_of_experts
from .head import Head

__all__ = ["export_head", "read_theta"]

_LAYER = re.compile(r"layers\.(0|[1-9][0-9]*)\.(weight|bias)")


@dataclass
class _Layers:
    weights: list[npt.NDArray[np.float32]]
    biases: list[npt.NDArray[np.float32]]
    activation: str | None  # None: the one vector of a linear head


def read_theta(source: str | os.PathLike[str], *, row: int = -1) -> tuple[npt.NDArray[np.float32], float]:
    """Read the vector and the bias of a linear deferral head.

    Args:
        source: one of

            * a checkpoint folder in the Hugging Face layout, as the published Co-LLM code saves it
              (``model.safetensors`` or ``pytorch_model.bin``, or shards of either): the row of
              ``<|defer|>`` in the output matrix, or in the input matrix if the two are tied;
            * ``gperp_init.bin`` of the published code, or any ``.bin``, ``.pt`` or ``.pth`` file
              with one tensor or a state dict;
            * a ``.npz`` or ``.safetensors`` file with ``theta`` or ``weight`` and optionally
              ``bias`` or ``b``, or with one array; a ``.npy`` file.

            float16, bfloat16, float32 and float64 are read.
        row: only for a folder: which row of the matrix. -1, the default, means that of
            ``<|defer|>`` if the folder's tokenizer files know it, else the last one.

    Returns:
        theta, float32 ``[n_embd]``, and the bias (0 where there is none).

    Raises:
        LoadError: a file is missing or damaged.
        HeadError: the content is not a deferral vector, or holds several candidates for it.
        MissingDependency: torch is needed and not installed.
        OptionError: ``row`` is not a whole number, or is given for a file.

    Warns:
        UserWarning: the folder's tokenizer files do not know ``<|defer|>``, and ``row`` is -1.
    """
    layers = _read_layers(source, row)
    if layers.activation is not None:
        raise HeadError(f"{os.fspath(source)} holds an MLP, not one vector; use export_head")
    return layers.weights[0][0], float(layers.biases[0][0])


def export_head(
    source: str | os.PathLike[str],
    *,
    base_name: str | None = None,
    assistant_name: str | None = None,
    default_threshold: float | None = None,
    vocab_fingerprint: str | None = None,
    row: int | Sequence[int] = -1,
    name: str | None = None,
    expert_names: Sequence[str] = (),
) -> Head:
    """Make a head out of a trained checkpoint or of saved arrays; ``.save(path)`` then writes it.

    Args:
        source: as for :func:`read_theta`; also ``.npz``, ``.safetensors`` or torch files with
            ``layers.{i}.weight`` ``[n_out, n_in]``, optionally ``layers.{i}.bias`` ``[n_out]`` (else 0) and
            ``activation`` (a text, in safetensors among the file's metadata; default ``relu``): an MLP.
            The head has no features; use :meth:`Head.linear` or :meth:`Head.mlp` for one that has. With several
            ``expert_names`` a vector is an array ``[n_experts, n_embd]``, its bias ``[n_experts]``, and the last layer
            of an MLP has as many outputs.
        base_name: the base that the head was made for. Default none.
        assistant_name: the assistant that the head was made for. Default none.
        default_threshold: eta in [0, 1] used when the caller gives none. Default none.
        vocab_fingerprint: 16 hexadecimal digits. Default none.
        row: as for :func:`read_theta`. Several experts need a row for each, in their order.
        name: a name for people. Default none.
        expert_names: what the pair calls the experts, see :class:`Head`. Default: one that has no name.

    Raises:
        LoadError: a file is missing or damaged.
        HeadError: the content is not a head for these experts, or one of the other arguments is out of range.
        MissingDependency: torch is needed and not installed.
        OptionError: ``row`` is not a whole number, or is given for a file.

    Warns:
        UserWarning: as for :func:`read_theta`.
    """
    names = names_of_experts(expert_names)
    layers = _read_layers(source, row) if len(names) < 2 else _read_rows(source, row, names)
    return Head(
        weights=tuple(layers.weights),
        biases=tuple(layers.biases),
        n_embd=layers.weights[0].shape[-1],
        kind="linear" if layers.activation is None else "mlp",
        activation=layers.activation or "relu",
        name=name,
        base_name=base_name,
        assistant_name=assistant_name,
        vocab_fingerprint=vocab_fingerprint,
        default_threshold=default_threshold,
        expert_names=names,
    )


def _read_rows(source: str | os.PathLike[str], rows: int | Sequence[int], names: Sequence[str]) -> _Layers:
    """What :func:`_read_layers` reads, with an output for each of several experts."""
    if not Path(source).is_dir():
        return _read_layers(source, rows, len(names))
    if not isinstance(rows, Sequence) or len(rows) != len(names):
        raise OptionError(
            f"row is {shown(rows)}; a checkpoint folder needs a row of the output matrix for each of the experts "
            f"{', '.join(names)}"
        )
    read = [_read_layers(source, row) for row in rows]
    weights, biases = (np.concatenate([getattr(one, what)[0] for one in read]) for what in ("weights", "biases"))
    return _Layers([weights], [biases], None)


def _read_layers(source: str | os.PathLike[str], row: int | Sequence[int], n_out: int = 1) -> _Layers:
    if isinstance(row, Sequence) and not isinstance(row, str) and len(row) == 1:
        row = row[0]
    if not isinstance(row, int) or isinstance(row, bool):
        raise OptionError(f"row is {shown(row)}; it must be a whole number, -1 for the row of <|defer|>")
    path = Path(source)
    if path.is_dir():
        theta, bias = read_deferral_row(path, row)
        return _Layers([theta[np.newaxis, :]], [np.array([bias], dtype=np.float32)], None)
    if not path.exists():
        raise LoadError(f"{path} does not exist; give a checkpoint folder or a file with the deferral vector")
    if row != -1:
        raise OptionError(f"row={shown(row)} is for a checkpoint folder, but {path} is a file; leave row out")
    file = open_tensors(path)
    names = file.names()
    if any(_LAYER.fullmatch(name) for name in names):
        return _mlp(file, names)
    return _vector(file, names, n_out)


def _mlp(file: TensorFile, names: list[str]) -> _Layers:
    n_layers = sum(name.endswith(".weight") for name in names)
    weight_names = [f"layers.{i}.weight" for i in range(n_layers)]
    bias_names = [f"layers.{i}.bias" for i in range(n_layers)]
    missing = [name for name in weight_names if name not in names]
    if missing or not weight_names:
        raise HeadError(
            f"{file.path} lacks {shortened(', '.join(missing)) or 'any weight'}; number the layers from 0, without gaps"
        )
    known = weight_names + bias_names
    _refuse_others(file, names, known)
    for name in weight_names:
        if len(file.shape(name)) != 2:
            raise HeadError(f"{name} in {file.path} has shape {shown(file.shape(name))}; it must be [n_out, n_in]")
    n_weights = sum(math.prod(file.shape(name)) for name in known if name in names)
    if n_weights > MAX_WEIGHTS:
        raise HeadError(f"the layers in {file.path} have {shown(n_weights)} weights; a head has at most {MAX_WEIGHTS}")
    weights = [file.read(name) for name in weight_names]
    biases = [
        file.read(name) if name in names else np.zeros(weight.shape[0], dtype=np.float32)
        for name, weight in zip(bias_names, weights, strict=True)
    ]
    return _Layers(weights, biases, file.metadata.get("activation", "relu"))


def _vector(file: TensorFile, names: list[str], n_out: int) -> _Layers:
    theta_name = _one_of(file, names, ("theta", "weight"))
    bias_name = _one_of(file, names, ("bias", "b"))
    if theta_name is None and len(names) == 1 and bias_name is None:
        theta_name = names[0]
    endings = OUTPUT_MATRICES + INPUT_MATRICES
    if theta_name is None and any(name.endswith(endings) for name in names):
        # One shard alone cannot tell whether the output matrix is tied or lies in another shard.
        raise HeadError(f"{file.path} is part of a checkpoint; give its folder, {file.path.parent}, instead")
    if theta_name is None:
        raise HeadError(
            f"{file.path} holds {listed(names) or 'no tensor'}; it must hold 'theta' or 'weight', or one array"
        )
    _refuse_others(file, names, [theta_name, *([bias_name] if bias_name else [])])
    shape = file.shape(theta_name)
    rows: tuple[tuple[int, ...], ...] = ((), (1,)) if n_out == 1 else ((n_out,),)
    if len(shape) not in (1, 2) or shape[:-1] not in rows or not 1 <= shape[-1] <= MAX_EMBD:
        what = "the array" if theta_name == UNNAMED else theta_name
        wanted = "[n_embd] or [1, n_embd]" if n_out == 1 else f"[{n_out}, n_embd], a row for each expert"
        raise HeadError(
            f"{what} in {file.path} has shape {shown(shape)}; it must be {wanted}, with n_embd from 1 to {MAX_EMBD}"
        )
    theta = file.read(theta_name).reshape(n_out, -1)
    bias = np.zeros(n_out, dtype=np.float32)
    if bias_name is not None:
        n_values = math.prod(file.shape(bias_name))
        if n_values != n_out:
            wanted = "one number" if n_out == 1 else f"{n_out} numbers"
            raise HeadError(f"{bias_name} in {file.path} has {shown(n_values)} values; the bias must be {wanted}")
        bias = file.read(bias_name).reshape(-1)
    return _Layers([theta], [bias], None)


def _one_of(file: TensorFile, names: list[str], wanted: tuple[str, ...]) -> str | None:
    found = [name for name in wanted if name in names]
    if len(found) > 1:
        raise HeadError(f"{file.path} holds both {' and '.join(found)}; keep one of them")
    return found[0] if found else None


def _refuse_others(file: TensorFile, names: list[str], known: list[str]) -> None:
    # What is left over may change what the head computes (features, a scale), so it is not dropped silently.
    others = [name for name in names if name not in known]
    if others:
        raise HeadError(
            f"{file.path} holds {listed(others)} beside {shortened(', '.join(known))}, which cannot be used; "
            "remove it, or build the head with Head.linear or Head.mlp"
        )
