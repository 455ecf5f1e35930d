"""A tiny pair, its scores and a tuned base, for the tests of `colm tune`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models as tm

from colm_cpp import learn, tune
from colm_cpp.learn.parts import text_split
from colm_cpp.tune import base

if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "peft")):
    pytest.skip("tuning needs torch, transformers and peft: pip install 'colm-cpp[tune]'", allow_module_level=True)

# On models of this size more threads of PyTorch than one only wait for each other.
base.usable_cores = lambda: 1  # type: ignore[attr-defined]

QUICK = tune.TuneOptions(epochs=2, dtype="float32", learning_rate=1e-2, rank=4, batch_texts=8)
N_TEXTS = 40
EXACT: Any = {"type_k": "f32", "type_v": "f32"}  # the caches lose nothing either


def scored(folder: Path, arch: str = "llama", **shape: Any) -> SimpleNamespace:
    """A tiny pair, and a folder of its scores."""
    base = tm.make_model(folder / "base.gguf", arch=arch, seed=1, **shape)
    assistant = tm.make_model(folder / "assistant.gguf", arch=arch, seed=2)
    texts = folder / "texts.jsonl"
    rows = [
        {"prompt": f"The quick {i}", "completion": " brown fox jumps over the lazy dog"[: 10 + i % 20]}
        for i in range(N_TEXTS)
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with learn.Scorer(base, assistant, **EXACT) as scorer:
        learn.score(scorer, learn.select([texts]), folder / "scores")
    return SimpleNamespace(base=base, assistant=assistant, texts=texts, scores=folder / "scores")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return scored(tmp_path_factory.mktemp("tune"))


@pytest.fixture(scope="module")
def tuned(pair: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tune.Tuned:
    return tune.tune(pair.base, [pair.scores], tmp_path_factory.mktemp("tuned"), QUICK)


def held_out_logprobs(pair: SimpleNamespace, adapter: Path | None, out: Path) -> np.ndarray[Any, Any]:
    """log P_base of the held-out tokens, by llama.cpp."""
    lora = {} if adapter is None else {"base_options": {"lora": [(str(adapter), 1.0)]}}
    with learn.Scorer(pair.base, pair.assistant, **EXACT, **lora) as scorer:
        learn.score(scorer, learn.select([pair.texts]), out)
    scores = learn.Scores(out)
    return scores["base_logprob"][np.isin(scores["text"], text_split(scores, QUICK.held_out, QUICK.seed).held_out)]
