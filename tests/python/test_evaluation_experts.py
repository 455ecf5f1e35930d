"""Evaluations of a pair with several experts: the arms, their costs, and what the report says of each expert."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expert_files
import numpy as np
import pytest
from commands import fail, run, succeed
from conftest import TINY_LOAD, TinyModels
from evaluations import OPTIONS, begin, make_record, make_task, write_lines

import colm_cpp as colm
from colm_cpp import Head, Pair
from colm_cpp.answers.answering import answers
from colm_cpp.errors import CorpusError, HeadError, OptionError
from colm_cpp.evaluate.costs import StepTimes, answer_costs
from colm_cpp.heads.restricted import for_one
from colm_cpp.learn import Record, RecordFolder, load_task, make_arms, make_checker, summarize
from colm_cpp.learn import evaluate as answer_all
from colm_cpp.report import evaluation as report
from colm_cpp.report.traces import read_arms

files = expert_files.files
NAMES = ("math", "code")
STEPS = StepTimes({1: 0.01, 8: 0.02}, {"math": {1: 0.03, 8: 0.1}, "code": {1: 0.05, 8: 0.4}}, 0.011)


@pytest.fixture(scope="module")
def pair(files: dict[str, Path]) -> Iterator[Pair]:
    experts = {name: files[name] for name in NAMES}
    with colm.load(files["base"], experts=experts, **TINY_LOAD) as loaded:
        yield loaded


@pytest.fixture
def head_file(pair: Pair, tmp_path: Path) -> Path:
    """A head that asks both, in another order than the pair's."""
    theta = np.random.default_rng(5).standard_normal((2, pair.n_embd)) * 3.0
    head = Head.linear(theta, 0.1, expert_names=("code", "math"), rates=(0.0, 0.5, 1.0), thresholds=(1, 0.6, 0))
    head.save(tmp_path / "head.gguf")
    return tmp_path / "head.gguf"


def same(record: Record, out: colm.Completion) -> bool:
    again = Record.of(record.problem, out)
    return (record.ids, record.experts, record.assistant_calls) == (again.ids, again.experts, again.assistant_calls)


def test_a_head_without_its_other_experts() -> None:
    rng = np.random.default_rng(0)
    layers = rng.standard_normal((5, 9)), rng.standard_normal((3, 5))
    biases = rng.standard_normal(5), rng.standard_normal(3)
    names = ("a", "b", "c")
    head = Head.mlp(layers, biases, n_embd=9, expert_names=names, rates=(0.0, 1.0), thresholds=(1.0, 0.0))
    inputs = rng.standard_normal((4, 9))
    for k, name in enumerate(names):
        one = for_one(head, name)
        assert one.expert_names == (name,)
        assert one.rates == ()
        np.testing.assert_array_equal(one.scores(inputs)[:, 0], head.scores(inputs)[:, k])
    with pytest.raises(HeadError, match="no expert d; it has a and b and c"):
        for_one(head, "d")


def test_every_arm_answers(pair: Pair, head_file: Path, tmp_path: Path) -> None:
    task = make_task(tmp_path / "t.jsonl")
    arms = make_arms(["base", *NAMES, "pairs"], {"mine": head_file}, [0.5], of_pair=NAMES)
    names = ["base", "math", "code", "mine@50", "mine+code@50", "mine+math@50", "random+math@50", "random+code@50"]
    assert [arm.name for arm in arms] == names
    folder = begin(tmp_path / "e", task)
    answer_all(pair, task, folder, arms, OPTIONS, chat=False)
    answers = {name: folder.read(name) for name in folder.arms()}
    written = {name: "".join(record.experts for record in answers[name].values()) for name in names}
    assert set(written["base"]) == {"0"}
    assert set(written["math"]) == {"1"}
    assert set(written["code"]) == {"2"}
    assert set(written["mine@50"]) == {"0", "1", "2"}
    assert set(written["mine+math@50"]) == set(written["random+math@50"]) == {"0", "1"}
    assert set(written["mine+code@50"]) == set(written["random+code@50"]) == {"0", "2"}
    whole = Head.load(head_file)
    for problem in task.problems:
        options = {**OPTIONS, "seed": 7 + problem.index, "lookahead": 0}
        for name, head, threshold in (
            ("mine@50", whole, 0.6), ("mine+math@50", for_one(whole, "math"), 0.6), ("code", "always:code", 0.5),
            ("random+code@50", "random:code", 0.5),
        ):  # fmt: skip
            pair.forget()
            assert same(
                answers[name][problem.index], pair.generate(problem.prompt, head=head, threshold=threshold, **options)
            ), name
    meta = folder.meta["arms"]
    assert "only" not in meta["mine@50"]
    assert meta["mine+code@50"] == {**meta["mine@50"], "only": "code"}
    assert meta["random+math@50"]["head"] == "random:math"
    assert meta["math"]["head"] == "always:math"
    steps = json.loads((folder.path / "meta.json").read_text())["steps"]
    assert list(StepTimes.from_dict(steps, NAMES).experts) == ["math", "code"]
    # An interrupted run goes on with the same answers.
    (folder.path / "records" / "mine+math@50.jsonl").unlink()
    again = RecordFolder.open(folder.path)
    answer_all(pair, task, again, arms, OPTIONS, chat=False)
    assert [(r.ids, r.experts) for r in again.read("mine+math@50").values()] == [
        (r.ids, r.experts) for r in answers["mine+math@50"].values()
    ]


def test_which_heads_can_be_arms(pair: Pair, head_file: Path, tmp_path: Path) -> None:
    (only,) = make_arms([], {"sure": "confidence:code"}, [0.5], of_pair=NAMES, random=False)
    assert (only.name, only.head, only.facts["head"]) == ("sure", "confidence:code", "confidence:code")
    Head.confidence(pair.n_embd, rates=(0.0, 1.0), thresholds=(1.0, 0.0)).save(tmp_path / "one.gguf")
    (told,) = make_arms([], {"one": f"{tmp_path / 'one.gguf'}:code"}, [0.5], of_pair=NAMES, random=False)
    assert isinstance(told.head, Head)
    assert told.head.expert_names == ("code",)
    with pytest.raises(HeadError, match=r"leave out ':math'"):
        make_arms([], {"mine": f"{head_file}:math"}, [0.5], of_pair=NAMES)
    with pytest.raises(OptionError, match="arm 'assistant' is unknown; give base, math, code, pairs"):
        make_arms(["assistant"], {}, [0.5], of_pair=NAMES)
    with pytest.raises(OptionError, match="arm 'pairs' is unknown"):
        make_arms(["pairs"], {}, [0.5])
    for name in ("math", "pairs"):
        with pytest.raises(OptionError, match=f"cannot be named '{name}'"):
            make_arms([], {name: "confidence:math"}, [0.5], of_pair=NAMES)
    arms = make_arms([], {"one": str(tmp_path / "one.gguf")}, [0.5], of_pair=NAMES, random=False)
    folder = begin(tmp_path / "e", task := make_task(tmp_path / "t.jsonl"))
    with pytest.raises(HeadError, match="math and code"):
        answer_all(pair, task, folder, arms, OPTIONS, chat=False)


@pytest.mark.parametrize("chat", [False, True])
def test_a_prompt_for_each_model(tiny_model: TinyModels, files: dict[str, Path], tmp_path: Path, chat: bool) -> None:
    """An arm answers as the pair does with these prompts, in chat each in the template."""
    rows = [{"prompt": {"base": "a sum", "math": "Q: 1 + 1?"}, "answer": "x"}, {"prompt": "a sum", "answer": "x"}]
    task = load_task(write_lines(tmp_path / "task.jsonl", rows))
    base = tiny_model(**expert_files.BASE, chat_template="<{{ messages[-1].content }}>")
    greedy: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
    arms = make_arms(("base", "math", "code"), {}, (), of_pair=NAMES, random=False)
    with colm.load(base, experts={name: files[name] for name in NAMES}, **TINY_LOAD) as loaded:
        asked = [(problem, arm) for problem in task.problems for arm in arms]
        written = dict(answers(loaded, asked, greedy, chat=chat))
        reads = ("a sum", "Q: 1 + 1?", "a sum", "a sum", "a sum", "a sum")
        for place, read in enumerate(reads):
            prompt = f"<{read}>" if chat else read
            out = loaded.generate(prompt, lookahead=0, **greedy, **asked[place][1].options())
            assert written[place].ids == Record.of(0, out).ids, place
        rows = [{"prompt": {"base": "a", "law": "b"}, "answer": "x"}]
        unknown = load_task(write_lines(tmp_path / "law.jsonl", rows))
        with pytest.raises(OptionError, match=r"row 1 .* names 'law'"):
            list(answers(loaded, [(unknown.problems[0], arms[0])], greedy, chat=chat))
    for bad in ({"math": "a"}, {"base": "a", "math": ""}, {"base": "a", "math": 3}):
        file = write_lines(tmp_path / "bad.jsonl", [{"prompt": bad, "answer": "x"}])
        with pytest.raises(CorpusError, match="its prompts are not each a text"):
            load_task(file)


@pytest.mark.parametrize("name", ["pairs", "random"])
def test_experts_that_are_called_like_arms(name: str) -> None:
    """Else the expert's own arm would be left out, and nobody told."""
    with pytest.raises(OptionError, match=f"an expert is called '{name}'"):
        make_arms(("base", name), {}, (0.2,), of_pair=("math", name))


def test_costs_by_counts() -> None:
    """The base reads 8 tokens and makes 5 more steps; math reads 8 + 1, then 3; code reads 8 + 3."""
    record = make_record(experts="010210", ids=(0,) * 6, pieces=("x",) * 6, defer_logits=(0.5,) * 6, prompt_tokens=8)
    record = dataclasses.replace(record, base_steps=6)
    costs = answer_costs([record], STEPS, "mine.gguf")
    assert costs.prompt_s is not None
    assert costs.writing_s is not None
    assert costs.prompt_s[0] == pytest.approx(0.02 + 0.1 * 9 / 8 + 0.4 * 11 / 8)
    between = 0.03 + 0.07 * 2 / 7
    assert costs.writing_s[0] == pytest.approx(5 * 0.011 + between)
    # compose asks both at all three deferred tokens.
    both = answer_costs([record], STEPS, "random:math", "compose")
    assert both.prompt_s is not None
    assert both.writing_s is not None
    assert both.prompt_s[0] == pytest.approx(0.02 + (0.1 + 0.4) * 9 / 8)
    assert both.writing_s[0] == pytest.approx(5 * 0.01 + (0.04 + 0.03) + (0.1 + 0.05))
    assert StepTimes.from_dict(json.loads(json.dumps(STEPS.to_dict(), sort_keys=True)), NAMES) == STEPS
    for bad in ({**STEPS.to_dict(), "experts_ms": {"math": {}}}, {**STEPS.to_dict(), "experts_ms": 3}):
        with pytest.raises(CorpusError, match="steps"):
            StepTimes.from_dict(bad, NAMES)


def answered(path: Path, n: int = 40) -> tuple[RecordFolder, Any]:
    """Made-up answers: the base is right on one problem in four, math on the even ones, code never, all together on
    nine in ten."""
    task = make_task(path.with_suffix(".jsonl"), n)
    models = {name: {"name": f"the {name}", "adapters": None} for name in NAMES}
    facts = {"task": Path(task.path).name, "task_sha256": task.digest, "chat": False, "options": OPTIONS}
    folder = RecordFolder.create_or_open(path, {**facts, "base": "b", "experts": list(NAMES), "expert_models": models})
    folder.set_steps(STEPS.to_dict())
    rng = np.random.default_rng(0)
    for name, experts, right in (
        ("base", "0000", lambda i: i % 4 == 0), ("math", "1111", lambda i: i % 2 == 0),
        ("code", "2222", lambda i: False), ("mine@25", "0120", lambda i: i % 10 != 0),
        ("mine+math@25", "0100", lambda i: i % 2 == 0),
    ):  # fmt: skip
        rate = 0.25 if "@" in name else None
        head = "mine.gguf" if rate else "never" if name == "base" else f"always:{name}"
        folder.set_arm(name, {"head": head, "rate": rate})
        for i in range(n):
            columns = {
                "ids": (0,) * 4,
                "pieces": (str(i) if right(i) else "99", "", "", ""),
                "defer_logits": (0.5,) * 4,
            }
            logprobs = tuple(-rng.random(4))
            n_steps = 0 if name in NAMES else 4
            folder.append(name, make_record(i, "", **columns, experts=experts, logprobs=logprobs, base_steps=n_steps))
    return folder, task


def test_the_report(tmp_path: Path) -> None:
    folder, task = answered(tmp_path / "e")
    summary = summarize(folder, task, make_checker("number"))
    assert [arm.name for arm in summary.arms] == ["base", "math", "code", "mine@25", "mine+math@25"]
    shares = {arm.name: dict(arm.shares) for arm in summary.arms}
    assert shares["mine@25"] == {"math": 0.25, "code": 0.25}
    assert shares["code"] == {"math": 0.0, "code": 1.0}
    # Each expert has a chord and a router of its own; shares of tokens of different experts are not compared.
    assert [row.name for row in summary.references] == [f"{r}+{e}@25" for e in NAMES for r in ("chord", "router")]
    assert {(row.arm, row.expert) for row in summary.above} == {
        (arm, expert) for arm in ("mine@25", "mine+math@25") for expert in NAMES
    }
    assert "assistant tokens" not in {row.measure for row in summary.above}
    by_hand = {(row.arm, row.expert): row for row in summary.above if row.measure == "steps per token"}
    # On the chord to code, which is never right, all together costs as much as some of its problems.
    row = by_hand["mine@25", "code"]
    base, code, mine = 3 * 0.01, 3 * 0.05, 3 * 0.011
    assert row.cost == pytest.approx(mine / 4)
    assert row.share_of_problems == pytest.approx((mine - base) / (code - base))
    assert row.chord == pytest.approx(0.25 * (1 - row.share_of_problems))
    fields = summary.to_dict()
    assert fields["arms"][3]["shares"] == {"math": 0.25, "code": 0.25}
    assert {row["expert"] for row in fields["above"]} == set(NAMES)
    text = report.to_markdown(summary)
    assert "experts math the math, code the code, max_tokens" in text
    assert "| deferral rate | by math | by code | expert calls per token |" in text
    assert "| 50.0% | 25.0% | 25.0% |" in next(line for line in text.splitlines() if line.startswith("| mine@25 |"))
    assert "no router to several" in text
    assert "Shares of tokens are not compared" in text
    rows = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(rows)) <= 4  # the head of each table is as long as its rows
    assert {path.name for path in report.write_plots(summary, folder.path)} >= {"accuracy_by_rate.png"}
    # The models alone have no head to look at.
    assert set(read_arms([folder.path])) == {"mine@25", "mine+math@25"}


def test_the_command(files: dict[str, Path], head_file: Path, tmp_path: Path) -> None:
    task = load_task(make_task(tmp_path / "t.jsonl").path)
    models = expert_files.arguments(files)
    out = tmp_path / "e"
    heads = ["--head", f"mine={head_file}", "--head", "confidence:math", "--rate", "0.5"]
    writing = ["--max-tokens", "4", "--n-ctx", "256", "--no-chat", "-q"]
    args: list[str | Path] = ["evaluate", Path(task.path), *models, *heads, "--out", out, *writing]
    done = succeed(*args, "--json")
    found = json.loads(done.stdout)
    assert [arm["name"] for arm in found["arms"]] == [
        "base", "math", "code", "confidence-math", "mine@50", "mine+code@50", "mine+math@50", "random+code@50",
        "random+math@50",
    ]  # fmt: skip
    assert found["meta"]["experts"] == ["math", "code"]
    assert found["meta"]["expert_models"]["code"]["model"]["file"] == files["code"].name
    report_only = run("evaluate", Path(task.path), "--out", out, "--report-only", "--json")
    assert json.loads(report_only.stdout)["arms"] == found["arms"]
    assert "give base, math, code, pairs" in fail(*args, "--arm", "law")
    # The order of the experts is part of who wrote what.
    other = [*models[:2], *models[4:], *models[2:4]]
    assert "expert" in fail(*["evaluate", Path(task.path), *other, *args[len(models) + 2 :]])
