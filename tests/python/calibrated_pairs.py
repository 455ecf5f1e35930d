"""A pair and heads that were calibrated for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp import Completion, Head, Pair
from colm_cpp.learn import Calibrated, Problem, calibrate

PROMPTS = ("The river", "Once upon", "How many apples", "She said", "A train", "The doctor", "Seven pears", "In it")
PROBLEMS = tuple(Problem(i, ({"role": "user", "content": text},), "-", text) for i, text in enumerate(PROMPTS))
TOO_LONG = Problem(8, ({"role": "user", "content": "pears " * 600},), "-", "pears " * 600)
OPTIONS: dict[str, Any] = {"max_tokens": 64, "temperature": 1.0, "seed": 6}


def linear(n_embd: int) -> Head:
    return Head.linear(np.random.default_rng(0).standard_normal(n_embd) * 0.5, 0.2, name="linear")


HEADS: dict[str, Callable[[int], Head]] = {"confidence": Head.confidence, "linear": linear}


@pytest.fixture(scope="module")
def wide(tiny_model: TinyModels) -> Iterator[Pair]:
    """A pair for texts of some hundred tokens."""
    with colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), "confidence", **{**TINY_LOAD, "n_ctx": 512}) as pair:
        yield pair


@pytest.fixture(scope="module")
def calibrated(wide: Pair) -> dict[str, Calibrated]:
    return {
        name: calibrate(wide, make(wide.n_embd), PROBLEMS, OPTIONS, chat=False, default_rate=0.3)
        for name, make in HEADS.items()
    }


def endless(pair: Pair) -> dict[int, float]:
    """A ban on the tokens that end texts."""
    return dict.fromkeys(pair.base["eog_tokens"], -math.inf)


def experts(completion: Completion) -> str:
    tokens = [*completion.tokens, *([completion.end_token] if completion.end_token else [])]
    return "".join(str(token.expert) for token in tokens)


def afresh(pair: Pair, **options: Any) -> str:
    """Who writes the prompts' texts, joined."""
    written = []
    for problem in PROBLEMS:
        pair.forget()
        own = {**OPTIONS, "seed": OPTIONS["seed"] + problem.index, **options}
        written.append(experts(pair.generate(problem.prompt, **own)))
    return "".join(written)
