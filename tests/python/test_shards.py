"""Work in parts: shards joined are the folder that one machine writes, byte for byte, and nothing else is joined."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import scored_folders
from click.testing import Result
from commands import fail, run, succeed
from scored_folders import ARGUMENTS, CountingScorer, Stop, assert_same, contents, progress_of, stop_after

from colm_cpp import learn
from colm_cpp.corpus.documents import BLOCK_DOCUMENTS, BadRow, Corpus, Document
from colm_cpp.corpus.selection import select
from colm_cpp.errors import CorpusError, OptionError
from colm_cpp.files.shards import Shard
from colm_cpp.learn.scores import Scores
from colm_cpp.learn.scoring import Scorer, score

_no_sync = scored_folders._no_sync
pair_files = scored_folders.pair_files
scorer = scored_folders.scorer

N = 3
Shards = Callable[..., list[Path]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rows for several blocks, one of them without a usable row; and plain texts longer than the context."""
    folder = tmp_path_factory.mktemp("corpus")
    rows: list[Any] = [{"prompt": f"river {i}", "completion": "there " * (1 + i % 3)} for i in range(110)]
    rows[BLOCK_DOCUMENTS : 2 * BLOCK_DOCUMENTS] = [{"prompt": "no completion"}] * BLOCK_DOCUMENTS
    rows[5] = {"prompt": "no completion"}
    path, plain = folder / "rows.jsonl", folder / "plain.txt"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain.write_text("The quick brown fox jumps over the lazy dog. " * 30)
    return [path, plain]


class Grouping(CountingScorer):
    """Notes which texts are read together, each by its file and line."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__(scorer)
        self.groups: list[list[tuple[str, int]]] = []

    def score(self, texts: Any, *, top_k: int) -> Any:
        self.groups.append([(text.path, text.line) for text in texts])
        return super().score(texts, top_k=top_k)


@pytest.fixture(scope="module")
def grouping(scorer: Scorer) -> dict[str, Grouping]:
    """What `whole` and `made` are scored with."""
    return {"whole": Grouping(scorer), "made": Grouping(scorer)}


@pytest.fixture(scope="module")
def whole(grouping: dict[str, Grouping], corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one machine writes."""
    folder = tmp_path_factory.mktemp("whole") / "scores"
    score(grouping["whole"], select(corpus), folder)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def made(grouping: dict[str, Grouping], corpus: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of all shards."""
    folders = [tmp_path_factory.mktemp("shards") / f"{i}" for i in range(1, N + 1)]
    for i, folder in enumerate(folders, start=1):
        score(grouping["made"], select(corpus, shard=f"{i}/{N}"), folder)  # type: ignore[arg-type]
    return folders


@pytest.fixture
def shards(made: list[Path], tmp_path: Path) -> list[Path]:
    """The same, to be changed."""
    return [Path(shutil.copytree(folder, tmp_path / f"shard-{folder.name}")) for folder in made]


# -- which texts --------------------------------------------------------------------------------------------------


def documents(n: int, size: int = 1) -> Corpus:
    made = [Document("a", i, completion="x" * size) for i in range(n)]
    starts, counted = learn_blocks(iter(made))
    assert counted == n
    return Corpus(lambda: iter(made), n, {}, starts)


def learn_blocks(made: Iterator[Document | BadRow]) -> tuple[tuple[int, ...], int]:
    from colm_cpp.corpus.documents import blocks

    return blocks(made)


def test_blocks_end_with_many_documents_or_long_ones() -> None:
    assert documents(0).starts == ()
    assert documents(BLOCK_DOCUMENTS).starts == (0,)
    assert documents(70).starts == (0, 32, 64)
    assert documents(4, 2**15).starts == (0, 2)
    assert documents(4, 2**17).starts == (0, 1, 2, 3)


@pytest.mark.parametrize("of", [1, 2, 3, 7, 10])
def test_shards_are_whole_blocks_one_behind_the_other(of: int) -> None:
    corpus = documents(10 * BLOCK_DOCUMENTS - 5)
    parts = [corpus.shard(Shard(number, of)) for number in range(1, of + 1)]
    assert list(itertools.chain(*(part.documents() for part in parts))) == list(corpus.documents())
    assert [part.first for part in parts] == [0, *itertools.accumulate(part.n_documents for part in parts)][:-1]
    for part in parts:
        assert part.first in corpus.starts
        assert part.starts == learn_blocks(part.documents())[0]  # they depend on the documents alone
        assert {start + part.first for start in part.starts} <= set(corpus.starts)
    sizes = [len(part.starts) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "text", ["", "2", "a/b", "1/2/3", "0/3", "4/3", "1/0", "-1/3", "1.5/3", "1/1000000", " 1/2", "٢/٣"]
)
def test_bad_shards(text: str, corpus: list[Path], tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="shard is"):
        select(corpus, shard=text)
    assert fail("score", *corpus, "--base", "b", "--assistant", "a", "-o", tmp_path / "s", "--shard", text).startswith(
        "colm: error: --shard is "
    )
    assert not (tmp_path / "s").exists()


def test_more_shards_than_blocks(corpus: list[Path]) -> None:
    with pytest.raises(OptionError, match=r"there are 4 blocks .*at most 4 shards"):
        select(corpus, shard="1/5")


# -- scores -------------------------------------------------------------------------------------------------------


def test_the_same_texts_are_read_together(grouping: dict[str, Grouping], whole: Path, made: list[Path]) -> None:
    """The groups of a shard are those that one machine makes."""
    assert grouping["whole"].groups == grouping["made"].groups
    assert max(map(len, grouping["whole"].groups)) > 1


def test_joined_shards_are_what_one_machine_writes(
    shards: list[Path], whole: Path, scorer: Scorer, corpus: list[Path], tmp_path: Path
) -> None:
    joined = learn.merge_shards([shards[2], shards[0], shards[1]], tmp_path / "joined")
    assert_same(tmp_path / "joined", whole)
    assert len(contents(whole)) == 17
    done = progress_of(whole)
    assert (joined.n_shards, joined.n, joined.n_tokens) == (N, done.n_documents, done.n_tokens)
    assert Scores(tmp_path / "joined").bad_values() is None
    # One machine finds nothing to add.
    counting = CountingScorer(scorer)
    score(counting, select(corpus), tmp_path / "joined")  # type: ignore[arg-type]
    assert counting.read == []
    assert_same(tmp_path / "joined", whole)


def test_a_shard_without_a_usable_row_is_finished(scorer: Scorer, tmp_path: Path) -> None:
    rows = [{"prompt": "x"}] * BLOCK_DOCUMENTS + [{"completion": "the river"}] * 2
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in (1, 2):
        score(scorer, select([path], shard=f"{i}/2"), tmp_path / f"{i}")
    assert (progress_of(tmp_path / "1").n_texts, progress_of(tmp_path / "1").complete) == (0, True)
    learn.merge_shards([tmp_path / "1", tmp_path / "2"], tmp_path / "joined")
    score(scorer, select([path]), tmp_path / "whole")
    assert_same(tmp_path / "joined", tmp_path / "whole")


def test_an_interrupted_shard_goes_on(
    scorer: Scorer, corpus: list[Path], shards: list[Path], whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "begun"
    with pytest.raises(Stop):
        score(scorer, select(corpus, shard="1/3"), folder, on_progress=stop_after(2))
    begun = progress_of(folder)
    with pytest.raises(CorpusError, match=rf"{folder} is not finished: {begun.n_documents} of the 32"):
        learn.merge_shards([folder, *shards[1:]], tmp_path / "joined")
    with pytest.raises(CorpusError, match="shard"):  # another shard does not go on there
        score(scorer, select(corpus, shard="2/3"), folder)
    score(scorer, select(corpus, shard="1/3"), folder)
    assert_same(folder, shards[0])
    learn.merge_shards([folder, *shards[1:]], tmp_path / "joined")
    assert_same(tmp_path / "joined", whole)


# -- answers ------------------------------------------------------------------------------------------------------


def test_answers_and_their_scores(pair_files: tuple[Path, Path], tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": f"the river {i}"} for i in range(BLOCK_DOCUMENTS + 8)]
    rows[3] = {"completion": "no prompt"}
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = ("--base", pair_files[0], "--assistant", pair_files[1], *ARGUMENTS)
    # Every prompt has a seed of its own, which a shard must not count anew.
    answering = ("--respond", "--max-tokens", "5", "--temperature", "1", "--head", "random", "--defer-rate", "0.5")
    command = ("score", prompts, *models, *answering, "--quiet")
    succeed(*command, "-o", tmp_path / "whole")
    for i in (1, 2):
        succeed(*command, "-o", tmp_path / f"{i}", "--shard", f"{i}/2")
    result = succeed("merge", tmp_path / "1", tmp_path / "2", "-o", tmp_path / "joined")
    assert_same(tmp_path / "joined", tmp_path / "whole")
    assert "responses.jsonl" in contents(tmp_path / "whole")
    assert result.stdout.startswith(f"{tmp_path / 'joined'}: scores of 2 shards, {len(rows)} rows, ")
    # Answers that were cut short are not joined.
    answers = tmp_path / "2" / "responses.jsonl"
    answers.write_bytes(answers.read_bytes()[:-10])
    result = run("merge", tmp_path / "1", tmp_path / "2", "-o", tmp_path / "again")
    assert_error(result, f"{tmp_path / '2'} is not finished: 7 of the 8")
    answers.unlink()
    assert_error(run("merge", tmp_path / "1", tmp_path / "2", "-o", tmp_path / "again"), f"{answers} cannot be read")


# -- an evaluation ------------------------------------------------------------------------------------------------


def test_an_evaluation(pair_files: tuple[Path, Path], tmp_path: Path) -> None:
    task = tmp_path / "task.jsonl"
    task.write_text("".join(json.dumps({"prompt": f"there are {i}", "answer": str(i)}) + "\n" for i in range(7)))
    # In so short a context no steps are timed, which would differ.
    models = ("--base", pair_files[0], "--assistant", pair_files[1], *ARGUMENTS, "--n-ctx", "40")
    command = ("evaluate", task, *models, "--max-tokens", "6", "--temperature", "1", "--skip", "1", "--quiet", "--json")
    succeed(*command, "-o", tmp_path / "whole")
    for i in (1, 2, 3):
        result = succeed(*command, "-o", tmp_path / f"{i}", "--shard", f"{i}/3")
    result = succeed("merge", *(tmp_path / f"{i}" for i in (3, 1, 2)), "-o", tmp_path / "joined", "--json")
    whole, joined = tmp_path / "whole", tmp_path / "joined"
    assert (joined / "meta.json").read_bytes() == (whole / "meta.json").read_bytes()
    names = sorted(path.name for path in (whole / "records").iterdir())
    assert (
        names
        == sorted(path.name for path in (joined / "records").iterdir())
        == [
            "assistant.jsonl",
            "base.jsonl",
            "random@20.jsonl",
        ]
    )
    for name in names:
        assert untimed(joined / "records" / name) == untimed(whole / "records" / name)
        assert len(untimed(whole / "records" / name)) == 6
    assert json.loads(result.stdout)["n"] == 6
    succeed("evaluate", task, "-o", joined, "--report-only")
    (tmp_path / "2" / "records" / "base.jsonl").unlink()
    result = run("merge", *(tmp_path / f"{i}" for i in (1, 2, 3)), "-o", tmp_path / "again")
    assert_error(result, f"{tmp_path / '2'} is not finished: 0 of the 2")
    assert_error(run(*command, "-o", tmp_path / "x", "--shard", "1/9"), "--shard is 1/9; there are 6 problems")


def untimed(path: Path) -> list[str]:
    """The lines without the seconds that were measured."""
    lines = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        assert row.pop("prefill_s") >= 0
        assert row.pop("decode_s") >= 0
        lines.append(json.dumps(row))
    return lines


# -- what is not joined -------------------------------------------------------------------------------------------


def assert_error(result: Result, text: str) -> None:
    assert result.exit_code == 1, result.stderr
    assert result.stdout == ""
    assert f"colm: error: {text}" in result.stderr.splitlines()[-1]


def change(folder: Path, **facts: Any) -> None:
    path = folder / "meta.json"
    meta = json.loads(path.read_text())
    for name, value in facts.items():
        if isinstance(value, dict) and isinstance(meta.get(name), dict):
            meta[name].update(value)
        else:
            meta[name] = value
    path.write_text(json.dumps(meta))


CASES: dict[str, tuple[Callable[[list[Path]], list[Path]], str]] = {
    "missing": (lambda s: [s[0], s[2]], "shard 2/3 is missing; run colm score with --shard 2/3"),
    "two missing": (lambda s: s[2:], "shard 1/3, and 1 others are, missing"),
    "double": (lambda s: [s[0], s[1], Path(shutil.copytree(s[1], s[1].with_name("copy"))), s[2]], "are both shard 2/3"),
    "another n": (lambda s: [s[0], changed(s[1], shard={"of": 4}), s[2]], "is shard 2/4, and .* is one of 3"),
    "other models": (lambda s: [s[0], changed(s[1], base_model={"digest": "0"}), s[2]], "made with base_model"),
    "other options": (lambda s: [s[0], s[1], changed(s[2], system="Be brief")], 'made with system "Be brief", and'),
    "other texts": (lambda s: [s[0], s[1], changed(s[2], corpus=[])], "made with corpus"),
    "another limit": (lambda s: [s[0], changed(s[1], shard={"whole": {"documents": 5}}), s[2]], "made with whole"),
    "gap": (lambda s: [s[0], changed(s[1], shard={"first": 9}), s[2]], r"meta\.json is damaged .*begins at 9"),
    "damaged": (lambda s: [s[0], changed(s[1], shard="x"), s[2]], r"meta\.json is damaged"),
    "no number": (lambda s: [s[0], changed(s[1], shard={"number": 0}), s[2]], r"meta\.json is damaged"),
    "no folder": (lambda s: [*s, s[0].with_name("none")], "none is no folder with scores"),
    "empty": (lambda s: [*s[:2], emptied(s[2])], "holds no finished shard: it has no meta.json"),
    "cut short": (lambda s: [s[0], s[1], cut(s[2] / "base_hidden.npy")], "base_hidden.npy is missing or cut short"),
    "texts cut short": (lambda s: [s[0], s[1], cut(s[2] / "texts.jsonl")], r"texts\.jsonl"),
}


def changed(folder: Path, **facts: Any) -> Path:
    change(folder, **facts)
    return folder


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-1])
    return path.parent


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_joined(case: str, shards: list[Path], tmp_path: Path) -> None:
    given, message = CASES[case]
    with pytest.raises(CorpusError, match=message):
        learn.merge_shards(given(shards), tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_a_folder_of_one_machine_is_no_shard(shards: list[Path], whole: Path, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"was made without --shard"):
        learn.merge_shards([*shards, whole], tmp_path / "joined")
    with pytest.raises(CorpusError, match="no shard was found"):
        learn.merge_shards([whole, whole], tmp_path / "joined")


def test_where_shards_are_joined(shards: list[Path], whole: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    before = [contents(folder) for folder in (*shards, whole, full)]
    for out, message in ((shards[0], "already holds"), (whole, "already holds"), (full, "not empty")):
        with pytest.raises(CorpusError, match=message):
            learn.merge_shards(shards, out)
    assert [contents(folder) for folder in (*shards, whole, full)] == before


def test_half_of_a_joined_folder_is_no_folder(
    shards: list[Path],
    whole: Path,
    scorer: Scorer,
    corpus: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "joined"
    original = os.replace
    for moment in itertools.count():
        calls = itertools.count()

        def dying(*arguments: Any, at: int = moment, calls: Iterator[int] = calls) -> None:
            if next(calls) == at:
                raise Stop
            original(*arguments)

        monkeypatch.setattr(os, "replace", dying)
        try:
            learn.merge_shards(shards, out)
        except Stop:
            monkeypatch.setattr(os, "replace", original)
            with pytest.raises(CorpusError):
                Scores(out)
            if moment:
                with pytest.raises(CorpusError):
                    score(scorer, select(corpus), out)
            continue
        break
    assert moment == 2 + 14 + 1 + 1  # meta.json twice, the columns, the texts, the progress
    assert_same(out, whole)


def test_the_command(shards: list[Path], tmp_path: Path) -> None:
    for arguments, text in (
        ((*shards,), "--out"),
        ((*shards, "-o", tmp_path / "x", "--type", "f16"), "--type is for an adapter"),
        ((*shards, "-o", tmp_path / "x", "--base", "b.gguf"), "--base is for an adapter"),
        ((*shards, "-o", tmp_path / "x", "--force"), "--force is for an adapter"),
        ((), "ADAPTER"),
    ):
        result = run("merge", *arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert text in result.stderr
    (tmp_path / "file").touch()
    assert_error(run("merge", *shards, "-o", tmp_path / "file"), "--out must be a folder")
