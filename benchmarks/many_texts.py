"""Several texts at once: how much faster than one after another, beside what bare decodes allow.

    python benchmarks/many_texts.py BASE.gguf ASSISTANT.gguf [--head HEAD] [--texts 8] [--tokens 64] [--rounds 5]

Texts begin with the same prompt, which is read once, and part because they are sampled with seeds of their own. What
reading the prompt takes is measured by texts of two tokens and taken off.

The bare side repeats decodes with nothing beside them, in the very contexts that wrote the texts (``pair.replay``): one
token of one text and of each of several, and the assistant's batches. Of the base alone the speed-up it allows is the
quotient. Of the pair it is that of the decodes which the two ways of writing made, at their bare prices.

Both sides use the same pages of memory. That matters: huge pages make a decode of one token faster by far, and one of
eight by little. So beside bare decodes of a process without huge pages, several texts gain less than "allowed". Each
round has a fresh process with huge pages and one without; both are printed.

With one thread the process's own time counts, else the time on the wall.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fresh import Spread, clock, in_turns

import colm_cpp as colm
from colm_cpp.machine.cores import usable_cores
from colm_cpp.sources.names import TRAINING_FREE_HEADS

PROMPT = "Question: A shop sells pens and books. Write a word problem about it and solve it step by step.\nAnswer:"
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
ALSO = (1, 2, 4)  # tokens of each of several texts
DEPTH = 16  # tokens that a text holds where a decode is timed
REPEATS = 4

Clock = Callable[[], float]


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


def one_by_one(pair: colm.Pair, n_texts: int, options: dict[str, Any], now: Clock) -> Written:
    """The texts, one after another."""
    total = Written(0.0, 0, 0, 0, 0, 0)
    for number in range(n_texts):
        pair.forget()
        start = now()
        stream = pair.stream(PROMPT, **{**options, "seed": 1 + number})
        out = stream.completion()
        total.seconds += now() - start
        calls = [call for call in stream.calls if call[0] == "assistant"]
        total.n_tokens += len(out.tokens)
        total.n_deferred += sum(token.source == "assistant" for token in out.tokens)
        total.base_decodes += len(stream.calls) - len(calls)
        total.assistant_decodes += len(calls)
        total.assistant_tokens += sum(call[2] for call in calls)
    return total


def at_once(pair: colm.Pair, n_texts: int, options: dict[str, Any], now: Clock) -> Written:
    """All of them together."""
    with pair.stream_batch([PROMPT] * n_texts, n_parallel=n_texts, **{**options, "seed": 1}) as stream:
        start = now()
        outs = [out for _, out in stream if isinstance(out, colm.Completion)]
        seconds = now() - start
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


def _measure(args: argparse.Namespace, huge_pages: bool) -> dict[str, Any]:
    """Both ways of writing, by what is written, and bare decodes."""
    now = clock(args.threads)
    found = {}
    given: dict[str, Any] = {"n_threads": args.threads, "n_gpu_layers": args.n_gpu_layers, "huge_pages": huge_pages}
    with colm.load(args.base, args.assistant, n_ctx=512, **given) as pair:
        for way, options in _ways(args).items():
            both = []
            for write in (one_by_one, at_once):
                short = {**options, "max_tokens": 2}
                write(pair, args.texts, short, now)  # not counted: what a first call makes
                prompt = write(pair, args.texts, short, now)
                both.append(vars(write(pair, args.texts, options, now) - prompt))
            found[way] = both
        return {"written": found, "bare": _bare(pair, args, now)}


def _bare(pair: colm.Pair, args: argparse.Namespace, now: Clock) -> list[list[Any]]:
    """Seconds of decodes: model, hidden state or texts, tokens, seconds."""
    prompt = pair.tokenize(PROMPT)
    tokens = [prompt[i % len(prompt)] for i in range(DEPTH + max(SIZES))]

    def seconds(model: str, n_texts: int, n_each: int, hidden: bool = False) -> float:
        """Of one of some decodes, without what the text before them takes."""
        before = [(model, 0, DEPTH, False, False), (model, DEPTH, n_each, True, hidden)]
        times = []
        for calls in (before, before + [before[-1]] * REPEATS):
            start = now()
            pair.replay(tokens, calls, n_texts)
            times.append(now() - start)
        return (times[1] - times[0]) / REPEATS

    n = args.texts
    prices: list[list[Any]] = []
    for hidden in (False, True):
        prices += [["base", hidden, n_texts, seconds("base", n_texts, 1, hidden)] for n_texts in (1, n)]
    prices += [["assistant", 1, size, seconds("assistant", 1, size)] for size in SIZES]
    return prices + [["assistant", n, n * size, seconds("assistant", n, size)] for size in ALSO]


WORKERS = {"huge pages": True, "4 kB pages": False}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("--head", default="qwen2.5-coder-0.5b-1.5b")
    parser.add_argument("--rate", type=float, default=0.2)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="processes with huge pages, and without")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="default: the physical cores")
    parser.add_argument("--n-gpu-layers", type=int, default=0)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(_measure(args, WORKERS[args.worker])))
        return
    given = [args.base, args.assistant]
    for name in ("head", "rate", "texts", "tokens", "threads", "n_gpu_layers"):
        given += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    print(
        f"{Path(args.base).name}, {Path(args.assistant).name}, {args.threads} threads, medians of {args.rounds} rounds"
    )
    rounds = in_turns(list(WORKERS), given, args.rounds)
    for worker in WORKERS:
        print(f"\n{worker}:\n")
        measured = [one[worker] for one in rounds]
        found = {way: [tuple(Written(**w) for w in one["written"][way]) for one in measured] for way in _ways(args)}
        prices = [{(model, what, size): seconds for model, what, size, seconds in one["bare"]} for one in measured]
        _print(found, prices, args.texts, hidden=args.head not in TRAINING_FREE_HEADS)


def _assistant(price: dict[Any, float], n_texts: int, size: float) -> float:
    """Seconds of a batch of ``size`` tokens, between the sizes that were timed."""
    sizes = sorted(key[2] for key in price if key[:2] == ("assistant", n_texts))
    return float(np.interp(size, sizes, [price["assistant", n_texts, s] for s in sizes]))


def _bare_seconds(written: Written, price: dict[Any, float], n_texts: int, *, hidden: bool) -> float:
    seconds = written.base_decodes * price["base", hidden, n_texts]
    if written.assistant_decodes:
        size = written.assistant_tokens / written.assistant_decodes
        seconds += written.assistant_decodes * _assistant(price, n_texts, size)
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
    print("\nMilliseconds of a bare decode: " + "; ".join(_named(prices, key) for key in prices[0]) + ".")


def _named(prices: list[dict[Any, float]], key: tuple[Any, ...]) -> str:
    milliseconds = 1000 * statistics.median(price[key] for price in prices)
    if key[0] == "base":
        what = f"base, {_texts(key[2])}" + (", hidden state" if key[1] else "")
    else:
        what = f"assistant, {key[2]} tokens of {_texts(key[1])}"
    return f"{what}: {milliseconds:.1f}"


def _texts(n: int) -> str:
    return "one text" if n == 1 else f"{n} texts"


if __name__ == "__main__":
    main()
