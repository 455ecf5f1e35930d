"""LoRA matrices as llama.cpp reads them: a GGUF file with ``<tensor>.lora_a`` and ``.lora_b`` for each weight."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import LoadError
from ..files.output_file import bytes_of, write_file

__all__ = ["BASE_KEY", "adapter_tensors", "write_adapter"]

BASE_KEY = "colm.adapter.base_digest"
"""The digest of the base that the adapter was trained on, as in ``meta.json``."""

_PREFIX = "base_model.model."
# llama.cpp rotates pairs of neighbours where these models' q and k have the halves of a head.
_PERMUTED = ("llama",)


def adapter_tensors(model: Any) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """The LoRA matrices of a peft model: name of the weight -> (A ``[rank, n_in]``, B ``[n_out, rank]``)."""
    found = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            found[name.removeprefix(_PREFIX)] = (
                a.detach().float().cpu().numpy().copy(),
                b.detach().float().cpu().numpy().copy(),
            )
    return found


def write_adapter(
    path: str | os.PathLike[str],
    tensors: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    *,
    architecture: str,
    config: Any,
    alpha: float,
    base_digest: str,
    dtype: npt.DTypeLike = np.float16,
) -> None:
    """Writes an adapter file, in one piece.

    Args:
        path: the file.
        tensors: see :func:`adapter_tensors`.
        architecture: the base's, as its file names it.
        config: the torch model's configuration.
        alpha: LoRA's alpha; llama.cpp scales by alpha / rank.
        base_digest: see :data:`BASE_KEY`.
        dtype: of the matrices. float16 is read faster than float32 and is as good.

    Raises:
        LoadError: llama.cpp has no name for one of the weights.
    """
    gguf: Any = importlib.import_module("gguf")
    named = list(_named(gguf, tensors, architecture, config))
    write_file(
        path, bytes_of(lambda file: _write(gguf.GGUFWriter(file, architecture), named, alpha, base_digest, dtype))
    )


def _write(
    writer: Any,
    named: Sequence[tuple[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]],
    alpha: float,
    base_digest: str,
    dtype: npt.DTypeLike,
) -> None:
    try:
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(alpha))
        writer.add_string(BASE_KEY, base_digest)
        for name, (a, b) in named:
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a, dtype=dtype))
            writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b, dtype=dtype))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _named(
    gguf: Any,
    tensors: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    architecture: str,
    config: Any,
) -> Iterator[tuple[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]]:
    import gguf

    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, (a, b) in sorted(tensors.items()):
        known = names.get_name(f"{name}.weight", try_suffixes=(".weight",))
        if known is None:
            raise LoadError(f"llama.cpp has no name for the weight {name} of a {architecture} model")
        if architecture in _PERMUTED and name.endswith(("q_proj", "k_proj")):
            n_heads = config.num_attention_heads if name.endswith("q_proj") else config.num_key_value_heads
            b = b.reshape(n_heads, 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
        yield known, (a, b)
