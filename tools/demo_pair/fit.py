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

_WARM_UP = 100
_WEIGHT_DECAY = 0.05
_HAS_BF16 = torch.cpu._is_avx512_bf16_supported()  # elsewhere it would be slower, not faster


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
    model: Llama,
    batches: Iterator[Tensor],
    n_steps: int,
    learning_rate: float,
    report: Callable[[str], None],
    *,
    bf16: bool = _HAS_BF16,
    counts: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Muon for the layers' matrices, AdamW for the rest, with a warm-up and a cosine.

    ``counts`` says of ids ``[n_rows, n_tokens]`` which of them count. None: every token counts alike.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in model.layers.parameters() if p.requires_grad and p.dim() == 2]
    known = {id(p) for p in matrices}
    others = [p for p in trained if id(p) not in known]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=learning_rate, weight_decay=_WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw")
    ]
    if others:  # of an adapter, there are none
        optimisers.append(torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0))

    def share(step: int) -> float:
        return min((step + 1) / _WARM_UP, 0.5 * (1 + math.cos(math.pi * step / n_steps)) + 0.01)

    schedules = [torch.optim.lr_scheduler.LambdaLR(optimiser, share) for optimiser in optimisers]
    began, total, n_seen = time.monotonic(), 0.0, 0
    model.train()
    for step in range(1, n_steps + 1):
        ids = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(ids[:, :-1])
        logits, wanted = logits.float().flatten(0, 1), ids[:, 1:].flatten()
        if counts is not None:
            chosen = counts(ids)[:, 1:].flatten()
            logits, wanted = logits[chosen], wanted[chosen]
        loss = F.cross_entropy(logits, wanted)
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimiser, schedule in zip(optimisers, schedules, strict=True):
            optimiser.step()
            schedule.step()
        total, n_seen = total + loss.item(), n_seen + ids.numel()
        if step % 100 == 0 or step == n_steps:
            seconds = time.monotonic() - began
            mean = total / (step % 100 or 100)
            report(f"step {step} of {n_steps}: loss {mean:.4f}, {n_seen / seconds:.0f} tokens/s, {seconds:.0f} s")
            total = 0.0
    model.eval()
