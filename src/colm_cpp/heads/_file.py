"""Writing a head file, as ``docs/head-format.md`` describes it."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LoadError, MissingDependency
from ..files.output_file import bytes_of, write_file
from ..files.paths import to_native

if TYPE_CHECKING:
    from .head import Head

FORMAT_VERSION = 1
VERSION_OF_SEVERAL = 2  # with one output for each of several experts
ARCHITECTURE = "colm-head"


def write(head: Head, path: str | os.PathLike[str]) -> None:
    """Write ``head`` to ``path``. The file is replaced only when the new one is complete.

    Raises:
        LoadError: the file cannot be written, or its name is invalid.
        OptionError: ``path`` is a link.
        MissingDependency: the ``gguf`` package is not installed.
    """
    to_native(path)  # refuses what no file can be named
    target = Path(path)
    try:
        write_file(target, bytes_of(lambda file: _write_gguf(head, file)))
    except OSError as exc:
        raise LoadError(
            f"cannot write the head file {target}: {exc.strerror or exc}; check that its folder exists, "
            "is writable and has space"
        ) from exc


def _write_gguf(head: Head, path: Path) -> None:
    try:
        gguf = importlib.import_module("gguf")
    except ImportError as exc:
        raise MissingDependency(
            "the gguf package is needed to save a head and cannot be imported; run: pip install gguf"
        ) from exc
    writer = gguf.GGUFWriter(path, ARCHITECTURE)  # writes general.architecture by itself
    try:
        # Keys and tensors in one fixed order: the writer keeps it, so the bytes depend on nothing else.
        if head.name is not None:
            writer.add_string("general.name", head.name)
        several = len(head.expert_names) > 1
        writer.add_uint32(f"{ARCHITECTURE}.version", VERSION_OF_SEVERAL if several else FORMAT_VERSION)
        writer.add_string(f"{ARCHITECTURE}.kind", head.kind)
        writer.add_uint32(f"{ARCHITECTURE}.n_embd", head.n_embd)
        writer.add_uint32(f"{ARCHITECTURE}.n_layers", len(head.weights))
        writer.add_string(f"{ARCHITECTURE}.activation", head.activation)
        if head.features:
            writer.add_array(f"{ARCHITECTURE}.features", list(head.features))
        if head.top_k:
            writer.add_uint32(f"{ARCHITECTURE}.top_k", head.top_k)
        for key in ("base_name", "assistant_name", "vocab_fingerprint"):
            value = getattr(head, key)
            if value is not None:
                writer.add_string(f"{ARCHITECTURE}.{key}", value)
        if head.expert_names:
            writer.add_array(f"{ARCHITECTURE}.expert_names", list(head.expert_names))
        if head.base_adapters is not None:
            # gguf writes no empty arrays, so a count says that there is none.
            writer.add_uint32(f"{ARCHITECTURE}.n_base_adapters", len(head.base_adapters))
            writer.add_array(f"{ARCHITECTURE}.base_adapters", [digest for digest, _ in head.base_adapters])
            writer.add_array(f"{ARCHITECTURE}.base_adapter_scales", [scale for _, scale in head.base_adapters])
        if head.default_threshold is not None:
            writer.add_float32(f"{ARCHITECTURE}.default_threshold", head.default_threshold)
        if head.rates:
            writer.add_array(f"{ARCHITECTURE}.rates", list(head.rates))
            writer.add_array(f"{ARCHITECTURE}.thresholds", list(head.thresholds))
        for key in ("training", "calibration"):
            value = getattr(head, key)
            if value is not None:
                writer.add_string(f"{ARCHITECTURE}.{key}", value)
        for i, (weight, bias) in enumerate(zip(head.weights, head.biases, strict=True)):
            writer.add_tensor(f"layers.{i}.weight", weight)
            writer.add_tensor(f"layers.{i}.bias", bias)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
