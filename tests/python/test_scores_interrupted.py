"""Scoring that is interrupted or finds the disk full goes on in the same bytes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scored_folders
from commands import succeed
from scored_folders import (
    ARGUMENTS,
    FULL,
    LOAD,
    CountingScorer,
    Stop,
    assert_same,
    columns_of,
    contents,
    progress_of,
)

from colm_cpp.corpus.selection import select
from colm_cpp.errors import CorpusError, FolderInUse
from colm_cpp.learn.score_files import COLUMNS, ProgressMark, npy_header
from colm_cpp.learn.scores import Scores, ScoresWriter
from colm_cpp.learn.scoring import Scorer, score

_no_sync = scored_folders._no_sync
begun = scored_folders.begun
command = scored_folders.command
corpus = scored_folders.corpus
finished = scored_folders.finished
pair_files = scored_folders.pair_files
scorer = scored_folders.scorer


posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


# -- interruptions --------------------------------------------------------------------------------------------


CHILD = """
import json, sys, time
from colm_cpp.learn.scoring import Scorer, score
from colm_cpp.corpus.selection import select
base, assistant, out, load, *corpus = sys.argv[1:]
def on_progress(progress):
    print(progress.done.n_texts, flush=True)
    if progress.done.n_texts > 5:
        time.sleep(60)  # until this process is killed
score(Scorer(base, assistant, **json.loads(load)), select(corpus), out, on_progress=on_progress)
"""


@posix_only
def test_a_killed_process_is_gone_on_with(
    scorer: Scorer, corpus: list[Path], pair_files: tuple[Path, Path], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scores"
    arguments = [*map(str, (*pair_files, folder)), json.dumps(LOAD), *map(str, corpus)]
    with subprocess.Popen([sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        n_texts = next(n for n in map(int, process.stdout) if n > 5)
        with pytest.raises(FolderInUse, match="another process"):
            score(scorer, select(corpus), folder)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert progress_of(folder).n_texts == n_texts
    assert len(np.load(folder / "token.npy", mmap_mode="r")) == progress_of(folder).n_tokens
    counting = CountingScorer(scorer)
    score(counting, select(corpus), folder)  # type: ignore[arg-type]
    assert_same(folder, finished)
    assert len(counting.read) == progress_of(finished).n_texts - n_texts  # none is read twice


@posix_only
def test_interrupted_command(pair_files: tuple[Path, Path], tmp_path: Path) -> None:
    rows = tmp_path / "many.jsonl"
    rows.write_text("".join(json.dumps({"completion": f"the river {i} {FULL}"}) + "\n" for i in range(120)))
    folder = tmp_path / "scores"
    arguments = ["score", str(rows), "--base", str(pair_files[0]), "--assistant", str(pair_files[1]), *ARGUMENTS]
    command = [sys.executable, "-W", "error", "-m", "colm_cpp.cli", *arguments]
    with subprocess.Popen([*command, "-o", str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while not (folder / "progress.json").exists() or not progress_of(folder).n_texts:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=20)
    assert (process.returncode, output) == (130, (b"", b""))
    n_texts = progress_of(folder).n_texts
    assert 0 < n_texts < 120
    succeed(*arguments, "-o", folder)
    succeed(*arguments, "-o", tmp_path / "whole")
    assert_same(folder, tmp_path / "whole")


def write_groups(folder: Path, n_groups: int = 2) -> None:
    """Adds what is missing of groups of 1, 2, ... texts with some rows each."""
    with ScoresWriter(folder, {"n_embd": 3, "top_k": 2}) as writer:
        for group in range(n_groups):
            if writer.done.n_documents > group:
                continue
            sizes = [2 + group + i for i in range(group + 1)]
            done = ProgressMark(
                n_documents=group + 1,
                n_texts=writer.done.n_texts + len(sizes),
                n_tokens=writer.done.n_tokens + sum(sizes),
            )
            writer.add(columns_of(sum(sizes), group), [{"n_scored": size} for size in sizes], done)


@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_no_moment_to_die_is_a_bad_one(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_groups(tmp_path / "whole")
    original = getattr(os, place)

    def dying(moment: int) -> Callable[..., None]:
        calls = itertools.count()

        def die(*arguments: Any) -> None:
            if next(calls) == moment:
                raise Stop
            original(*arguments)

        return die

    for moment in itertools.count():
        folder = tmp_path / str(moment)
        monkeypatch.setattr(os, place, dying(moment))
        try:
            write_groups(folder)
        except Stop:
            monkeypatch.setattr(os, place, original)
            if (folder / "meta.json").exists() and progress_of(folder).n_tokens:
                whole = Scores(tmp_path / "whole")
                part = Scores(folder)  # can be read as it is
                for name in COLUMNS:
                    np.testing.assert_array_equal(part[name], whole[name][: len(part)])
                del part, whole
            write_groups(folder)
            assert_same(folder, tmp_path / "whole")
            continue
        break
    # Two at the beginning, and for each group the arrays, the texts and the progress.
    assert moment == (2 + 2 * (len(COLUMNS) + 2) if place == "fsync" else 2 + 2)


def rewrite_header(path: Path, n_rows: int) -> None:
    """Makes an array's header count other rows than there are."""
    with path.open("r+b") as file:
        shape = np.load(path).shape[1:]
        file.seek(0)
        file.write(npy_header(n_rows, shape, np.load(path).dtype))


@pytest.mark.parametrize(
    ("junk", "n_rows"),
    [
        (b"x", 1),
        (b"junk\n" * 1000, 10**6),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(b"", 0), (b"", 10**6), (b"junk\n" * 1000, 0)]),
    ],
)
def test_what_is_beyond_progress_is_cut_off(
    junk: bytes, n_rows: int, begun: Path, scorer: Scorer, corpus: list[Path], finished: Path
) -> None:
    part = {name: np.array(Scores(begun)[name]) for name in COLUMNS}
    for name in COLUMNS:
        rewrite_header(begun / f"{name}.npy", n_rows)
    for path in (*begun.glob("*.npy"), begun / "texts.jsonl"):
        path.write_bytes(path.read_bytes() + junk)
    read = Scores(begun)  # a reader counts as progress.json does
    for name, values in part.items():
        np.testing.assert_array_equal(read[name], values)
    del read
    score(scorer, select(corpus), begun)
    assert_same(begun, finished)


def test_nothing_to_add_repairs_a_folder_too(
    scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scores"
    score(scorer, select(corpus), folder)
    rewrite_header(folder / "token.npy", 10**6)
    (folder / ".colm-999999999-0123abcd.tmp").write_text("{")  # a process that was killed has left it
    counting = CountingScorer(scorer)
    score(counting, select(corpus), folder)  # type: ignore[arg-type]
    assert counting.read == []
    assert_same(folder, finished)


@pytest.mark.parametrize("name", ["token.npy", "base_hidden.npy", "assistant_entropy.npy", "texts.jsonl"])
@pytest.mark.parametrize("missing", [1, 10**9])
def test_files_cut_short(name: str, missing: int, begun: Path, scorer: Scorer, corpus: list[Path]) -> None:
    path = begun / name
    path.write_bytes(path.read_bytes()[: -min(missing, path.stat().st_size)])
    before = contents(begun)
    with pytest.raises(CorpusError, match=rf"{name}.*progress\.json"):
        score(scorer, select(corpus), begun)
    with pytest.raises(CorpusError, match="progress"):  # it was let go of
        score(scorer, select(corpus), begun)
    after = contents(begun)
    assert all(len(after[name]) >= len(data) for name, data in before.items())
    if name.endswith(".npy"):
        with pytest.raises(CorpusError, match=name):
            Scores(begun)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"n_tokens": 5}', "null"])
def test_damaged_progress(text: str, begun: Path, scorer: Scorer, corpus: list[Path]) -> None:
    (begun / "progress.json").write_text(text)
    before = contents(begun)
    for open_folder in (lambda: score(scorer, select(corpus), begun), lambda: Scores(begun)):
        with pytest.raises(CorpusError, match=r"progress\.json"):
            open_folder()
    assert contents(begun) == before
    (begun / "progress.json").unlink()
    with pytest.raises(CorpusError, match=r"progress\.json"):
        score(scorer, select(corpus), begun)


# -- full disks -----------------------------------------------------------------------------------------------


class FullFile:
    """A file on a disk that is full from a certain size on."""

    def __init__(self, file: Any, limit: int) -> None:
        self._file, self._limit = file, limit
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > self._limit:
            self._file.write(data[: max(self._limit - self._file.tell(), 0)])
            self._failed = True
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(data))

    def close(self) -> None:
        self._file.close()
        if self._failed:  # what is still in the buffer is tried once more
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    "limit", [256 + 64 * 70 + 5, *(pytest.param(n, marks=pytest.mark.slow) for n in (256 + 4 * 101 + 1, 1000))]
)
def test_full_disk(
    limit: int, scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scores"
    opened = Path.open

    def limited(path: Path, mode: str = "r", **options: Any) -> Any:
        file = opened(path, mode, **options)
        return FullFile(file, limit) if path.parent == folder and path.suffix in (".npy", ".jsonl") else file

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", limited)
        with pytest.raises(OSError, match="No space left"):
            score(scorer, select(corpus), folder)
    done = progress_of(folder)
    assert not done.complete
    counting = CountingScorer(scorer)
    score(counting, select(corpus), folder)  # type: ignore[arg-type]
    assert len(counting.read) == progress_of(finished).n_texts - done.n_texts
    assert_same(folder, finished)


@pytest.mark.parametrize("number", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 2, 17, 18, 40))])
def test_disk_that_fails_to_sync(
    number: int, scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scores"
    calls = itertools.count()

    def fsync(descriptor: int) -> None:
        if next(calls) >= number:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output error"):
            score(scorer, select(corpus), folder)
    score(scorer, select(corpus), folder)
    assert_same(folder, finished)


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from colm_cpp.cli import main
main(sys.argv[2:])
"""


@posix_only
def test_full_disk_on_the_command_line(
    scorer: Scorer, corpus: list[Path], pair_files: tuple[Path, Path], finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scores"
    models = ("--base", str(pair_files[0]), "--assistant", str(pair_files[1]))
    arguments = ["score", *map(str, corpus), *models, *ARGUMENTS, "-o", str(folder), "--quiet"]
    # base_hidden outgrows this after a group or more; a limit on the size of files stands for a full disk.
    limit = 256 + 64 * progress_of(finished).n_tokens // 2
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *arguments], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert result.stdout == ""
    *warnings, error = result.stderr.splitlines()
    assert error.startswith("colm: error: [Errno 27] File too large")
    assert all(line.startswith(f"colm: warning: {corpus[0]}:") for line in warnings)
    done = progress_of(folder)
    assert 0 < done.n_texts < progress_of(finished).n_texts
    score(scorer, select(corpus), folder)
    assert_same(folder, finished)
