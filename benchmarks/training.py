"""Time and memory of fitting a head to many tokens.

    python benchmarks/training.py --tokens 1000000 --width 2048

Makes a folder of made-up scores and fits a head to it twice, without features and with all of them, each time in a
process of its own; prints seconds, passes over the rows and the process's peak memory. The hidden states carry what
both models know, so that the fit has something to find, and correlate, so that it is no easier than a real one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from colm_cpp.learn.score_files import ProgressMark
from colm_cpp.learn.scores import Scores, ScoresWriter
from colm_cpp.learn.training import train
from colm_cpp.options.training import TrainingOptions

TOP_K = 5
CHUNK = 8192  # tokens in memory at once


def make_scores(folder: Path, n_tokens: int, width: int, tokens_per_text: int) -> None:
    """Writes a folder of scores; one that is begun is gone on with."""
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((32, width)).astype(np.float32)
    planted = generator.standard_normal(width).astype(np.float32)
    planted /= np.sqrt(33 * width)
    facts = {
        "n_embd": width,
        "top_k": TOP_K,
        "base": "made up",
        "assistant": "made up",
        "vocab_fingerprint": "0" * 16,
    }
    with ScoresWriter(folder, facts) as writer:
        n_done, n_texts = writer.done.n_tokens, writer.done.n_texts
        while n_done < n_tokens:
            n = min(CHUNK, n_tokens - n_done)
            generator = np.random.default_rng([1, n_done])
            hidden = generator.standard_normal((n, width), dtype=np.float32)
            hidden += generator.standard_normal((n, 32), dtype=np.float32) @ mixing
            better = hidden @ planted + 0.5 * generator.standard_normal(n, dtype=np.float32)
            base = -generator.exponential(1.0, n) - np.maximum(better, 0)
            assistant = -generator.exponential(1.0, n) + np.minimum(better, 0)
            top = -np.sort(generator.exponential(1.0, (n, TOP_K)), axis=1)
            token = generator.integers(0, 1000, n)
            columns: dict[str, Any] = {
                "token": token,
                "base_logprob": base,
                "base_top": np.where(better < 0.5, token, token + 1),
                "base_top_logprob": top[:, 0],
                "base_log_odds": top[:, 0] - np.log1p(-np.exp(np.minimum(top[:, 0], -1e-6))),
                "base_entropy": -top[:, 0] + 1.0,
                "base_top_k_logprobs": top,
                "base_hidden": hidden,
                "assistant_logprob": assistant,
                "assistant_top": np.where(better > -1.0, token, token + 2),
                "assistant_top_logprob": np.maximum(assistant, -0.5),
                "assistant_entropy": np.ones(n),
                "assistant_logprob_of_base_top": np.minimum(assistant, -0.5),
            }
            texts = [{"n_scored": min(tokens_per_text, n - at)} for at in range(0, n, tokens_per_text)]
            n_done, n_texts = n_done + n, n_texts + len(texts)
            writer.add(columns, texts, ProgressMark(n_texts=n_texts, n_tokens=n_done, complete=n_done == n_tokens))


def fit(folder: Path, features: str, objective: str, memory_limit: int) -> dict[str, Any]:
    """Fits a head; seconds, passes and the peak of this process in MiB."""
    start = time.perf_counter()
    options = TrainingOptions(features=features, objective=objective, memory_limit=memory_limit)
    trained = train([Scores(folder)], options)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    fits = {"weak": trained.weak_fit, objective: trained.main_fit}
    return {
        "features": features,
        "seconds": round(seconds, 1),
        "peak_mib": round(peak),
        "passes": {what: fit.n_passes for what, fit in fits.items() if fit is not None},
        "joint_nll": round(trained.held_out.joint_nll, 5),
        "auc_differ": trained.held_out.auc_differ,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--tokens-per-text", type=int, default=256)
    parser.add_argument("--objective", default="marginal")
    parser.add_argument("--memory-limit", type=int, default=TrainingOptions().memory_limit, help="bytes")
    parser.add_argument("--folder", type=Path, help="keep the scores there; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "scores"
        make_scores(folder, arguments.tokens, arguments.width, arguments.tokens_per_text)
        # A fresh interpreter: the peak of a forked one would begin with that of its parent.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for features in ("none", "logits"):
                result = pool.apply(fit, (folder, features, arguments.objective, arguments.memory_limit))
                print(json.dumps({"tokens": arguments.tokens, "width": arguments.width, **result}), flush=True)


if __name__ == "__main__":
    main()
