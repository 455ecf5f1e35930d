"""Limits, rows that cannot be scored, and colm score."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest
import scored_folders
import tiny_models as tm
from commands import error_of, run, succeed
from conftest import TINY_LOAD, TinyModels
from scored_folders import (
    BAD_LINES,
    LOAD,
    N_CTX,
    CountingScorer,
    Stop,
    assert_same,
    columns_of,
    progress_of,
    stop_after,
)

from colm_cpp.corpus.documents import Document
from colm_cpp.corpus.selection import Corpus, select
from colm_cpp.errors import CorpusError, OptionError
from colm_cpp.learn.score_files import COLUMNS, ProgressMark
from colm_cpp.learn.scores import Scores, ScoresWriter
from colm_cpp.learn.scoring import Progress, Scorer, score

_no_sync = scored_folders._no_sync
command = scored_folders.command
corpus = scored_folders.corpus
finished = scored_folders.finished
pair_files = scored_folders.pair_files
scorer = scored_folders.scorer


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


def test_command(command: list[str], corpus: list[Path], finished: Path, tmp_path: Path) -> None:
    result = succeed(*command)
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
    succeed(*command, *options)
    meta = Scores(tmp_path / "scores").meta
    assert (meta["sample"], meta["top_k"], meta["chat"], meta["system"]) == (
        {"seed": 3, "limit": 5},
        4,
        False,
        "unused",
    )


def test_command_errors(command: list[str], corpus: list[Path], tmp_path: Path) -> None:
    def error(*arguments: str | Path) -> str:
        return error_of(run(*command, "--quiet", *arguments))

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
