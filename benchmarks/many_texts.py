"""Several texts at once: how much faster than one after another, beside what bare decodes allow.

    python benchmarks/many_texts.py BASE.gguf ASSISTANT.gguf [--head HEAD] [--texts 8] [--tokens 64] [--rounds 5]

Texts begin with the same prompt, which is read once, and part because they are sampled with seeds of their own. What
reading the prompt takes is measured by texts of two tokens and taken off.

The bare side makes decodes with nothing beside them, in the very contexts that wrote the texts (``pair.replay``), right
after them. Of one text after another these are the same decodes. Of several at once they are as many of each model, of
as many tokens, spread evenly over the texts. The speed-up that bare decodes allow is the quotient of the two.

Both sides use the same pages of memory, because huge pages change the time of a decode. Each round has a fresh process
with huge pages and one without; both are printed.

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

from fresh import Spread, clock, in_turns

import colm_cpp as colm
from colm_cpp.machine.cores import usable_cores
from colm_cpp.sources.names import TRAINING_FREE_HEADS

PROMPT = "Question: A shop sells pens and books. Write a word problem about it and solve it step by step.\nAnswer:"
SHORT = 2  # tokens of the texts that are taken off
DEPTH = 16  # tokens that the texts of bare decodes begin with

Call = tuple[str, int, int, bool, bool]


@dataclass
class Written:
    """Some texts, written one way, and their decodes made alone."""

    seconds: float = 0.0
    bare_s: float = 0.0
    n_tokens: int = 0
    n_deferred: int = 0
    base_decodes: int = 0
    assistant_decodes: int = 0
    assistant_tokens: int = 0

    def __sub__(self, other: Written) -> Written:
        return Written(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


class Writer:
    """Writes texts with a pair."""

    def __init__(self, pair: colm.Pair, n_texts: int, now: Callable[[], float], *, hidden: bool) -> None:
        self._pair, self._n_texts, self._now, self._hidden = pair, n_texts, now, hidden
        ids = pair.tokenize(PROMPT)
        self._tokens = ids * (pair.n_ctx // len(ids))

    def _timed(self, work: Callable[..., Any], *args: Any) -> float:
        start = self._now()
        work(*args)
        return self._now() - start

    def one_by_one(self, options: dict[str, Any]) -> Written:
        """The texts, one after another."""
        total = Written()
        for number in range(self._n_texts):
            self._pair.forget()
            stream = self._pair.stream(PROMPT, **{**options, "seed": 1 + number})
            total.seconds += self._timed(stream.completion)
            out, calls = stream.completion(), stream.calls
            of_assistant = [call for call in calls if call[0] == "assistant"]
            total.bare_s += self._timed(self._pair.replay, stream.token_ids, calls)
            total.n_tokens += len(out.tokens)
            total.n_deferred += sum(token.source == "assistant" for token in out.tokens)
            total.base_decodes += len(calls) - len(of_assistant)
            total.assistant_decodes += len(of_assistant)
            total.assistant_tokens += sum(call[2] for call in of_assistant)
        return total

    def at_once(self, options: dict[str, Any]) -> Written:
        """All of them together. Their bare decodes are those of bare()."""
        n = self._n_texts
        with self._pair.stream_batch([PROMPT] * n, n_parallel=n, **{**options, "seed": 1}) as stream:
            start = self._now()
            outs = [out for _, out in stream if isinstance(out, colm.Completion)]
            seconds = self._now() - start
            counts = stream.counts
        return Written(
            seconds,
            0.0,
            sum(len(out.tokens) for out in outs),
            sum(token.source == "assistant" for out in outs for token in out.tokens),
            counts["base_decodes"],
            counts["assistant_decodes"],
            sum(out.stats.assistant_tokens_read for out in outs),
        )

    def bare(self, written: Written) -> float:
        """Seconds of as many decodes of all texts at once as were made, and of as many tokens."""
        n_base, n_assistant = written.base_decodes, written.assistant_decodes
        calls: list[Call] = [("base", 0, DEPTH, False, False), ("assistant", 0, DEPTH, False, False)]
        before = self._timed(self._pair.replay, self._tokens, calls, self._n_texts)
        calls += [("base", DEPTH + i, 1, True, self._hidden) for i in range(n_base)]
        n_each = round(written.assistant_tokens / self._n_texts)  # tokens of each text, in all decodes
        for i in range(n_assistant):
            begin, end = (max(at, n_each * at // n_assistant) for at in (i, i + 1))
            calls.append(("assistant", DEPTH + begin, end - begin, True, False))
        return self._timed(self._pair.replay, self._tokens, calls, self._n_texts) - before


def _ways(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    sampled: dict[str, Any] = {"temperature": 0.8, "max_tokens": args.tokens}
    return {
        "base alone": {**sampled, "head": "never"},
        f"both, {args.rate:.0%}": {**sampled, "head": args.head, "defer_rate": args.rate},
    }


def _measure(args: argparse.Namespace, huge_pages: bool) -> dict[str, Any]:
    """Both ways of writing, by what is written."""
    found = {}
    given: dict[str, Any] = {"n_threads": args.threads, "n_gpu_layers": args.n_gpu_layers, "huge_pages": huge_pages}
    with colm.load(args.base, args.assistant, n_ctx=512, **given) as pair:
        for way, options in _ways(args).items():
            hidden = options["head"] not in TRAINING_FREE_HEADS
            writer = Writer(pair, args.texts, clock(args.threads), hidden=hidden)
            both = []
            for write in (writer.one_by_one, writer.at_once):
                short = {**options, "max_tokens": SHORT}
                write(short)  # not counted: what a first call makes
                prompt = write(short)
                both.append(write(options) - prompt)
            both[1].bare_s = writer.bare(both[1])
            found[way] = [vars(written) for written in both]
    return found


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
        _print({way: [[Written(**w) for w in one[worker][way]] for one in rounds] for way in _ways(args)}, args.texts)


def _print(found: dict[str, list[list[Written]]], n: int) -> None:
    print(f"| | deferred | one: tokens/s | {n} at once: tokens/s | speed-up | bare speed-up | of it (least to most) |")
    print("|---|---|---|---|---|---|---|")
    for way, rounds in found.items():
        gains = [(many.n_tokens / many.seconds) / (one.n_tokens / one.seconds) for one, many in rounds]
        allowed = [(many.n_tokens / many.bare_s) / (one.n_tokens / one.bare_s) for one, many in rounds]
        shares = [gain / most for gain, most in zip(gains, allowed, strict=True)]
        ones, manys = zip(*rounds, strict=True)
        deferred = sum(w.n_deferred for w in manys) / sum(w.n_tokens for w in manys)
        print(
            f"| {way} | {deferred:.0%} | {statistics.median(w.n_tokens / w.seconds for w in ones):.1f} "
            f"| {statistics.median(w.n_tokens / w.seconds for w in manys):.1f} | {statistics.median(gains):.2f} "
            f"| {statistics.median(allowed):.2f} | {Spread(shares).show(2)} |"
        )
    print("\n| engine over bare decodes (least to most) | one | at once |\n|---|---|---|")
    for way, rounds in found.items():
        ratios = [Spread([w.seconds / w.bare_s for w in written]).show(2) for written in zip(*rounds, strict=True)]
        print(f"| {way} | {ratios[0]} | {ratios[1]} |")
    print("\n| milliseconds of a bare step of the base | one text | all texts |\n|---|---|---|")
    steps = [
        statistics.median(1000 * w.bare_s / w.base_decodes for w in written)
        for written in zip(*found["base alone"], strict=True)
    ]
    print(f"| | {steps[0]:.1f} | {steps[1]:.1f} |")


if __name__ == "__main__":
    main()
