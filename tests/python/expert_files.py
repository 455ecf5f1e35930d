"""A small base and two experts of its vocabulary, for tests of several experts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm
from adapter_files import N_EMBD
from conftest import TINY_LOAD, TinyModels

import colm_cpp as colm

BASE: dict[str, Any] = {"arch": "llama", "seed": 1, "extra_tail": (tm.DEFER,), "n_embd": N_EMBD}
PROMPT = "The answer is"


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> dict[str, Path]:
    return make_files(tiny_model)


def make_files(tiny_model: TinyModels, of_base: str | None = None, of_math: str | None = None) -> dict[str, Path]:
    """The models by their names. ``of_base`` and ``of_math``: the chat templates in their files."""
    return {
        "base": tiny_model(**BASE, chat_template=of_base),
        "math": tiny_model(seed=2, arch="qwen2", n_embd=N_EMBD, chat_template=of_math),
        "code": tiny_model(seed=3, n_embd=N_EMBD),
    }


@pytest.fixture(scope="module")
def pair(files: dict[str, Path]) -> Iterator[colm.Pair]:
    with colm.load(files["base"], experts={"math": files["math"], "code": files["code"]}, **TINY_LOAD) as loaded:
        yield loaded


def arguments(files: dict[str, Path]) -> list[str | Path]:
    """The models as commands take them."""
    experts = (("--expert", f"{name}={files[name]}") for name in ("math", "code"))
    return ["--base", files["base"], *(part for expert in experts for part in expert)]
