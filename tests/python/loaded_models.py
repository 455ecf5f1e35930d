"""Tiny models, loaded once for a module of tests, as the oracle has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import oracle as o
import pytest
import tiny_models as tm

PROMPT = "The answer is that there are two rivers in the city."


class Models:
    """Makes and loads models once per module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, tuple[Path, o.OracleModel]] = {}

    def __call__(self, **options: object) -> tuple[Path, o.OracleModel]:
        key = repr(sorted(options.items()))
        if key not in self.loaded:
            path = tm.make_model(self.folder / f"{len(self.loaded)}.gguf", **options)  # type: ignore[arg-type]
            self.loaded[key] = (path, o.OracleModel(path, n_ctx=256))
        return self.loaded[key]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    made = Models(tmp_path_factory.mktemp("models"))
    yield made
    for _, model in made.loaded.values():
        model.close()


def greedy(model: o.OracleModel, tokens: list[int], n: int) -> list[int]:
    """The `n` tokens that the model alone would add, whatever they are."""
    text = list(tokens)
    for _ in range(n):
        text.append(int(np.argmax(model.logits_and_hidden(text)[0])))
    return text[len(tokens) :]
