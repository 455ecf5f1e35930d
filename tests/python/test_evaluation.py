"""Every arm answers every problem, one after another or many at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import evaluations
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, Asked, TinyModels
from evaluations import OPTIONS, begin, make_task, write_lines

import colm_cpp as colm
from colm_cpp import Head, Pair
from colm_cpp.errors import ContextFull, CorpusError, FolderInUse, HeadError, OptionError
from colm_cpp.evaluate.evaluation import Progress
from colm_cpp.learn import Record, RecordFolder, load_task, make_arms, make_checker, summarize
from colm_cpp.learn import evaluate as answer_all

folder = evaluations.folder
head_file = evaluations.head_file


TIMES: dict[str, Any] = {"prefill_s": 0.0, "decode_s": 0.0}


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
        assert set(record.experts) == {"0"}
        assert (record.assistant_calls, record.base_steps) == (0, record.n_tokens)
        assert record.prompt_tokens > 0
    for record in answers["assistant"].values():
        assert set(record.experts) == {"1"}
        assert (record.assistant_calls, record.base_steps) == (record.n_tokens, 0)
    for name in ("random@50", "mine@50"):
        written = "".join(record.experts for record in answers[name].values())
        assert set(written) == {"0", "1"}
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
        assert (record.ids, record.experts) == (again.ids, again.experts)
    assert answers["mine@50+compose"] != answers["mine@50"]
    assert folder.meta["arms"]["mine@50+compose"]["strategy"] == "compose"
    assert "strategy" not in folder.meta["arms"]["mine@50"]  # folders of earlier versions go on
    with pytest.raises(OptionError, match=r"'mix'.*compose"):
        make_arms(["base"], {}, [0.5], strategies=["mix"])


class _Interrupted(Exception):
    pass


def stop_after(n: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.made == n:
            raise _Interrupted

    return stop


@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_an_interrupted_run_goes_on(after: int, pair: Pair, tmp_path: Path, asked: Asked) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base", "assistant"], {}, [0.4])
    whole = begin(tmp_path / "whole", task)
    answer_all(pair, task, whole, arms, OPTIONS, chat=False)

    asked.prompts.clear()
    with pytest.raises(_Interrupted):
        answer_all(pair, task, begin(tmp_path / "e", task), arms, OPTIONS, chat=False, on_progress=stop_after(after))
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
    assert [(p.record.problem, p.arm) for p in seen] == [(n % 4, arms[n // 4].name) for n in asked.ended]
    assert [(p.done, p.total, p.made) for p in seen] == [(i, 16, i) for i in range(1, 17)]
    assert all(together.read(p.arm)[p.record.problem] == p.record for p in seen)
    assert_same_answers(together, alone)
    assert "1" in "".join(record.experts for record in together.read("mine@50").values())
    for folder, n in ((alone, 1), (together, 3)):
        assert {record.n_parallel for answers in contents(folder).values() for record in answers.values()} == {n}


@pytest.mark.parametrize("after", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 10))])
def test_an_interrupted_run_of_many_at_once_goes_on(after: int, ending: Pair, tmp_path: Path, asked: Asked) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base", "assistant"], {}, [0.4])
    whole = begin(tmp_path / "whole", task)
    answer_all(ending, task, whole, arms, OPTIONS, chat=False)

    folder = begin(tmp_path / "e", task)
    with pytest.raises(_Interrupted):
        answer_all(ending, task, folder, arms, OPTIONS, chat=False, n_parallel=3, on_progress=stop_after(after))
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
