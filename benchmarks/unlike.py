"""Pairs of unlike vocabularies: errors, text with and without caches, hand-overs, and speed.

    python benchmarks/unlike.py RESULTS.jsonl BASE ASSISTANT [--head random] [--rates 0.1 0.2 0.4] [--prompts 100]
                                [--lookahead 4]

Each text is written four times. First after `forget()`; that time counts. Then once more, when both models know all
of it. Then with look-ahead, after `forget()`. Then by a pair that forgets everything before each token, for the first
--bare prompts, because that takes long. All must be equal: the models are loaded `batch_invariant`. Finished texts are
in RESULTS.jsonl, and a second call goes on behind them; the table is of all texts there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import colm_cpp as colm

SUBJECTS = ("a list of numbers", "the weather in Zürich", "two sorted arrays", "a bank account", "日本の歴史")
FORMS = (
    "Write a Python function that works with {}.",
    "def solve(items):\n    # {}\n",
    "Explain {} in two sentences.",
    "# {}\n\nThe most important point is",
    "class Example:\n    def __init__(self):\n        # {}\n",
    "Question: What is known about {}?\nAnswer:",
    "import re\n\n# {}\npattern = re.compile(",
    "A short story about {}:\n\nOnce upon a time",
    "SELECT * FROM t WHERE -- {}\n",
    "{}, in French:",
    "for i in range(10):  # {}\n\tprint(",
    "JSON about {}:\n{{",
    "Dear reader, this letter is about {}. ",
    "1. {}\n2.",
    "The opposite of {} is",
    "#include <stdio.h>\n// {}\nint main(void) {{",
    'Tom thinks about {}. He says: "',
    "Emoji for {}: 🙂",
    "- {}\n- ",
    "{}",
)


def prompts(n: int) -> list[str]:
    """Code, prose and other scripts; some end inside a line or a word."""
    return [form.format(subject) for form in FORMS for subject in SUBJECTS][:n]


def bare(pair: colm.Pair, prompt: str, options: dict[str, Any], n: int) -> str:
    """The text of `n` tokens, where every model reads everything anew for each."""
    text = ""
    with pair.stream(prompt, **{**options, "max_tokens": n}) as stream:
        for token in stream:
            text += token.text
            pair.forget()
    return text


def written_by(out: colm.Completion) -> list[tuple[str, int]]:
    """Who wrote each token, and which."""
    return [(token.source, token.id) for token in out.tokens]


def measure(
    pair: colm.Pair, prompt: str, options: dict[str, Any], *, lookahead: int | str, is_bare: bool
) -> dict[str, Any]:
    """One text, as a row of the results."""
    pair.forget()
    begin = time.perf_counter()
    first = pair.generate(prompt, **options)
    seconds = time.perf_counter() - begin
    again = pair.generate(prompt, **options)
    pair.forget()
    ahead = pair.generate(prompt, lookahead=lookahead, **options)
    sources = [token.source for token in first.tokens]
    row = {
        "text": first.text,
        "n": len(first.tokens),
        "same": [again.text == first.text, written_by(ahead) == written_by(first)],
        "broken": first.text.count("\ufffd"),
        "deferred": sum(source != "base" for source in sources),
        "handovers": sum(a != b for a, b in itertools.pairwise(sources)),
        "waited": first.stats.waited_tokens,
        "reread": first.stats.reread_tokens,
        "read": sum(of.tokens_read for of in first.stats.experts.values()),
        "seconds": first.stats.decode_s,
        "all_seconds": seconds,
        "calls": first.stats.assistant_calls,
        "ahead": {
            "calls": ahead.stats.assistant_calls,
            "reread": ahead.stats.reread_tokens,
            "drafted": ahead.stats.drafted_tokens,
            "accepted": ahead.stats.accepted_tokens,
            "seconds": ahead.stats.decode_s,
        },
    }
    if is_bare:
        row["same"].append(bare(pair, prompt, options, options["max_tokens"]) == first.text)
    return row


def main() -> None:
    """Writes what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("assistant", type=Path)
    parser.add_argument("--head", default="random")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--bare", type=int, default=3)
    parser.add_argument("--lookahead", default="4", help="draft tokens, or auto")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    lines = args.results.read_text(encoding="utf-8").splitlines() if args.results.is_file() else []
    rows = {tuple(row["key"]): row for row in map(json.loads, lines)}
    pair_key = (args.base.stem, args.assistant.stem, args.head)
    lookahead = args.lookahead if args.lookahead == "auto" else int(args.lookahead)
    load: dict[str, Any] = {"n_ctx": 512, "batch_invariant": True, "n_threads": args.threads}
    with (
        colm.load(args.base, args.assistant, args.head, **load) as pair,
        args.results.open("a", encoding="utf-8") as file,
    ):
        for rate, (number, prompt) in itertools.product(args.rates, enumerate(prompts(args.prompts))):
            key = (*pair_key, rate, number)
            if key in rows:
                continue
            options = {"target_rate": rate, "max_tokens": args.tokens, "temperature": 0.0, "seed": number}
            try:
                found = measure(pair, prompt, options, lookahead=lookahead, is_bare=number < args.bare)
            except colm.ColmError as error:
                found = {"error": f"{type(error).__name__}: {error}"}
            rows[key] = {"key": key, **found}
            file.write(json.dumps(rows[key], ensure_ascii=False) + "\n")
            file.flush()
    show(rows)


def show(rows: dict[tuple[Any, ...], dict[str, Any]]) -> None:
    """Prints a line for each pair, head and rate."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for key, row in rows.items():
        groups[key[:-1]].append(row)
    print("| base | assistant | head | rate | texts | errors | with U+FFFD | same without caches | deferred | waited |"
          " hand-overs per 100 tokens | read again per hand-over | tokens/s | calls per deferred token"
          " | with look-ahead | drafts accepted | read again per hand-over | tokens/s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for (base, assistant, head, rate), of in sorted(groups.items()):
        good = [row for row in of if "error" not in row]
        total = {name: sum(row[name] for row in good) for name in ("n", "deferred", "handovers", "waited", "reread")}
        n = max(1, total["n"])
        same = [equal for row in good for equal in row["same"]]
        print(
            f"| {base} | {assistant} | {head} | {rate:.0%} | {len(of)} | {len(of) - len(good)} "
            f"| {sum(row['broken'] > 0 for row in good)} | {sum(same)} of {len(same)} | {total['deferred'] / n:.0%} "
            f"| {total['waited'] / n:.1%} | {100 * total['handovers'] / n:.1f} "
            f"| {total['reread'] / max(1, total['handovers']):.2f} "
            f"| {n / max(1e-9, sum(row['seconds'] for row in good)):.1f} {ahead_cells(good)}"
        )


def ahead_cells(rows: list[dict[str, Any]]) -> str:
    """What look-ahead saved and cost; rows of earlier versions have none."""
    rows = [row for row in rows if "ahead" in row]
    if not rows:
        return "| | | | | |"
    deferred = max(1, sum(row["deferred"] for row in rows))
    ahead = {name: sum(row["ahead"][name] for row in rows) for name in rows[0]["ahead"]}
    return (
        f"| {sum(row['calls'] for row in rows) / deferred:.2f} | {ahead['calls'] / deferred:.2f} "
        f"| {ahead['accepted']} of {ahead['drafted']} "
        f"| {ahead['reread'] / max(1, sum(row['handovers'] for row in rows)):.2f} "
        f"| {sum(row['n'] for row in rows) / max(1e-9, ahead['seconds']):.1f} |"
    )


if __name__ == "__main__":
    main()
