"""A command loads each model file once, whatever it does with the pair: scoring is one more context on its weights."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm
from commands import succeed
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.corpus.selection import select
from colm_cpp.engine import memory
from colm_cpp.errors import NotEnoughMemory, OptionError, PairClosed
from colm_cpp.learn.scores import folder_files
from colm_cpp.learn.scoring import Scorer, score
from colm_cpp.machine.limits import FreeMemory

LOAD = {**TINY_LOAD, "n_ctx": 64}
ROWS = [
    {"prompt": "the river", "completion": "over the lazy dog", "answer": "1"},
    {"prompt": "the fox", "completion": "a reference", "answer": "2"},
    {"prompt": "seven apples", "completion": "three pears and the patient", "answer": "3"},
]


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> tuple[Path, Path]:
    return tiny_model(**{**BASE, "chat_template": tm.CHATML}), tiny_model(**ASSISTANT)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


class Loads(logging.Handler):
    """Counts, by path, the models that llama.cpp reads: it says so in its log."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        found = re.search(r"loaded meta data with .* tensors from (.+) \(version", record.getMessage())
        if found:
            self.of[found[1]] += 1


@pytest.fixture
def loads() -> Iterator[Counter[str]]:
    logger = logging.getLogger("colm_cpp.llama")
    handler, level = Loads(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.of
    logger.removeHandler(handler)
    logger.setLevel(level)


def scored(scorer: Scorer, rows: Path, out: Path) -> dict[str, bytes]:
    """The bytes of every file of the scores."""
    score(scorer, select([rows]), out, chat=False)
    return {path.name: path.read_bytes() for path in folder_files(out) if path.exists()}


# -- the same scores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_invariant": True, "flash_attn": True, "type_k": "bf16", "type_v": "bf16"},
        {"n_ubatch": 8},
        {"type_k": "f32", "type_v": "f32"},
        {"repack": False},
    ],
    ids=str,
)
def test_scores_on_the_weights_of_a_pair(
    options: dict[str, Any], files: tuple[Path, Path], rows: Path, loads: Counter[str], tmp_path: Path
) -> None:
    given = {**LOAD, **options}
    with colm.load(*files, "confidence", **{**given, "n_ctx": 128}) as pair:
        pair.generate("the fox jumps", max_tokens=8, threshold=0.5, seed=1)  # its contexts hold something
        scorer = Scorer(*files, weights_of=pair, **given)
    # The weights outlive the pair.
    with scorer:
        shared = scored(scorer, rows, tmp_path / "shared")
    assert loads == Counter({str(file): 1 for file in files})
    with Scorer(*files, **given) as scorer:
        assert scored(scorer, rows, tmp_path / "own") == shared
    assert loads == Counter({str(file): 2 for file in files})
    assert {"meta.json", "progress.json"} < set(shared)
    assert len(shared) > 10


def test_a_pair_that_goes_on_writing_while_it_is_scored(files: tuple[Path, Path], rows: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_tokens": 12, "threshold": 0.5, "seed": 1}
    with colm.load(*files, "confidence", **LOAD) as pair:
        alone = pair.generate("the fox jumps", **options)
        pair.forget()
        with Scorer(*files, weights_of=pair, **LOAD) as scorer:
            stream = pair.stream("the fox jumps", **options)
            first = next(stream)
            scored(scorer, rows, tmp_path / "scores")
            written = [first, *stream]
    assert [token.id for token in written] == [token.id for token in alone.tokens]


# -- what does not fit ----------------------------------------------------------------------------------------


def test_other_weights_are_refused(files: tuple[Path, Path], tiny_model: TinyModels) -> None:
    with colm.load(*files, **LOAD) as pair:
        for wrong in ((files[1], files[0]), (files[0], tiny_model(**{**ASSISTANT, "seed": 99}))):
            with pytest.raises(OptionError, match="weights"):
                Scorer(*wrong, weights_of=pair, **LOAD)
        with pytest.raises(OptionError, match="repack"):
            Scorer(*files, weights_of=pair, repack=False, **LOAD)
    with pytest.raises(PairClosed):
        Scorer(*files, weights_of=pair, **LOAD)


def test_weights_in_memory_are_not_counted_again(files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    needed = []
    with colm.load(*files, **LOAD) as pair:
        monkeypatch.setattr(memory, "free_memory", lambda: FreeMemory(0, ""))
        for weights_of in (None, pair):
            with pytest.raises(NotEnoughMemory) as error:
                Scorer(*files, weights_of=weights_of, **LOAD)
            needed.append(error.value.needed)
    weights = sum(memory.ModelMemory.of(str(file), colm.LoadOptions()).weights for file in files)
    assert needed[0] - needed[1] == weights > 0


# -- the commands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["score", "{rows}", "--out", "{out}"],
        ["score", "{rows}", "--out", "{out}", "--respond", "--max-tokens", "4"],
        ["score", "{rows}", "--out", "{out}", "--respond", "--max-tokens", "4", "--parallel", "3"],
        ["calibrate", "confidence", "{rows}", "--out", "{out}", "--max-tokens", "4"],
        ["evaluate", "{rows}", "--out", "{out}", "--max-tokens", "4"],
        pytest.param(["bench", "--tokens", "4"], marks=pytest.mark.slow, id="bench"),
        ["generate", "the fox", "--head", "confidence", "--max-tokens", "4"],
    ],
    ids=lambda command: " ".join(command[:1] + command[4:]),
)
def test_commands(
    command: list[str], files: tuple[Path, Path], rows: Path, loads: Counter[str], tmp_path: Path
) -> None:
    given = [word.format(rows=rows, out=tmp_path / "out.gguf") for word in command]
    models = ["--base", str(files[0]), "--assistant", str(files[1]), "--n-ctx", "256", "--n-threads", "1"]
    succeed(*given, *models)
    assert loads == Counter({str(file): 1 for file in files})
