"""The same model with other token ids, and whether a pair with it writes the same texts.

    python benchmarks/permute_vocabulary.py permute MODEL.gguf PERMUTED.gguf [--seed 0]
    python benchmarks/permute_vocabulary.py compare RESULTS.jsonl BASE.gguf ASSISTANT.gguf PERMUTED.gguf
        [--head confidence] [--threshold 0.5] [--prompts 100] [--tokens 64] [--threads N]
    python benchmarks/permute_vocabulary.py speed BASE.gguf ASSISTANT.gguf PERMUTED.gguf
        [--rates 0.1 0.2 0.4] [--lookahead 0 4] [--prompts 6] [--tokens 48] [--rounds 3] [--threads N]

`permute` gives every token another id: its text, type and score, its rows of the embedding and of the output, and the
ids that the header names. Merges stay, because they go by texts and their order is part of the tokenizer. So the model
tokenizes and writes as before. Only its ids mean nothing to a model of its family any more: that pair is of unlike
vocabularies. `compare` writes each text greedily with both pairs and counts the equal ones. Finished texts are in
RESULTS.jsonl, and a second call goes on behind them. `speed` writes texts with both in turns, with a head that defers
at random, and prints the median of the rounds' quotients.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from unlike import prompts

import colm_cpp as colm

UNUSED = int(gguf.TokenType.UNUSED)


def permute(source: Path, out: Path, seed: int) -> None:
    """Writes the model of ``source`` with permuted ids. Unused entries at the end keep their ids."""
    shutil.copyfile(source, out)
    reader = gguf.GGUFReader(out, "r+")
    tokens = reader.fields["tokenizer.ggml.tokens"]
    n = len(tokens.data)
    types = reader.fields.get("tokenizer.ggml.token_type")
    n_used = n
    while types is not None and n_used > 0 and int(types.parts[types.data[n_used - 1]][0]) == UNUSED:
        n_used -= 1
    order = np.arange(n)  # new id -> old id
    order[:n_used] = np.random.default_rng(seed).permutation(n_used)
    place = np.argsort(order)  # old id -> new id

    texts = [tokens.parts[i - 1].tobytes() + tokens.parts[i].tobytes() for i in tokens.data]
    _overwrite(reader, tokens.parts[tokens.data[0] - 1], b"".join(texts[old] for old in order))
    for name in ("token_type", "scores"):
        field = reader.fields.get(f"tokenizer.ggml.{name}")
        if field is not None:
            values = [field.parts[i].tobytes() for i in field.data]
            _overwrite(reader, field.parts[field.data[0]], b"".join(values[old] for old in order))
    for name, field in reader.fields.items():
        if name.startswith("tokenizer.ggml.") and name.endswith("_token_id"):
            part = field.parts[field.data[0]]
            if int(part[0]) < n:
                part[0] = place[int(part[0])]
    for tensor in reader.tensors:
        if len(tensor.data) != n:
            continue
        if not tensor.name.startswith(("token_embd.", "output.", "per_layer_token_embd.")):
            raise SystemExit(f"{tensor.name} has a row for each token, and is neither an embedding nor an output")
        tensor.data[:] = tensor.data[order]
    reader.data.flush()


def _overwrite(reader: gguf.GGUFReader, first: npt.NDArray[Any], data: bytes) -> None:
    """Puts ``data`` where the part ``first`` begins."""
    begin = first.__array_interface__["data"][0] - reader.data.__array_interface__["data"][0]
    reader.data[begin : begin + len(data)] = np.frombuffer(data, np.uint8)


def compare(args: argparse.Namespace) -> None:
    """Writes what is missing, and prints how many texts are equal."""
    lines = args.results.read_text(encoding="utf-8").splitlines() if args.results.is_file() else []
    rows = {row["key"]: row for row in map(json.loads, lines)}
    load: dict[str, Any] = {"n_ctx": 512, "batch_invariant": True, "n_threads": args.threads}
    write: dict[str, Any] = {"threshold": args.threshold, "max_tokens": args.tokens, "temperature": 0.0}
    for which, assistant in (("alike", args.assistant), ("permuted", args.permuted)):
        with (
            colm.load(args.base, assistant, args.head, **load) as pair,
            args.results.open("a", encoding="utf-8") as file,
        ):
            if pair.one_vocabulary is not (which == "alike"):
                raise SystemExit(f"{assistant} must {'not ' if which == 'permuted' else ''}share the base's vocabulary")
            for number, prompt in enumerate(prompts(args.prompts)):
                key = f"{args.head} {args.threshold:g} {args.tokens} {which} {number}"
                if key in rows:
                    continue
                pair.forget()
                text = pair.generate(prompt, lookahead=0, seed=number, **write)
                written = [token.source for token in text.tokens]
                rows[key] = {
                    "key": key,
                    "text": text.text,
                    "deferred": sum(source != "base" for source in written),
                    "n": len(written),
                    "waited": text.stats.waited_tokens,
                    "reread": text.stats.reread_tokens,
                }
                file.write(json.dumps(rows[key], ensure_ascii=False) + "\n")
                file.flush()
    pairs = [
        tuple(rows[f"{args.head} {args.threshold:g} {args.tokens} {which} {number}"] for which in ("alike", "permuted"))
        for number in range(len(prompts(args.prompts)))
    ]
    equal = [one["text"] == other["text"] for one, other in pairs]
    others = [other for _, other in pairs]
    n = max(1, sum(row["n"] for row in others))
    print(
        f"{sum(equal)} of {len(equal)} texts are equal; {sum(row['deferred'] for row in others) / n:.0%} of "
        f"{n} tokens deferred, {sum(row['waited'] for row in others)} waited, "
        f"{sum(row['reread'] for row in others)} read again"
    )
    for number in itertools.compress(range(len(equal)), [not same for same in equal]):
        print(f"prompt {number} differs")


def speed(args: argparse.Namespace) -> None:
    """Prints a line for each rate and each look-ahead."""
    load: dict[str, Any] = {"n_ctx": 512, "n_threads": args.threads}
    with (
        colm.load(args.base, args.assistant, "random", **load) as alike,
        colm.load(args.base, args.permuted, "random", **load) as unlike,
    ):
        if unlike.one_vocabulary or not alike.one_vocabulary:
            raise SystemExit("the assistant must share the base's vocabulary, and the permuted one must not")
        print("| rate | look-ahead | one vocabulary: tokens/s | calls per deferred token | unlike: tokens/s "
              "| calls per deferred token | speed beside one vocabulary (of each round) |")  # fmt: skip
        print("|---|---|---|---|---|---|---|")
        for rate, lookahead in itertools.product(args.rates, args.lookahead):
            options = {"target_rate": rate, "max_tokens": args.tokens, "temperature": 0.0, "lookahead": lookahead}
            rounds = []
            for number in range(args.rounds):
                order = (alike, unlike) if number % 2 else (unlike, alike)
                found = {pair is unlike: written(pair, args.prompts, options) for pair in order}
                rounds.append((found[False], found[True]))
            quotients = [other[0] / one[0] for one, other in rounds]
            cells = []
            for which in (0, 1):
                of_pair = [of[which] for of in rounds]
                cells += [f"{statistics.median(tokens_s for tokens_s, _ in of_pair):.2f}", f"{of_pair[0][1]:.2f}"]
            print(
                f"| {rate:.0%} | {lookahead} | {' | '.join(cells)} | {statistics.median(quotients):.2f} "
                f"({', '.join(f'{quotient:.2f}' for quotient in quotients)}) |",
                flush=True,
            )


def written(pair: colm.Pair, n_prompts: int, options: dict[str, Any]) -> tuple[float, float]:
    """Tokens a second behind the prompts, and calls of the assistant for each deferred token, of some texts."""
    n = deferred = calls = 0
    seconds = 0.0
    for number, prompt in enumerate(prompts(100)[:: 100 // n_prompts][:n_prompts]):
        pair.forget()
        out = pair.generate(prompt, seed=number, **options)
        n += len(out.tokens)
        deferred += sum(token.source != "base" for token in out.tokens)
        calls += out.stats.assistant_calls
        seconds += out.stats.decode_s
    return n / seconds, calls / max(1, deferred)


def main() -> None:
    """Runs one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("permute")
    one.add_argument("source", type=Path)
    one.add_argument("out", type=Path)
    one.add_argument("--seed", type=int, default=0)
    two = verbs.add_parser("compare")
    for name in ("results", "base", "assistant", "permuted"):
        two.add_argument(name, type=Path)
    two.add_argument("--head", default="confidence")
    two.add_argument("--threshold", type=float, default=0.5)
    two.add_argument("--prompts", type=int, default=100)
    two.add_argument("--tokens", type=int, default=64)
    two.add_argument("--threads", type=int)
    three = verbs.add_parser("speed")
    for name in ("base", "assistant", "permuted"):
        three.add_argument(name, type=Path)
    three.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    three.add_argument("--lookahead", type=int, nargs="+", default=[0, 4])
    three.add_argument("--prompts", type=int, default=6)
    three.add_argument("--tokens", type=int, default=48)
    three.add_argument("--rounds", type=int, default=3)
    three.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.verb == "permute":
        permute(args.source, args.out, args.seed)
    elif args.verb == "compare":
        compare(args)
    else:
        speed(args)


if __name__ == "__main__":
    main()
