"""Look-ahead on a real pair: the assistant's calls for each deferred token, whether the texts are the same, and time.

    python benchmarks/lookahead.py BASE ASSISTANT TEXTS.jsonl --head HEAD [--texts 8] [--tokens 128] [--rates 0.4 1]

Each text is written without look-ahead and with every value of --lookahead, in turns and in another order each time.
Rate 1 is the threshold 0: all is deferred, and look-ahead is speculative decoding with the base as the draft.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import colm_cpp as colm


def _value(text: str) -> int | str:
    return text if text == "auto" else int(text)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("texts", type=Path)
    parser.add_argument("--head", default="qwen2.5-coder-0.5b-1.5b")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--n-texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.4, 1.0])
    parser.add_argument("--lookahead", type=_value, nargs="+", default=[4, 8, 15, "auto"])
    parser.add_argument("--batch-invariant", action="store_true", help="load the assistant so: the same, bit for bit")
    args = parser.parse_args()
    rows = itertools.islice(args.texts.read_text(encoding="utf-8").splitlines(), args.skip, args.skip + args.n_texts)
    prompts = [json.loads(row)["prompt"] for row in rows]
    columns = (
        "rate",
        "look-ahead",
        "deferred",
        "calls per deferred token",
        "acceptance rate",
        "same texts",
        "time, median",
    )
    print(f"| {' | '.join(columns)} (quartiles) |")
    print("|---|---|---|---|---|---|---|")
    of_assistant: Any = {"batch_invariant": args.batch_invariant}
    with colm.load(args.base, args.assistant, args.head, n_ctx=1024, assistant_options=of_assistant) as pair:
        for rate in args.rates:
            where: dict[str, Any] = {"threshold": 0.0} if rate == 1.0 else {"defer_rate": rate}
            found: dict[int | str, list[colm.Completion]] = {value: [] for value in (0, *args.lookahead)}
            for number, prompt in enumerate(prompts):
                values = list(found)
                for value in values[number % len(values) :] + values[: number % len(values)]:
                    pair.forget()
                    messages = [{"role": "user", "content": prompt}]
                    options = {"temperature": 0.0, "max_tokens": args.tokens, **where}
                    found[value].append(pair.chat(messages, lookahead=value, **options))
            _print(rate, found)


def _print(rate: float, found: dict[int | str, list[colm.Completion]]) -> None:
    plain = found[0]
    for value, outs in found.items():
        n = sum(out.stats.generated_tokens for out in outs)
        deferred = sum(round(out.stats.deferral_rate * out.stats.generated_tokens) for out in outs)
        calls = sum(out.stats.assistant_calls for out in outs)
        drafted = sum(out.stats.drafted_tokens for out in outs)
        accepted = sum(out.stats.accepted_tokens for out in outs)
        same = sum(
            [(token.id, token.source) for token in out.tokens] == [(token.id, token.source) for token in other.tokens]
            for out, other in zip(outs, plain, strict=True)
        )
        ratios = [
            (out.stats.decode_s / out.stats.generated_tokens) / (other.stats.decode_s / other.stats.generated_tokens)
            for out, other in zip(outs, plain, strict=True)
        ]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        shown = f"{accepted / drafted:.1%} of {drafted}" if drafted else ""
        print(
            f"| {rate:.0%} | {value} | {deferred / n:.1%} of {n} | {calls / deferred:.3f} | {shown} | "
            f"{same} of {len(outs)} | {middle:.3f} ({low:.3f} to {high:.3f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main()
