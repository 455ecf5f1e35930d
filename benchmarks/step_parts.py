"""Where a step's time goes: parts of a decode, and what the engine adds to it for each way of choosing a token.

    python benchmarks/step_parts.py BASE.gguf ASSISTANT.gguf [--tokens 32] [--rounds 7]

A decode is timed without an output, with logits, and with logits and hidden state; the differences are the vocabulary
product and what asking for hidden states costs. The engine's share of a token is its whole time less that of the very
decodes it made, repeated at once; medians of rounds in which the ways of choosing take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import colm_cpp as colm
from colm_cpp.evaluate.steps import PROMPT

REPEATS = 8
UNQUOTED = 'root ::= [^"]*'
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled, as by default": {"temperature": 0.8},
    "sampled without top-k": {"temperature": 0.8, "top_k": 0},
    "sampled, with a repeat penalty": {"temperature": 0.8, "repeat_penalty": 1.1},
    "greedy, 5 log-probabilities": {"temperature": 0.0, "logprobs": 5},
    "greedy, with a grammar": {"temperature": 0.0, "grammar": UNQUOTED},
}


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    with colm.load(args.base, args.assistant, "confidence", n_ctx=512, n_gpu_layers=0) as pair:
        ids = pair.tokenize(PROMPT)
        kinds = {"no output": (False, False), "logits": (True, False), "logits and hidden state": (True, True)}
        times: dict[tuple[str, str], list[float]] = {}
        ways: dict[str, list[float]] = {name: [] for name in WAYS}
        shares: dict[str, list[float]] = {name: [] for name in WAYS}
        for number in range(-1, args.rounds):
            for model in ("base", "assistant"):
                calls = [(model, 0, len(ids), False, False)]
                for outputs, hidden in kinds.values():
                    calls += [(model, len(ids), 1, outputs, hidden)] * REPEATS
                seconds = pair.replay([*ids, ids[0]], calls)[1:]
                for i, kind in enumerate(kinds):
                    # The first of its kind pays for a graph of another shape.
                    found = seconds[i * REPEATS + 1 : (i + 1) * REPEATS]
                    if number >= 0:
                        times.setdefault((model, kind), []).append(statistics.median(found))
            for name, options in WAYS.items():
                added, share = _added(pair, ids, args.tokens, options)
                if number >= 0:
                    ways[name].append(added)
                    shares[name].append(share)
    print(f"| milliseconds of a decode | {' | '.join(kinds)} |")
    print("|---|---|---|---|")
    for model in ("base", "assistant"):
        cells = [f"{1000 * statistics.median(times[model, kind]):.2f}" for kind in kinds]
        print(f"| {model}, one token | {' | '.join(cells)} |")
    print()
    print("| engine beside its decodes | ms a token, median (least, most) | of the token's time |")
    print("|---|---|---|")
    for name, values in ways.items():
        spread = f"{1000 * min(values):.2f}, {1000 * max(values):.2f}"
        median = 1000 * statistics.median(values)
        print(f"| {name} | {median:.2f} ({spread}) | {statistics.median(shares[name]):.1%} |")


def _added(pair: colm.Pair, ids: list[int], n_tokens: int, options: dict[str, Any]) -> tuple[float, float]:
    """Seconds that the engine added to each token, and their share of its time. The base writes alone."""
    pair.forget()
    start = time.perf_counter()
    stream = pair.stream(ids, threshold=1.0, max_tokens=n_tokens, seed=1, **options)
    n = len(stream.completion().tokens)
    engine = time.perf_counter() - start
    bare = sum(pair.replay(stream.token_ids, stream.calls))
    return (engine - bare) / n, (engine - bare) / engine


if __name__ == "__main__":
    main()
