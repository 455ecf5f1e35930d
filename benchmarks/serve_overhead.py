"""What ``colm serve`` costs over ``generate_batch`` on the same slots: processor time, and tokens per second.

    python benchmarks/serve_overhead.py --pair demo --slots 8 --texts 64 --tokens 60 --rounds 5

The server, ``generate_batch`` and the clients have a process each. In each round the same texts are written by
``generate_batch`` and by the server, whole and streamed, in turns. There are twice as many clients as slots, so that a
text always waits. Models compute in one thread: processor seconds are then work and not waiting. They are those of the
server's or the batch's process alone. Other work on the machine hardly changes them, but the tokens per second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import psutil
from fresh import Spread
from serving import ask_all, served

import colm_cpp as colm

PROMPT = "Problem: Tom brings {} crates of {} eggs to the farm. How many eggs are there?\nSolution:"
ARMS = ("batch", "whole", "streamed")


def prompts(n: int, first: int = 0) -> list[str]:
    """So many different prompts, from this number on."""
    return [PROMPT.format(2 + i % 7, 11 + i) for i in range(first, first + n)]


def worker(given: argparse.Namespace) -> None:
    """Writes the texts whenever a line comes, and prints how many tokens, seconds and processor seconds that took."""
    options: Any = {"n_threads": 1, "n_threads_batch": 1}
    if given.n_ctx is not None:
        options["n_ctx"] = given.n_ctx
    with colm.load(pair=given.pair, n_parallel=given.slots, **options) as pair:
        for _ in sys.stdin:
            begin, worked = time.perf_counter(), time.process_time()
            written = pair.generate_batch(
                prompts(given.texts), n_parallel=given.slots, temperature=0, max_tokens=given.tokens, **way(given.model)
            )
            n = sum(text.stats.generated_tokens for text in written)
            print(json.dumps([n, time.perf_counter() - begin, time.process_time() - worked]), flush=True)


def way(model: str) -> dict[str, Any]:
    """What a model name stands for, of those that are measured."""
    return {"head": "never"} if model.endswith(":base") else {}


def from_server(
    server: psutil.Process, address: str, given: argparse.Namespace, *, stream: bool, first: int = 0
) -> list[float]:
    """The same of the server, with the prompts from this number on."""

    def used() -> float:
        times = server.cpu_times()
        return float(times.user + times.system)

    fields = {"model": given.model, "temperature": 0, "max_tokens": given.tokens, "stream": stream}
    bodies = [{"prompt": prompt, **fields} for prompt in prompts(given.texts, first)]
    begin, worked = time.perf_counter(), used()
    n = asyncio.run(ask_all(address, bodies, 2 * given.slots))  # a text always waits for a slot
    return [n, time.perf_counter() - begin, used() - worked]


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--pair", default="demo")
    parser.add_argument("--model", default="pair", help="pair, or pair:base: the base alone.")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--n-ctx", type=int)
    given = parser.parse_args()
    if given.worker:
        worker(given)
        return
    more = [] if given.n_ctx is None else ["--n-ctx", str(given.n_ctx)]
    flags = ["--pair", given.pair, "--name", "pair", "--parallel", str(given.slots), *more]
    batch = subprocess.Popen(
        [sys.executable, *sys.argv, "--worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert batch.stdin is not None
    assert batch.stdout is not None
    found: list[dict[str, list[float]]] = []
    with served(*flags, "--n-threads", "1", "--n-threads-batch", "1") as (server, address):
        for number in range(given.rounds + 1):  # the first one warms up
            one: dict[str, list[float]] = {}
            for arm in ARMS if number % 2 else ARMS[::-1]:
                if arm == "batch":
                    print(file=batch.stdin, flush=True)
                    one[arm] = json.loads(batch.stdout.readline())
                else:
                    one[arm] = from_server(server, address, given, stream=arm == "streamed")
            print(json.dumps(one), file=sys.stderr, flush=True)
            found.append(one)
    batch.stdin.close()
    batch.wait()
    shown: dict[str, str] = {}
    for arm in ARMS:
        shown[f"{arm}: processor ms per token"] = Spread([1000 * one[arm][2] / one[arm][0] for one in found[1:]]).show()
        shown[f"{arm}: tokens per s"] = Spread([one[arm][0] / one[arm][1] for one in found[1:]]).show(1)
    for arm in ARMS[1:]:
        for what, at in (("processor time", 2), ("time", 1)):
            ratios = [one[arm][at] / one[arm][0] / (one["batch"][at] / one["batch"][0]) for one in found[1:]]
            shown[f"{arm}: {what} of a token, over the batch's"] = Spread(ratios).show()
    print(json.dumps(shown, indent=2))


if __name__ == "__main__":
    main()
