"""Folders of scores made of numbers, for the tests of fits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from colm_cpp.learn import Scores, TrainingOptions, parts, train
from colm_cpp.learn.inputs import Inputs
from colm_cpp.learn.objective import sigmoid
from colm_cpp.learn.score_files import ProgressMark
from colm_cpp.learn.scores import ScoresWriter

F64 = npt.NDArray[np.float64]


FACTS: dict[str, Any] = {
    "base": "small",
    "assistant": "large",
    "vocab_fingerprint": "0123456789abcdef",
}


TOP_K = 3


# --- folders of scores ------------------------------------------------------------------------------------------------


def write_scores(
    path: Path, hidden: npt.NDArray[Any], columns: dict[str, Any], tokens_per_text: int = 20, **facts: Any
) -> Scores:
    """A folder with these rows; columns that are not given are of two models that agree and are sure."""
    n = len(hidden)
    token = np.asarray(columns.get("token", np.zeros(n)))
    rows: dict[str, Any] = {
        "token": token,
        "base_logprob": np.full(n, -1.0),
        "base_top": token,
        "base_top_logprob": np.full(n, -0.1),
        "base_log_odds": np.zeros(n),
        "base_entropy": np.zeros(n),
        "base_top_k_logprobs": np.tile(-np.arange(1.0, TOP_K + 1), (n, 1)),
        "base_hidden": hidden,
        "assistant_logprob": np.full(n, -1.0),
        "assistant_top": token,
        "assistant_top_logprob": np.full(n, -0.1),
        "assistant_entropy": np.zeros(n),
        "assistant_logprob_of_base_top": np.full(n, -0.1),
        **columns,
    }
    texts = [{"n_scored": min(tokens_per_text, n - at)} for at in range(0, n, tokens_per_text)]
    meta = {"n_embd": hidden.shape[1], "top_k": rows["base_top_k_logprobs"].shape[1], **FACTS, **facts}
    with ScoresWriter(path, meta) as writer:
        writer.add(rows, texts, ProgressMark(n_texts=len(texts), n_tokens=n, complete=True))
    return Scores(path)


@dataclass
class Planted:
    """Rows at which a direction of the hidden state says which model knows the token."""

    hidden: npt.NDArray[np.float32]
    columns: dict[str, Any]
    direction: F64


def planted(n: int = 3000, width: int = 8, seed: int = 0, *, strength: float = 6.0) -> Planted:
    """Where h . direction is high, the assistant alone is right; with strength 0 nothing tells."""
    generator = np.random.default_rng(seed)
    hidden = generator.standard_normal((n, width)).astype(np.float32)
    direction = np.random.default_rng(99).standard_normal(width)
    direction /= np.linalg.norm(direction)
    assistant_knows = generator.random(n) < sigmoid(strength * (hidden @ direction) - 0.5)
    token = generator.integers(0, 50, n)
    sure, unsure = -generator.exponential(0.2, n), -2.0 - generator.exponential(1.0, n)
    # The base's doubt says something about it too, but not all.
    doubt = generator.standard_normal(n) + 1.5 * assistant_knows
    columns = {
        "token": token,
        "base_logprob": np.where(assistant_knows, unsure, sure),
        "assistant_logprob": np.where(assistant_knows, sure, unsure),
        "base_top": np.where(assistant_knows, token + 50, token),
        "assistant_top": np.where(assistant_knows, token, token + 100),
        "base_log_odds": -doubt,
        "base_entropy": np.exp(doubt / 4),
        "base_top_k_logprobs": -np.sort(generator.exponential(1.0, (n, TOP_K)), axis=1),
        "assistant_top_logprob": np.full(n, -0.05),
        "assistant_logprob_of_base_top": np.where(assistant_knows, unsure, -1.0),
    }
    return Planted(hidden, columns, direction)


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    made = planted()
    return write_scores(tmp_path / "scores", made.hidden, made.columns)


PLAIN = TrainingOptions(features="none", l2=1e-3, patience=20)


# --- held-out texts ---------------------------------------------------------------------------------------------------


def splits(folders: list[Scores], monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[list[npt.NDArray[np.int64]]]:
    """The rows of every folder that the training and the held-out inputs were made of."""
    taken: list[list[npt.NDArray[np.int64]]] = []

    class Noting(Inputs):
        def __init__(self, folders: Any, rows: Any, *arguments: Any, **named: Any) -> None:
            taken.append(list(rows))
            super().__init__(folders, rows, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "Inputs", Noting)
        train(folders, dataclasses.replace(PLAIN, max_iterations=1, **options))
    return taken
