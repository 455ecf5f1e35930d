"""The folder of scores: what is in it, and what is left of it when the work is cut off, in whatever way."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import tiny_models as tm
from click.testing import CliRunner, Result
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels
from test_lora import write_adapter

from colm_cpp.cli import main
from colm_cpp.corpus.documents import Document
from colm_cpp.corpus.selection import Corpus, select
from colm_cpp.errors import CorpusError, FolderInUse, OptionError
from colm_cpp.learn.score_files import COLUMNS, ProgressMark, npy_header
from colm_cpp.learn.scores import Scores, ScoresWriter
from colm_cpp.learn.scoring import Progress, Scorer, score
from colm_cpp.sources.identity import model_identity

N_CTX = 64
LOAD = {**TINY_LOAD, "n_ctx": N_CTX}
# The same on the command line.
ARGUMENTS = tuple(
    f"--{name}" if value is True else f"--no-{name}" if value is False else f"--{name}={value}"
    for name, value in ((name.replace("_", "-"), value) for name, value in LOAD.items())
)
CHAT_BASE = {**BASE, "chat_template": tm.CHATML}
FULL = "jumps over the lazy dog"

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")


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


# -- what is in the folder ------------------------------------------------------------------------------------


def test_arrays_open_with_numpy(finished: Path) -> None:
    scores = Scores(finished)
    n = len(scores)
    assert n == scores.progress.n_tokens > 200
    shapes = dict.fromkeys(COLUMNS, (n,)) | {"base_hidden": (n, 32), "base_top_k_logprobs": (n, 10)}
    assert scores.n_embd == 32
    assert sorted(contents(finished)) == sorted(
        [*(f"{c}.npy" for c in COLUMNS), "meta.json", "progress.json", "texts.jsonl"]
    )
    for name, dtype in COLUMNS.items():
        array = np.load(finished / f"{name}.npy", mmap_mode="r")
        assert isinstance(array, np.memmap)
        assert (array.shape, array.dtype) == (shapes[name], np.dtype(dtype)), name
        np.testing.assert_array_equal(array, scores[name], name)
    assert scores.bad_values() is None


def test_rows_belong_to_their_texts(scorer: Scorer, finished: Path) -> None:
    scores = Scores(finished)
    texts = [json.loads(line) for line in (finished / "texts.jsonl").read_text().splitlines()]
    assert len(texts) == scores.progress.n_texts
    assert list(scores["text"]) == [i for i, text in enumerate(texts) for _ in range(text["n_scored"])]
    lines = [text["line"] for text in texts if text["file"] == "rows.jsonl"]
    assert lines == [i + 1 for i in range(22) if i + 1 not in BAD_LINES]
    windows = [text for text in texts if text["file"] == "plain.txt"]
    assert len(windows) > 2
    assert [text["n_scored"] for text in windows] == [text["n_tokens"] - 1 for text in windows]
    assert [text["line"] for text in texts if text["truncated"]] == [10, 15]
    # The first row, scored alone, has the first values.
    tokens = scorer.tokenize(
        "<|im_start|>user\nthe river 0<|im_end|>\n<|im_start|>assistant\nthere are <|im_end|>", True, True
    )
    n = texts[0]["n_scored"]
    assert list(scores["token"][:n]) == tokens[-n:]
    assert tm.Vocab().id_of("<|im_end|>") == tokens[-1]


def test_progress_and_meta(scorer: Scorer, corpus: list[Path], finished: Path, pair_files: tuple[Path, Path]) -> None:
    scores = Scores(finished)
    texts = [json.loads(line) for line in (finished / "texts.jsonl").read_text().splitlines()]
    assert scores.progress == ProgressMark(
        n_documents=23,
        n_texts=len(texts),
        n_tokens=sum(text["n_scored"] for text in texts),
        n_read=sum(text["n_tokens"] for text in texts),
        n_bad=len(BAD_LINES),
        n_truncated=2,
        complete=True,
    )
    assert scores.meta == {
        "format": "colm-scores",
        "version": 1,
        **select(corpus).facts,
        "base": "tiny",
        "assistant": "tiny",
        "base_model": model_identity(pair_files[0]),
        "assistant_model": model_identity(pair_files[1]),
        "base_lora": [],
        "assistant_lora": [],
        "base_adapters": None,
        "assistant_adapters": None,
        "vocab_fingerprint": scorer.vocab_fingerprint,
        "n_embd": 32,
        "top_k": 10,
        "chat": True,
        "system": None,
        "n_ctx": N_CTX,
        "n_batch": N_CTX,
    }


def test_progress_is_told(scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    done = score(scorer, select(corpus), tmp_path, on_progress=told.append)
    assert done == progress_of(finished)
    assert [bad.line for progress in told for bad in progress.bad_rows] == list(BAD_LINES)
    assert all(bad.path == str(corpus[0]) for progress in told for bad in progress.bad_rows)
    shares = [progress.share for progress in told]
    assert shares == sorted(set(shares))  # each window of the long text moves it on
    assert shares[-1] == 1.0
    assert told[-1].n_read == done.n_read
    assert all(progress.decode_s > 0 and not progress.done.complete for progress in told)


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
    result = run(*arguments, "-o", folder)
    assert result.exit_code == 0, result.stderr
    assert run(*arguments, "-o", tmp_path / "whole").exit_code == 0
    assert_same(folder, tmp_path / "whole")


def columns_of(n_rows: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(seed)
    widths = {"base_hidden": (3,), "base_top_k_logprobs": (2,)}
    return {
        name: rng.integers(-9, 9, (n_rows, *widths.get(name, ()))).astype(dtype)
        for name, dtype in COLUMNS.items()
        if name != "text"
    }


def write_groups(folder: Path, n_groups: int = 3) -> None:
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
    assert moment == (2 + 3 * (len(COLUMNS) + 2) if place == "fsync" else 2 + 3)


def rewrite_header(path: Path, n_rows: int) -> None:
    """Makes an array's header count other rows than there are."""
    with path.open("r+b") as file:
        shape = np.load(path).shape[1:]
        file.seek(0)
        file.write(npy_header(n_rows, shape, np.load(path).dtype))


@pytest.mark.parametrize("n_rows", [0, 1, 10**6])
@pytest.mark.parametrize("junk", [b"", b"x", b"junk\n" * 1000])
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


# -- folders with other scores --------------------------------------------------------------------------------


def test_other_options_are_refused(begun: Path, scorer: Scorer, corpus: list[Path], finished: Path) -> None:
    for options, said in (
        ({"top_k": 5}, "top_k 10, not 5"),
        ({"chat": False}, "chat true, not false"),
        ({"system": "Be brief"}, 'system null, not "Be brief"'),
    ):
        with pytest.raises(CorpusError, match=said):
            score(scorer, select(corpus), begun, **options)  # type: ignore[arg-type]
    score(scorer, select(corpus), begun)
    assert_same(begun, finished)


def test_other_corpora_are_refused(begun: Path, scorer: Scorer, corpus: list[Path], tmp_path: Path) -> None:
    for other in (corpus[:1], corpus[::-1], [*corpus, corpus[0]]):
        with pytest.raises(CorpusError, match="corpus"):
            score(scorer, select(other), begun)
    edited = tmp_path / "rows.jsonl"
    edited.write_bytes(corpus[0].read_bytes().replace(b"river 21", b"river 12") + b"\n")
    with pytest.raises(CorpusError, match="corpus"):
        score(scorer, select([edited, corpus[1]]), begun)
    with pytest.raises(CorpusError, match="sample null"):
        score(scorer, select(corpus, limit=23, seed=1), begun)


@pytest.mark.parametrize("missing", [True, False])
def test_facts_that_only_one_side_knows_are_refused(missing: bool, tmp_path: Path) -> None:
    few: Mapping[str, Any] = {"n_embd": 3, "top_k": 2}
    more = {**few, "respond": {"seed": 1}}
    ScoresWriter(tmp_path, more if missing else few).close()
    with pytest.raises(CorpusError, match=r"respond (null, .*\{|\{.*null)"):
        ScoresWriter(tmp_path, few if missing else more)


def test_other_models_are_refused(
    begun: Path, corpus: list[Path], tiny_model: TinyModels, pair_files: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = write_adapter(tmp_path / "adapter.gguf")
    other = tiny_model(**{**CHAT_BASE, "seed": 9})
    others: list[tuple[tuple[Path, Path], dict[str, Any], str]] = [
        ((other, pair_files[1]), {}, "base_model"),
        ((pair_files[0], other), {}, "assistant_model"),
        ((tiny_model(**CHAT_BASE, n_embd=64), pair_files[1]), {}, "base_model"),
        (pair_files, {"n_ctx": 32}, "n_batch"),
        (pair_files, {"n_batch": 32}, "n_batch"),
        (pair_files, {"base_options": {"lora": adapter}}, "base_adapters"),
        (pair_files, {"base_options": {"lora": [(adapter, 0.5)]}}, "base_adapters"),
    ]
    for files, load, name in others:
        with (
            Scorer(*files, **{**LOAD, **load}) as scorer,
            pytest.raises(CorpusError, match=f" {name} "),
        ):
            score(scorer, select(corpus), begun)


def test_identity_tells_quantisations_and_seeds_apart(pair_files: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (model_identity(path) for path in pair_files)
    assert first["digest"] != second["digest"]
    assert first == model_identity(pair_files[0])
    assert first["bytes"] == pair_files[0].stat().st_size
    moved = tmp_path / "elsewhere" / pair_files[0].name
    moved.parent.mkdir()
    data = bytearray(pair_files[0].read_bytes())
    moved.write_bytes(data)
    assert model_identity(moved) == first  # a place is no part of it
    data[-1] ^= 1
    moved.write_bytes(data)
    assert model_identity(moved) != first


def test_folders_of_something_else(begun: Path, scorer: Scorer, corpus: list[Path], tmp_path: Path) -> None:
    meta = json.loads((begun / "meta.json").read_text())
    for change, said in (
        ({"version": 2}, "format version 2 and this colm-cpp reads 1"),
        ({"version": None}, "format version None"),
        ({"format": "colm-evaluation"}, "does not describe scores"),
    ):
        (begun / "meta.json").write_text(json.dumps({**meta, **change}))
        for open_folder in (lambda: score(scorer, select(corpus), begun), lambda: Scores(begun)):
            with pytest.raises(CorpusError, match=said):
                open_folder()
    for text, said in (("[1]", "does not describe scores"), ("{", "is damaged")):
        (begun / "meta.json").write_text(text)
        with pytest.raises(CorpusError, match=said):
            score(scorer, select(corpus), begun)
    with pytest.raises(CorpusError, match=r"meta\.json"):
        Scores(tmp_path / "none")


def test_two_writers(scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scores"

    def second(progress: Progress) -> None:
        with pytest.raises(FolderInUse) as caught:
            score(scorer, select(corpus), folder)
        assert caught.value.folder == str(folder)

    score(scorer, select(corpus), folder, on_progress=second)
    assert_same(folder, finished)


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


@pytest.mark.parametrize("limit", [256 + 64 * 70 + 5, 256 + 4 * 101 + 1, 1000])
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


@pytest.mark.parametrize("number", [0, 2, 3, 17, 18, 40])
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


# -- limits, bad rows -----------------------------------------------------------------------------------------


def test_a_larger_limit_goes_on(scorer: Scorer, corpus: list[Path], finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    read: list[tuple[str, int]] = []
    for limit, bad in ((2, 0), (7, 2), (6, 2), (12, 3), (None, 4)):
        counting, before = CountingScorer(scorer), progress_of(folder) if read else ProgressMark()
        told: list[Progress] = []
        done = score(counting, select(corpus, limit=limit), folder, on_progress=told.append)  # type: ignore[arg-type]
        assert done.complete
        assert not any(progress.done.complete for progress in told)
        assert progress_of(folder) == done
        assert (done.n_bad, done.n_texts - before.n_texts) == (bad, len(counting.read))
        assert done.n_documents == max(limit or 23, before.n_documents)
        read += counting.read
    whole, grown = Scores(finished), Scores(folder)
    assert len(read) == whole.progress.n_texts
    assert grown.progress == whole.progress
    for name in COLUMNS:  # the groups were others
        np.testing.assert_allclose(grown[name], whole[name], atol=2e-3, err_msg=name)
    assert (folder / "texts.jsonl").read_bytes() == (finished / "texts.jsonl").read_bytes()


def test_going_on_with_a_larger_limit_is_not_complete(scorer: Scorer, corpus: list[Path], tmp_path: Path) -> None:
    assert score(scorer, select(corpus, limit=2), tmp_path).complete
    with pytest.raises(Stop):
        score(scorer, select(corpus), tmp_path, on_progress=stop_after(1))
    assert not progress_of(tmp_path).complete


@pytest.mark.parametrize(
    ("rows", "bad_lines"), [(b"", []), (b"\n\n", []), (b"[]\n{}\n", [1, 2]), (b'\n{"completion": ""}\n', [2])]
)
def test_no_usable_row(rows: bytes, bad_lines: list[int], scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows)
    told: list[Progress] = []
    for folder in (tmp_path / "scores",) * 2:
        with pytest.raises(CorpusError, match="corpus"):
            score(scorer, select([path]), folder, on_progress=told.append)
    with pytest.raises(CorpusError, match="colm score"):
        Scores(tmp_path / "scores")
    assert [bad.line for progress in told for bad in progress.bad_rows] == bad_lines


def test_strict_stops_at_the_first_bad_row(scorer: Scorer, corpus: list[Path], tmp_path: Path) -> None:
    counting = CountingScorer(scorer)
    with pytest.raises(CorpusError, match=r"rows\.jsonl:4: .*--strict"):
        score(counting, select(corpus), tmp_path, strict=True)  # type: ignore[arg-type]
    assert all(line < 4 for _, line in counting.read)
    assert progress_of(tmp_path).n_bad == 0
    # A row is as bad when it is only the tokens that show it.
    long = tmp_path / "long.jsonl"
    long.write_text(json.dumps({"prompt": "x " * N_CTX, "completion": "y"}))
    with pytest.raises(CorpusError, match=r"long\.jsonl:1: .*prompt"):
        score(scorer, select([long]), tmp_path / "long", strict=True)


def test_ids_that_stand_for_nothing_make_a_bad_row(tiny_model: TinyModels, tmp_path: Path) -> None:
    vocab = tm.Vocab(n_padding=4, tail=(tm.DEFER,), tail_after_padding=True)
    padding = vocab.id_of("[PAD388]")
    ids: list[tuple[int, ...]] = [(1, 2), (1, padding), (vocab.id_of(tm.DEFER), 2), (len(vocab), 2)]
    documents = [Document("f.jsonl", line, (), "the", "", answer) for line, answer in enumerate(ids, start=1)]
    told: list[Progress] = []
    with Scorer(tiny_model(vocab=vocab, seed=1), tiny_model(vocab=vocab, seed=2), **LOAD) as scorer:
        score(scorer, Corpus(lambda: iter(documents), 4, {}), tmp_path, on_progress=told.append)
    bad = {row.line: row.reason for progress in told for row in progress.bad_rows}
    assert list(bad) == [4, 2]  # known before the models have read, and by them
    assert bad[4] == f"token {len(vocab)} is one that the assistant lacks"
    assert f"id {padding}, which the models do not share" in bad[2]
    assert [json.loads(line)["line"] for line in (tmp_path / "texts.jsonl").read_text().splitlines()] == [1, 3]


@pytest.mark.parametrize("top_k", [0, -1, 65])
def test_top_k_is_checked_before_the_folder_is_made(
    top_k: int, scorer: Scorer, corpus: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=f"top_k is {top_k}"):
        score(scorer, select(corpus), tmp_path / "scores", top_k=top_k)
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize("which", ["base", "assistant"])
@pytest.mark.parametrize(
    ("arch", "flash_attn"),
    [("llama", True), ("llama", False), ("mamba", False)],
)
def test_a_damaged_model_costs_the_texts_that_show_it(
    arch: str, flash_attn: bool, which: str, tiny_model: TinyModels, tmp_path: Path
) -> None:
    pair_files = (tiny_model(arch=arch, seed=1), tiny_model(arch=arch, seed=2))
    load = {**TINY_LOAD, "flash_attn": flash_attn}
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(pair_files[which == "assistant"].read_bytes())
    for tensor in gguf.GGUFReader(damaged, "r+").tensors:
        if tensor.name == "token_embd.weight":
            tensor.data[ord("Z")] = np.nan
    texts = [f"the river {i}" for i in range(8)]
    texts[2] = "the Zebra"
    texts[5] = "a last Z"  # is predicted, but never read
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    files = (damaged, pair_files[1]) if which == "base" else (pair_files[0], damaged)
    told: list[Progress] = []
    with Scorer(*files, **load) as scorer:
        done = score(scorer, select([rows]), tmp_path / "scores", on_progress=told.append)
        with pytest.raises(CorpusError, match=r"rows\.jsonl:3: "):
            score(scorer, select([rows]), tmp_path / "strict", strict=True)
    (bad,) = (bad for progress in told for bad in progress.bad_rows)
    assert (bad.path, bad.line) == (str(rows), 3)
    assert "nan" in bad.reason.lower()
    assert (done.n_texts, done.n_bad) == (7, 1)
    read = [json.loads(line)["line"] for line in (tmp_path / "scores" / "texts.jsonl").read_text().splitlines()]
    assert read == [1, 2, 4, 5, 6, 7, 8]
    # The others have the values that they have without it.
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts if text != "the Zebra"))
    with Scorer(*pair_files, **load) as scorer:
        score(scorer, select([rows]), tmp_path / "without")
    found, expected = Scores(tmp_path / "scores"), Scores(tmp_path / "without")
    assert found.bad_values() is None
    for name in COLUMNS:
        np.testing.assert_allclose(found[name], expected[name], atol=2e-3, err_msg=name)


def test_bad_values_are_found(tmp_path: Path) -> None:
    for name, row, value in (
        ("base_logprob", 1, np.nan),
        ("assistant_logprob", 2, -np.inf),
        ("base_top_logprob", 0, 0.5),
        ("base_hidden", 3, np.inf),
    ):
        columns = {
            column: -np.abs(values) if "logprob" in column else values for column, values in columns_of(4, 1).items()
        }
        folder = tmp_path / name
        with ScoresWriter(folder, {"n_embd": 3, "top_k": 2}) as writer:
            writer.add(columns, [{"n_scored": 2}, {"n_scored": 2}], ProgressMark(n_texts=2, n_tokens=4))
        assert Scores(folder).bad_values() is None
        columns[name][row] = value
        with ScoresWriter(tmp_path / f"{name}-bad", {"n_embd": 3, "top_k": 2}) as writer:
            writer.add(columns, [{"n_scored": 2}, {"n_scored": 2}], ProgressMark(n_texts=2, n_tokens=4))
        said = Scores(tmp_path / f"{name}-bad").bad_values()
        assert said is not None
        assert said.startswith(f"{name} is ")
        assert said.endswith(f"in row {row} (text {row // 2})")


# -- the command ----------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture
def command(corpus: list[Path], pair_files: tuple[Path, Path], tmp_path: Path) -> list[str]:
    models = ("--base", str(pair_files[0]), "--assistant", str(pair_files[1]))
    return ["score", *map(str, corpus), *models, *ARGUMENTS, "-o", str(tmp_path / "scores")]


def test_command(command: list[str], corpus: list[Path], finished: Path, tmp_path: Path) -> None:
    result = run(*command)
    assert result.exit_code == 0, result.stderr
    assert_same(tmp_path / "scores", finished)
    done = progress_of(finished)
    assert result.stdout.count("\n") == 1
    facts = (f"{tmp_path / 'scores'}: ", f"{done.n_tokens} tokens", f"{done.n_texts} texts", "4 rows ", "2 texts ")
    assert all(fact in result.stdout for fact in facts)
    *warnings, last = result.stderr.splitlines()
    places = [f"colm: warning: {corpus[0]}:{line}: " for line in BAD_LINES]
    assert len(warnings) == len(places)
    assert all(line.startswith(place) for line, place in zip(warnings, places, strict=True))
    assert last.startswith(f"scoring: 100%, {done.n_tokens} tokens scored, ")
    assert last.endswith(" tokens/s read, 0:00 left")
    # Done is done.
    again = run(*command)
    assert (again.exit_code, again.stdout, again.stderr) == (0, result.stdout, "")
    quiet = run(*command[:-1], tmp_path / "quiet", "--quiet")
    assert quiet.stderr.splitlines() == warnings


def test_command_with_options(command: list[str], tmp_path: Path) -> None:
    options = ("--limit", "5", "--seed", "3", "--top-logprobs", "4", "--no-chat", "--system", "unused")
    assert run(*command, *options).exit_code == 0
    meta = Scores(tmp_path / "scores").meta
    assert (meta["sample"], meta["top_k"], meta["chat"], meta["system"]) == (
        {"seed": 3, "limit": 5},
        4,
        False,
        "unused",
    )


def test_command_errors(command: list[str], corpus: list[Path], tmp_path: Path) -> None:
    def error(*arguments: str | Path) -> str:
        result = run(*command, "--quiet", *arguments)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("colm: error: ")
        assert result.stderr.count("\n") == 1
        return result.stderr.removeprefix("colm: error: ").rstrip("\n")

    strict = error("--strict")
    assert strict.startswith(f"{corpus[0]}:4: ")
    assert "--strict" in strict
    assert re.search(r"--top-logprobs is 65; .*\b1\b.*\b64\b", error("--top-logprobs", "65"))
    assert re.search(r"--limit is 0; .*\b1\b", error("--limit", "0"))
    assert error(tmp_path / "none.jsonl").startswith(f"{tmp_path / 'none.jsonl'} cannot be read (No such file")
    assert "there is no file" in error("--base", tmp_path / "none.gguf")
    (tmp_path / "file").touch()
    assert f"{tmp_path / 'file'} is a file" in error("-o", tmp_path / "file")
    assert "another folder" in error("--system", "Be brief")
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    result = run("score", empty, *command[3:-1], tmp_path / "empty")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("colm: error: the corpus holds no usable row")
    for usage in (["score", str(corpus[0])], command[:-2], ["score", *command[3:]]):
        assert run(*usage).exit_code == 2
