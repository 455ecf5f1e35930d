"""What an adapter costs, and what merging it costs: nats and tokens per second.

    python benchmarks/merged.py BASE.gguf ADAPTER.gguf SCORES [--types q4_k_m q8_0] [--threads 1]

SCORES is a folder of ``colm score``; its texts should not be those that the adapter was trained on. Each arm (the base,
the base with its adapter, the merged files) reads a text and then writes, in a fresh process for each round, in turns:
of equal models in one process, the one that was loaded first may be slower. The result has the medians of the times and
of the ratios to the base within a round; and the mean of -log P of the scored tokens. With one thread, times are those
of the processor, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from bare import decode
from fresh import clock, in_turns, run

from colm_cpp import tune
from colm_cpp.learn.scores import Scores
from colm_cpp.machine.cores import usable_cores
from colm_cpp.tune.data import TuneText, read_texts

ADAPTED = "base + adapter"


class Arm:
    """A model, perhaps with an adapter."""

    def __init__(self, path: str, n_threads: int, lora: str | None = None) -> None:
        self._clock = clock(n_threads)
        params = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 512
        settings.n_threads = settings.n_threads_batch = n_threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        self._n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        if lora is not None:
            adapter = llama_cpp.llama_adapter_lora_init(self._model, lora.encode())
            adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter), (llama_cpp.ctypes.c_float * 1)(1.0)
            if llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, scales) != 0:
                raise SystemExit(f"llama.cpp does not accept {lora}")

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)

    def logprobs(self, text: TuneText) -> list[float]:
        """log P of a text's scored tokens."""
        self._clear()
        before = set(text.positions - 1)
        decode(self._context, self._batch, [(int(t), i, 0, i in before) for i, t in enumerate(text.tokens)])
        values: list[float] = []
        for position in text.positions:
            row = llama_cpp.llama_get_logits_ith(self._context, int(position - 1))
            logits = np.ctypeslib.as_array(row, (self._n_vocab,)).astype(np.float64)
            top = logits.max()
            values.append(float(logits[text.tokens[position]] - top - np.log(np.exp(logits - top).sum())))
        return values

    def times(self, text: TuneText, n_read: int, n_tokens: int) -> tuple[float, float]:
        """Seconds for a token that is read, and for one that is written."""
        self._clear()
        tokens = [int(token) for token in text.tokens]
        start = self._clock()
        decode(self._context, self._batch, [(t, i, 0, i == n_read - 1) for i, t in enumerate(tokens[:n_read])])
        middle = self._clock()
        for i, token in enumerate(tokens[:n_tokens]):
            decode(self._context, self._batch, [(token, n_read + i, 0, True)])
        return (middle - start) / n_read, (self._clock() - middle) / n_tokens


def _texts(given: argparse.Namespace) -> list[TuneText]:
    _, held_out, _ = read_texts([Scores(given.scores)], held_out=0.1, seed=0)
    return [text for text in held_out if given.read <= len(text.tokens) <= 500][: given.texts]


def _file(given: argparse.Namespace, arm: str) -> Path:
    return given.folder / f"merged-{arm.split()[1]}.gguf" if arm.startswith("merged") else Path(given.base)


def _measure(given: argparse.Namespace) -> Any:
    """In a process of its own: log P of all texts with ``--score``, else the times of one text after a warm-up."""
    llama_cpp.llama_log_set(QUIET, llama_cpp.ctypes.c_void_p(0))
    lora = given.adapter if given.worker == ADAPTED else None
    arm, texts = Arm(str(_file(given, given.worker)), given.threads, lora), _texts(given)
    if given.score:
        return [logprob for text in texts for logprob in arm.logprobs(text)]
    arm.times(texts[-1], given.read, given.tokens)
    return arm.times(texts[0], given.read, given.tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("adapter")
    parser.add_argument("scores")
    parser.add_argument("--types", nargs="+", default=["q4_k_m", "q8_0"], choices=tune.FILE_TYPES)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--read", type=int, default=96, help="tokens that are read in each turn")
    parser.add_argument("--tokens", type=int, default=24, help="tokens that are written in each turn")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the merged files there; default: a temporary folder")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--score", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(_measure(given)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        given.folder = given.folder or Path(temporary)
        arms = ["base", ADAPTED, *(f"merged {type}" for type in given.types)]
        for type in given.types:
            file = _file(given, f"merged {type}")
            if not file.exists():
                tune.merge(given.base, given.adapter, file, type)
        same = [given.base, given.adapter, given.scores, "--folder", str(given.folder)]
        for name in ("texts", "read", "tokens", "threads"):
            same += [f"--{name}", str(getattr(given, name))]
        rounds = in_turns(arms, same, given.rounds)
        logprobs = {arm: np.array(run(arm, [*same, "--score"])) for arm in arms}
        for arm in arms:
            megabytes = round(_file(given, arm).stat().st_size / 1e6)
            print(json.dumps({"arm": arm, "MB": megabytes, **_row(arm, rounds, logprobs)}), flush=True)


@llama_cpp.llama_log_callback
def QUIET(level: int, text: bytes, data: Any) -> None:
    """Prints nothing."""


def _row(arm: str, rounds: list[dict[str, Any]], logprobs: dict[str, Any]) -> dict[str, Any]:
    times = [found[arm] for found in rounds]
    ratios = [[found["base"][i] / found[arm][i] for found in rounds] for i in (0, 1)]
    read, written = (1 / statistics.median(t[i] for t in times) for i in (0, 1))
    return {
        "read, tokens/s": round(read, 1),
        "written, tokens/s": round(written, 1),
        "speed of reading": round(statistics.median(ratios[0]), 2),
        "speed of writing": round(statistics.median(ratios[1]), 2),
        "nats": round(-float(logprobs[arm].mean()), 4),
        "from base + adapter, nats": round(float(np.abs(logprobs[arm] - logprobs[ADAPTED]).mean()), 4),
        "tokens": len(logprobs[arm]),
    }


if __name__ == "__main__":
    main()
