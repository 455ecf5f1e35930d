"""Tokens per second with an assistant behind a server that answers late, with and without look-ahead.

    python benchmarks/remote_latency.py [--delays 0 20 80] [--agree 0.9 0.7] [--rate 0.2] [--texts 4] [--tokens 192]

The server is a look-alike of llama-server on loopback: it answers several positions in one call, and waits before each
answer. It answers from the base's own model, the demo's, but at a share of the positions, ``1 - agree``, the two
likeliest tokens change places. So that share of the drafts is rejected, whatever the machine. Every text is written
once before it is timed, so the server then answers nearly all from a table and takes no time of its own. Tokens are
deferred at random. Look-ahead 0 is one call for each deferred token. Its texts are compared with those of the others.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import colm_cpp as colm
from colm_cpp.sources.preset import DEMO_FOLDER

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
from far_server import FarServer


def _disagreeing(agree: float) -> Any:
    """For :attr:`FarServer.change`."""

    def changed(results: list[Any]) -> Any:
        answers = []
        for result in results:
            first, second, *others = result["completion_probabilities"][0]["top_logprobs"]
            if zlib.crc32(repr(first).encode()) % 1000 >= agree * 1000:
                first, second = {**second, "logprob": first["logprob"]}, {**first, "logprob": second["logprob"]}
            answers.append({**result, "completion_probabilities": [{"top_logprobs": [first, second, *others]}]})
        return answers[0] if len(answers) == 1 else answers

    return changed


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delays", type=int, nargs="+", default=[0, 20, 80], help="milliseconds")
    parser.add_argument("--agree", type=float, nargs="+", default=[0.9, 0.7], help="share of drafts that are right")
    parser.add_argument("--rate", type=float, default=0.2, help="share of the tokens that are deferred")
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=192)
    parser.add_argument("--lookahead", nargs="+", default=["0", "4", "15", "auto"])
    args = parser.parse_args()
    rows = itertools.islice((DEMO_FOLDER / "problems.jsonl").open(encoding="utf-8"), args.texts)
    prompts = [str(json.loads(row)["prompt"]) for row in rows]
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": args.tokens, "threshold": 1.0 - args.rate}
    columns = "agree | delay | look-ahead | tokens/s | against 0 | calls per text | deferred | accepted | same texts"
    print(f"| {columns} |\n|---|---|---|---|---|---|---|---|---|")
    base = DEMO_FOLDER / "base.gguf"
    with FarServer(base, n_ctx=512, type_k="f16", type_v="f16", flash_attn=None) as server:

        def write(lookahead: Any, delay: int) -> tuple[list[colm.Completion], float]:
            server.delay = delay / 1000
            with colm.load(base, server.url, head="random", n_ctx=512) as pair:
                ends = dict.fromkeys(pair.base["eog_tokens"], float("-inf"))  # all texts are equally long
                begin = time.perf_counter()
                texts = [
                    pair.generate(prompt, seed=seed, lookahead=lookahead, logit_bias=ends, **options)
                    for seed, prompt in enumerate(prompts)
                ]
                return texts, time.perf_counter() - begin

        for agree, delay in itertools.product(args.agree, args.delays):
            server.change = _disagreeing(agree)
            plain: list[colm.Completion] = []
            alone = 0.0
            for value in args.lookahead:
                lookahead: Any = value if value == "auto" else int(value)
                write(lookahead, 0)
                texts, seconds = write(lookahead, delay)
                _print(f"{agree:.0%} | {delay} ms | {value}", texts, seconds, plain, alone)
                if not plain:
                    plain, alone = texts, _speed(texts, seconds)


def _speed(texts: list[colm.Completion], seconds: float) -> float:
    return sum(text.stats.generated_tokens for text in texts) / seconds


def _print(row: str, texts: list[colm.Completion], seconds: float, plain: list[colm.Completion], alone: float) -> None:
    n = sum(text.stats.generated_tokens for text in texts)
    deferred = sum(round(text.stats.deferral_rate * text.stats.generated_tokens) for text in texts)
    calls = sum(text.stats.assistant_calls for text in texts)
    drafted = sum(text.stats.drafted_tokens for text in texts)
    accepted = sum(text.stats.accepted_tokens for text in texts)
    speed = _speed(texts, seconds)

    def written(text: colm.Completion) -> list[tuple[int, str]]:
        return [(token.id, token.source) for token in text.tokens]

    same = sum(written(text) == written(other) for text, other in zip(texts, plain or texts, strict=True))
    print(
        f"| {row} | {speed:.0f} | {speed / (alone or speed):.1f} | {calls / len(texts):.1f} | "
        f"{deferred / n:.0%} | {accepted / drafted if drafted else 0:.0%} of {drafted} | {same} of {len(texts)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
