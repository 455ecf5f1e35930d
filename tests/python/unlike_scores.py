"""Models of unlike vocabularies, texts, and folders of their scores, for the tests of what is scored and learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from conftest import TINY_LOAD, TinyModels
from test_unlike_oracle import VOCABS, options_of

from colm_cpp import learn
from colm_cpp.corpus.selection import select
from colm_cpp.learn import Scorer

LOAD: dict[str, Any] = {**TINY_LOAD, "n_ctx": 128}
KINDS = {"base": "qwen2", "near": "gemma", "far": "llama"}
WORDS = [
    "The",
    "river",
    "city",
    "apples",
    "value",
    "basket",
    "doctor",
    "there",
    "are",
    "seven",
    "story",
    "time",
    "é",
    "café",
    "日本",
    "function(self,",
    "value)",
]


def corpus_of(path: Path, n: int, seed: int = 1) -> Path:
    generator = np.random.default_rng(seed)
    texts = [[" ".join(generator.choice(WORDS, k)) for k in (3, 6)] for _ in range(n)]
    rows = [{"prompt": prompt, "completion": f" {text}"} for prompt, text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> dict[str, Path]:
    return {name: tiny_model(**options_of(kind, 40 + i)) for i, (name, kind) in enumerate(KINDS.items())}


@pytest.fixture(scope="module")
def scorer(files: dict[str, Path]) -> Iterator[Scorer]:
    with Scorer(files["base"], files["near"], **LOAD) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of(tmp_path_factory.mktemp("corpus") / "texts.jsonl", 24)


@pytest.fixture(scope="module")
def folder(scorer: Scorer, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores") / "scores"
    learn.score(scorer, select([corpus]), path)
    return path


@pytest.fixture(scope="module")
def three(files: dict[str, Path], corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("three") / "scores"
    with Scorer(files["base"], experts={name: files[name] for name in ("near", "far")}, **LOAD) as scorer:
        learn.score(scorer, select([corpus]), path)
    return path


def texts_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]


def data_of(name: str, ids: list[int]) -> bytes:
    """What tokens of a model write; those that end a text nothing."""
    vocab = VOCABS[KINDS[name]]
    return b"".join(vocab.piece(i) for i in ids if vocab.tokens[i].type != tm.CONTROL)
