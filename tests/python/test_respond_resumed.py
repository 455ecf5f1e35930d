"""Answers that were interrupted, damaged or are another run's: none is written twice."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import answered_prompts
import pytest
from answered_prompts import BAD_LINES, GREEDY, ROWS, SAMPLED, rows_of
from conftest import Asked

import colm_cpp as colm
from colm_cpp.corpus.documents import Corpus
from colm_cpp.corpus.selection import select
from colm_cpp.errors import CorpusError, FolderInUse, OptionError
from colm_cpp.learn.respond import FILE, Progress, respond

files = answered_prompts.files
pair = answered_prompts.pair
prompts = answered_prompts.prompts


class Stop(BaseException):
    """Ends a run as Ctrl-C would."""


def stop_after(n: int) -> Callable[[Progress], None]:
    def on_progress(progress: Progress) -> None:
        if progress.done == n:
            raise Stop

    return on_progress


@pytest.fixture
def whole(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> bytes:
    """The answers of a run without any mishap."""
    respond(pair, prompts, tmp_path / "whole", SAMPLED)
    return (tmp_path / "whole" / FILE).read_bytes()


@pytest.mark.parametrize("n_parallel", [1, 4])
@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_resumed(
    n: int, n_parallel: int, pair: colm.Pair, prompts: Corpus, whole: bytes, tmp_path: Path, asked: Asked
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(Stop):
        respond(pair, prompts, folder, SAMPLED, n_parallel=n_parallel, on_progress=stop_after(n))
    assert len(rows_of(folder)) == n
    asked.prompts.clear()
    respond(pair, prompts, folder, SAMPLED, n_parallel=n_parallel)
    assert (folder / FILE).read_bytes() == whole
    # Each of those that were not kept, and none of the others; the long one is tried.
    assert len(asked.prompts) == sum(line not in BAD_LINES[:1] for line in range(n + 1, 9))
    respond(pair, prompts, folder, SAMPLED, n_parallel=n_parallel)
    assert (folder / FILE).read_bytes() == whole


def test_a_line_that_was_cut_off_is_written_again(
    pair: colm.Pair, prompts: Corpus, whole: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    ends = [i for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in (0, 1, ends[0], ends[0] + 1, ends[0] + 2, ends[2], ends[2] + 1, ends[5] - 1, len(whole) - 1):
        (folder / FILE).write_bytes(whole[:size])
        respond(pair, prompts, folder, SAMPLED)
        assert (folder / FILE).read_bytes() == whole, size


def test_full_disk(
    pair: colm.Pair, prompts: Corpus, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    def fsync(descriptor: int) -> None:
        if next(calls) == 2:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            respond(pair, prompts, tmp_path / "out", SAMPLED)
    respond(pair, prompts, tmp_path / "out", SAMPLED)
    assert (tmp_path / "out" / FILE).read_bytes() == whole


def test_a_larger_limit_goes_on(pair: colm.Pair, prompts: Corpus, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    for limit in (2, 7, 3, 8):
        corpus = respond(pair, select([path], limit=limit, needs_completion=False), tmp_path / "out", SAMPLED)
        assert len(list(corpus.documents())) == limit
    assert (tmp_path / "out" / FILE).read_bytes() == whole


def test_other_options_are_refused(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    respond(pair, prompts, folder, GREEDY)
    before = (folder / FILE).read_bytes()
    others: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({**GREEDY, "max_tokens": 13}, {}, "options .* 13"),
        ({**GREEDY, "temperature": 0.5}, {}, "options .*0.5"),
        ({**GREEDY, "seed": 1}, {}, "options .*1"),
        (GREEDY, {"chat": False}, "chat true, not false"),
        (GREEDY, {"system": "Be brief"}, 'system null, not "Be brief"'),
    ]
    for options, more, said in others:
        with pytest.raises(CorpusError, match=f"holds answers with {said}"):
            respond(pair, prompts, folder, options, **more)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "another"}\n')
    with pytest.raises(CorpusError, match="corpus"):
        respond(pair, select([tmp_path / "prompts.jsonl"], needs_completion=False), folder, GREEDY)
    assert (folder / FILE).read_bytes() == before


@pytest.mark.parametrize("n_parallel", [1, 4])
def test_refused_options_bind_nobody(n_parallel: int, pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="temperature"):
        respond(pair, prompts, tmp_path / "out", {**GREEDY, "temperature": -1.0}, n_parallel=n_parallel)
    for wrong in (-1, 0, 257):
        with pytest.raises(OptionError, match=rf"n_parallel is {wrong}.* 1 .*256"):
            respond(pair, prompts, tmp_path / "out", GREEDY, n_parallel=wrong)
    respond(pair, prompts, tmp_path / "out", GREEDY)
    assert len(rows_of(tmp_path / "out")) == len(ROWS)


@pytest.mark.parametrize("line", [b"someone's file\n", b'{"format": "other"}\n', b"[]\n", b"[]\n[]\n"])
def test_files_of_others_are_left_alone(line: bytes, pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(line)
    with pytest.raises(CorpusError, match=FILE):
        respond(pair, prompts, tmp_path, GREEDY)
    assert path.read_bytes() == line


def test_damaged_answers(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    corpus = respond(pair, prompts, tmp_path / "out", GREEDY)
    path = tmp_path / "out" / FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], b"{damaged\n", *lines[4:]]))
    with pytest.raises(CorpusError, match=rf"{FILE}:4 .*delete"):
        list(corpus.documents())
    path.write_bytes(b"".join(lines[:3]))
    respond(pair, prompts, tmp_path / "out", GREEDY)
    assert path.read_bytes() == b"".join(lines)


def test_two_writers(pair: colm.Pair, prompts: Corpus, tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        with pytest.raises(FolderInUse, match="another process"):
            respond(pair, prompts, tmp_path / "out", GREEDY)

    respond(pair, prompts, tmp_path / "out", GREEDY, on_progress=second)
