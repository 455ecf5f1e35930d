"""LoRA adapters of tiny models."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
from tiny_models import finish

RANK, N_EMBD = 4, 32


def write_adapter(path: Path, seed: int = 0) -> Path:
    """An adapter of the first layer's output projection, strong enough to change a text."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(RANK))
    name = "blk.0.attn_output.weight"
    writer.add_tensor(f"{name}.lora_a", rng.normal(0, 1, (RANK, N_EMBD)).astype(np.float32))
    writer.add_tensor(f"{name}.lora_b", rng.normal(0, 1, (N_EMBD, RANK)).astype(np.float32))
    finish(writer)
    return path
