"""What the rule for unlike vocabularies loses against the exact mode, in nats per byte.

    python benchmarks/unlike_bytes.py BASE ASSISTANT [--head confidence] [--bytes 120] [--tolerance 1e-3] [--text FILE]

The exact mode (`colm_cpp.evaluate.byte_level`) sums over all rows of tokens that write a text. The rule reads each
model's own tokens of it, and lets one model write from one place where tokens of both end to the next. The table has
both for each model alone and for the pair, and their difference. "Dropped" says how much of the sums the exact mode
left out, in nats per byte: run it with another tolerance to see what that changes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import colm_cpp as colm
from colm_cpp.evaluate.byte_level import ByteMixture, by_tokens, byte_logprobs

# Of a prompt, which stays the tokens that it is, and what is read behind it.
TEXTS = (
    (
        "code",
        "def fibonacci(n):\n    if n",
        " < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    ),
    (
        "prose",
        "The weather in the mountains changes",
        " quickly. In the morning the sky was clear, and two hours later it snowed, so we went back to the village.",
    ),
    (
        "German",
        "Zürich liegt am",
        " nördlichen Ende des Zürichsees und ist die größte Stadt der Schweiz.",  # codespell:ignore
    ),
    ("numbers", "The first ten squares are", " 1, 4, 9, 16, 25, 36, 49, 64, 81 and 100; their sum is 385."),
)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("assistant", type=Path)
    parser.add_argument("--head", default="confidence")
    parser.add_argument("--bytes", type=int, default=120)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--text", type=Path, help="a file in place of the texts; its first line is the prompt")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    texts = TEXTS
    if args.text is not None:
        first, _, rest = args.text.read_text(encoding="utf-8").partition("\n")
        texts = ((args.text.name, first, f"\n{rest}"),)
    load: dict[str, Any] = {"n_ctx": 512, "n_threads": args.threads}
    print("| text | bytes | base: by bytes | by tokens | assistant: by bytes | by tokens | pair: by bytes | by tokens |"
          " the rule loses | spans | dropped | contexts per byte | seconds |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    with colm.load(args.base, args.assistant, args.head, **load) as pair:
        for name, prompt, whole in texts:
            text = whole.encode()[: args.bytes].decode(errors="ignore")
            if text != whole:
                text = text.rsplit(maxsplit=1)[0]  # where a word ends, as tokens do
            data = text.encode()
            begin = time.perf_counter()
            tokens = by_tokens(pair, prompt, text)
            mixture = ByteMixture(pair, prompt, tolerance=args.tolerance)
            of_pair = -byte_logprobs(mixture, data).sum() / len(data)
            seconds = time.perf_counter() - begin
            cells = []
            for model, read in zip(pair.names, mixture.sums(), strict=True):
                cells += [f"{-read / len(data):.4f}", f"{-tokens.models[model] / len(data):.4f}"]
            readers = mixture.readers.values()
            print(
                f"| {name} | {len(data)} | {' | '.join(cells)} | {of_pair:.4f} | {-tokens.pair / len(data):.4f} "
                f"| {-tokens.pair / len(data) - of_pair:.4f} | {tokens.n_spans} "
                f"| {sum(reader.dropped for reader in readers) / len(data):.4f} "
                f"| {sum(reader.n_asked for reader in readers) / len(data):.1f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
