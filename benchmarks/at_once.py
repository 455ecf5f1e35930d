"""Texts at once, counted and timed: calls of the assistant with look-ahead, and what a batch gains in all.

    python benchmarks/at_once.py PAIR [--texts 8] [--tokens 48]           (PAIR: a preset such as demo, or a pair.toml)
    python benchmarks/at_once.py BASE.gguf ASSISTANT.gguf [...]

The first table counts, for four texts at once: the assistant's decodes for each deferred token, without look-ahead,
with a draft of 8, and with "auto", and whether the texts are the same. ``--batch-invariant`` makes them so.

The second times ``generate_batch`` of --texts different prompts, everything included, against one text after another:
its first call, which makes contexts for so many texts, and its second, which finds them. With one thread the process's
own time counts, else the time on the wall.
"""

from __future__ import annotations

import argparse
from typing import Any, Literal

from fresh import Spread, clock

import colm_cpp as colm
from colm_cpp.machine.cores import usable_cores

PROMPTS = [
    f"Question: {who} buys {n} {what} for {price} dollars each. How much is that? Explain step by step.\nAnswer:"
    for n, (who, what, price) in enumerate(
        (
            ("A baker", "sacks of flour", 14),
            ("Mrs Hall", "pens", 2),
            ("A school", "books", 23),
            ("Tom", "apples", 1),
            ("The club", "balls", 9),
            ("A farmer", "hens", 12),
            ("Ann", "tickets", 31),
            ("A shop", "chairs", 45),
        ),
        start=3,
    )
]
FOUR = 4


def _count(pair: colm.Pair, n_tokens: int, rate: float) -> None:
    print("| look-ahead | deferred | decodes per deferred token | same texts |")
    print("|---|---|---|---|")
    plain: list[list[tuple[int, str]]] = []
    lookaheads: tuple[int | Literal["auto"], ...] = (0, 8, "auto")
    for lookahead in lookaheads:
        pair.forget()
        options: dict[str, Any] = {"head": "random", "threshold": 1.0 - rate, "temperature": 0.0, "seed": 1}
        with pair.stream_batch(
            PROMPTS[:FOUR], n_parallel=FOUR, max_tokens=n_tokens, lookahead=lookahead, **options
        ) as stream:
            found = dict(stream)
            n_decodes = stream.counts["assistant_decodes"]
        outs = [out for _, out in sorted(found.items()) if isinstance(out, colm.Completion)]
        texts = [[(token.id, token.source) for token in out.tokens] for out in outs]
        plain = plain or texts
        n_deferred = sum(source != "base" for text in texts for _, source in text)
        same = sum(one == other for one, other in zip(texts, plain, strict=True))
        share = n_deferred / sum(map(len, texts))
        print(f"| {lookahead} | {share:.0%} | {n_decodes / n_deferred:.3f} | {same} of {len(plain)} |", flush=True)


def _time(pair: colm.Pair, n_texts: int, n_tokens: int, rounds: int, n_threads: int) -> None:
    now = clock(n_threads)
    options: dict[str, Any] = {"head": "never", "temperature": 0.0, "max_tokens": n_tokens}
    prompts = (PROMPTS * n_texts)[:n_texts]
    alone, together = [], []
    for number in range(rounds):
        pair.forget()  # and the contexts of a batch
        start = now()
        n_alone = sum(len(pair.generate(prompt, **options).tokens) for prompt in prompts)
        alone.append((now() - start) / n_alone)
        calls = []
        for _ in range(2):
            start = now()
            outs = pair.generate_batch(prompts, n_parallel=n_texts, **options)
            calls.append((now() - start) / sum(len(out.tokens) for out in outs))
        together.append(calls)
        shown = " and ".join(f"{1000 * seconds:.2f}" for seconds in calls)
        print(f"round {number + 1}: {1000 * alone[-1]:.2f} ms a token alone, {shown} at once", flush=True)
    for name, i in (("first", 0), ("second", 1)):
        gains = [one / calls[i] for one, calls in zip(alone, together, strict=True)]
        print(f"{n_texts} prompts, {name} call: {Spread(gains).show(2)} times as fast as one after another")


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="a pair, or a base and an assistant")
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3, help="0: only count")
    parser.add_argument("--rate", type=float, default=0.4, help="that the four texts defer")
    parser.add_argument("--batch-invariant", action="store_true")
    parser.add_argument("--n-ctx", type=int, default=4096)
    parser.add_argument("--n-threads", type=int, default=usable_cores())
    parser.add_argument("--skip-counts", action="store_true")
    args = parser.parse_args()
    options: dict[str, Any] = {"n_threads": args.n_threads, "n_ctx": args.n_ctx, "n_gpu_layers": 0}
    with colm.load(*args.models, batch_invariant=args.batch_invariant, **options) as pair:
        if not args.skip_counts:
            _count(pair, args.tokens, args.rate)
        if args.rounds:
            _time(pair, args.texts, args.tokens, args.rounds, args.n_threads)


if __name__ == "__main__":
    main()
