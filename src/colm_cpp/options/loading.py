"""How models are loaded."""

# ruff: noqa: RUF009  # option() makes a field; its default is what it says

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypedDict

import numpy as np

from .. import _core
from .._numbers import real
from .._shown import shown
from ..errors import OptionError
from ..files.paths import to_native
from ..heads.adapters import adapter_digest
from .field import (
    MAX_FLOAT,
    Choice,
    Flag,
    Own,
    Real,
    Whole,
    documented,
    option,
    option_dict,
    read_fields,
    reject_unknown,
)

__all__ = [
    "CPU_N_UBATCH",
    "DEFAULT_N_CTX",
    "KV_TYPES",
    "LONG_N_UBATCH",
    "MOST_RUN_OUTPUTS",
    "REMOTE_OPTIONS",
    "LoadOptions",
    "LoadOptionsDict",
]

PathLike = str | os.PathLike[str]
KVType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]

# ggml_type
KV_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
# Of a model on another machine.
REMOTE_OPTIONS = ("remote_timeout", "remote_retries", "remote_top_k", "on_failure")
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
DEFAULT_N_CTX = 4096
CPU_N_UBATCH = 128
LONG_N_UBATCH = 512
MOST_RUN_OUTPUTS = 8  # kMostRunOutputs
_MAX_CONTEXT = 2**28
_MAX_BATCH = 2**20
_MAX_THREADS = 512
_MAX_PORT = 2**16 - 1
_ADDRESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}:([0-9]{1,5})")


class LoadOptionsDict(TypedDict, total=False):
    """Keyword arguments of :func:`colm_cpp.load`; see :class:`LoadOptions`."""

    n_ctx: int | None
    n_batch: int
    n_ubatch: int | None
    n_threads: int | None
    n_threads_batch: int | None
    n_gpu_layers: int
    main_gpu: int
    split_mode: Literal["none", "layer", "row"]
    tensor_split: Sequence[float] | None
    rpc_servers: str | Sequence[str] | None
    offload_kqv: bool
    flash_attn: bool | None
    type_k: KVType
    type_v: KVType
    swa_full: bool
    repack: bool
    batch_invariant: bool
    use_mmap: bool | None
    use_mlock: bool
    huge_pages: bool
    rope_freq_base: float
    rope_freq_scale: float
    lora: PathLike | Sequence[PathLike | tuple[PathLike, float]]
    remote_timeout: float
    remote_retries: int
    remote_top_k: int
    on_failure: Literal["error", "base"]


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How one model is loaded. Names and meaning are those of ``llama_cpp.Llama``."""

    n_ctx: int | None = option(
        None,
        Whole(0, _MAX_CONTEXT),
        "Context size in tokens, prompt and text together. 0: the length that the model was trained with. None: 4096, "
        "or the length that both models were trained with if that is less.",
        "1 is too small.",
    )
    n_batch: int = option(512, Whole(1, _MAX_BATCH), "The most tokens in one llama.cpp call during prefill.")
    n_ubatch: int | None = option(
        None,
        Whole(1, _MAX_BATCH),
        "The most tokens in one pass of the graph. None: 128, or 512 with a GPU.",
        "A value above ``n_batch`` counts as ``n_batch``. On a CPU 128 is as fast as 512 and takes a quarter of the "
        "memory. ``colm score`` takes 512.",
    )
    n_threads: int | None = option(
        None,
        Whole(1, _MAX_THREADS),
        "Threads for single tokens. None: one for each usable physical core.",
        "A core is usable if the process's affinity and the CPU quota of its control group allow it. A file below 16 "
        "MiB gets one thread, because more threads would wait for each other longer than they compute.",
    )
    n_threads_batch: int | None = option(
        None, Whole(1, _MAX_THREADS), "Threads for prefill. None: the value of ``n_threads``."
    )
    n_gpu_layers: int = option(
        -1,
        Whole(-1, 2**20),
        "Layers on the GPU; -1 is all, 0 is none.",
        "It has no effect if llama-cpp-python has no GPU.",
    )
    main_gpu: int = option(0, Whole(0, 2**10), "The GPU that holds the whole model when ``split_mode`` is none.")
    split_mode: str = option("layer", Choice(tuple(_SPLIT_MODES)), "How several GPUs share a model.")
    tensor_split: Sequence[float] | None = option(
        None,
        Own("a list of numbers, 0 or more"),
        "Each GPU's share of the model, such as 1,2. None: in proportion to the GPUs' free memory.",
    )
    rpc_servers: str | Sequence[str] | None = option(
        None,
        Own("a list of HOST:PORT"),
        "Other machines that hold part of the model, where ggml-rpc-server runs: 10.0.0.2:50052,10.0.0.3:50052.",
        "They count as GPUs and come before those of this machine. The protocol has no password: use it only in a "
        "network that you trust (``docs/rpc.md``).",
    )
    offload_kqv: bool = option(True, Flag(), "Keep the KV cache on the GPU.")
    flash_attn: bool | None = option(
        None,
        Flag(),
        "Flash attention on or off. None: on where the device supports it, but off with an f32 cache.",
        "With True an f32 cache is read as f16, so f32 takes more memory and has no advantage.",
    )
    type_k: str = option(
        "f16",
        Choice(tuple(KV_TYPES)),
        "Type of the K cache.",
        '``"f32"`` keeps the precision of a float32 model. It takes twice the memory of f16.',
    )
    type_v: str = option(
        "f16",
        Choice(tuple(KV_TYPES)),
        "Type of the V cache.",
        "Quantised types need flash attention, even with an f32 K cache.",
    )
    swa_full: bool = option(
        True,
        Flag(),
        "Full-size KV cache for sliding-window layers.",
        "Without it, going back to a shorter prefix needs a new prefill.",
    )
    repack: bool = option(
        True,
        Flag(),
        "Keep weights in a layout that suits this CPU, if llama.cpp has one for their type.",
        "Single tokens are faster with it. On some CPUs the prefill is faster without it.",
    )
    batch_invariant: bool = option(
        False,
        Flag(),
        "Give every token the same logits, bit for bit, alone and in a batch; slower.",
        "Look-ahead and many texts at once then write exactly the text that is written without them. By default "
        "llama.cpp's kernels round larger batches differently. Loading measures the largest batch that is exact, which "
        "takes some seconds. A pass of the graph is then at most as long as this batch and ``n_ubatch``, weights are "
        "not repacked, and an f16 cache becomes bf16. Prefill is slower, and on many CPUs single tokens are, too.",
    )
    use_mmap: bool | None = option(
        None,
        Flag(),
        "Map the file instead of reading it. None: map it, except where weights are repacked for the CPU.",
        "Repacking copies the weights, and a mapped file would take memory in addition to the copies.",
    )
    use_mlock: bool = option(False, Flag(), "Keep the model in RAM, so that it is not swapped out.")
    huge_pages: bool = option(
        True,
        Flag(),
        "On Linux, ask for pages of 2 MB where weights are read or repacked into memory.",
        "Every token reads all weights, and larger pages make that faster; loading takes about a quarter longer. It "
        "has no effect if the system's setting is 'never', or on weights in a file that is mapped (use_mmap).",
    )
    rope_freq_base: float = option(0.0, Real(0.0), "RoPE base frequency; 0: the model's own.")
    rope_freq_scale: float = option(0.0, Real(0.0), "RoPE frequency scale; 0: the model's own.")
    lora: PathLike | Sequence[PathLike | tuple[PathLike, float]] = option(
        (),
        Own("a path, or a list of paths and (path, scale)"),
        "A LoRA adapter to apply, with its scale, which is 1 unless given.",
        "A list holds several.",
    )
    remote_timeout: float = option(
        60.0,
        Real(0.0, 86400.0, is_open=True),
        "Seconds for each answer of a model on another machine.",
        "See ``docs/remote.md``. This option and the next three have no effect on a model on this machine.",
    )
    remote_retries: int = option(
        2,
        Whole(0, 100),
        "How often a request to another machine is repeated, after no connection or a busy server.",
        "Pauses grow from 0.1 to 5 s.",
    )
    remote_top_k: int = option(
        64,
        Whole(1, 2**19),
        "How many of the likeliest tokens a model on another machine names. The others cannot be chosen.",
        "A number as large as the vocabulary stands for all. Where it is in the tens of thousands, a call asks about "
        "fewer positions at a time.",
    )
    on_failure: str = option(
        "error",
        Choice(("error", "base")),
        "What happens to a text when a model on another machine fails. error: the text ends with the error. base: it "
        "goes on without this model.",
        "The next text asks the model again. While the pair loads, the error is always raised.",
    )

    @classmethod
    def merge(cls, shared: Mapping[str, Any], own: Mapping[str, Any] | None) -> LoadOptions:
        """Options of one model: ``shared`` ones, replaced by its ``own`` where both have a name.

        Raises:
            TypeError: an unknown name.
            OptionError: a value outside its range.
        """
        merged = {**shared, **(own or {})}
        reject_unknown(merged, cls, "load()")
        return cls(**merged)

    @classmethod
    def of_both(
        cls, shared: Mapping[str, Any], base_options: object, assistant_options: object
    ) -> tuple[LoadOptions, LoadOptions]:
        """Base's and assistant's options, as :func:`colm_cpp.load` is given them. Errors are those of :meth:`merge`."""
        return (
            cls.merge(shared, option_dict("base_options", base_options)),
            cls.merge(shared, option_dict("assistant_options", assistant_options)),
        )

    def __post_init__(self) -> None:
        read_fields(self)
        if self.n_ctx == 1:
            raise OptionError("n_ctx is 1; it must be from 2 to 268435456, or 0 for the model's own context length")
        for part in self._shares():
            if not 0.0 <= real("tensor_split", part) <= MAX_FLOAT:
                raise OptionError(f"tensor_split holds {shown(part)}; each share must be a finite number, 0 or more")
        if self.servers() and self.n_gpu_layers == 0:
            raise OptionError("n_gpu_layers is 0, so rpc_servers would hold nothing; leave out one of them")
        self.adapters()

    def servers(self) -> list[str]:
        """``rpc_servers`` as a list."""
        given = () if self.rpc_servers is None else self.rpc_servers
        given = given.split(",") if isinstance(given, str) else given
        if isinstance(given, bytes) or not isinstance(given, Sequence):
            raise OptionError(f"rpc_servers is {shown(given)}; give a list of HOST:PORT")
        for i, server in enumerate(given):
            address = _ADDRESS.fullmatch(server) if isinstance(server, str) else None
            if address is None or not 1 <= int(address[1]) <= _MAX_PORT:
                raise OptionError(
                    f"rpc_servers holds {shown(server)}; give HOST:PORT with a name or an IPv4 address and a port from "
                    f"1 to {_MAX_PORT}, such as 10.0.0.2:50052"
                )
            if server in given[:i]:
                raise OptionError(f"rpc_servers holds {shown(server)} twice; name each server once")
        return list(given)

    def _shares(self) -> list[Any]:
        """``tensor_split`` as a list; it may be given as an array."""
        given = () if self.tensor_split is None else self.tensor_split
        if isinstance(given, np.ndarray):
            given = given.tolist()
        if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
            raise OptionError(f"tensor_split is {shown(given)}; give a list with one share for each GPU")
        return list(given)

    def adapters(self) -> list[tuple[str, float]]:
        """``lora`` as a list of (path, scale)."""
        if isinstance(self.lora, (str, os.PathLike)):
            return [(os.fspath(self.lora), 1.0)]
        if not isinstance(self.lora, Sequence):
            raise OptionError(f"lora is {shown(self.lora)}; give a path, or a list of paths or (path, scale) tuples")
        pairs = []
        for entry in self.lora:
            if isinstance(entry, (str, os.PathLike)):
                pairs.append((os.fspath(entry), 1.0))
            elif isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], (str, os.PathLike)):
                scale = real("the scale of a LoRA adapter", entry[1])
                if abs(scale) > MAX_FLOAT:
                    raise OptionError(f"the scale of a LoRA adapter is {shown(entry[1])}; it must be a finite number")
                pairs.append((os.fspath(entry[0]), scale))
            else:
                raise OptionError(f"lora holds {shown(entry)}; each entry must be a path or a (path, scale) tuple")
        return pairs

    def context_size(self, trained: int) -> int:
        """``n_ctx`` for a model that was trained with ``trained`` tokens (0: its file does not say)."""
        if self.n_ctx is None:
            return min(DEFAULT_N_CTX, trained) if trained else DEFAULT_N_CTX
        return self.n_ctx or trained or DEFAULT_N_CTX

    def pass_size(self) -> int:
        """``n_ubatch``, or the value that None stands for."""
        if self.n_ubatch is not None:
            return self.n_ubatch
        return LONG_N_UBATCH if self._uses_gpu() else CPU_N_UBATCH

    def uses_flash_attention(self) -> bool:
        """``flash_attn``, or the value that None stands for on a device that supports it."""
        if self.flash_attn is not None:
            return self.flash_attn
        # It reads f32 as f16; a quantised V cache cannot be read otherwise.
        return "f32" not in (self.type_k, self.type_v) or self.type_v not in ("f32", "f16", "bf16")

    def maps_file(self, *, quantised: bool) -> bool:
        """``use_mmap``, or the value that None stands for with these weights."""
        if self.use_mmap is not None:
            return self.use_mmap
        return not quantised or not self.repack or self.batch_invariant or self._uses_gpu()

    def _uses_gpu(self) -> bool:
        return self.n_gpu_layers != 0 and (bool(self.servers()) or any(device["gpu"] for device in _core.devices()))

    def to_core(
        self,
        path: str,
        n_ctx: int,
        n_threads: int,
        adapters: list[tuple[str, float]],
        *,
        quantised: bool = False,
        n_sequences: int = 1,
        n_outputs: int = 1,
    ) -> _core.ModelOptions:
        """The extension's form. ``n_ctx`` and ``n_threads`` replace values that were left open."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        flash_attn = self.uses_flash_attention()
        own_threads = self.n_threads or n_threads
        values |= {
            "path": to_native(path),
            "n_ctx": n_ctx,
            "n_ubatch": self.pass_size(),
            "n_threads": own_threads,
            "n_threads_batch": self.n_threads_batch or own_threads,
            "split_mode": _SPLIT_MODES[self.split_mode],
            "tensor_split": [float(part) for part in self._shares()],
            "rpc_servers": self.servers(),
            "flash_attn": -1 if flash_attn and self.flash_attn is None else int(flash_attn),  # -1: where supported
            "type_k": KV_TYPES[self.type_k],
            "type_v": KV_TYPES[self.type_v],
            "use_mmap": self.maps_file(quantised=quantised),
            "lora": [(to_native(adapter), scale, adapter_digest(adapter)) for adapter, scale in adapters],
            "n_sequences": n_sequences,
            "n_outputs": min(n_outputs, self.n_batch),
        }
        values = {name: value for name, value in values.items() if name not in REMOTE_OPTIONS}
        return _core.ModelOptions(values)
