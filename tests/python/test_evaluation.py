"""Judging a pair: tasks, what is kept of the answers, every arm's answers, and the report on them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
import struct
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_models as tm
from click.testing import CliRunner, Result
from conftest import ASSISTANT, BASE, TINY_LOAD, Asked, TinyModels

import colm_cpp as colm
from colm_cpp import Head, Pair
from colm_cpp.cli import main
from colm_cpp.errors import ContextFull, CorpusError, FolderInUse, HeadError, OptionError
from colm_cpp.evaluate.evaluation import Progress
from colm_cpp.evaluate.records import sources_of
from colm_cpp.evaluate.statistics import paired_difference, wilson_interval
from colm_cpp.learn import Arm, Record, RecordFolder, Task, load_prompts, load_task, make_arms, make_checker, summarize
from colm_cpp.learn import evaluate as answer_all
from colm_cpp.report import evaluation as report

OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 7}
TIMES: dict[str, Any] = {"prefill_s": 0.0, "decode_s": 0.0}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def make_task(path: Path, n: int = 4) -> Task:
    rows = [{"prompt": f"There are {i} pears and", "answer": str(i)} for i in range(n)]
    return load_task(write_lines(path, rows))


def make_record(problem: int = 0, sources: str = "bab", **changes: Any) -> Record:
    n = len(sources)
    record = Record(
        problem=problem,
        finish_reason="eos",
        ids=tuple(range(n)),
        pieces=tuple(f"p{i} " for i in range(n)),
        sources=sources,
        defer_logits=(0.5,) * n,
        prompt_tokens=3,
        base_steps=n,
        assistant_calls=sources.count("a"),
        prefill_s=0.25,
        decode_s=0.5,
    )
    return dataclasses.replace(record, **changes)


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_names_its_bad_rows(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows: list[Any] = [
        {"prompt": "one", "answer": 1},
        "{broken",
        {"prompt": "no answer"},
        {"answer": "no prompt"},
        {"prompt": "flag", "answer": True},
        {"messages": [{"role": "user"}], "answer": "x"},
        {"messages": [{"content": "x"}], "answer": "x"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "answer": "x"},
        {"messages": "hello", "answer": "x"},
        {"messages": [], "answer": "x"},
        {"prompt": "blank", "answer": "  "},
        ["a list"],
        {"messages": chat, "answer": "two"},
        {"prompt": "code", "tests": "assert True"},
        {"prompt": "half", "answer": 2.5},
    ]
    task = load_task(write_lines(tmp_path / "t.jsonl", rows))
    assert [(p.index, p.prompt, p.answer) for p in task.problems] == [
        (0, "one", "1"),
        (12, "u", "two"),
        (13, "code", "assert True"),
        (14, "half", "2.5"),
    ]
    assert task.problems[1].messages == tuple(chat)
    assert task.problems[0].messages == ({"role": "user", "content": "one"},)
    reasons = {row.line: row.reason for row in task.bad_rows}
    assert set(reasons) == set(range(2, 13))
    for line, facts in {
        2: ["JSON"], 3: ["answer"], 4: ["prompt", "messages"], 5: ["answer"], 6: ["message", "text"],
        7: ["message", "role"], 8: ["messages", "assistant"], 9: ["messages", "list"], 10: ["messages", "list"],
        11: ["answer"],
    }.items():  # fmt: skip
        assert all(fact in reasons[line] for fact in facts), reasons[line]
    assert str(task.bad_rows[0]).startswith(f"{tmp_path / 't.jsonl'}:2: ")


def test_skip_and_limit_keep_the_rows_numbers(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "t.jsonl", [{"prompt": f"p{i}", "answer": i} for i in range(6)])
    assert [p.index for p in load_task(file, skip=2, limit=3).problems] == [2, 3, 4]
    assert load_task(file, skip=2).digest == load_task(file).digest
    assert [p.index for p in load_prompts(file, skip=1, limit=2)] == [1, 2]
    with pytest.raises(CorpusError, match=r"t\.jsonl"):
        load_task(file, skip=6)
    with pytest.raises(CorpusError, match=r"t\.jsonl.* 6"):
        load_prompts(file, skip=6)


def test_a_task_without_problems(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"t\.jsonl:1: .*answer"):
        load_task(write_lines(tmp_path / "t.jsonl", [{"prompt": "x"}]))
    with pytest.raises(CorpusError, match=r"none\.jsonl"):
        load_task(tmp_path / "none.jsonl")


def test_prompts_need_no_answer(tmp_path: Path) -> None:
    said = {"role": "user", "content": "u"}
    rows: list[Any] = [
        {"prompt": "one"},
        {"messages": [said, {"role": "assistant", "content": "a"}]},
        {"text": "no prompt"},
    ]
    prompts = load_prompts(write_lines(tmp_path / "p.jsonl", rows))
    assert [(p.index, p.prompt, p.messages) for p in prompts] == [
        (0, "one", ({"role": "user", "content": "one"},)),
        (1, "u", (said,)),
    ]


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written() -> None:
    record = make_record(3, "abba", defer_logits=(None, -1.25, 0.0, 3.5), pieces=("é", "\n", "", "\u2028日"))
    line = record.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == record
    assert record.text == "é\n\u2028日"
    assert (record.n_tokens, record.n_deferred) == (4, 2)
    assert sources_of(record) == ["assistant", "base", "base", "assistant"]


@pytest.mark.parametrize(
    "changes", [{"more": 1}, {"sources": "b"}, {"ids": [1]}, {"pieces": None}], ids=["more", "sources", "ids", "pieces"]
)
def test_what_is_no_record(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Record.from_json(json.dumps({**json.loads(make_record().to_json()), **changes}))
    earlier = json.loads(make_record().to_json())
    del earlier["n_parallel"]
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(json.dumps(earlier))
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json("[]")


@pytest.fixture
def folder(tmp_path: Path) -> RecordFolder:
    made = RecordFolder.create_or_open(tmp_path / "e", {"task": "t", "options": {"seed": 1}})
    made.set_arm("base", {"head": "never"})
    return made


def test_a_folder_keeps_answers(folder: RecordFolder) -> None:
    records = [make_record(i, "ab" * (i + 1)) for i in range(3)]
    for record in records:
        folder.append("base", record)
    again = RecordFolder.create_or_open(folder.path, {"task": "t", "options": {"seed": 1}})
    assert again.meta == folder.meta
    assert again.read("base") == {record.problem: record for record in records}
    assert again.arms() == ["base"]
    again.set_arm("later", {"head": "always"})
    assert again.read("later") == {}
    assert again.arms() == ["base"]  # nothing answered yet


def test_a_line_cut_short_is_dropped_and_written_over(folder: RecordFolder) -> None:
    folder.append("base", make_record(0))
    folder.append("base", make_record(1))
    file = folder.path / "records" / "base.jsonl"
    whole = file.read_bytes()
    for cut in (1, 5, len(make_record(1).to_json())):
        file.write_bytes(whole[:-cut])
        assert set(folder.read("base")) == {0}  # even where nothing is missing but the end: append() writes over it
        folder.append("base", make_record(2))
        lines = file.read_bytes().splitlines()
        assert [json.loads(line)["problem"] for line in lines] == [0, 2]
        assert file.read_bytes().endswith(b"\n")


def test_a_damaged_line_in_the_middle_is_named(folder: RecordFolder) -> None:
    for i in range(3):
        folder.append("base", make_record(i))
    file = folder.path / "records" / "base.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(CorpusError, match=r"base\.jsonl:2 "):
        folder.read("base")
    file.write_bytes(lines[0] + lines[2][:20] + b"\n")  # even the last, where its end is there
    with pytest.raises(CorpusError, match=r"base\.jsonl:2 "):
        folder.read("base")


def test_other_facts_are_refused(folder: RecordFolder) -> None:
    with pytest.raises(CorpusError, match=r'options {"seed": 1}.*{"seed": 2}'):
        RecordFolder.create_or_open(folder.path, {"task": "t", "options": {"seed": 2}})


def test_a_changed_head_is_refused_once_it_has_answered(folder: RecordFolder) -> None:
    folder.set_arm("mine@20", {"head": "h.gguf", "head_sha256": "1", "threshold": 0.5})
    folder.set_arm("mine@20", {"head": "h.gguf", "head_sha256": "2", "threshold": 0.5})
    folder.append("mine@20", make_record())
    folder.set_arm("mine@20", {"head": "h.gguf", "head_sha256": "2", "threshold": 0.5})
    with pytest.raises(CorpusError, match=r"mine@20 .*head_sha256 and threshold; .*mine@20"):
        folder.set_arm("mine@20", {"head": "h.gguf", "head_sha256": "3", "threshold": 0.4})
    assert RecordFolder.open(folder.path).meta["arms"]["mine@20"]["head_sha256"] == "2"


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        (None, r"meta\.json"),
        ("{", r"meta\.json"),
        ('{"format": "colm-scores", "version": 1}', r"meta\.json"),
        ('{"format": "colm-evaluation", "version": 99}', "version 99.* 2"),
        # Its answers do not say how many were written at once.
        (
            '{"format": "colm-evaluation", "version": 1}',
            r"meta\.json .*version 1.* 2",
        ),
    ],
)
def test_what_is_no_evaluation(meta: str | None, said: str, tmp_path: Path) -> None:
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(CorpusError, match=said):
        RecordFolder.open(tmp_path)


# --- answering --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tiny_model: TinyModels) -> Iterator[Pair]:
    with colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), **TINY_LOAD) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def ending(tiny_model: TinyModels) -> Iterator[Pair]:
    """A pair whose assistant often ends a text early: beside others, such a text does not end in its turn."""
    assistant = tiny_model(**ASSISTANT, row_scale={"<|im_end|>": 1.6})
    with colm.load(tiny_model(**BASE, chat_template=tm.CHATML), assistant, **TINY_LOAD) as loaded:
        yield loaded


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    Head.confidence(32, rates=(0.0, 0.5, 1.0), thresholds=(1.0, 0.6, 0.0)).save(tmp_path / "head.gguf")
    return tmp_path / "head.gguf"


def begin(path: Path, task: Task) -> RecordFolder:
    facts = {"task": Path(task.path).name, "task_sha256": task.digest, "chat": False, "options": OPTIONS}
    return RecordFolder.create_or_open(path, {**facts, "base": "b", "assistant": "a"})


def contents(folder: RecordFolder) -> dict[str, dict[int, Record]]:
    """The answers of all arms, but for the time that they took."""
    return {
        arm: {i: dataclasses.replace(record, **TIMES) for i, record in folder.read(arm).items()}
        for arm in folder.arms()
    }


def test_every_arm_answers_every_problem(pair: Pair, tmp_path: Path, head_file: Path) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base", "assistant"], {"mine": head_file}, [0.5, 0.25])
    assert [arm.name for arm in arms] == ["base", "assistant", "mine@50", "mine@25", "random@50", "random@25"]
    folder = begin(tmp_path / "e", task)
    seen: list[Progress] = []
    answer_all(pair, task, folder, arms, OPTIONS, chat=False, on_progress=seen.append)
    # Problem by problem, so that all arms share the machine's good and bad times.
    assert [(p.record.problem, p.arm) for p in seen] == [(i, arm.name) for i in range(4) for arm in arms]
    assert [(p.done, p.total, p.made) for p in seen] == [(i, 24, i) for i in range(1, 25)]
    answers = contents(folder)
    assert list(answers) == [arm.name for arm in arms]
    assert all(list(records) == [0, 1, 2, 3] for records in answers.values())
    for record in answers["base"].values():
        assert set(record.sources) == {"b"}
        assert (record.assistant_calls, record.base_steps) == (0, record.n_tokens)
        assert record.prompt_tokens > 0
    for record in answers["assistant"].values():
        assert set(record.sources) == {"a"}
        assert (record.assistant_calls, record.base_steps) == (record.n_tokens, 0)
    for name in ("random@50", "mine@50"):
        written = "".join(record.sources for record in answers[name].values())
        assert set(written) == {"a", "b"}
        for record in answers[name].values():
            assert record.base_steps == record.n_tokens
            assert record.assistant_calls == record.n_deferred
    # What an arm wrote is what the pair writes with its head, threshold and the problem's seed.
    again = pair.generate(task.problems[2].prompt, **{**OPTIONS, "seed": 9, "head": "random", "threshold": 0.75})
    assert answers["random@25"][2] == dataclasses.replace(Record.of(2, again), **TIMES)
    meta = folder.meta["arms"]
    assert meta["mine@50"]["threshold"] == pytest.approx(0.6)
    assert meta["mine@25"]["threshold"] == pytest.approx(0.8)
    assert meta["mine@25"]["rate"] == 0.25
    assert len(meta["mine@25"]["head_sha256"]) == 64


def test_heads_answer_with_each_strategy(pair: Pair, tmp_path: Path, head_file: Path) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base"], {"mine": head_file}, [0.5], strategies=["defer", "compose"])
    assert [arm.name for arm in arms] == ["base", "mine@50", "mine@50+compose", "random@50"]
    folder = begin(tmp_path / "e", task)
    answer_all(pair, task, folder, arms, OPTIONS, chat=False)
    answers = contents(folder)
    for problem, record in answers["mine@50+compose"].items():
        options = {**OPTIONS, "seed": 7 + problem, "head": Head.load(head_file), "threshold": 0.6}
        written = pair.generate(task.problems[problem].prompt, strategy="compose", **options)
        again = Record.of(problem, written)
        assert (record.ids, record.sources) == (again.ids, again.sources)
    assert answers["mine@50+compose"] != answers["mine@50"]
    assert folder.meta["arms"]["mine@50+compose"]["strategy"] == "compose"
    assert "strategy" not in folder.meta["arms"]["mine@50"]  # folders of earlier versions go on
    with pytest.raises(OptionError, match=r"'mix'.*compose"):
        make_arms(["base"], {}, [0.5], strategies=["mix"])


class _Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [1, 5])
def test_an_interrupted_run_goes_on(after: int, pair: Pair, tmp_path: Path, asked: Asked) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base", "assistant"], {}, [0.4])
    whole = begin(tmp_path / "whole", task)
    answer_all(pair, task, whole, arms, OPTIONS, chat=False)

    def stop(progress: Progress) -> None:
        if progress.made == after:
            raise _Interrupted

    asked.prompts.clear()
    with pytest.raises(_Interrupted):
        answer_all(pair, task, begin(tmp_path / "e", task), arms, OPTIONS, chat=False, on_progress=stop)
    assert len(asked.prompts) == after
    seen: list[Progress] = []
    folder = begin(tmp_path / "e", task)
    answer_all(pair, task, folder, arms, OPTIONS, chat=False, on_progress=seen.append)
    assert len(asked.prompts) == len(set(asked.prompts)) == 12
    assert (seen[0].done, seen[0].made, seen[-1].done, seen[-1].made) == (after + 1, 1, 12, 12 - after)
    assert contents(folder) == contents(whole)
    answer_all(pair, task, folder, arms, OPTIONS, chat=False)
    assert len(asked.prompts) == 12


def test_arms_and_problems_are_added_later(pair: Pair, tmp_path: Path, head_file: Path, asked: Asked) -> None:
    task = make_task(tmp_path / "t.jsonl")
    folder = begin(tmp_path / "e", task)
    part = dataclasses.replace(task, problems=task.problems[:2])
    answer_all(pair, part, folder, make_arms(["base"], {}, [], random=False), OPTIONS, chat=False)
    before = contents(folder)
    asked.prompts.clear()
    more = make_arms(["base", "assistant"], {"mine": head_file}, [0.5], random=False)
    answer_all(pair, task, folder, more, OPTIONS, chat=False)
    assert len(asked.prompts) == 2 + 4 + 4
    after = contents(folder)
    assert list(after) == ["base", "assistant", "mine@50"]
    assert {i: after["base"][i] for i in (0, 1)} == before["base"]
    # The head's file is another now: its answers are not mixed with those of the old one.
    Head.confidence(32, rates=(0.0, 0.5, 1.0), thresholds=(1.0, 0.7, 0.0)).save(head_file)
    with pytest.raises(CorpusError, match=r"mine@50 .*head_sha256 and threshold"):
        answer_all(pair, task, folder, make_arms([], {"mine": head_file}, [0.5]), OPTIONS, chat=False)
    assert contents(folder) == after


def assert_same_answers(folder: RecordFolder, other: RecordFolder) -> None:
    """Token for token, whatever was written beside them; a batch rounds otherwise than single tokens."""

    def exact(answers: dict[int, Record]) -> list[Record]:
        same = {**TIMES, "defer_logits": (), "logprobs": (), "n_parallel": 1}
        return [dataclasses.replace(answers[i], **same) for i in sorted(answers)]

    assert folder.arms() == other.arms()
    for arm in folder.arms():
        answers, others = folder.read(arm), other.read(arm)
        assert exact(answers) == exact(others)
        for i in answers:
            assert answers[i].defer_logits == pytest.approx(others[i].defer_logits, abs=2e-3)
            assert answers[i].logprobs == pytest.approx(others[i].logprobs, abs=2e-3)


def test_many_at_once(ending: Pair, tmp_path: Path, head_file: Path, asked: Asked) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base", "assistant"], {"mine": head_file}, [0.5])
    alone, together = begin(tmp_path / "alone", task), begin(tmp_path / "together", task)
    answer_all(ending, task, alone, arms, OPTIONS, chat=False)
    seen: list[Progress] = []
    answer_all(ending, task, together, arms, OPTIONS, chat=False, n_parallel=3, on_progress=seen.append)
    assert asked.n_parallel == [1] * 16 + [3]
    assert sorted(asked.ended) == list(range(16)) != asked.ended
    assert [(p.record.problem, p.arm) for p in seen] == [(n // 4, arms[n % 4].name) for n in asked.ended]
    assert [(p.done, p.total, p.made) for p in seen] == [(i, 16, i) for i in range(1, 17)]
    assert all(together.read(p.arm)[p.record.problem] == p.record for p in seen)
    assert_same_answers(together, alone)
    assert "a" in "".join(record.sources for record in together.read("mine@50").values())
    for folder, n in ((alone, 1), (together, 3)):
        assert {record.n_parallel for answers in contents(folder).values() for record in answers.values()} == {n}


@pytest.mark.parametrize("after", [1, 4, 10])
def test_an_interrupted_run_of_many_at_once_goes_on(after: int, ending: Pair, tmp_path: Path, asked: Asked) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base", "assistant"], {}, [0.4])
    whole = begin(tmp_path / "whole", task)
    answer_all(ending, task, whole, arms, OPTIONS, chat=False)

    def stop(progress: Progress) -> None:
        if progress.made == after:
            raise _Interrupted

    folder = begin(tmp_path / "e", task)
    with pytest.raises(_Interrupted):
        answer_all(ending, task, folder, arms, OPTIONS, chat=False, n_parallel=3, on_progress=stop)
    kept = {
        (tuple(ending.tokenize(p.prompt)), a.head)
        for p in task.problems
        for a in arms
        if p.index in folder.read(a.name)
    }
    assert len(kept) == after
    asked.prompts.clear()
    answer_all(ending, task, folder, arms, OPTIONS, chat=False, n_parallel=3)
    assert len(asked.prompts) == len(set(asked.prompts)) == 12 - after
    assert not kept & set(asked.prompts)
    assert_same_answers(folder, whole)
    # What is added alone is timed, what was written together stays as it is.
    more = make_arms([], {}, [0.6])
    answer_all(ending, task, folder, more, OPTIONS, chat=False)
    summary = summarize(folder, task, make_checker("number"))
    assert [(arm.name, arm.n_timed, arm.tokens_per_s is None) for arm in summary.arms] == [
        ("base", 0, True),
        ("assistant", 0, True),
        ("random@40", 0, True),
        ("random@60", 4, False),
    ]


@pytest.mark.parametrize("n_parallel", [1, 3])
def test_an_error_ends_a_run(n_parallel: int, pair: Pair, tmp_path: Path) -> None:
    """Answers that were written before stay, and the pair goes on."""
    prompts = ["one pear", "two pears", "three pears", "pears " * 300, "four pears"]
    rows = [{"prompt": prompt, "answer": "x"} for prompt in prompts]
    task = load_task(write_lines(tmp_path / "t.jsonl", rows))
    arms = make_arms(["base"], {}, [], random=False)
    folder, other = begin(tmp_path / "e", task), begin(tmp_path / "other", task)
    with pytest.raises(ContextFull, match="256"):
        answer_all(pair, task, folder, arms, OPTIONS, chat=False, n_parallel=n_parallel)
    kept = set(folder.read("base"))
    assert kept == {0, 1, 2} if n_parallel == 1 else {0} <= kept <= {0, 1, 2}
    part = dataclasses.replace(task, problems=task.problems[:3] + task.problems[4:])
    answer_all(pair, part, folder, arms, OPTIONS, chat=False, n_parallel=n_parallel)
    answer_all(pair, part, other, arms, OPTIONS, chat=False)
    assert_same_answers(folder, other)


def test_how_many_at_once_is_checked(pair: Pair, tmp_path: Path) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base"], {}, [], random=False)
    for wrong in (0, -1, 257):
        with pytest.raises(OptionError, match=rf"n_parallel is {wrong}.* 1 .*256"):
            answer_all(pair, task, begin(tmp_path / "e", task), arms, OPTIONS, chat=False, n_parallel=wrong)


def test_many_conversations_at_once(ending: Pair, tmp_path: Path) -> None:
    """In the template, greedy where no temperature is given."""
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base", "assistant"], {}, [0.5])
    options = {"max_tokens": 12, "seed": 2**32 - 3}  # beyond the last seed it begins anew
    alone, together = begin(tmp_path / "alone", task), begin(tmp_path / "together", task)
    answer_all(ending, task, alone, arms, options, n_parallel=1)
    answer_all(ending, task, together, arms, options, n_parallel=5)
    assert_same_answers(together, alone)
    for i, seed in enumerate((2**32 - 3, 2**32 - 2, 0, 1)):
        own: dict[str, Any] = {**options, "temperature": 0, "head": "always", "seed": seed}
        assert together.read("assistant")[i].ids == ids_of(ending.chat(task.problems[i].messages, **own))


def ids_of(completion: colm.Completion) -> tuple[int, ...]:
    end = () if completion.end_token is None else (completion.end_token.id,)
    return (*(token.id for token in completion.tokens), *end)


def test_two_runs_at_once_are_refused(pair: Pair, tmp_path: Path) -> None:
    task = make_task(tmp_path / "t.jsonl")
    folder = begin(tmp_path / "e", task)
    arms = make_arms(["base"], {}, [], random=False)

    def again(progress: Progress) -> None:
        with pytest.raises(FolderInUse, match="another process"):
            answer_all(pair, task, begin(tmp_path / "e", task), arms, OPTIONS, chat=False)

    answer_all(pair, task, folder, arms, OPTIONS, chat=False, on_progress=again)
    assert [record.problem for record in folder.read("base").values()] == [0, 1, 2, 3]


def test_arms_that_cannot_be(tmp_path: Path, head_file: Path) -> None:
    with pytest.raises(OptionError, match=r"'both'.*base.*assistant"):
        make_arms(["both"], {}, [0.2])
    for rate in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(OptionError, match=r"\(0, 1\)"):
            make_arms(["base"], {}, [rate])
    for name in ("base", "random", "a/b", "", "a@b", "../x"):
        with pytest.raises(OptionError, match=f"named {name!r}"):
            make_arms([], {name: head_file}, [0.2])
    with pytest.raises(OptionError, match="arm"):
        make_arms([], {}, [], random=False)
    Head.confidence(32).save(tmp_path / "bare.gguf")
    with pytest.raises(HeadError, match=r"bare\.gguf .*colm calibrate"):
        make_arms([], {"bare": tmp_path / "bare.gguf"}, [0.2])


# --- the report -------------------------------------------------------------------------------------------------------


def fabricated(path: Path) -> tuple[RecordFolder, Task]:
    """Answers of three arms to six problems, whose numbers can be counted by hand."""
    task = make_task(path.with_suffix(".jsonl"), 6)
    folder = begin(path, task)
    for arm in [
        Arm("random@20", "random", 0.8, 0.2, {"rate": 0.2}),
        Arm("base", "never", 0.5, None, {"rate": None}),
        Arm("assistant", "always", 0.5, None, {"rate": None}),
    ]:
        folder.set_arm(arm.name, arm.facts)
    for i in range(6):  # right on 0, 1, 2
        folder.append("base", answer_of(i, str(i) if i < 3 else "99", "bbbb", finish_reason="length"))
    for i in range(6):  # right on all but 0, where it finds no number
        folder.append("assistant", answer_of(i, str(i) if i else "none", "aa", decode_s=0.25))
    for i in (1, 2, 3):  # right on 1
        folder.append("random@20", answer_of(i, str(i) if i == 1 else "99", "bbbab"))
    return folder, task


def answer_of(problem: int, text: str, sources: str, **changes: Any) -> Record:
    pieces = (text, *[""] * (len(sources) - 1))
    return make_record(problem, sources, pieces=pieces, **changes)


def test_the_summary_counts(tmp_path: Path) -> None:
    folder, task = fabricated(tmp_path / "e")
    summary = summarize(folder, task, make_checker("number"))
    assert summary.checker == "number"
    assert [arm.name for arm in summary.arms] == ["base", "assistant", "random@20"]
    base, assistant, random = summary.arms
    assert (base.n_problems, base.n_correct, base.accuracy) == (6, 3, 0.5)
    assert (base.low, base.high) == wilson_interval(3, 6)
    assert (base.n_tokens, base.deferral_rate, base.assistant_calls_per_token) == (24, 0.0, 0.0)
    assert base.tokens_per_s == pytest.approx(24 / 3.0)
    assert (base.n_cut_off, base.n_without_answer, base.rate) == (6, 0, None)
    assert (assistant.n_correct, assistant.deferral_rate, assistant.assistant_calls_per_token) == (5, 1.0, 1.0)
    assert assistant.tokens_per_s == pytest.approx(12 / 1.5)
    assert (assistant.n_cut_off, assistant.n_without_answer) == (0, 1)
    assert (random.n_problems, random.n_correct, random.rate) == (3, 1, 0.2)
    assert random.deferral_rate == pytest.approx(3 / 15)
    assert random.assistant_calls_per_token == pytest.approx(3 / 15)

    right = {"base": {0, 1, 2}, "assistant": {1, 2, 3, 4, 5}, "random@20": {1}}
    asked = {"base": set(range(6)), "assistant": set(range(6)), "random@20": {1, 2, 3}}
    assert [(c.arm, c.other) for c in summary.comparisons] == list(combinations(right, 2))
    for comparison in summary.comparisons:
        both = sorted(asked[comparison.arm] & asked[comparison.other])
        columns = [[i in right[arm] for i in both] for arm in (comparison.arm, comparison.other)]
        assert comparison.n_problems == len(both)
        assert comparison.difference == paired_difference(*columns)
    assert summary.comparisons[0].difference.difference == pytest.approx(-2 / 6)
    assert json.loads(json.dumps(summary.to_dict()))["arms"][0]["n_correct"] == 3


def test_a_part_of_the_task_is_summarised_alone(tmp_path: Path) -> None:
    folder, task = fabricated(tmp_path / "e")
    part = load_task(task.path, skip=4)
    summary = summarize(folder, part, make_checker("number"))
    assert [(arm.name, arm.n_problems, arm.n_correct) for arm in summary.arms] == [("base", 2, 0), ("assistant", 2, 2)]
    other = make_task(tmp_path / "other.jsonl", 5)
    with pytest.raises(CorpusError, match=r"e\.jsonl.*other\.jsonl"):
        summarize(folder, other, make_checker("number"))
    empty = begin(tmp_path / "empty", task)
    with pytest.raises(CorpusError, match=re.escape(str(empty.path))):
        summarize(empty, task, make_checker("number"))


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return int(width), int(height)


def test_a_report_is_written(tmp_path: Path) -> None:
    folder, task = fabricated(tmp_path / "e")
    summary = summarize(folder, task, make_checker("number"))
    written = report.write_tables(summary, folder.path)
    written |= {path.name: path for path in report.write_plots(summary, folder.path)}
    assert set(written) == {"report.md", "report.json", "accuracy_by_rate.png", "accuracy_by_speed.png"}
    for name in ("accuracy_by_rate.png", "accuracy_by_speed.png"):
        assert png_size(written[name]) == (840, 540)
    pixels = importlib.import_module("matplotlib.image").imread(written["accuracy_by_rate.png"])
    assert len({tuple(pixel) for row in pixels[::7, ::7] for pixel in row.tolist()}) > 3  # more than empty axes
    assert json.loads(written["report.json"].read_text()) == json.loads(json.dumps(summary.to_dict()))
    text = written["report.md"].read_text()
    assert text == report.to_markdown(summary)
    lines = text.splitlines()
    facts = ("Task e.jsonl", "checker number", "base b", "assistant a", "max_tokens 12", "temperature 1")
    assert all(fact in lines[0] for fact in facts)
    low, high = wilson_interval(3, 6)
    assert f"| base | 6 | 50.0% | {low:.1%} to {high:.1%} | 0.0% | 0.000 | 0.000 | 1.000 | 8.0 | 6 |" in lines
    assert any(line.startswith("| base | assistant | 6 | -33.3 | ") for line in lines)


def partly_timed(path: Path, n_timed: dict[str, int]) -> tuple[RecordFolder, Task]:
    """As many answers of each arm written alone, at 8 tokens/s, and the rest of six beside others."""
    task = make_task(path.with_suffix(".jsonl"), 6)
    folder = begin(path, task)
    for name, timed in n_timed.items():
        folder.set_arm(name, {"rate": 0.2 if "@" in name else None})
        for i in range(6):
            how = {"decode_s": 0.5} if i < timed else {"decode_s": 100.0, "n_parallel": 8}
            folder.append(name, answer_of(i, str(i), "bbbb" if name == "base" else "abab", **how))
    return folder, task


@pytest.mark.parametrize(
    ("n_timed", "said"),
    [
        ({"base": 2, "assistant": 0, "random@20": 6}, "0 to 6"),
        ({"base": 2, "assistant": 2, "random@20": 2}, " 2 "),
        ({"base": 0, "assistant": 0, "random@20": 0}, "no answer"),
        ({"base": 6, "assistant": 6, "random@20": 6}, None),
    ],
)
def test_tokens_per_second_are_of_what_was_written_alone(
    n_timed: dict[str, int], said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, task = partly_timed(tmp_path / "e", n_timed)
    summary = summarize(folder, task, make_checker("number"))
    speeds = {arm.name: arm.tokens_per_s for arm in summary.arms}
    assert speeds == {name: pytest.approx(8.0) if n else None for name, n in n_timed.items()}
    assert {arm.name: arm.n_timed for arm in summary.arms} == n_timed
    assert {arm.n_tokens for arm in summary.arms} == {24}  # all else counts every answer

    plotted: dict[str, dict[str, list[float]]] = {}
    figures = importlib.import_module("matplotlib.figure")
    save = figures.Figure.savefig

    names = {"deferral rate (% of tokens)": "accuracy_by_rate.png", "tokens per second": "accuracy_by_speed.png"}

    def noting(figure: Any, file: Any, **options: Any) -> None:
        bars, labels = figure.axes[0].get_legend_handles_labels()
        points = {label: bar for label, bar in zip(labels, bars, strict=True) if hasattr(bar, "lines")}
        plotted[names[figure.axes[0].get_xlabel()]] = {
            label: list(bar.lines[0].get_xdata()) for label, bar in points.items()
        }
        save(figure, file, **options)

    monkeypatch.setattr(figures.Figure, "savefig", noting)
    written = report.write_tables(summary, folder.path)
    written |= {path.name: path for path in report.write_plots(summary, folder.path)}
    timed = [name for name, n in n_timed.items() if n]
    speed = {"accuracy_by_speed.png"} if timed else set()
    assert set(written) == {"report.md", "report.json", "accuracy_by_rate.png"} | speed
    assert (folder.path / "accuracy_by_speed.png").exists() == bool(timed)
    assert set(plotted) == {"accuracy_by_rate.png"} | speed
    if timed:
        assert plotted["accuracy_by_speed.png"] == {name.partition("@")[0]: [pytest.approx(8.0)] for name in timed}
    assert list(plotted["accuracy_by_rate.png"]) == ["random"]

    in_json = json.loads(written["report.json"].read_text())["arms"]
    assert {arm["name"]: (arm["tokens_per_s"], arm["n_timed"]) for arm in in_json} == {
        name: (speeds[name], n) for name, n in n_timed.items()
    }
    lines = written["report.md"].read_text().splitlines()
    cells = {name: next(line for line in lines if line.startswith(f"| {name} | 6 |")).split("|") for name in n_timed}
    assert {name: row[9].strip() for name, row in cells.items()} == {
        name: "8.0" if n else "" for name, n in n_timed.items()
    }
    assert {len(row) for row in cells.values()} == {lines[2].count("|") + 1}
    sentences = [line for line in lines if "tokens/s" in line and not line.startswith("|")]
    assert len(sentences) == (said is not None)
    assert said is None or said in sentences[0]


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, task = fabricated(tmp_path / "e")
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> ModuleType:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    result = run("evaluate", task.path, "--base", "none", "--assistant", "none", "--out", folder.path, "--report-only")
    assert result.exit_code == 0
    assert result.stderr.startswith("colm: warning: ")
    assert "pip install matplotlib" in result.stderr


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def test_the_command_end_to_end(tiny_model: TinyModels, tmp_path: Path, head_file: Path) -> None:
    rows: list[Any] = [{"prompt": f"There are {i} pears and", "answer": i} for i in range(3)]
    task = write_lines(tmp_path / "t.jsonl", [*rows, {"prompt": "no answer"}])
    out = tmp_path / "e"
    models = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT))]
    models += ["--n-threads", "1", "--n-ctx", "256"]
    writing = ["--max-tokens", "8", "--temperature", "1", "--seed", "3", "--out", str(out)]
    first = run("evaluate", task, *models, *writing, "--arm", "base", "--limit", "2")
    assert first.exit_code == 0, first.stderr
    assert f"{task}:4" not in first.stderr  # that row was not reached
    result = run("evaluate", task, *models, *writing, "--head", f"mine={head_file}", "--rate", "0.5", "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert [arm["name"] for arm in printed["arms"]] == ["base", "assistant", "mine@50", "random@50"]
    assert {arm["n_problems"] for arm in printed["arms"]} == {3}
    # On no terminal: a line for the end, none for every answer.
    progress = [line for line in result.stderr.splitlines() if line.startswith("evaluating: ")]
    assert len(progress) == 1
    assert progress[0].startswith("evaluating: 100%, 12 of 12 answers, ")
    assert f"colm: warning: {task}:4: " in result.stderr
    folder = RecordFolder.open(out)
    assert folder.meta["options"] == {"max_tokens": 8, "temperature": 1.0, "seed": 3}
    assert folder.meta["chat"] is False
    assert all(set(record.sources) == {"a"} for record in folder.read("assistant").values())
    assert {path.name for path in out.glob("*.png")} == {
        f"accuracy_by_{name}.png" for name in ("rate", "speed", "cost")
    }

    # The report needs the answers alone.
    for path in out.glob("report.*"):
        path.unlink()
    nowhere = ["--base", str(tmp_path / "none.gguf"), "--assistant", str(tmp_path / "none.gguf")]
    again = run("evaluate", task, *nowhere, "--out", out, "--report-only")
    assert again.exit_code == 0, again.stderr
    assert again.stdout == (out / "report.md").read_text()
    assert "| mine@50 | 3 |" in again.stdout
    assert json.loads((out / "report.json").read_text()) == printed
    # Without that flag the models are needed.
    assert run("evaluate", task, *nowhere, "--out", out).exit_code == 1

    # Many at once: the answers that are missing, and no time of those counts.
    more = run("evaluate", task, *models, *writing, "--rate", "0.7", "--parallel", "2", "--json")
    assert more.exit_code == 0, more.stderr
    timed = {arm["name"]: (arm["n_timed"], arm["tokens_per_s"] is None) for arm in json.loads(more.stdout)["arms"]}
    assert timed == {
        "base": (3, False),
        "assistant": (3, False),
        "mine@50": (3, False),
        "random@50": (3, False),
        "random@70": (0, True),
    }
    assert {record.n_parallel for record in folder.read("random@70").values()} == {2}

    other = run("evaluate", task, *models, *writing, "--max-tokens", "9")
    assert other.exit_code == 1
    assert '"max_tokens": 9' in other.stderr


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--head", "no.gguf"], "no.gguf"),
        (["--head", "<|>"], "<|>"),
        (["--head", "base=x.gguf"], "'base'"),
        (["--rate", "1.0"], "1.0"),
        (["--checker", "vibes"], "'vibes'"),
        (["--report-only"], "meta.json"),
    ],
)
def test_the_command_refuses(extra: list[str], said: str, tmp_path: Path) -> None:
    task = make_task(tmp_path / "t.jsonl")
    nowhere = ["--base", "none.gguf", "--assistant", "none.gguf", "--out", str(tmp_path / "e")]
    result = run("evaluate", task.path, *nowhere, *extra)
    assert result.exit_code == 1
    assert said in result.stderr
    assert not (tmp_path / "e").exists()
