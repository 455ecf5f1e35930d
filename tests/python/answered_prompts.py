"""Prompts, and a pair that answers them, for the tests of `respond`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.corpus.documents import Corpus
from colm_cpp.corpus.selection import select
from colm_cpp.learn.respond import FILE

LOAD = {**TINY_LOAD, "n_ctx": 96}
# Ends are made likely, so that some answers end by themselves and others at the limit.
END = "<|im_end|>"
CHAT_BASE = {**BASE, "chat_template": tm.CHATML}
ENDING = {**ASSISTANT, "row_scale": {END: 1.6}}
GREEDY = {"max_tokens": 12, "temperature": 0.0, "seed": 0}
SAMPLED = {"max_tokens": 12, "temperature": 1.0, "seed": 7}
USER = {"role": "user", "content": "What is the name?"}
ROWS: list[Any] = [
    {"prompt": "the river"},
    {"prompt": "the fox", "completion": "a reference"},
    {"prompt": "the patient"},
    {"completion": "no prompt"},
    {"messages": [USER, {"role": "assistant", "content": "one"}, USER, {"role": "assistant", "content": "two"}]},
    {"prompt": "jumps over the lazy dog " * 20},  # does not fit
    {"prompt": "seven apples"},
    {"prompt": "three pears"},
]
BAD_LINES = [4, 6]


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> tuple[Path, Path]:
    return tiny_model(**CHAT_BASE), tiny_model(**ENDING)


@pytest.fixture(scope="module")
def pair(files: tuple[Path, Path]) -> Iterator[colm.Pair]:
    # Its own head would let the base write.
    with colm.load(*files, "never", **LOAD) as pair:
        yield pair


@pytest.fixture
def prompts(tmp_path: Path) -> Corpus:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return select([path], needs_completion=False)


def rows_of(folder: Path) -> list[Any]:
    """The answers, without the header."""
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()][1:]


@pytest.fixture
def head_file(pair: colm.Pair, tmp_path: Path) -> Path:
    """A head with a table by which 40% of the tokens are deferred at eta = 0.5."""
    weights = np.random.default_rng(3).normal(size=pair.n_embd)
    path = tmp_path / "learned.gguf"
    colm.Head.linear(weights, rates=(0.0, 0.4, 1.0), thresholds=(1.0, 0.5, 0.0)).save(path)
    return path
