"""What an adapter costs, and what merging it costs: nats and tokens per second.

    python benchmarks/merged.py BASE.gguf ADAPTER.gguf SCORES [--types q4_k_m q8_0] [--threads 1]

SCORES is a folder of ``colm score``; its texts should not be those that the adapter was trained on. Each arm (the base,
the base with its adapter, the merged files) reads a text and then writes, in turns, in one process. The result has the
medians of the times and of the ratios to the base within a round; and the mean of -log P of the scored tokens. With one
thread, times are those of the processor, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from bare import decode

from colm_cpp import tune
from colm_cpp.learn.scores import Scores
from colm_cpp.machine.cores import usable_cores
from colm_cpp.tune.data import TuneText, read_texts


class Arm:
    """A model, perhaps with an adapter."""

    def __init__(self, name: str, path: str, n_threads: int, lora: str | None = None) -> None:
        self.name, self.bytes = name, Path(path).stat().st_size
        self._clock = time.process_time if n_threads == 1 else time.perf_counter
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = n_threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        if lora is not None:
            adapter = llama_cpp.llama_adapter_lora_init(self._model, lora.encode())
            adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter), (llama_cpp.ctypes.c_float * 1)(1.0)
            if llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, scales) != 0:
                raise SystemExit(f"llama.cpp does not accept {lora}")

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)

    def logprobs(self, text: TuneText) -> npt.NDArray[np.float64]:
        """log P of a text's scored tokens."""
        self._clear()
        before = set(text.positions - 1)
        decode(self._context, self._batch, [(int(t), i, 0, i in before) for i, t in enumerate(text.tokens)])
        values = []
        for position in text.positions:
            row = llama_cpp.llama_get_logits_ith(self._context, int(position - 1))
            logits = np.ctypeslib.as_array(row, (self._n_vocab,)).astype(np.float64)
            top = logits.max()
            values.append(logits[text.tokens[position]] - top - np.log(np.exp(logits - top).sum()))
        return np.array(values)

    def times(self, text: TuneText, n_read: int, n_tokens: int) -> tuple[float, float]:
        """Seconds for a token that is read, and for one that is written."""
        self._clear()
        tokens = [int(token) for token in text.tokens]
        start = self._clock()
        decode(self._context, self._batch, [(t, i, 0, i == n_read - 1) for i, t in enumerate(tokens[:n_read])])
        middle = self._clock()
        for i, token in enumerate(tokens[:n_tokens]):
            decode(self._context, self._batch, [(token, n_read + i, 0, True)])
        return (middle - start) / n_read, (self._clock() - middle) / n_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("scores")
    parser.add_argument("--types", nargs="+", default=["q4_k_m", "q8_0"], choices=tune.FILE_TYPES)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--read", type=int, default=96, help="tokens that are read in each turn")
    parser.add_argument("--tokens", type=int, default=24, help="tokens that are written in each turn")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the merged files there; default: a temporary folder")
    given = parser.parse_args()
    llama_cpp.llama_log_set(QUIET, llama_cpp.ctypes.c_void_p(0))
    _, held_out = read_texts([Scores(given.scores)], held_out=0.1, seed=0)
    texts = [text for text in held_out if given.read <= len(text.tokens) <= 500][: given.texts]
    with tempfile.TemporaryDirectory() as temporary:
        arms = [
            Arm("base", given.base, given.threads),
            Arm("base + adapter", given.base, given.threads, given.adapter),
        ]
        for type in given.types:
            file = (given.folder or Path(temporary)) / f"merged-{type}.gguf"
            if not file.exists():
                tune.merge(given.base, given.adapter, file, type)
            arms.append(Arm(f"merged {type}", str(file), given.threads))
        times: dict[str, list[tuple[float, float]]] = {arm.name: [] for arm in arms}
        for turn in range(given.rounds + 1):  # the first round warms up
            for arm in arms if turn % 2 else arms[::-1]:
                taken = arm.times(texts[turn % len(texts)], given.read, given.tokens)
                if turn:
                    times[arm.name].append(taken)
        logprobs = {arm.name: np.concatenate([arm.logprobs(text) for text in texts]) for arm in arms}
        for arm in arms:
            print(json.dumps(_row(arm, times, logprobs)), flush=True)


@llama_cpp.llama_log_callback
def QUIET(level: int, text: bytes, data: Any) -> None:
    """Prints nothing."""


def _row(arm: Arm, times: dict[str, list[tuple[float, float]]], logprobs: dict[str, Any]) -> dict[str, Any]:
    both = logprobs["base + adapter"]
    ratios = [[base[i] / own[i] for base, own in zip(times["base"], times[arm.name], strict=True)] for i in (0, 1)]
    read, written = (1 / statistics.median(t[i] for t in times[arm.name]) for i in (0, 1))
    return {
        "arm": arm.name,
        "MB": round(arm.bytes / 1e6),
        "read, tokens/s": round(read, 1),
        "written, tokens/s": round(written, 1),
        "speed of reading": round(statistics.median(ratios[0]), 2),
        "speed of writing": round(statistics.median(ratios[1]), 2),
        "nats": round(-float(logprobs[arm.name].mean()), 4),
        "from base + adapter, nats": round(float(np.abs(logprobs[arm.name] - both).mean()), 4),
        "tokens": len(both),
    }


if __name__ == "__main__":
    main()
