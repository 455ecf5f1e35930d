"""LoRA adapters: applied to one model, with their scale."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapter_files import N_EMBD, write_adapter
from tiny_models import make_model

import colm_cpp as colm


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lora")
    return {
        "base": make_model(folder / "base.gguf", seed=1, n_embd=N_EMBD),
        "assistant": make_model(folder / "assistant.gguf", seed=2, n_embd=N_EMBD),
        "adapter": write_adapter(folder / "adapter.gguf"),
    }


def text(files: dict[str, Path], threshold: float, **options: object) -> list[int]:
    """Token ids of one greedy text; threshold 1 is the base alone, 0 the assistant alone."""
    with colm.load(files["base"], files["assistant"], "random", n_threads=1, **options) as pair:  # type: ignore[arg-type]
        out = pair.generate("Hello", temperature=0, max_tokens=24, threshold=threshold)
        return [token.id for token in out.tokens]


def test_adapter_changes_the_model_that_it_was_given_to(files: dict[str, Path]) -> None:
    adapted = {"assistant_options": {"lora": files["adapter"]}}
    assert text(files, 0.0, **adapted) != text(files, 0.0)
    assert text(files, 1.0, **adapted) == text(files, 1.0)
    both = {"lora": [files["adapter"]]}
    assert text(files, 0.0, **both) == text(files, 0.0, **adapted)
    assert text(files, 1.0, **both) != text(files, 1.0)


def test_scale(files: dict[str, Path]) -> None:
    plain = text(files, 0.0)
    assert text(files, 0.0, assistant_options={"lora": [(files["adapter"], 0.0)]}) == plain
    full = text(files, 0.0, assistant_options={"lora": [(files["adapter"], 1.0)]})
    halves = [(files["adapter"], 0.5), (files["adapter"], 0.5)]
    assert full == text(files, 0.0, assistant_options={"lora": halves})
    assert full != plain


def test_adapter_in_place_of_a_model(files: dict[str, Path]) -> None:
    with pytest.raises(colm.LoadError, match="LoRA adapter"):
        colm.load(files["adapter"], files["assistant"], "random")


def test_model_in_place_of_an_adapter(files: dict[str, Path]) -> None:
    with pytest.raises(colm.LoadError, match="LoRA adapter"):
        colm.load(files["base"], files["assistant"], "random", lora=files["base"])
