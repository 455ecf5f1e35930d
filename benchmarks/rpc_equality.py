"""Whether a pair whose assistant lies on other machines (llama.cpp's RPC backend) writes the same texts as here.

    ggml-rpc-server -p 50052 &
    python benchmarks/rpc_equality.py BASE ASSISTANT --servers 127.0.0.1:50052 [--prompts 20] [--tokens 24]

Each row has other options of the assistant, and one server more than the last. The head is random, so that both
models write. Greedy. "Calls" are the decodes of the assistant.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unlike import prompts

import colm_cpp as colm

OPTIONS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "`repack=False`": {"repack": False},
}


def written(args: argparse.Namespace, options: dict[str, Any]) -> list[colm.Completion]:
    """A text of each prompt."""
    with colm.load(args.base, args.assistant, "random", assistant_options=options, n_ctx=256, n_threads=1) as pair:
        write: dict[str, Any] = {"threshold": 0.7, "max_tokens": args.tokens, "temperature": 0.0}
        return [pair.generate(prompt, seed=i, **write) for i, prompt in enumerate(prompts(100)[:: 100 // args.prompts])]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("assistant", type=Path)
    parser.add_argument("--servers", nargs="+", required=True)
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24)
    args = parser.parse_args()
    print("| the assistant's options | servers | equal texts | equal tokens | by the assistant | calls |")
    print("|---|---|---|---|---|---|")
    for name, options in OPTIONS.items():
        here = written(args, options)
        for n in range(1, len(args.servers) + 1):
            there = written(args, {**options, "rpc_servers": args.servers[:n]})
            pairs = [
                [[(token.source, token.id) for token in text.tokens] for text in both]
                for both in zip(here, there, strict=True)
            ]
            same = sum(
                next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
                for one, other in pairs
            )
            total = sum(len(one) for one, _ in pairs)
            deferred = sum(source != "base" for one, _ in pairs for source, _ in one)
            print(
                f"| {name} | {n} | {sum(one == other for one, other in pairs)} of {len(pairs)} | {same} of {total} "
                f"| {deferred} | {sum(text.stats.assistant_calls for text in there)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
