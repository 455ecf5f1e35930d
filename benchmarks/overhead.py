"""What the engine costs beyond llama.cpp, and what it saves over a loop on two ``llama_cpp.Llama`` objects.

    python benchmarks/overhead.py BASE.gguf ASSISTANT.gguf [--tokens 96] [--rounds 5]

Of equal contexts in one process, the one that was loaded first may be some percent slower: its pages lie elsewhere. So
every arm has fresh processes, in turns, and what is compared in one process is loaded in either order:

* same pages: ``pair.stream()`` with everything included (head, routing, sampling, text, Python) over the very decodes
  that it made, repeated by the same contexts with nothing beside them;
* a user's llama.cpp: over the same decodes by C++ that does nothing else, with llama.cpp's own way of loading
  (``replay/replay.cpp``), in a process of its own;
* engine first, bare first: these two in one process, in that order of loading, in turns of four tokens;
* two Llamas: the loop that a user of llama-cpp-python would write (``two_llamas.py``), in a process of its own.

The engine runs a learned head (a random linear one, with features) at deferral rates 0, 0.2 and 1; against two
Llamas, which give no hidden states beside logits, both use the ``confidence`` head at the same thresholds. With one
thread the process's own time counts, else the time on the wall.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fresh import Spread, clock, in_turns
from two_llamas import TwoLlamas

import colm_cpp as colm
from colm_cpp.evaluate.steps import PROMPT
from colm_cpp.machine.cores import usable_cores

N_BATCH = 512
TURN = 4  # tokens between two turns of engine and replay
TEXTS = 3  # of each rate in a process, the first of which is not counted
ARMS = ("engine", "bare", "two Llamas", "engine first", "bare first")

Call = tuple[str, int, int, bool, bool]


class ReplayCall(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("model", "position", "n_tokens", "outputs", "hidden")]


class BareReplay:
    """The C++ side, built on first use."""

    def __init__(self, base: str, assistant: str, n_ctx: int, n_threads: int) -> None:
        self._library = ctypes.CDLL(str(_build()))
        self._library.replay_open.restype = ctypes.c_void_p
        self._library.replay_run.restype = ctypes.c_double
        handle = self._library.replay_open(base.encode(), assistant.encode(), n_ctx, N_BATCH, n_threads)
        if not handle:
            raise SystemExit("the models cannot be opened for the replay")
        self._handle = ctypes.c_void_p(handle)

    def clear(self) -> None:
        self._library.replay_clear(self._handle)

    def seconds(self, calls: list[Call], tokens: list[int]) -> float:
        array = (ReplayCall * len(calls))(
            *(ReplayCall(int(m == "assistant"), p, n, int(out), int(hidden)) for m, p, n, out, hidden in calls)
        )
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        elapsed = self._library.replay_run(self._handle, array, len(calls), ids)
        if elapsed < 0:
            raise SystemExit("a decode of the replay failed")
        return float(elapsed)

    def close(self) -> None:
        self._library.replay_close(self._handle)


def _build() -> Path:
    source = Path(__file__).with_name("replay")
    site = sysconfig.get_paths()["platlib"]
    # CMake refuses a folder that it configured for another checkout.
    of = hashlib.sha256(f"{source.resolve()} {site}".encode()).hexdigest()[:12]
    build = Path(tempfile.gettempdir()) / f"colm-replay-{os.getuid()}-{of}"
    subprocess.run(["cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={site}"], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--config", "Release"], check=True, capture_output=True)
    return next(build.rglob("*colm_replay.*so"))


def _head(n_embd: int) -> colm.Head:
    rng = np.random.default_rng(0)
    theta = rng.normal(0, 1 / np.sqrt(n_embd), n_embd + 3).astype(np.float32)
    return colm.Head.linear(theta, features=("log_odds", "entropy", "margin"))


def _open(args: argparse.Namespace) -> colm.Pair:
    return colm.load(args.base, args.assistant, n_ctx=args.n_ctx, n_threads=args.n_threads, n_gpu_layers=0)


def _open_bare(args: argparse.Namespace) -> BareReplay:
    return BareReplay(args.base, args.assistant, args.n_ctx, args.n_threads)


def _write(pair: colm.Pair, **options: Any) -> tuple[colm.TokenStream, colm.Completion]:
    stream = pair.stream(PROMPT, temperature=0.0, lookahead=0, **options)
    return stream, stream.completion()


def _timed(now: Callable[[], float], work: Callable[..., Any], *args: Any, **options: Any) -> float:
    start = now()
    work(*args, **options)
    return now() - start


def _thresholds(pair: colm.Pair, head: colm.Head, args: argparse.Namespace) -> dict[str, float]:
    """By rate, the threshold whose deferral rate on this very text is nearest to it."""
    _, probe = _write(pair, head=head, threshold=1.0, max_tokens=args.tokens)
    defer_probs = np.array([token.defer_prob for token in probe.tokens], dtype=np.float64)
    found = {}
    for rate in args.rates:
        best = (1.0, 1.0 - rate)
        for quantile in () if rate in (0.0, 1.0) else (0.7, 0.75, 0.8, 0.85, 0.9):
            threshold = float(np.quantile(defer_probs, quantile))
            _, trial = _write(pair, head=head, threshold=threshold, max_tokens=args.tokens)
            best = min(best, (abs(trial.stats.deferral_rate - rate), threshold))
        found[str(rate)] = best[1]
    return found


def _schedule(pair: colm.Pair, args: argparse.Namespace) -> dict[str, Any]:
    """What the first process found, for all others: thresholds, and the decodes at each."""
    if args.schedule.exists():
        return dict(json.loads(args.schedule.read_text()))
    head = _head(pair.n_embd)
    schedule: dict[str, Any] = {}
    for rate, threshold in _thresholds(pair, head, args).items():
        stream, out = _write(pair, head=head, threshold=threshold, max_tokens=args.tokens)
        pair.forget()
        stream, out = _write(pair, head=head, threshold=threshold, max_tokens=args.tokens)
        measured = {"threshold": threshold, "measured": out.stats.deferral_rate}
        schedule[rate] = {**measured, "calls": stream.calls, "tokens": stream.token_ids}
    args.schedule.write_text(json.dumps(schedule))
    return schedule


def _engine(args: argparse.Namespace) -> dict[str, Any]:
    now = clock(args.n_threads)
    found: dict[str, Any] = {}
    with _open(args) as pair:
        schedule = _schedule(pair, args)
        head = _head(pair.n_embd)
        for rate, known in schedule.items():
            options = {"head": head, "threshold": known["threshold"], "max_tokens": args.tokens}
            calls, tokens = [tuple(call) for call in known["calls"]], known["tokens"]
            engine, same = [], []
            for _ in range(TEXTS):
                pair.forget()
                engine.append(_timed(now, _write, pair, **options))
                whole = _timed(now, pair.replay, tokens, calls)
                same.append(whole - _timed(now, pair.replay, tokens, []))  # which empties the caches
            found[rate] = {"engine": statistics.median(engine[1:]), "same": statistics.median(same[1:])}
        for threshold in args.thresholds:
            options = {"head": "confidence", "threshold": threshold, "max_tokens": args.tokens}
            seconds = []
            for _ in range(TEXTS):
                pair.forget()
                seconds.append(_timed(now, _write, pair, **options))
            pair.forget()
            stream, out = _write(pair, **options)
            ids = stream.token_ids[out.stats.prompt_tokens :]
            found[f"confidence {threshold}"] = {"seconds": statistics.median(seconds[1:]), "ids": ids}
    return found


def _bare(args: argparse.Namespace) -> dict[str, Any]:
    now = clock(args.n_threads)
    bare = _open_bare(args)
    found = {}
    for rate, known in json.loads(args.schedule.read_text()).items():
        seconds = []
        for _ in range(TEXTS):
            bare.clear()
            seconds.append(_timed(now, bare.seconds, known["calls"], known["tokens"]))
        found[rate] = statistics.median(seconds[1:])
    return found


def _two_llamas(args: argparse.Namespace) -> dict[str, Any]:
    now = clock(args.n_threads)
    llamas = TwoLlamas(args.base, args.assistant, n_ctx=args.n_ctx, n_threads=args.n_threads)
    found = {}
    for threshold in args.thresholds:
        seconds, ids = [], []
        for _ in range(TEXTS):
            start = now()
            ids = llamas.generate(PROMPT, threshold=threshold, max_tokens=args.tokens)
            seconds.append(now() - start)
        found[f"confidence {threshold}"] = {"seconds": statistics.median(seconds[1:]), "ids": ids}
    return found


def _both(args: argparse.Namespace) -> dict[str, float]:
    """Engine and bare decodes in one process, in turns of some tokens: their ratio."""
    now = clock(args.n_threads)
    if args.worker == "engine first":
        pair, bare = _open(args), _open_bare(args)
    else:
        bare, pair = _open_bare(args), _open(args)
    found = {}
    for rate, known in json.loads(args.schedule.read_text()).items():
        ratios = []
        for _ in range(TEXTS):
            pair.forget()
            bare.clear()
            engine_s = bare_s = 0.0
            n_replayed = 0
            options = {"head": _head(pair.n_embd), "threshold": known["threshold"], "max_tokens": args.tokens}
            stream = pair.stream(PROMPT, temperature=0.0, lookahead=0, **options)
            while stream.finish_reason is None:
                engine_s += _timed(now, list, itertools.islice(stream, TURN))
                calls, tokens = stream.calls[n_replayed:], stream.token_ids
                bare_s += _timed(now, bare.seconds, calls, tokens)
                n_replayed += len(calls)
            ratios.append(engine_s / bare_s)
        found[rate] = statistics.median(ratios[1:])
    return found


WORKERS = {"engine": _engine, "bare": _bare, "two Llamas": _two_llamas, "engine first": _both, "bare first": _both}


def main() -> None:
    """Prints two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("--tokens", type=int, default=96, help="tokens per text")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each arm")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.0, 0.2, 1.0], help="deferral rates")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[1.0, 0.5, 0.0], help="against two Llamas")
    parser.add_argument("--n-ctx", type=int, default=1024)
    parser.add_argument("--n-threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--worker", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--schedule", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(WORKERS[args.worker](args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        schedule = Path(folder) / "schedule.json"
        given = [args.base, args.assistant, "--tokens", str(args.tokens), "--n-ctx", str(args.n_ctx)]
        given += ["--n-threads", str(args.n_threads), "--schedule", str(schedule)]
        given += ["--rates", *map(str, args.rates), "--thresholds", *map(str, args.thresholds)]
        arms = [arm for arm in ARMS if args.thresholds or arm != "two Llamas"]
        rounds = in_turns(arms, given, args.rounds)
        known = json.loads(schedule.read_text())
    _print_rates(rounds, known)
    if args.thresholds:
        _print_thresholds(rounds, args.thresholds)
    if args.json:
        args.json.write_text(json.dumps({"rounds": rounds}, indent=2) + "\n")


def _print_rates(rounds: list[dict[str, Any]], known: dict[str, Any]) -> None:
    print("engine over bare decodes, medians (least to most)\n")
    print("| deferred | decodes | engine, s | same pages | a user's llama.cpp | engine first | bare first |")
    print("|---|---|---|---|---|---|---|")
    for rate, of in known.items():
        engine = [found["engine"][rate]["engine"] for found in rounds]
        cells = [f"{of['measured']:.0%}", str(len(of["calls"])), f"{statistics.median(engine):.3f}"]
        cells.append(
            Spread([s / found["engine"][rate]["same"] for s, found in zip(engine, rounds, strict=True)]).show()
        )
        cells.append(Spread([s / found["bare"][rate] for s, found in zip(engine, rounds, strict=True)]).show())
        cells += [Spread([found[arm][rate] for found in rounds]).show() for arm in ("engine first", "bare first")]
        print(f"| {' | '.join(cells)} |")


def _print_thresholds(rounds: list[dict[str, Any]], thresholds: list[float]) -> None:
    print("\n| threshold | engine, tokens/s | two Llamas, tokens/s | engine's speed over theirs |")
    print("|---|---|---|---|")
    for threshold in thresholds:
        name = f"confidence {threshold}"
        ours, theirs = ([found[arm][name] for found in rounds] for arm in ("engine", "two Llamas"))
        if any(one["ids"] != ours[0]["ids"] for one in (*ours, *theirs)):
            sys.exit(f"the two loops wrote different tokens at threshold {threshold}")
        n = len(ours[0]["ids"])
        cells = [str(threshold)]
        cells += [f"{statistics.median(n / one['seconds'] for one in arm):.2f}" for arm in (ours, theirs)]
        ratios = [other["seconds"] / one["seconds"] for one, other in zip(ours, theirs, strict=True)]
        print(f"| {' | '.join(cells)} | {Spread(ratios).show()} |")


if __name__ == "__main__":
    main()
