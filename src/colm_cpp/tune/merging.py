"""An adapter merged into its base: one GGUF file that runs as fast as the base did.

In llama.cpp an adapter costs two more products for each weight that it changes. Here W + (alpha / rank) B A takes W's
place (Hu et al., arXiv 2106.09685, section 4.1). Keys and tokenizer are copied byte for byte, and so are the tensors
that the adapter leaves alone, where the new file's type gives them the type that they have.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .. import _core
from .._shown import listed, shortened, shown
from ..errors import LoadError, NotEnoughMemory, OptionError
from ..files.output_file import check_output, remove_leftovers, temporary_beside, written_by_name
from ..files.paths import digest_of, to_native
from ..heads.adapters import MERGED_KEY
from ..machine.limits import free_memory
from ..sources.identity import model_identity
from .adapter_file import BASE_KEY
from .quantizing import bytes_per_weight, file_type, quantize

__all__ = ["MERGED_KEYS", "Merged", "merge"]

PathLike = str | os.PathLike[str]

_PREFIX = "colm.merged."
MERGED_KEYS = (_PREFIX + "base_file", _PREFIX + "base_digest", MERGED_KEY)
"""Strings in a merged file: the plain base's name and digest (as in ``meta.json``); SHA-256 and scale of each adapter
that was merged into it, as JSON, such as ``[["9f86...", 1.0]]``. A head that was fitted to both fits the file."""

_STRING, _F32 = 8, 0  # gguf_type, ggml_type
_QUANTISER = 2**29  # bytes that llama.cpp takes, with the slabs of ._quantizer


@dataclass(frozen=True, slots=True)
class Merged:
    """A file that :func:`merge` wrote.

    Attributes:
        path: the file.
        type: of its weights.
        bytes: its size.
        n_tensors: in the file.
        n_changed: by the adapter.
        n_fallback: tensors with a width that the type cannot hold; llama.cpp gave them a type with smaller blocks.
    """

    path: Path
    type: str
    bytes: int
    n_tensors: int
    n_changed: int
    n_fallback: int


@dataclass(frozen=True, slots=True)
class _Change:
    """W += scale B A, with A ``[rank, n_in]`` and B ``[n_out, rank]``."""

    a: npt.NDArray[np.float32]
    b: npt.NDArray[np.float32]
    scale: float


def merge(
    base: PathLike,
    adapter: PathLike,
    out: PathLike,
    type: str = "q4_k_m",
    *,
    force: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> Merged:
    """Merges a LoRA adapter into its base.

    Args:
        base: the base's GGUF file, in one piece.
        adapter: a LoRA adapter for it, a GGUF file.
        out: the file to write. It appears when it is complete.
        type: of the new file; one of :data:`colm_cpp.tune.FILE_TYPES`.
        force: whether ``out`` may be replaced.
        on_progress: called with the share that is done, 0 to 1.

    Raises:
        OptionError: an unknown type, ``out`` cannot be written, or the disk has too little space.
        LoadError: a file is damaged, the adapter is for another model, or llama.cpp cannot quantise the result.
        NotEnoughMemory: a tensor is larger than what is free.
        OSError: writing failed.
    """
    number = file_type(type)
    target = Path(out)
    check_output(target, force=force, inputs=[base, adapter])
    source = _opened(base, "base")
    trained = _opened(adapter, "adapter")
    changes = _changes(trained, source, adapter, base)
    facts = _facts(source, base, adapter)
    _check_base(_value(trained, BASE_KEY), facts, adapter, base)
    remove_leftovers(target.parent)
    _check_space(source, changes, type, target)

    def report(share: float) -> None:
        if on_progress is not None:
            on_progress(share)

    merged = temporary_beside(target)
    try:
        with merged.open("xb") as file:
            _write(file, source, changes, facts, lambda s: report(s / 2))
        with written_by_name(target) as final:
            n_tensors, n_fallback = quantize(merged, final, number, lambda s: report(0.5 + s / 2))
    finally:
        merged.unlink(missing_ok=True)
    return Merged(target, type, target.stat().st_size, n_tensors, len(changes), n_fallback)


def _opened(path: PathLike, what: str) -> Any:
    """A reader of a GGUF file that llama.cpp's own reader accepts."""
    info = _core.inspect_gguf(to_native(path))
    name = os.fspath(path)
    if info["truncated"]:
        raise LoadError(f"the {what} {name} is incomplete: {info['file_bytes']} of {info['expected_bytes']} bytes")
    if info["metadata"].get("split.count", 1) != 1:
        raise LoadError(f"the {what} {name} is one of several parts; join them first with llama-gguf-split --merge")
    gguf: Any = importlib.import_module("gguf")
    try:
        return gguf.GGUFReader(name)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise LoadError(f"the {what} {name} cannot be read by gguf: {shortened(str(error))}") from error


def _facts(source: Any, base: PathLike, adapter: PathLike) -> dict[str, str]:
    """What the new file says of itself. A base that was merged before stays the base that it was."""
    name, digest, earlier = (_value(source, key) for key in MERGED_KEYS)
    if earlier is None:
        name, digest, earlier = Path(base).name, model_identity(base)["digest"], "[]"
    try:
        adapters = [*json.loads(earlier), (digest_of(Path(adapter)), 1.0)]
    except (TypeError, ValueError) as error:
        raise LoadError(f"{os.fspath(base)} is damaged: {MERGED_KEYS[2]} is {shown(earlier)}") from error
    return dict(zip(MERGED_KEYS, (name, digest, json.dumps(adapters)), strict=True))


def _check_base(digest: str | None, facts: Mapping[str, str], adapter: PathLike, base: PathLike) -> None:
    """Another base of the same shape would give a file that writes nonsense. Other tools' adapters do not say."""
    if digest not in (None, model_identity(base)["digest"], facts[MERGED_KEYS[1]]):
        raise LoadError(
            f"the adapter {os.fspath(adapter)} was trained on a base with digest {shown(digest)}, and "
            f"{os.fspath(base)} is another file; give that base"
        )


def _value(reader: Any, key: str) -> Any:
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def _floats(tensor: Any) -> npt.NDArray[np.float32]:
    gguf: Any = importlib.import_module("gguf")
    try:
        return np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
    except NotImplementedError as error:
        raise LoadError(f"gguf cannot read {tensor.name}, which has the type {tensor.tensor_type.name}") from error


def _changes(reader: Any, source: Any, adapter: PathLike, base: PathLike) -> dict[str, _Change]:
    """What the adapter does to each of the base's weights."""
    name = os.fspath(adapter)
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
        if _value(reader, key) != expected:
            raise LoadError(f"{name} is no LoRA adapter: {key} is {shown(_value(reader, key))}, not {expected!r}")
    architectures = [_value(file, "general.architecture") for file in (reader, source)]
    if architectures[0] != architectures[1]:
        raise LoadError(
            f"the adapter {name} is for the architecture {shown(architectures[0])}, and {os.fspath(base)} is "
            f"{shown(architectures[1])}; give the base that the adapter was trained on"
        )
    if _value(reader, "adapter.alora.invocation_tokens") is not None:
        raise LoadError(f"{name} works only after certain tokens (aLoRA), so it cannot be merged; load it with lora=")
    matrices = {tensor.name: tensor for tensor in reader.tensors}
    names = sorted({tensor.rpartition(".")[0] for tensor in matrices})
    if set(matrices) != {f"{weight}.lora_{side}" for weight in names for side in "ab"}:
        raise LoadError(f"{name} must hold pairs of lora_a and lora_b, and holds {listed(sorted(matrices))}")
    weights = {tensor.name: tensor for tensor in source.tensors}
    alpha = float(_value(reader, "adapter.lora.alpha") or 0.0)
    changes = {}
    for weight in names:
        if weight not in weights or weight == "token_embd.weight":
            raise LoadError(f"{name} changes {weight}, which cannot be merged into {os.fspath(base)}")
        a, b = (_floats(matrices[f"{weight}.lora_{side}"]) for side in "ab")
        shape = tuple(int(n) for n in reversed(weights[weight].shape))
        rank = b.shape[-1]
        if a.shape[-2] != rank or (*b.shape[:-1], a.shape[-1]) != shape or a.shape[:-2] != b.shape[:-2]:
            raise LoadError(
                f"{name} has matrices of shapes {a.shape} and {b.shape} for {weight}, whose shape is {shape}; give the "
                "base that the adapter was trained on"
            )
        changes[weight] = _Change(a, b, alpha / rank if alpha else 1.0)  # as llama.cpp reads it
    return changes


def _check_space(source: Any, changes: Mapping[str, _Change], type: str, target: Path) -> None:
    n_weights = sum(int(tensor.n_elements) for tensor in source.tensors)
    merged = sum(4 * int(t.n_elements) if t.name in changes else int(t.n_bytes) for t in source.tensors)
    header = int(source.data_offset)
    needed = merged + int(n_weights * bytes_per_weight(type)) + 2 * header
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise OptionError(
            f"merging needs up to {needed / 1e9:.2f} GB in {target.parent}, where {free / 1e9:.2f} GB is free; write "
            "to a disk with more space"
        )
    # W, B A and what dequantising leaves behind.
    largest = max((int(tensor.n_elements) for tensor in source.tensors if tensor.name in changes), default=0)
    memory, available = 16 * largest + _QUANTISER, free_memory()
    if memory > available.bytes:
        error = NotEnoughMemory(
            f"merging is estimated to need {memory / 1e9:.2f} GB of memory, but {available.bytes / 1e9:.2f} GB is "
            "free; end other programs, or merge on a larger machine"
        )
        error.needed, error.available = memory, available.bytes
        raise error


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _write(
    file: BinaryIO,
    source: Any,
    changes: Mapping[str, _Change],
    facts: Mapping[str, str],
    on_progress: Callable[[float], None],
) -> None:
    """The base's file with float32 tensors where the adapter changes them."""
    tensors, alignment = source.tensors, int(source.alignment)
    fields = [field for name, field in source.fields.items() if not name.startswith("GGUF.")]
    ends = [int(field.offset) for field in fields[1:]] + [int(tensors[0].field.offset)]
    keys = [
        source.data[int(field.offset) : end].tobytes()
        for field, end in zip(fields, ends, strict=True)
        if not field.name.startswith(_PREFIX)  # those of an earlier merge
    ]
    keys += [
        _string(key.encode()) + struct.pack("<I", _STRING) + _string(value.encode("utf-8", "replace"))
        for key, value in facts.items()
    ]
    described, offset = [], 0
    for tensor in tensors:
        kind = _F32 if tensor.name in changes else int(tensor.tensor_type)
        size = 4 * int(tensor.n_elements) if tensor.name in changes else int(tensor.n_bytes)
        shape = b"".join(part.tobytes() for part in tensor.field.parts[:4])  # name, number of dimensions, dimensions
        described.append(shape + struct.pack("<IQ", kind, offset))
        offset += size + -size % alignment
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(keys)) + b"".join(keys) + b"".join(described)
    file.write(header + bytes(-len(header) % alignment))
    for number, tensor in enumerate(tensors):
        if tensor.name in changes:
            size = 4 * int(tensor.n_elements)
            file.write(_changed(tensor, changes[tensor.name]).data.cast("B"))
        else:
            size = int(tensor.n_bytes)
            file.write(np.ascontiguousarray(tensor.data).data.cast("B"))
        file.write(bytes(-size % alignment))
        on_progress((number + 1) / len(tensors))


def _changed(tensor: Any, change: _Change) -> npt.NDArray[np.float32]:
    weight = _floats(tensor) + np.float32(change.scale) * (change.b @ change.a)
    if not np.isfinite(weight).all():
        raise LoadError(f"{tensor.name} is not finite once the adapter is merged; train it with a lower learning rate")
    return np.ascontiguousarray(weight, np.float32)
