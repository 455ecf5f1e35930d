"""Files that are read back: whatever has become of them, a typed error or the right answer, and nothing is lost."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels
from fuzzing import HOSTILE, damage

import colm_cpp as colm
from colm_cpp.corpus.documents import read_documents
from colm_cpp.corpus.selection import select
from colm_cpp.errors import ColmError, CorpusError
from colm_cpp.heads.head import Head
from colm_cpp.learn import Record, RecordFolder, load_prompts, load_task, make_checker, summarize
from colm_cpp.learn.respond import FILE, respond
from colm_cpp.learn.score_files import COLUMNS, HEADER_SIZE, ProgressMark
from colm_cpp.learn.scores import Scores, ScoresWriter
from colm_cpp.learn.scoring import Progress, Scorer, score
from colm_cpp.report.traces import read_texts
from colm_cpp.results import Stats, Token, Tokens, TopLogprob

LOAD = {**TINY_LOAD, "n_ctx": 64}
OPTIONS = {"max_tokens": 3, "temperature": 0.0, "seed": 0}
N_DEFAULT, N_SLOW = 12, 400


class Stop(BaseException):
    """Ends a run as Ctrl-C would."""


def stop_after(n: int) -> Callable[[Any], None]:
    calls = itertools.count(1)

    def on_progress(_: object) -> None:
        if next(calls) == n:
            raise Stop

    return on_progress


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


class Work:
    """A tiny pair, and one undamaged specimen of everything that is read back."""

    def __init__(self, folder: Path, files: tuple[Path, Path]) -> None:
        self.folder = folder
        self.scorer = Scorer(*files, **LOAD)
        self.pair = colm.load(*files, "never", **LOAD)
        rows: list[Any] = [{"prompt": f"the river {i}", "completion": "there are " * (1 + i % 4)} for i in range(36)]
        rows[5] = {"prompt": "no completion"}
        rows[8] = {"messages": [{"role": role, "content": role} for role in ("user", "assistant")]}
        self.rows = folder / "rows.jsonl"
        self.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.task = folder / "task.jsonl"
        self.task.write_text("".join(json.dumps({"prompt": f"{i} and", "answer": i}) + "\n" for i in range(6)))
        self.finished, self.scores = folder / "finished", folder / "scores"
        score(self.scorer, select([self.rows]), self.finished)
        with pytest.raises(Stop):
            score(self.scorer, select([self.rows]), self.scores, on_progress=stop_after(3))
        self.responses, self.answered = folder / "responses", folder / "answered"
        self.respond(self.answered)
        with pytest.raises(Stop):
            self.respond(self.responses, stop_after(4))
        self.evaluation = folder / "evaluation"
        records = RecordFolder.create_or_open(self.evaluation, {"task_sha256": load_task(self.task).digest})
        for arm in ("base", "mine@50"):
            records.set_arm(arm, {"head": arm, "threshold": 0.5, "rate": None})
            for problem in range(4):
                records.append(arm, make_record(problem))
        self.head = folder / "head.gguf"
        told = json.dumps({"rows": 3, "measured": [[0.1, 0.2]]})
        Head.linear(
            np.linspace(-1, 1, self.pair.n_embd),
            rates=(0.1, 0.5),
            thresholds=(0.9, 0.4),
            training=told,
            calibration=told,
        ).save(self.head)
        self.trace = folder / "trace.jsonl"
        stats = Stats(1, 3, 1 / 3, 3, 1, True, 1, 1, 1, 1, 0.1, 0.1, 20.0, 1)
        colm.write_trace(
            self.trace, colm.Completion("", Tokens(map(a_token, range(4))), "eos", stats, a_token(9)), prompt="2+2="
        )

    def respond(self, out: Path, on_progress: Callable[[Any], None] | None = None) -> None:
        corpus = select([self.task], needs_completion=False)
        corpus = respond(self.pair, corpus, out, OPTIONS, on_progress=on_progress)
        assert len(list(corpus.documents())) == 6


def a_token(i: int) -> Token:
    likely = tuple(TopLogprob(k, f"t{k}", -0.5 - k) for k in range(2))
    return Token(i, f"t{i}", 1 - i % 2, 0.25, 0.5, -0.5, likely)


def make_record(problem: int) -> Record:
    return Record(problem, "eos", (1, 2), ("a ", "b"), "01", (0.5, None), 3, 2, 1, 0.25, 0.5)


@pytest.fixture(scope="module")
def work(tiny_model: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    files = tiny_model(**{**BASE, "chat_template": tm.CHATML}), tiny_model(**ASSISTANT)
    made = Work(tmp_path_factory.mktemp("work"), files)
    with made.scorer, made.pair:
        yield made


# --- each kind of file: what uses it ---------------------------------------------------------------------------


def go_on_with_scores(work: Work, folder: Path) -> None:
    score(work.scorer, select([work.rows]), folder)
    found, wanted = contents(folder), contents(work.finished)
    # What texts.jsonl and meta.json say beside the numbers nothing can check.
    for name in wanted.keys() - {"texts.jsonl", "meta.json"}:
        assert found[name] == wanted[name], name
    assert found["texts.jsonl"].count(b"\n") == wanted["texts.jsonl"].count(b"\n")


def read_scores(work: Work, folder: Path) -> None:
    scores, whole = Scores(folder), Scores(work.finished)
    assert scores.bad_values() is None
    for name in COLUMNS:
        np.testing.assert_array_equal(scores[name], whole[name][: len(scores)])


def go_on_with_responses(work: Work, folder: Path) -> None:
    work.respond(folder)
    found, wanted = contents(folder)[FILE], contents(work.answered)[FILE]
    assert found.count(b"\n") == wanted.count(b"\n")


def use_evaluation(work: Work, folder: Path) -> None:
    records = RecordFolder.open(folder)
    n = {arm: len(records.read(arm)) for arm in records.arms()}
    summarize(records, load_task(work.task), make_checker("number"))
    read_texts([folder])
    for arm in n:
        records.append(arm, make_record(5))
        assert len(records.read(arm)) == n[arm] + 1


def use_head(work: Work, folder: Path) -> None:
    head = Head.load(folder / "head.gguf")
    head.save(folder / "again.gguf")
    work.pair.generate("a", head=folder / "head.gguf", max_tokens=2)


def use_rows(work: Work, folder: Path) -> None:
    (path,) = folder.glob("*.jsonl")
    list(read_documents([path]))
    list(read_documents([path], needs_completion=False))
    load_prompts(path)


def use_task(work: Work, folder: Path) -> None:
    use_rows(work, folder)
    load_task(folder / "task.jsonl")


def use_trace(_: Work, folder: Path) -> None:
    read_texts(folder.glob("*.jsonl"))


Use = Callable[[Work, Path], None]
KINDS: dict[str, tuple[str, Use]] = {
    "scores, going on": ("scores", go_on_with_scores),
    "scores, reading": ("scores", read_scores),
    "responses": ("responses", go_on_with_responses),
    "evaluation": ("evaluation", use_evaluation),
    "head": ("head.gguf", use_head),
    "rows": ("rows.jsonl", use_rows),
    "task": ("task.jsonl", use_task),
    "trace": ("trace.jsonl", use_trace),
}


def fuzz(work: Work, kind: str, seeds: range, tmp_path: Path) -> set[str]:
    """Damages a specimen once for each seed and uses it. The kinds of outcomes."""
    specimen, use = KINDS[kind]
    outcomes = set()
    for seed in seeds:
        rng = random.Random(zlib.crc32(f"{kind} {seed}".encode()))
        folder = tmp_path / f"{seed}"
        if (work.folder / specimen).is_dir():
            shutil.copytree(work.folder / specimen, folder)
        else:
            folder.mkdir()
            shutil.copy(work.folder / specimen, folder)
        path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"))
        # Behind an array's header are values, and one number is as good as another.
        told = damage(path, rng, flips_below=HEADER_SIZE if path.suffix == ".npy" else None)
        before = contents(folder)
        began, computed = time.monotonic(), time.process_time()
        try:
            use(work, folder)
            outcomes.add("OK")
        except ColmError as error:
            outcomes.add(type(error).__name__)
            assert contents(folder) == before, told
        except BaseException as error:
            raise AssertionError(f"{kind}, seed {seed}: {told}: {type(error).__name__}: {str(error)[:500]}") from error
        assert time.process_time() - computed < 10, told
        assert time.monotonic() - began < 60, told  # others may use the machine
        shutil.rmtree(folder)
    return outcomes


@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_a_typed_error_or_the_right_answer(kind: str, work: Work, tmp_path: Path) -> None:
    fuzz(work, kind, range(N_DEFAULT // 3 if kind == "scores, going on" else N_DEFAULT), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_much_damage(kind: str, work: Work, tmp_path: Path) -> None:
    grown = peak_mib()
    outcomes = fuzz(work, kind, range(N_DEFAULT, N_SLOW), tmp_path)
    assert "OK" in outcomes  # some damage does no harm, and some is seen
    assert len(outcomes) >= 2
    assert peak_mib() - grown < 300


def peak_mib() -> float:
    if sys.platform == "win32":
        return 0.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


# --- marks that cannot be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(field.name, marks=() if field.name in ("complete", "n_texts") else pytest.mark.slow)
        for field in dataclasses.fields(ProgressMark)
    ],
)
def test_no_value_of_progress_json_cuts_off_what_is_there(field: str, work: Work, tmp_path: Path) -> None:
    for number, value in enumerate(HOSTILE):
        folder = tmp_path / str(number)
        shutil.copytree(work.scores, folder)
        mark = json.loads((folder / "progress.json").read_text())
        (folder / "progress.json").write_text(json.dumps({**mark, field: "@"}).replace('"@"', value))
        before = contents(folder)
        if json.dumps(mark[field]) == value or (field, value) == ("complete", "true"):
            go_on_with_scores(work, folder)
            continue
        with pytest.raises(CorpusError, match=r"progress\.json"):
            score(work.scorer, select([work.rows]), folder)
        assert contents(folder) == before


def test_a_mark_of_an_earlier_time_is_refused_where_more_than_a_group_follows(work: Work, tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    shutil.copytree(work.finished, folder)
    (folder / "progress.json").write_text(json.dumps(dataclasses.asdict(ProgressMark())))
    before = contents(folder)
    with pytest.raises(CorpusError, match=r"\b0\b.*progress\.json"):
        score(work.scorer, select([work.rows]), folder)
    assert contents(folder) == before


def test_nothing_is_cut_off_before_everything_was_looked_at(tmp_path: Path) -> None:
    rows = {
        name: np.zeros((2, {"base_hidden": 3, "base_top_k_logprobs": 2}.get(name, 1)), dtype).squeeze()
        for name, dtype in COLUMNS.items()
        if name != "text"
    }
    facts = {"n_embd": 3, "top_k": 2}
    with ScoresWriter(tmp_path, facts) as writer:
        writer.add(rows, [{"n_scored": 2}], ProgressMark(n_documents=1, n_texts=1, n_tokens=2))
    for path in tmp_path.glob("*.npy"):
        path.write_bytes(path.read_bytes() + b"unfinished")
    last = tmp_path / f"{list(COLUMNS)[-1]}.npy"
    last.write_bytes(last.read_bytes()[:-11])
    before = contents(tmp_path)
    with pytest.raises(CorpusError, match=last.name):
        ScoresWriter(tmp_path, facts)
    assert contents(tmp_path) == before


# --- files that grow by lines --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"a note of mine, without an end", b'{"format": "colm-respo', b'{"mine": 1}', b"\0" * 99]
)
def test_what_is_no_file_of_answers_is_left_alone(data: bytes, work: Work, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(data)
    if data.startswith(b'{"format'):  # the header was being written
        work.respond(tmp_path)
        assert (tmp_path / FILE).read_bytes() == (work.answered / FILE).read_bytes()
        return
    with pytest.raises(CorpusError, match=FILE):
        work.respond(tmp_path)
    assert (tmp_path / FILE).read_bytes() == data


@pytest.mark.parametrize("end", [b"x", b"\0", b" ", b'{"more": 1}'])
def test_a_last_line_that_lost_its_end_is_damage(end: bytes, work: Work, tmp_path: Path) -> None:
    shutil.copytree(work.responses, tmp_path / "out")
    path = tmp_path / "out" / FILE
    damaged = path.read_bytes()[:-1] + end
    path.write_bytes(damaged)
    with pytest.raises(CorpusError, match=rf"{FILE}:5"):
        work.respond(tmp_path / "out")
    assert path.read_bytes() == damaged
    shutil.copytree(work.evaluation, tmp_path / "evaluation")
    records = RecordFolder.open(tmp_path / "evaluation")
    path = tmp_path / "evaluation" / "records" / "base.jsonl"
    damaged = path.read_bytes()[:-1] + end
    path.write_bytes(damaged)
    for attempt in (lambda: records.read("base"), lambda: records.append("base", make_record(9))):
        with pytest.raises(CorpusError, match=r"base\.jsonl"):
            attempt()
    assert path.read_bytes() == damaged


@pytest.mark.skipif(sys.platform != "linux", reason="a sparse file is not one everywhere")
def test_sparse_files_are_not_held_in_memory(work: Work, tmp_path: Path) -> None:
    grown = peak_mib()
    for name in ("rows.jsonl", "plain.txt"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**32)
    bad = list(read_documents([tmp_path / "plain.txt"]))
    assert "4294967296" in str(bad[0])
    for name in ("meta.json", "progress.json"):
        folder = tmp_path / name
        shutil.copytree(work.scores, folder)
        with (folder / name).open("wb") as file:
            file.truncate(2**36)
        with pytest.raises(CorpusError, match=name):
            Scores(folder)
    with (tmp_path / "rows.jsonl").open("r+b") as file:
        file.truncate(2**27)
    (row,) = read_documents([tmp_path / "rows.jsonl"])
    assert "67108864" in str(row)
    assert peak_mib() - grown < 300


@pytest.mark.parametrize("name", ["\0", "x" * 5000])
def test_names_that_no_file_can_have(name: str, work: Work) -> None:
    for attempt in (
        lambda: list(read_documents([name + ".jsonl"])),
        lambda: list(read_documents([name])),
        lambda: load_task(name),
        lambda: load_prompts(name),
        lambda: Scores(name),
        lambda: RecordFolder.open(name),
    ):
        with pytest.raises(CorpusError):
            attempt()


@pytest.mark.parametrize("seed", [-1, 2**32, 10**5000, "x", None, 1.5], ids=range(6))
def test_seeds_of_answers_are_checked(seed: Any, work: Work, tmp_path: Path) -> None:
    with pytest.raises(ColmError, match="seed"):
        respond(work.pair, select([work.task], needs_completion=False), tmp_path, {**OPTIONS, "seed": seed})


def test_the_last_seed_is_followed_by_the_first(work: Work, tmp_path: Path) -> None:
    seen: list[Progress | Any] = []
    corpus = select([work.task], needs_completion=False)
    respond(work.pair, corpus, tmp_path, {**OPTIONS, "seed": 2**32 - 2}, on_progress=seen.append)
    assert [progress.bad_row for progress in seen] == [None] * 6
