"""How far batches round a model's logits from what single tokens get, by how it is loaded, and what each way costs.

    python benchmarks/rounding.py MODEL.gguf [--depth 300] [--threads 2]

Reads 24 tokens of a text one by one, and again in batches; prints the largest difference of any logit and, in brackets,
at how many of the 24 positions another token is the likeliest. 0 means the same bits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt
from bare import decode

from colm_cpp import _core
from colm_cpp.machine.cores import usable_cores

F16, BF16 = 1, 30  # ggml_type
SIZES = (2, 3, 4, 6, 8, 12)
N_TOKENS = 24
TIMED = (1, 4, 8)
REPEATS = 4
Logits = npt.NDArray[np.float32]


class Reader:
    """A model, loaded one way."""

    def __init__(self, path: str, tokens: list[int], *, repack: bool, kv: int, n_threads: int) -> None:
        params = llama_cpp.llama_model_default_params()
        params.use_extra_bufts = repack
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = 1024
        options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = n_threads
        options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        options.n_outputs_max = N_TOKENS
        options.type_k = options.type_v = kv
        self._context = llama_cpp.llama_init_from_model(self._model, options)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._tokens = tokens

    def read(self, begin: int, end: int, *, outputs: bool) -> list[Logits]:
        """The tokens from ``begin`` on, and the logits behind each."""
        slots = [(self._tokens[position], position, 0, outputs) for position in range(begin, end)]
        decode(self._context, self._batch, slots)
        if not outputs:
            return []
        return [
            np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, i), shape=(self._n_vocab,)).copy()
            for i in range(end - begin)
        ]

    def in_batches(self, depth: int, size: int) -> list[Logits]:
        """The logits behind each of N_TOKENS tokens, read ``size`` at a time after ``depth`` others."""
        llama_cpp.llama_memory_clear(self._memory, True)
        self.read(0, depth, outputs=False)
        found: list[Logits] = []
        for begin in range(depth, depth + N_TOKENS, size):
            found += self.read(begin, begin + size, outputs=True)
        return found

    def milliseconds(self, depth: int, size: int) -> float:
        """Of one batch, the best of some."""
        best = float("inf")
        for _ in range(REPEATS):
            llama_cpp.llama_memory_seq_rm(self._memory, 0, depth, -1)
            start = time.perf_counter()
            self.read(depth, depth + size, outputs=False)
            best = min(best, time.perf_counter() - start)
        return 1000 * best

    def close(self) -> None:
        """Frees it."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--depth", type=int, default=300, help="tokens before those that are compared")
    parser.add_argument("--threads", type=int, default=0, help="0: the physical cores")
    args = parser.parse_args()
    _core.init_backend()  # keeps llama.cpp's log to itself
    tokens = _tokens(args.model, args.depth + N_TOKENS)
    print("| weights, cache | " + " | ".join(f"{size} at a time" for size in SIZES) + " | ms of 1, 4, 8 tokens |")
    print("|---|" + "---|" * (len(SIZES) + 1))
    for repack in (True, False):
        for name, kv in (("f16", F16), ("bf16", BF16)):
            reader = Reader(args.model, tokens, repack=repack, kv=kv, n_threads=args.threads or usable_cores())
            alone = reader.in_batches(args.depth, 1)
            cells = [_difference(alone, reader.in_batches(args.depth, size)) for size in SIZES]
            times = " ".join(f"{reader.milliseconds(args.depth, size):.0f}" for size in TIMED)
            print(
                f"| {'repacked' if repack else 'as in the file'}, {name} | {' | '.join(cells)} | {times} |", flush=True
            )
            reader.close()


def _tokens(path: str, n: int) -> list[int]:
    llama: Any = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    text = Path(__file__).parents[1].joinpath("docs", "architecture.md").read_bytes()
    return list(llama.tokenize(text, add_bos=False))[:n]


def _difference(alone: list[Logits], other: list[Logits]) -> str:
    largest = max(float(np.abs(a - b).max()) for a, b in zip(alone, other, strict=True))
    flips = sum(int(a.argmax() != b.argmax()) for a, b in zip(alone, other, strict=True))
    return "0" if largest == 0 else f"{largest:.2f} ({flips})"


if __name__ == "__main__":
    main()
