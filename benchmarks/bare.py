"""A batch in llama.cpp, with nothing around it: what benchmarks compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llama_cpp

__all__ = ["Slot", "decode"]

Slot = tuple[int, int, int, bool]
"""Token, position, sequence, and whether its output is wanted."""


def decode(context: Any, batch: Any, slots: Sequence[Slot], *, hidden: bool = False) -> None:
    """Computes ``slots`` in one llama_decode and waits for it; ``batch`` is overwritten."""
    for i, (token, position, sequence, output) in enumerate(slots):
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = output
    batch.n_tokens = len(slots)
    llama_cpp.llama_set_embeddings(context, hidden)
    if llama_cpp.llama_decode(context, batch) != 0:
        raise RuntimeError("llama_decode failed")
    llama_cpp.llama_synchronize(context)
