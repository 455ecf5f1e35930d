"""A head for the tests of heads."""

from __future__ import annotations

from typing import Any

import numpy as np

from colm_cpp.heads.head import Head


def an_mlp(**changes: Any) -> Head:
    """5 + (1 + 3) inputs, 6 hidden units, everything set."""
    settings: dict[str, Any] = {
        "activation": "gelu",
        "features": ("entropy", "top_k_logprobs"),
        "top_k": 3,
        "name": "a head",
        "base_name": "base",
        "assistant_name": "assistant ü",
        "vocab_fingerprint": "0123456789abcdef",
        "default_threshold": 0.3,
        "rates": (0.0, 0.25, 1.0),
        "thresholds": (1.0, 0.6, 0.0),
        **changes,
    }
    rng = np.random.default_rng(1)
    return Head.mlp([rng.normal(size=(6, 9)), rng.normal(size=(1, 6))], [np.ones(6), [0.5]], **settings)
