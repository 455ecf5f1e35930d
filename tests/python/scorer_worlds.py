"""Scorers of tiny models, made once for a module of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

from colm_cpp.learn.scoring import Scorer

D = tm.DEFER


Scorers = Callable[..., Scorer]


@pytest.fixture(scope="module")
def scorers(tiny_model: TinyModels) -> Iterator[Scorers]:
    """`scorers(base_options, assistant_options, **load)`; equal arguments give the same one."""
    made: dict[str, Scorer] = {}

    def get(base: Any = BASE, assistant: Any = ASSISTANT, **load: Any) -> Scorer:
        key = repr((sorted(base.items()), sorted(assistant.items()), sorted(load.items())))
        if key not in made:
            made[key] = Scorer(tiny_model(**base), tiny_model(**assistant), **{**TINY_LOAD, **load})
        return made[key]

    yield get
    for scorer in made.values():
        scorer.close()
