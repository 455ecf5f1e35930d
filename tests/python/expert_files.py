"""A small base and two experts of its vocabulary, for tests of several experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm
from adapter_files import N_EMBD
from conftest import TinyModels

BASE: dict[str, Any] = {"arch": "llama", "seed": 1, "extra_tail": (tm.DEFER,), "n_embd": N_EMBD}
PROMPT = "The answer is"


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> dict[str, Path]:
    return {
        "base": tiny_model(**BASE),
        "math": tiny_model(seed=2, arch="qwen2", n_embd=N_EMBD),
        "code": tiny_model(seed=3, n_embd=N_EMBD),
    }


def arguments(files: dict[str, Path]) -> list[str | Path]:
    """The models as commands take them."""
    experts = (("--expert", f"{name}={files[name]}") for name in ("math", "code"))
    return ["--base", files["base"], *(part for expert in experts for part in expert)]
