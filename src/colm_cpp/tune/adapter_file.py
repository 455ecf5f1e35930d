"""LoRA matrices as llama.cpp reads them: a GGUF file with ``<tensor>.lora_a`` and ``.lora_b`` for each weight."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.model_files import metadata
from ..errors import LoadError
from ..files.output_file import bytes_of, write_file

__all__ = ["BASE_KEY", "StartAdapter", "adapter_tensors", "read_adapter", "write_adapter"]

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


@dataclass(frozen=True)
class StartAdapter:
    """An adapter that training starts from.

    Attributes:
        path: its file.
        rank: of its matrices.
        alpha: its scale is alpha / rank.
        tensors: llama.cpp's name of the weight -> (A ``[rank, n_in]``, B ``[n_out, rank]``), as they lie in the file.
    """

    path: str
    rank: int
    alpha: float
    tensors: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]

    def load_into(self, torch: Any, model: Any, architecture: str) -> None:
        """Puts the matrices into a peft model.

        Raises:
            LoadError: the adapter is of other weights than the model's, or of other sizes.
        """
        gguf: Any = importlib.import_module("gguf")
        own = adapter_tensors(model)
        names = _names(gguf, own, architecture, model.config)
        if set(names.values()) != set(self.tensors):
            odd = sorted(set(names.values()) ^ set(self.tensors))[0]
            raise LoadError(f"{self.path} has matrices for other weights than 'colm tune' trains, such as {odd}")
        with torch.no_grad():
            for name, module in model.named_modules():
                known = names.get(name.removeprefix(_PREFIX))
                if known is None:
                    continue
                a, b = self.tensors[known]
                b = _permuted(b, name, architecture, model.config, back=True)
                for key, value in (("lora_A", a), ("lora_B", b)):
                    weight = getattr(module, key)["default"].weight
                    if tuple(weight.shape) != value.shape:
                        raise LoadError(
                            f"{self.path}: a matrix of {known} is {value.shape}; this base needs {tuple(weight.shape)}"
                        )
                    weight.copy_(torch.from_numpy(value))


def read_adapter(path: str | os.PathLike[str], base_digest: str) -> StartAdapter:
    """Reads an adapter that :func:`write_adapter` wrote.

    Args:
        path: the file, or a folder made by ``colm tune``.
        base_digest: of the base that it must belong to, see :data:`BASE_KEY`.

    Raises:
        LoadError: the file is no adapter, or was trained on another base.
    """
    gguf: Any = importlib.import_module("gguf")
    file = os.path.join(path, "adapter.gguf") if os.path.isdir(path) else os.fspath(path)
    header = metadata(file)
    trained_on = header.get(BASE_KEY)
    if header.get("adapter.type") != "lora" or trained_on is None:
        raise LoadError(f"{file} is not an adapter that colm tune made")
    if trained_on != base_digest:
        raise LoadError(f"{file} was trained on the base {trained_on}; this base is {base_digest}")
    found = {t.name: np.array(t.data, np.float32) for t in gguf.GGUFReader(file).tensors}
    tensors = {
        name.removesuffix(".lora_a"): (a, found[name.removesuffix("a") + "b"])
        for name, a in found.items()
        if name.endswith(".lora_a")
    }
    rank = next(iter(tensors.values()))[0].shape[0]
    return StartAdapter(file, rank, float(header["adapter.lora.alpha"]), tensors)


def write_adapter(
    path: str | os.PathLike[str],
    tensors: Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]],
    *,
    architecture: str,
    config: Any,
    alpha: float,
    base_digest: str,
) -> None:
    """Writes an adapter file, in one piece.

    Args:
        path: the file.
        tensors: see :func:`adapter_tensors`.
        architecture: the base's, as its file names it.
        config: the torch model's configuration.
        alpha: LoRA's alpha; llama.cpp scales by alpha / rank.
        base_digest: see :data:`BASE_KEY`.

    Raises:
        LoadError: llama.cpp has no name for one of the weights.
    """
    gguf: Any = importlib.import_module("gguf")
    named = list(_named(gguf, tensors, architecture, config))
    write_file(path, bytes_of(lambda file: _write(gguf.GGUFWriter(file, architecture), named, alpha, base_digest)))


def _write(
    writer: Any,
    named: Sequence[tuple[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]],
    alpha: float,
    base_digest: str,
) -> None:
    try:
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        writer.add_float32("adapter.lora.alpha", float(alpha))
        writer.add_string(BASE_KEY, base_digest)
        for name, (a, b) in named:  # float16 is read faster than float32 and is as good
            writer.add_tensor(f"{name}.lora_a", np.ascontiguousarray(a, dtype=np.float16))
            writer.add_tensor(f"{name}.lora_b", np.ascontiguousarray(b, dtype=np.float16))
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
    names = _names(gguf, tensors, architecture, config)
    for name, (a, b) in sorted(tensors.items()):
        yield names[name], (a, _permuted(b, name, architecture, config))


def _names(gguf: Any, weights: Iterable[str], architecture: str, config: Any) -> dict[str, str]:
    """llama.cpp's name for each of the torch model's weights."""
    arch = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    known = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    names = {name: known.get_name(f"{name}.weight", try_suffixes=(".weight",)) for name in weights}
    for name, found in names.items():
        if found is None:
            raise LoadError(f"llama.cpp has no name for the weight {name} of a {architecture} model")
    return names


def _permuted(
    b: npt.NDArray[np.float32], name: str, architecture: str, config: Any, *, back: bool = False
) -> npt.NDArray[np.float32]:
    """B ``[n_out, rank]`` with the rows in llama.cpp's order, or back in torch's."""
    if architecture not in _PERMUTED or not name.endswith(("q_proj", "k_proj")):
        return b
    n_heads = config.num_attention_heads if name.endswith("q_proj") else config.num_key_value_heads
    halves = (n_heads, -1, 2) if back else (n_heads, 2, -1)
    rows: npt.NDArray[np.float32] = b.reshape(*halves, b.shape[1]).swapaxes(1, 2).reshape(b.shape)
    return rows
