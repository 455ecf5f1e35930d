"""What the engine costs beyond llama.cpp, and what it saves over a loop on two ``llama_cpp.Llama`` objects.

    python benchmarks/overhead.py BASE.gguf ASSISTANT.gguf [--tokens 96] [--rounds 7]

Arms alternate in one process, so that a machine whose speed drifts slows all of them alike:

* engine: ``pair.stream()`` from empty caches to its end, everything included (head, routing, sampling, text, Python);
* bare: the very decodes that the engine made, in its order, by C++ that does nothing else (``replay/replay.cpp``).
  The two take turns every four tokens, and a round's ratio is that of their sums;
* two Llamas: the loop that a user of llama-cpp-python would write (``two_llamas.py``), same tokens.

The engine runs a learned head (a random linear one, with features) at deferral rates 0, 0.2 and 1; against two
Llamas, which give no hidden states beside logits, both use the ``confidence`` head at the same thresholds.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from two_llamas import TwoLlamas

import colm_cpp as colm
from colm_cpp.evaluate.bench import PROMPT

N_BATCH = 512
TURN = 4  # tokens between two turns of engine and replay


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
    build = Path(tempfile.gettempdir()) / f"colm-replay-{os.getuid()}"
    site = sysconfig.get_paths()["platlib"]
    subprocess.run(["cmake", "-S", source, "-B", build, f"-DCMAKE_PREFIX_PATH={site}"], check=True, capture_output=True)
    subprocess.run(["cmake", "--build", build, "--config", "Release"], check=True, capture_output=True)
    return next(build.rglob("*colm_replay.*so"))


def _head(n_embd: int) -> colm.Head:
    rng = np.random.default_rng(0)
    theta = rng.normal(0, 1 / np.sqrt(n_embd), n_embd + 3).astype(np.float32)
    return colm.Head.linear(theta, features=("log_odds", "entropy", "margin"))


def _run(pair: colm.Pair, **options: Any) -> tuple[float, colm.TokenStream, colm.Completion]:
    pair.forget()
    start = time.perf_counter()
    stream = pair.stream(PROMPT, temperature=0.0, **options)
    completion = stream.completion()
    return time.perf_counter() - start, stream, completion


def _alternate(pair: colm.Pair, bare: BareReplay, **options: Any) -> tuple[float, float, colm.TokenStream]:
    """One text by the engine, its decodes replayed every few tokens; the seconds of both."""
    pair.forget()
    bare.clear()
    engine_s = bare_s = 0.0
    n_replayed = 0
    stream = pair.stream(PROMPT, temperature=0.0, **options)
    while stream.finish_reason is None:
        start = time.perf_counter()
        list(itertools.islice(stream, TURN))
        engine_s += time.perf_counter() - start
        calls = stream.calls
        bare_s += bare.seconds(calls[n_replayed:], stream.token_ids)
        n_replayed = len(calls)
    return engine_s, bare_s, stream


def _threshold_for(pair: colm.Pair, head: colm.Head, rate: float, n_tokens: int) -> float:
    """The threshold whose deferral rate on this very text is nearest to ``rate``."""
    if rate in (0.0, 1.0):
        return 1.0 - rate
    best = (1.0, 0.5)
    _, _, probe = _run(pair, head=head, threshold=1.0, max_tokens=n_tokens)
    for quantile in (0.7, 0.75, 0.8, 0.85, 0.9):
        threshold = float(np.quantile([token.defer_prob for token in probe.tokens], quantile))
        _, _, trial = _run(pair, head=head, threshold=threshold, max_tokens=n_tokens)
        best = min(best, (abs(trial.stats.deferral_rate - rate), threshold))
    return best[1]


def _summary(ratios: list[float]) -> dict[str, float]:
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("--tokens", type=int, default=96, help="tokens per text")
    parser.add_argument("--rounds", type=int, default=7, help="alternating rounds per rate")
    parser.add_argument("--rates", type=float, nargs="*", default=[0.0, 0.2, 1.0], help="deferral rates")
    parser.add_argument("--thresholds", type=float, nargs="*", default=[1.0, 0.5, 0.0], help="against two Llamas")
    parser.add_argument("--n-ctx", type=int, default=1024)
    parser.add_argument("--n-threads", type=int, default=0, help="0: the physical cores")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args()
    from colm_cpp.machine.cores import usable_cores

    n_threads = args.n_threads or usable_cores()
    results: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "n_threads": n_threads},
        "base": os.path.basename(args.base),
        "assistant": os.path.basename(args.assistant),
        "tokens": args.tokens,
        "rounds": args.rounds,
        "engine_over_bare": {},
        "engine_over_two_llamas": {},
    }
    with colm.load(args.base, args.assistant, n_ctx=args.n_ctx, n_threads=n_threads, n_gpu_layers=0) as pair:
        head = _head(pair.n_embd)
        bare = BareReplay(args.base, args.assistant, args.n_ctx, n_threads)
        print(
            f"{'rate':>6} {'measured':>9} {'decodes':>8} {'engine s':>9} {'bare s':>8} {'engine/bare':>12}  (min-max)"
        )
        for rate in args.rates:
            threshold = _threshold_for(pair, head, rate, args.tokens)
            options = {"head": head, "threshold": threshold, "max_tokens": args.tokens}
            engine_s, bare_s = [], []
            for warm_up in range(-1, args.rounds):
                elapsed, other, stream = _alternate(pair, bare, **options)
                if warm_up >= 0:
                    engine_s.append(elapsed)
                    bare_s.append(other)
            ratio = _summary([e / b for e, b in zip(engine_s, bare_s, strict=True)])
            measured = stream.stats.deferral_rate
            print(
                f"{rate:>6} {measured:>9.3f} {len(stream.calls):>8} {statistics.median(engine_s):>9.3f} "
                f"{statistics.median(bare_s):>8.3f} {ratio['median']:>12.4f}  ({ratio['min']:.4f}-{ratio['max']:.4f})"
            )
            results["engine_over_bare"][str(rate)] = {"measured_rate": measured, "decodes": len(stream.calls), **ratio}
        bare.close()

        print(
            f"\n{'threshold':>9} {'measured':>9} {'engine tok/s':>13} {'two Llamas tok/s':>17} {'ratio':>7}  (min-max)"
        )
        llamas = TwoLlamas(args.base, args.assistant, n_ctx=args.n_ctx, n_threads=n_threads)
        for threshold in args.thresholds:
            options = {"head": "confidence", "threshold": threshold, "max_tokens": args.tokens}
            engine_rates, llama_rates = [], []
            for warm_up in range(-1, max(3, args.rounds // 2)):
                elapsed, stream, completion = _run(pair, **options)
                start = time.perf_counter()
                ids = llamas.generate(PROMPT, threshold=threshold, max_tokens=args.tokens)
                other = time.perf_counter() - start
                generated = stream.token_ids[completion.stats.prompt_tokens :]
                if ids != generated:
                    sys.exit(f"the two loops wrote different tokens at threshold {threshold}")
                if warm_up >= 0:
                    engine_rates.append(len(generated) / elapsed)
                    llama_rates.append(len(ids) / other)
            ratio = _summary([e / o for e, o in zip(engine_rates, llama_rates, strict=True)])
            print(
                f"{threshold:>9} {completion.stats.deferral_rate:>9.3f} {statistics.median(engine_rates):>13.2f} "
                f"{statistics.median(llama_rates):>17.2f} {ratio['median']:>7.3f}  "
                f"({ratio['min']:.3f}-{ratio['max']:.3f})"
            )
            results["engine_over_two_llamas"][str(threshold)] = {
                "measured_rate": completion.stats.deferral_rate,
                "engine_tokens_per_s": statistics.median(engine_rates),
                "two_llamas_tokens_per_s": statistics.median(llama_rates),
                **ratio,
            }
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
