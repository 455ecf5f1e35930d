"""Fits a model to a stream of texts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from model import Llama
from torch import Tensor
from torch.nn import functional as F
from vocabulary import Vocabulary

__all__ = ["fit", "rows"]

_WARM_UP = 200
_WEIGHT_DECAY = 0.05


def rows(vocabulary: Vocabulary, texts: Iterator[str], n_tokens: int, n_rows: int) -> Iterator[Tensor]:
    """Batches ``[n_rows, n_tokens]`` of texts that follow each other, each between ends of text."""
    waiting: list[int] = []
    need = n_rows * n_tokens
    for text in texts:
        waiting.append(vocabulary.end)
        waiting += vocabulary.encode(text)
        if len(waiting) >= need:
            yield torch.tensor(waiting[:need]).view(n_rows, n_tokens)
            waiting.clear()  # what is left over begins in the middle of a text


def fit(
    model: Llama, batches: Iterator[Tensor], n_steps: int, learning_rate: float, report: Callable[[str], None]
) -> None:
    """AdamW with a warm-up and a cosine, every token counting alike."""
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / _WARM_UP, 0.5 * (1 + math.cos(math.pi * step / n_steps)) + 0.01),
    )
    began, total, n_seen = time.monotonic(), 0.0, 0
    model.train()
    for step in range(1, n_steps + 1):
        ids = next(batches)
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        total, n_seen = total + loss.item(), n_seen + ids.numel()
        if step % 200 == 0 or step == n_steps:
            seconds = time.monotonic() - began
            mean = total / (step % 200 or 200)
            report(f"step {step} of {n_steps}: loss {mean:.4f}, {n_seen / seconds:.0f} tokens/s, {seconds:.0f} s")
            total = 0.0
    model.eval()
