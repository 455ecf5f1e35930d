"""Speed and memory of tuning a base, beside peft's plain loop on the same batches.

    python benchmarks/tune.py BASE.gguf SCORES [--texts 6] [--rounds 3] [--dtype auto]

SCORES is a folder of ``colm score``. The plain loop is ``model(input_ids, labels=...).loss.backward()`` on a peft
model, with labels at the tokens that are scored. First each way does one step for its peak memory. Then both take turns
over the same passes. The last line has medians of tokens per second, and of the ratio within a round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from colm_cpp.learn.scores import Scores
from colm_cpp.options.tuning import TuneOptions
from colm_cpp.tune._libraries import libraries
from colm_cpp.tune.base import agreement, load_base, with_adapter
from colm_cpp.tune.data import TuneText, passes, read_texts
from colm_cpp.tune.loop import Loop
from colm_cpp.tune.loss import Batch
from colm_cpp.tune.tuning import _dtype


class Setting:
    """A base with a fresh adapter, and the texts of a step."""

    def __init__(self, base: str, scores: str, n_texts: int, dtype: str) -> None:
        found = libraries()
        training, held_out, _ = read_texts([Scores(scores)], held_out=0.1, seed=0)
        self.texts, self.held_out = training[:n_texts], held_out[:1]
        self.options = TuneOptions(batch_texts=n_texts, epochs=100)
        model = load_base(found, base, torch.float32)
        self.agreement = agreement(found, model, self.held_out, 0.25)
        model = model.to(dtype=_dtype(torch, dtype))
        torch.manual_seed(0)
        self.model = with_adapter(found, model, self.options.rank, self.options.alpha, checkpointing=False)
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.head = torch.nn.Linear(model.config.hidden_size, 1)
        self.n_tokens = sum(len(text.tokens) for text in self.texts)

    def loop(self, folder: str) -> Loop:
        """The loop of ``colm tune``."""
        return Loop(
            torch, self.model, self.head, self.texts, self.held_out, self.options,
            features=(), top_k=0, facts={}, folder=Path(folder),
        )  # fmt: skip

    def checkpointing(self, on: bool) -> None:
        """Whether activations are computed again in the backward pass, as ``--checkpointing`` has it."""
        inner = self.model.get_base_model()
        if on:
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            inner.enable_input_require_grads()
        else:
            inner.gradient_checkpointing_disable()
            inner.disable_input_require_grads()

    def plain_step(self, optimizer: Any) -> None:
        """A step as the documentation of peft has it."""
        self._casting(True)
        self.model.train()
        optimizer.zero_grad(set_to_none=True)
        groups = passes(self.texts, self.options.pass_tokens)
        for group in groups:
            ids, labels, mask = plain_batch(group)
            (self.model(input_ids=ids, attention_mask=mask, labels=labels).loss / len(groups)).backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        self._casting(False)

    def _casting(self, on: bool) -> None:
        """Whether each layer of the adapter casts its input to float32: peft's own way."""
        for module in self.model.modules():
            if hasattr(module, "lora_A"):
                module.cast_input_dtype_enabled = on

    def optimizer(self) -> Any:
        """Of the plain loop."""
        return torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], lr=2e-4)


def plain_batch(texts: list[TuneText]) -> tuple[Any, Any, Any]:
    """Ids, labels and mask of one pass."""
    ids = Batch(torch, texts, "cpu").ids
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for row, text in enumerate(texts):
        mask[row, : len(text.tokens)] = 1
        labels[row, text.positions] = ids[row, text.positions]
    return ids, labels, mask


def seconds(work: Callable[[], object]) -> float:
    """How long ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak(start: bool = False) -> float | None:
    """The most memory in GiB that this process had since the last start; None where the system does not say."""
    try:
        if start:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return round(kib / 2**20, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("scores")
    parser.add_argument("--texts", type=int, default=6, help="of a step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()

    def show(**values: Any) -> None:
        print(json.dumps(values), flush=True)

    setting = Setting(given.base, given.scores, given.texts, given.dtype)
    show(what="load and compare", peak_gib=peak(), nats=round(setting.agreement.logprob, 4))
    with tempfile.TemporaryDirectory() as folder:
        loop, optimizer = setting.loop(folder), setting.optimizer()
        ways: dict[str, Callable[[], object]] = {
            "tune": lambda: loop._step(setting.texts),
            "peft": lambda: setting.plain_step(optimizer),
        }
        # Memory first, from the way that needs least; this also warms up.
        setting.checkpointing(True)
        for name, way in {"tune, checkpointing": ways["tune"], **ways}.items():
            if name == "tune":
                setting.checkpointing(False)
            peak(start=True)
            taken = seconds(way)
            show(what=name, dtype=setting.dtype, peak_gib=peak(), tokens=setting.n_tokens, seconds=round(taken, 1))
        times: list[dict[str, float]] = []
        for turn in range(given.rounds):
            order = list(ways) if turn % 2 else list(ways)[::-1]
            times.append({name: seconds(ways[name]) for name in order})
            show(round=turn, **{name: round(taken, 2) for name, taken in times[-1].items()})
    if times:
        show(
            **{
                f"{name}, tokens/s": round(setting.n_tokens / statistics.median(t[name] for t in times), 1)
                for name in ways
            },
            ratio=round(statistics.median(t["peft"] / t["tune"] for t in times), 2),
        )


if __name__ == "__main__":
    main()
