"""Folders of scores of several experts made of numbers, for the tests of fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from made_scores import TOP_K

from colm_cpp.learn import Scores
from colm_cpp.learn.score_files import ProgressMark
from colm_cpp.learn.scores import ScoresWriter

EXPERTS = ("math", "code", "law")
SIZES = (3_000_000, 2_000_000, 1_000_000)


def facts(experts: tuple[str, ...] = EXPERTS) -> dict[str, Any]:
    models = {
        name: {
            "name": name.upper(),
            "model": {"file": f"{name}.gguf", "bytes": size, "digest": name},
            "adapters": None,
            "adapter_bytes": 0,
        }
        for name, size in zip(experts, SIZES, strict=False)
    }
    return {
        "base": "small",
        "base_model": {"file": "base.gguf", "bytes": 500_000, "digest": "base"},
        "experts": list(experts),
        "expert_models": models,
        "vocab_fingerprint": "0123456789abcdef",
    }


@dataclass
class Known:
    """Rows that one model alone knows, and in which part of the hidden space they lie.

    Attributes:
        who: the model that knows the token, ``[n]``: 0 the base, 1 to K the experts.
    """

    hidden: npt.NDArray[np.float32]
    columns: dict[str, Any]
    who: npt.NDArray[np.int64]


def known_parts(n: int = 3000, width: int = 8, seed: int = 0, n_experts: int = 3, *, spread: float = 0.25) -> Known:
    """A centre for each model; a token near it is known to that model, and the others find it unlikely."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((n_experts + 1, width))
    who = generator.integers(0, n_experts + 1, n)
    hidden = (centres[who] + spread * generator.standard_normal((n, width))).astype(np.float32)
    token = generator.integers(0, 50, n)
    knows = who[:, None] == np.arange(n_experts + 1)
    sure, unsure = -generator.exponential(0.2, knows.shape), -2.0 - generator.exponential(1.0, knows.shape)
    logprob = np.where(knows, sure, unsure)
    # Nobody's likeliest token but that of the one that knows is the text's.
    top = np.where(knows, token[:, None], token[:, None] + 50 * (1 + np.arange(n_experts + 1)))
    doubt = generator.standard_normal(n) + 1.0 * (who > 0)
    columns = {
        "token": token,
        "base_logprob": logprob[:, 0],
        "base_top": top[:, 0],
        "base_top_logprob": np.full(n, -0.1),
        "base_log_odds": -doubt,
        "base_entropy": np.exp(doubt / 4),
        "base_top_k_logprobs": -np.sort(generator.exponential(1.0, (n, TOP_K)), axis=1),
        "expert_logprob": logprob[:, 1:],
        "expert_top": top[:, 1:],
        "expert_top_logprob": np.full((n, n_experts), -0.05),
        "expert_entropy": np.zeros((n, n_experts)),
        "expert_logprob_of_base_top": np.where(knows[:, :1], sure[:, 1:], -1.0),
    }
    return Known(hidden, columns, who)


def write_choice(path: Path, made: Known, tokens_per_text: int = 20, **more: Any) -> Scores:
    """A folder with these rows."""
    n = len(made.hidden)
    texts = [{"n_scored": min(tokens_per_text, n - at)} for at in range(0, n, tokens_per_text)]
    n_experts = made.columns["expert_top"].shape[1]
    meta = {"n_embd": made.hidden.shape[1], "top_k": TOP_K, **facts(EXPERTS[:n_experts]), **more}
    with ScoresWriter(path, meta) as writer:
        mark = ProgressMark(n_texts=len(texts), n_tokens=n, complete=True)
        writer.add({**made.columns, "base_hidden": made.hidden}, texts, mark)
    return Scores(path)
