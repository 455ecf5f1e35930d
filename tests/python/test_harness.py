"""lm-evaluation-harness, unmodified, over ``local-completions`` (``benchmarks/harness_numbers.py``)."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
N_ROWS = 6


@pytest.fixture(scope="module")
def harness() -> str:
    """Python of the environment with the harness."""
    python = os.environ.get("COLM_LM_EVAL")
    if not python:
        pytest.skip('COLM_LM_EVAL names no Python with lm-evaluation-harness (pip install "lm_eval[api]")')
    return python


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("harness_numbers")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.slow
def test_its_numbers_are_the_pairs_own(script: Any, harness: str) -> None:
    """Likelihoods to 1e-3 and texts, of the base, the assistant, the mixture and the pair as it routes."""
    found = script.run("demo", "demo", harness, N_ROWS, list(script.WAYS))
    assert list(found) == ["demo", "demo:base", "demo:assistant", "demo:mixture"]
    for model, numbers in found.items():
        assert (numbers["sums"], numbers["texts"]) == (5 * N_ROWS, N_ROWS), model
        assert numbers["largest_difference"] < 1e-3, model
        assert numbers["other_texts"] == [], model
    perplexities = {round(numbers["colm_whole word_perplexity"], 3) for numbers in found.values()}
    assert len(perplexities) == 4  # each is another model
    solved = {model: numbers["colm_writing exact_match"] for model, numbers in found.items()}
    assert solved["demo"] > 0.5 > solved["demo:base"]
