"""What huge pages are worth: decodes with and without, and of bare llama.cpp as it is, in fresh processes in turns.

    python benchmarks/huge_pages.py BASE.gguf [ASSISTANT.gguf] [--rounds 4] [--n-threads N] [--steps]

* on, off: this package with ``huge_pages=True`` and ``False``;
* bare: llama.cpp with its own defaults, which map the file (``replay/replay.cpp``).

All make the same decodes: single tokens, eight tokens at once, and a prompt. With one thread the process's own time
counts, else the time on the wall.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fresh import Spread, clock, in_turns
from overhead import BareReplay, Call

import colm_cpp as colm
from colm_cpp.machine.cores import usable_cores

N_CTX = 1024
PROMPT = 64  # tokens
TURNS = 2  # of each kind, in a process
ARMS = ("on", "off", "bare")
KINDS = ("one token", "eight tokens", f"a prompt of {PROMPT}")


def _timed(model: str, run: Callable[[list[Call]], float], *, all_kinds: bool) -> dict[str, float]:
    """Seconds of each kind of decode. Single tokens follow a text of eight, whose time is taken off."""
    eight: list[Call] = [(model, 8 * i, 8, True, False) for i in range(2)]
    ones: list[Call] = [eight[0], *((model, 8 + i, 1, True, False) for i in range(12))]
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(TURNS):
        of_eight = run(eight) / len(eight)
        found["eight tokens"].append(of_eight)
        found["one token"].append((run(ones) - of_eight) / 12)
    if not all_kinds:
        return {KINDS[0]: statistics.median(found[KINDS[0]])}
    found[KINDS[2]].append(run([(model, 0, PROMPT, True, False)]))
    return {kind: statistics.median(seconds) for kind, seconds in found.items()}


def _huge_mb() -> float:
    """Of this process's own memory."""
    return sum(map(int, re.findall(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps").read_text()))) / 1024


def _worker(arm: str, args: argparse.Namespace) -> dict[str, Any]:
    base, assistant, n_threads = args.base, args.assistant or args.base, args.n_threads
    now = clock(n_threads)
    tokens = [1000 + 7 * i for i in range(PROMPT)]
    start = now()
    if arm == "bare":
        bare = BareReplay(base, assistant, N_CTX, n_threads)

        def decode(calls: list[Call]) -> None:
            bare.clear()
            bare.seconds(calls, tokens)
    else:
        on = arm == "on"
        pair = colm.load(base, assistant, "never", n_ctx=N_CTX, n_threads=n_threads, n_gpu_layers=0, huge_pages=on)

        def decode(calls: list[Call]) -> None:
            pair.replay(tokens, calls)

    found: dict[str, Any] = {"loading": now() - start}

    def run(calls: list[Call]) -> float:
        start = now()
        decode(calls)
        return now() - start

    for model in ("base", "assistant") if args.assistant else ("base",):
        seconds = _timed(model, run, all_kinds=not args.steps)
        found.update({f"{model}, {kind}": value for kind, value in seconds.items()})
    return {**found, "huge MB": _huge_mb()}


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant", nargs="?", help="left out: the base alone is measured")
    parser.add_argument("--steps", action="store_true", help="single tokens alone, which takes less long")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--n-threads", type=int, default=usable_cores())
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(_worker(args.worker, args)))
        return
    given = [args.base, *filter(None, [args.assistant]), "--n-threads", str(args.n_threads)]
    rounds = in_turns(ARMS, given + ["--steps"] * args.steps, args.rounds)
    print(f"{args.n_threads} threads, {args.rounds} rounds; medians (least to most)")
    in_huge = ", ".join(f"{arm} {rounds[-1][arm]['huge MB']:.0f} MB" for arm in ARMS)
    print(f"in huge pages: {in_huge}\n")
    print("| | on, ms | off, ms | bare, ms | on / off | on / bare |")
    print("|---|---|---|---|---|---|")
    for what in rounds[0]["on"]:
        if what == "huge MB":
            continue
        cells = [f"{1000 * statistics.median(found[arm][what] for found in rounds):.1f}" for arm in ARMS]
        cells += [Spread([f["on"][what] / f[other][what] for f in rounds]).show() for other in ("off", "bare")]
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
