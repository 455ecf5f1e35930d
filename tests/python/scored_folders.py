"""Scorers, texts and folders for the tests of scores."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

from colm_cpp.corpus.selection import select
from colm_cpp.learn.score_files import COLUMNS, ProgressMark
from colm_cpp.learn.scoring import Progress, Scorer, score

N_CTX = 64


LOAD = {**TINY_LOAD, "n_ctx": N_CTX}


# The same on the command line.
ARGUMENTS = tuple(
    f"--{name}" if value is True else f"--no-{name}" if value is False else f"--{name}={value}"
    for name, value in ((name.replace("_", "-"), value) for name, value in LOAD.items())
)


CHAT_BASE = {**BASE, "chat_template": tm.CHATML}


FULL = "jumps over the lazy dog"


def make_rows() -> list[Any]:
    """Rows of every kind: some bad, one too long, one whose prompt fills the context, and conversations."""
    rows: list[Any] = [{"prompt": f"the river {i}", "completion": "there are " * (1 + i % 4)} for i in range(22)]
    rows[3] = {"prompt": "no completion"}
    rows[4] = ["no object"]
    rows[9] = {"prompt": "the fox", "completion": f"{FULL} " * 8}
    rows[10] = {"prompt": f"{FULL} " * 8, "completion": "x"}
    turns = [{"role": role, "content": f"the {role}"} for role in ("user", "assistant") * 2]
    rows[14] = {"messages": turns}
    rows[21] = {"messages": [{"role": "user", "content": "the end"}]}
    return rows


BAD_LINES = (4, 5, 11, 22)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """JSON lines, and a plain text that is longer than the context."""
    folder = tmp_path_factory.mktemp("corpus")
    rows, plain = folder / "rows.jsonl", folder / "plain.txt"
    rows.write_text("".join(json.dumps(row) + "\n" for row in make_rows()))
    plain.write_text(f"The quick brown fox {FULL}, and then the other dog runs after the fox. " * 6)
    return [rows, plain]


@pytest.fixture(scope="module")
def pair_files(tiny_model: TinyModels) -> tuple[Path, Path]:
    return tiny_model(**CHAT_BASE), tiny_model(**ASSISTANT)


@pytest.fixture(scope="module")
def scorer(pair_files: tuple[Path, Path]) -> Iterator[Scorer]:
    with Scorer(*pair_files, **LOAD) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def finished(scorer: Scorer, corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a run without any mishap leaves."""
    folder = tmp_path_factory.mktemp("finished") / "scores"
    score(scorer, select(corpus), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def assert_same(folder: Path, expected: Path) -> None:
    """Byte for byte; the names first, since the bytes make no readable message."""
    found, wanted = contents(folder), contents(expected)
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def progress_of(folder: Path) -> ProgressMark:
    return ProgressMark(**json.loads((folder / "progress.json").read_text()))


class Stop(BaseException):
    """Ends a run as Ctrl-C would."""


def stop_after(n_groups: int) -> Callable[[Progress], None]:
    calls = itertools.count(1)

    def on_progress(progress: Progress) -> None:
        if next(calls) == n_groups:
            raise Stop

    return on_progress


@pytest.fixture
def begun(scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path) -> Path:
    """A folder with some of the texts."""
    folder = tmp_path / "scores"
    with pytest.raises(Stop):
        score(scorer, select(corpus), folder, on_progress=stop_after(3))
    assert 3 < progress_of(folder).n_texts < progress_of(finished).n_texts
    return folder


class CountingScorer:
    """A scorer that remembers which texts it was given."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.read: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def score(self, texts: Any, *, top_k: int) -> Any:
        self.read += [(os.path.basename(text.path), text.line) for text in texts]
        return self._scorer.score(texts, top_k=top_k)


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them would take minutes, and no power failure is to be feared."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


# -- interruptions --------------------------------------------------------------------------------------------


def columns_of(n_rows: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    widths = {"base_hidden": (3,), "base_top_k_logprobs": (2,)}
    return {
        name: rng.integers(-9, 9, (n_rows, *widths.get(name, ()))).astype(dtype)
        for name, dtype in COLUMNS.items()
        if name != "text"
    }


# -- the command ----------------------------------------------------------------------------------------------


@pytest.fixture
def command(corpus: list[Path], pair_files: tuple[Path, Path], tmp_path: Path) -> list[str]:
    models = ("--base", str(pair_files[0]), "--assistant", str(pair_files[1]))
    return ["score", *map(str, corpus), *models, *ARGUMENTS, "-o", str(tmp_path / "scores")]
