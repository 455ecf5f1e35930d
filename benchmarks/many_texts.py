"""Several texts at once: how much faster than one after another, beside what bare decodes allow.

    python benchmarks/many_texts.py BASE.gguf ASSISTANT.gguf [--head HEAD] [--texts 8] [--tokens 64] [--rounds 5]

Texts begin with the same prompt, which is read once, and part because they are sampled with seeds of their own. What
reading the prompt takes is measured by texts of two tokens and taken off.

The bare side times single decodes of llama.cpp: one token of one sequence, one of each of several sequences, and the
assistant's batches. Of the base alone the speed-up it allows is the quotient. Of the pair it is that of the decodes
which the two ways of writing made, at their bare prices.

Where weights lie in memory changes a decode by some percent. So in each round the pair and llama.cpp have a fresh
process each, and a process compares only what it measured on its own weights.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from bare import Slot, decode
from fresh import Spread, in_turns

import colm_cpp as colm
from colm_cpp.machine.cores import usable_cores
from colm_cpp.sources.names import TRAINING_FREE_HEADS

PROMPT = "Question: A shop sells pens and books. Write a word problem about it and solve it step by step.\nAnswer:"
DEPTH = 64  # tokens that a sequence holds where a decode is timed
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
REPEATS = 3


class Bare:
    """One model in llama.cpp, with a context for one sequence and another for several."""

    def __init__(self, path: str, n_sequences: int, n_threads: int, n_gpu_layers: int) -> None:
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = n_gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        self._contexts = {n: self._context(n, n_threads) for n in (1, n_sequences)}
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)

    def _context(self, n_sequences: int, n_threads: int) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 512 * n_sequences
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = n_sequences
        params.kv_unified = False
        params.n_outputs_max = max(n_sequences, 16)
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        return llama_cpp.llama_init_from_model(self._model, params)

    def seconds(self, n_sequences: int, n_each: int, *, hidden: bool = False) -> float:
        """Of a decode of some tokens of each sequence, the last one's output with it; the best of some."""
        context = self._contexts[n_sequences]
        memory = llama_cpp.llama_get_memory(context)
        llama_cpp.llama_memory_clear(memory, False)
        for sequence in range(n_sequences):
            decode(context, self._batch, [_slot(sequence, p, False) for p in range(DEPTH)])
        slots = [_slot(sequence, DEPTH + k, k + 1 == n_each) for sequence in range(n_sequences) for k in range(n_each)]
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            decode(context, self._batch, slots, hidden=hidden)
            times.append(time.perf_counter() - start)
            for sequence in range(n_sequences):
                llama_cpp.llama_memory_seq_rm(memory, sequence, DEPTH, -1)
        return min(times)


def _slot(sequence: int, position: int, output: bool) -> Slot:
    return 100 + 7 * position, position, sequence, output


@dataclass
class Written:
    """Some texts, written one way."""

    seconds: float
    n_tokens: int
    n_deferred: int
    base_decodes: int
    assistant_decodes: int
    assistant_tokens: int

    def __sub__(self, other: Written) -> Written:
        return Written(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


def one_by_one(pair: colm.Pair, n_texts: int, options: dict[str, Any]) -> Written:
    """The texts, one after another."""
    total = Written(0.0, 0, 0, 0, 0, 0)
    for number in range(n_texts):
        pair.forget()
        start = time.perf_counter()
        stream = pair.stream(PROMPT, **{**options, "seed": 1 + number})
        out = stream.completion()
        total.seconds += time.perf_counter() - start
        calls = [call for call in stream.calls if call[0] == "assistant"]
        total.n_tokens += len(out.tokens)
        total.n_deferred += sum(token.source == "assistant" for token in out.tokens)
        total.base_decodes += len(stream.calls) - len(calls)
        total.assistant_decodes += len(calls)
        total.assistant_tokens += sum(call[2] for call in calls)
    return total


def at_once(pair: colm.Pair, n_texts: int, options: dict[str, Any]) -> Written:
    """All of them together."""
    with pair.stream_batch([PROMPT] * n_texts, n_parallel=n_texts, **{**options, "seed": 1}) as stream:
        start = time.perf_counter()
        outs = [out for _, out in stream if isinstance(out, colm.Completion)]
        seconds = time.perf_counter() - start
        counts = stream.counts
    return Written(
        seconds,
        sum(len(out.tokens) for out in outs),
        sum(token.source == "assistant" for out in outs for token in out.tokens),
        counts["base_decodes"],
        counts["assistant_decodes"],
        sum(out.stats.assistant_tokens_read for out in outs),
    )


def _ways(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    sampled: dict[str, Any] = {"temperature": 0.8, "max_tokens": args.tokens}
    return {
        "base alone": {**sampled, "head": "never"},
        f"both, {args.rate:.0%}": {**sampled, "head": args.head, "defer_rate": args.rate},
    }


def _pair(args: argparse.Namespace) -> dict[str, Any]:
    """Both ways of writing, by what is written."""
    found = {}
    given: dict[str, Any] = {"n_threads": args.threads, "n_gpu_layers": args.n_gpu_layers}
    with colm.load(args.base, args.assistant, n_ctx=512, **given) as pair:
        for way, options in _ways(args).items():
            both = []
            for write in (one_by_one, at_once):
                short = {**options, "max_tokens": 2}
                write(pair, args.texts, short)  # not counted: what a first call makes
                prompt = write(pair, args.texts, short)
                both.append(vars(write(pair, args.texts, options) - prompt))
            found[way] = both
    return found


def _bare(args: argparse.Namespace) -> list[list[Any]]:
    """Seconds of decodes: model, hidden state or sequences, size, seconds."""
    llama_cpp.llama_log_set(_no_log, ctypes.c_void_p(0))
    files = (args.base, args.assistant)
    base, assistant = (Bare(path, args.texts, args.threads, args.n_gpu_layers) for path in files)
    prices: list[list[Any]] = []
    for hidden in (False, True):
        prices += [["base", hidden, n, base.seconds(n, 1, hidden=hidden)] for n in (1, args.texts)]
    prices += [["assistant", 1, size, assistant.seconds(1, size)] for size in SIZES]
    prices += [["assistant", args.texts, args.texts * n, assistant.seconds(args.texts, n)] for n in (1, 2, 4)]
    return prices


@llama_cpp.llama_log_callback
def _no_log(_level: int, _text: bytes, _data: Any) -> None:
    """Of llama.cpp's log, nothing."""


WORKERS = {"pair": _pair, "bare": _bare}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("--head", default="qwen2.5-coder-0.5b-1.5b")
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="processes of the pair, and of llama.cpp")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: the physical cores")
    parser.add_argument("--n-gpu-layers", type=int, default=0)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(WORKERS[args.worker](args)))
        return
    given = [args.base, args.assistant]
    for name in ("head", "rate", "texts", "tokens", "threads", "n_gpu_layers"):
        given += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    print(
        f"{Path(args.base).name}, {Path(args.assistant).name}, {args.threads} threads, medians of {args.rounds} rounds"
    )
    rounds = in_turns(list(WORKERS), given, args.rounds)
    found = {way: [tuple(Written(**written) for written in one["pair"][way]) for one in rounds] for way in _ways(args)}
    prices = [{(model, what, size): seconds for model, what, size, seconds in one["bare"]} for one in rounds]
    _print(found, prices, args.texts, hidden=args.head not in TRAINING_FREE_HEADS)


def _assistant(price: dict[Any, float], n_sequences: int, size: float) -> float:
    """Seconds of a batch of ``size`` tokens, between the sizes that were timed."""
    sizes = sorted(key[2] for key in price if key[:2] == ("assistant", n_sequences))
    return float(np.interp(size, sizes, [price["assistant", n_sequences, s] for s in sizes]))


def _bare_seconds(written: Written, price: dict[Any, float], n_sequences: int, *, hidden: bool) -> float:
    seconds = written.base_decodes * price["base", hidden, n_sequences]
    if written.assistant_decodes:
        size = written.assistant_tokens / written.assistant_decodes
        seconds += written.assistant_decodes * _assistant(price, n_sequences, size)
    return seconds


def _print(
    found: dict[str, list[tuple[Written, ...]]],
    prices: list[dict[Any, float]],
    n: int,
    *,
    hidden: bool,
) -> None:
    print(f"| | deferred | one: tokens/s | {n} at once: tokens/s | speed-up | bare speed-up | of it (least to most) |")
    print("|---|---|---|---|---|---|---|")
    for way, texts in found.items():
        looks = hidden and way != "base alone"
        gains, allowed, shares = [], [], []
        for (one, many), price in zip(texts, prices, strict=True):
            gain = (many.n_tokens / many.seconds) / (one.n_tokens / one.seconds)
            single = _bare_seconds(one, price, 1, hidden=looks) / one.n_tokens
            several = _bare_seconds(many, price, n, hidden=looks) / many.n_tokens
            gains.append(gain)
            allowed.append(single / several)
            shares.append(gain * several / single)
        ones, manys = zip(*texts, strict=True)
        deferred = sum(w.n_deferred for w in manys) / sum(w.n_tokens for w in manys)
        print(
            f"| {way} | {deferred:.0%} | {statistics.median(w.n_tokens / w.seconds for w in ones):.1f} "
            f"| {statistics.median(w.n_tokens / w.seconds for w in manys):.1f} | {statistics.median(gains):.2f} "
            f"| {statistics.median(allowed):.2f} "
            f"| {Spread(shares).show(2)} |"
        )
    print("| milliseconds of a bare decode | " + " | ".join(_named(prices, key) for key in prices[0]) + " |")


def _named(prices: list[dict[Any, float]], key: tuple[Any, ...]) -> str:
    milliseconds = 1000 * statistics.median(price[key] for price in prices)
    if key[0] == "base":
        what = f"base, {key[2]} sequences" + (", hidden state" if key[1] else "")
    else:
        what = f"assistant, {key[2]} tokens of {key[1]} sequences"
    return f"{what}: {milliseconds:.1f}"


if __name__ == "__main__":
    main()
