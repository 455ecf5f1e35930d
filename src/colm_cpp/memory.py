"""How much memory a model will take, estimated from its file's header before it is loaded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil

from . import _core
from .errors import NotEnoughMemory
from .paths import to_native

if TYPE_CHECKING:
    from .options import LoadOptions

__all__ = ["MemoryEstimate", "check_memory", "estimate"]

# Bytes per value of a KV cache, block scales included.
_KV_BYTES = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q4_0": 18 / 32,
    "q4_1": 20 / 32,
    "q5_0": 22 / 32,
    "q5_1": 24 / 32,
    "iq4_nl": 18 / 32,
}
# Context, scheduler and graph of an empty model.
_FIXED = 16 * 2**20


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes that one model is expected to take.

    Attributes:
        weights: the tensors of the file (of all its parts).
        kv_cache: keys and values of ``n_ctx`` tokens, or a recurrent model's state.
        compute: activations of one pass of the graph.
        on_gpu: share of weights and cache that goes to the GPU, 0 to 1.
    """

    weights: int
    kv_cache: int
    compute: int
    on_gpu: float

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.compute


def _parts(path: str) -> list[str]:
    """All files of a split model, else the one file."""
    match = re.search(r"-(\d{5})-of-(\d{5})\.gguf$", path)
    if match is None:
        return [path]
    stem, count = path[: match.start()], int(match.group(2))
    return [f"{stem}-{i:05d}-of-{count:05d}.gguf" for i in range(1, count + 1)]


def estimate(path: str, n_ctx: int, options: LoadOptions, n_outputs: int = 1) -> MemoryEstimate:
    """Estimates one model from its header; ``n_outputs`` is how many rows of logits a batch may have.

    Raises:
        LoadError: the file is missing or not GGUF.
    """
    info = _core.inspect_gguf(to_native(path))
    weights = info["tensor_bytes"]
    for part in _parts(path):
        if os.path.abspath(part) != os.path.abspath(path) and os.path.exists(part):
            weights += _core.inspect_gguf(to_native(part))["tensor_bytes"]

    metadata: dict[str, Any] = info["metadata"]
    arch = metadata.get("general.architecture", "")

    def number(key: str, default: int) -> int:
        value = metadata.get(f"{arch}.{key}", default)
        return value if isinstance(value, int) and value >= 0 else default

    n_layer = number("block_count", 0)
    n_embd = number("embedding_length", 0)
    n_head = max(1, number("attention.head_count", 1))
    key_length = number("attention.key_length", n_embd // n_head)
    value_length = number("attention.value_length", n_embd // n_head)
    # Some models have another number of KV heads in each layer: an array.
    per_layer = info["small_int_arrays"].get(f"{arch}.attention.head_count_kv")
    has_attention = f"{arch}.attention.head_count" in metadata or per_layer is not None
    n_kv_heads = sum(per_layer) if per_layer else n_layer * number("attention.head_count_kv", n_head) * has_attention
    per_token = n_kv_heads * (key_length * _KV_BYTES[options.type_k] + value_length * _KV_BYTES[options.type_v])
    inner, state, conv = number("ssm.inner_size", 0), number("ssm.state_size", 0), number("ssm.conv_kernel", 0)
    recurrent = 4 * n_layer * (inner * state + inner * max(conv - 1, 0))

    n_ff = number("feed_forward_length", 4 * n_embd)
    n_vocab = info["array_lengths"].get("tokenizer.ggml.tokens", 0)
    n_ubatch = min(options.pass_size(), options.n_batch, n_ctx)
    compute = 4 * n_ubatch * (6 * n_embd + 3 * n_ff) + 8 * n_vocab * n_outputs + _FIXED

    layers_on_gpu = n_layer + 1 if options.n_gpu_layers < 0 else min(options.n_gpu_layers, n_layer + 1)
    on_gpu = layers_on_gpu / (n_layer + 1)
    return MemoryEstimate(int(weights), int(per_token * n_ctx + recurrent), compute, on_gpu)


def _gigabytes(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e8 else f"{n / 1e6:.0f} MB"


def check_memory(base: MemoryEstimate, assistant: MemoryEstimate) -> None:
    """Compares the estimate of both with what is free now, in RAM and on the GPUs.

    Raises:
        NotEnoughMemory: with both numbers and what would make it smaller.
    """
    gpus = [device for device in _core.devices() if device["gpu"]]
    on_gpu = sum(m.on_gpu * (m.weights + m.kv_cache) for m in (base, assistant)) if gpus else 0.0
    in_ram = base.total + assistant.total - on_gpu
    free_gpu = sum(device["free_bytes"] for device in gpus)
    for needed, available, place, advice in (
        (in_ram, psutil.virtual_memory().available, "of memory", ""),
        (on_gpu, free_gpu, "of GPU memory", "fewer n_gpu_layers, "),
    ):
        if needed > available:
            error = NotEnoughMemory(
                f"loading this pair is estimated to need {_gigabytes(needed)} {place} "
                f"(base {_gigabytes(base.total)}, assistant {_gigabytes(assistant.total)} in all) and "
                f"{_gigabytes(available)} is free; {advice}a smaller n_ctx, a smaller KV type or smaller files need "
                "less, and check_memory=False loads all the same"
            )
            error.needed, error.available = int(needed), int(available)
            raise error
