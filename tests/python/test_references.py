"""What a pair must beat, at which cost, and how an evaluation's report tells it."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import ASSISTANT, BASE, TinyModels

import colm_cpp as colm
from colm_cpp.cli import main
from colm_cpp.errors import CorpusError, OptionError
from colm_cpp.evaluate.costs import ROUTER_TOKENS, StepTimes, answer_costs, confidence
from colm_cpp.evaluate.references import MEASURES, Experts, above, curve, reference
from colm_cpp.learn import Record, RecordFolder, load_task, make_arms, make_checker, summarize
from colm_cpp.learn import evaluate as answer_all
from colm_cpp.report import evaluation as report

STEPS = StepTimes(
    {1: 0.010, 2: 0.014, 4: 0.020, 32: 0.080}, {"assistant": {1: 0.030, 2: 0.040, 4: 0.060, 32: 0.160}}, 0.011
)


def record(problem: int = 0, sources: str = "bab", **changes: Any) -> Record:
    n = len(sources)
    made = Record(
        problem=problem,
        finish_reason="eos",
        ids=(1,) * n,
        pieces=("x",) * n,
        experts=sources.translate(str.maketrans("ba", "01")),
        defer_logits=(0.5,) * n,
        prompt_tokens=8,
        base_steps=0 if set(sources) == {"a"} else n,
        assistant_calls=sources.count("a"),
        prefill_s=0.5,
        decode_s=1.0,
        logprobs=(-0.25,) * n,
    )
    return dataclasses.replace(made, **changes)


# --- records ----------------------------------------------------------------------------------------------------------


def test_records_without_log_probabilities_are_read() -> None:
    now = record()
    assert Record.from_json(now.to_json()) == now
    older = json.loads(now.to_json())
    del older["logprobs"]
    assert Record.from_json(json.dumps(older)) == dataclasses.replace(now, logprobs=None)
    with pytest.raises(ValueError, match="different lengths"):
        Record.from_json(json.dumps({**older, "logprobs": [-1.0]}))
    assert confidence([now, dataclasses.replace(now, logprobs=None)]) is None


def test_confidence_is_of_the_first_tokens() -> None:
    long = record(sources="b" * 40, logprobs=tuple(-float(i) for i in range(40)))
    found = confidence([long, record(logprobs=(-1.0, None, -3.0)), record(sources="", logprobs=())])
    assert found is not None
    assert found.tolist() == [-(ROUTER_TOKENS - 1) / 2, -2.0, -math.inf]


# --- costs ------------------------------------------------------------------------------------------------------------


def test_costs_by_counts() -> None:
    """The base reads 8 tokens and makes 5 more steps; the assistant reads 8 + 2, then 3, then 1."""
    made = answer_costs([record(sources="bbabbaa", base_steps=7)], STEPS, "mine.gguf")
    base_prompt = 0.020 + (0.080 - 0.020) * 4 / 28
    assistant_prompt = 0.060 + 0.100 * 6 / 28
    per_problem, per_token = made.of("steps per problem"), made.of("steps per token")
    assert per_problem is not None
    assert per_token is not None
    writing = 6 * 0.011 + (0.040 + 0.060) / 2 + 0.030
    assert per_token[0].tolist() == pytest.approx([writing])
    assert per_token[1].tolist() == [7]
    assert per_problem[0].tolist() == pytest.approx([base_prompt + assistant_prompt + writing])
    # A head that looks at nothing needs no hidden state; the models alone ask nothing of the other.
    alone = answer_costs([record(sources="bbbb")], STEPS, "never").of("steps per token")
    assert alone is not None
    assert alone[0].tolist() == pytest.approx([3 * 0.010])
    assistant = answer_costs([record(sources="aaaa")], STEPS, "always").of("steps per problem")
    assert assistant is not None
    assert assistant[0].tolist() == pytest.approx([0.060 + 0.100 * 4 / 28 + 3 * 0.030])
    # Beyond the largest batch the cost goes with the tokens.
    long = answer_costs([record(sources="b", prompt_tokens=320)], STEPS).of("steps per problem")
    assert long is not None
    assert long[0].tolist() == pytest.approx([0.8])
    # By counts it does not matter how fast the machine was, or how many were written at once.
    slow = answer_costs([record(sources="bbabbaa", base_steps=7, decode_s=99.0, n_parallel=8)], STEPS, "mine.gguf")
    assert slow.of("steps per token")[0].tolist() == per_token[0].tolist()  # type: ignore[index]


def test_costs_by_the_clock() -> None:
    records = [record(sources="bb"), record(sources="bbbb", decode_s=99.0, n_parallel=8)]
    made = answer_costs(records, None)
    assert made.of("steps per problem") is None
    per_token, per_problem = made.of("clock per token"), made.of("clock per problem")
    assert per_token is not None
    assert per_problem is not None
    assert per_token[0].tolist() == [1.0, 2.0]  # the second at the first one's speed
    assert per_problem[0].tolist() == [1.5, 2.5]
    assert answer_costs(records[1:], None).of("clock per token") is None


def test_step_times_are_kept() -> None:
    assert StepTimes.from_dict(json.loads(json.dumps(STEPS.to_dict()))) == STEPS
    good = STEPS.to_dict()
    for bad in (
        None, [], {}, {**good, "base_ms": {}}, {**good, "base_ms": {"1": -1}}, {**good, "base_ms": {"x": 1}},
        {**good, "base_hidden_ms": math.nan}, {**good, "assistant_ms": {"1": "fast"}},
        {**good, "base_ms": {"0": 1, "1": 1}}, {**good, "base_ms": {"1": 0}}, {**good, "assistant_ms": {"1": 1e400}},
    ):  # fmt: skip
        with pytest.raises(CorpusError, match="steps"):
            StepTimes.from_dict(bad)


# --- chord and router -------------------------------------------------------------------------------------------------


def made_up(n: int, seed: int, *, sure: float = 1.0) -> tuple[Experts, np.ndarray[Any, Any], list[list[Record]]]:
    """Experts and an arm with answers of random lengths; the base is surer where it is right, by ``sure``."""
    rng = np.random.default_rng(seed)
    base, assistant, arm = (rng.random(n) < p for p in (0.3, 0.7, 0.6))
    records: list[list[Record]] = [[], [], []]
    for i in range(n):
        lengths = rng.integers(5, 40, 3)
        p = -1.0 + sure * base[i] + 0.5 * rng.standard_normal()
        mixed = "".join(rng.choice(["a", "b"], lengths[2], p=[0.3, 0.7]))
        records[0].append(record(i, "b" * lengths[0], logprobs=(float(p),) * int(lengths[0])))
        records[1].append(record(i, "a" * lengths[1], decode_s=2.0))
        records[2].append(record(i, mixed, decode_s=1.5))
    experts = Experts(
        base.astype(float),
        assistant.astype(float),
        answer_costs(records[0], STEPS, "never"),
        answer_costs(records[1], STEPS, "always"),
        confidence(records[0]),
    )
    return experts, arm.astype(float), records


def mixed_cost(experts: Experts, measure: Any, sent: np.ndarray[Any, Any], begun: bool) -> float:
    """The cost where each problem is sent with a probability, from the definition."""
    base, assistant = experts.base_costs.of(measure), experts.assistant_costs.of(measure)
    assert base is not None
    assert assistant is not None
    cost = (1 - sent) * base[0] + sent * assistant[0]
    if begun and measure != "assistant tokens":
        writing = experts.base_costs.of(measure.split()[0] + " per token")
        assert writing is not None
        part = np.minimum(ROUTER_TOKENS, experts.base_costs.n_tokens) / experts.base_costs.n_tokens
        cost += sent * part * writing[0]
        if measure.endswith("problem"):
            cost += sent * (base[0] - writing[0])
    return float(cost.sum() / ((1 - sent) * base[1] + sent * assistant[1]).sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_chord_costs_what_the_arm_costs(seed: int) -> None:
    experts, arm, records = made_up(60, seed)
    costs = answer_costs(records[2], STEPS, "random")
    found = above("mine@30", arm, costs, experts)
    assert [row.measure for row in found] == list(MEASURES)
    inside = 0
    for row in found:
        own = costs.of(row.measure)
        assert own is not None
        assert row.cost == pytest.approx(own[0].sum() / own[1].sum())
        sent = np.full(60, row.share_of_problems)
        ends = [mixed_cost(experts, row.measure, np.full(60, f), False) for f in (0.0, 1.0)]
        if ends[0] < row.cost < ends[1]:
            inside += 1
            assert mixed_cost(experts, row.measure, sent, False) == pytest.approx(row.cost)
        else:  # beyond both, the nearer of the two
            assert row.share_of_problems == (0.0 if row.cost <= ends[0] else 1.0)
        expected = (1 - row.share_of_problems) * experts.base.mean() + row.share_of_problems * experts.assistant.mean()
        assert row.chord == pytest.approx(expected)
        assert row.above_chord.value == pytest.approx(arm.mean() - expected)
        assert row.above_chord.low < row.above_chord.value < row.above_chord.high
    assert inside >= 2


@pytest.mark.parametrize("seed", range(5))
def test_the_router_sends_the_least_sure_first(seed: int) -> None:
    experts, arm, records = made_up(25, seed)
    costs = answer_costs(records[2], STEPS, "random")
    assert experts.confidence is not None
    order = np.argsort(experts.confidence)
    for row in above("mine@30", arm, costs, experts):
        # Problem by problem, as far as the arm's cost goes; the next one with the probability that it still pays for.
        steps = []
        for m in range(26):
            sent = np.zeros(25)
            sent[order[:m]] = 1.0
            right = np.where(sent > 0, experts.assistant, experts.base).mean()
            steps.append((mixed_cost(experts, row.measure, sent, True), right))
        last = max((m for m in range(26) if steps[m][0] <= row.cost + 1e-12), default=0)
        expected = steps[last][1]
        if last < 25 and steps[last][0] <= row.cost:
            part = (row.cost - steps[last][0]) / (steps[last + 1][0] - steps[last][0])
            expected += part * (steps[last + 1][1] - expected)
        assert row.router == pytest.approx(expected)
        assert row.above_router is not None
        assert row.above_router.value == pytest.approx(arm.mean() - expected)


def test_a_good_router_is_above_the_chord() -> None:
    experts, _, _ = made_up(400, 1, sure=3.0)
    chord, router = reference(0.3, experts)
    assert (chord.name, router.name, chord.rate) == ("chord@30", "router@30", 0.3)
    assert router.accuracy.value > chord.accuracy.value + 0.1
    assert chord.accuracy.low < chord.accuracy.value < chord.accuracy.high
    share = chord.share_of_problems
    tokens = [costs.n_tokens.sum() for costs in (experts.base_costs, experts.assistant_costs)]
    assert share * tokens[1] / ((1 - share) * tokens[0] + share * tokens[1]) == pytest.approx(0.3)
    blind = dataclasses.replace(experts, confidence=None)
    assert [row.name for row in reference(0.3, blind)] == ["chord@30"]


def test_curves_go_from_base_to_assistant() -> None:
    experts, _, _ = made_up(40, 2)
    for measure in MEASURES:
        curves = curve(measure, experts)
        assert set(curves) == {"chord", "router"}
        costs, accuracy = curves["chord"]
        assert (accuracy[0], accuracy[-1]) == pytest.approx((experts.base.mean(), experts.assistant.mean()))
        assert np.all(np.diff(costs) > 0)
        assert curves["router"][1][[0, -1]].tolist() == pytest.approx([experts.base.mean(), experts.assistant.mean()])
    # Where the assistant costs no more than the base there is nothing to weigh.
    same = dataclasses.replace(experts, assistant_costs=experts.base_costs)
    assert curve("steps per token", same) == {}
    assert above("x@1", experts.base, experts.base_costs, same) == []


def test_the_interval_of_the_chord_covers_as_often_as_it_says() -> None:
    """Answers drawn with known probabilities, everything of equal length: the chord is that of the shares of tokens."""
    rng = np.random.default_rng(3)
    n, held, n_rounds = 25, 0, 200
    records = [[record(i, letter * 10) for i in range(n)] for letter in "ba"]
    arm_records = [record(i, "abbbabbbbb") for i in range(n)]
    costs = [answer_costs(rows, None) for rows in (*records, arm_records)]
    for _ in range(n_rounds):
        base, assistant, arm = (rng.random(n) < p for p in (0.2, 0.8, 0.5))
        experts = Experts(base.astype(float), assistant.astype(float), costs[0], costs[1], None)
        (row,) = [r for r in above("x@20", arm.astype(float), costs[2], experts) if r.measure == "assistant tokens"]
        assert row.share_of_problems == pytest.approx(0.2)
        held += row.above_chord.low <= 0.5 - (0.8 * 0.2 + 0.2 * 0.8) <= row.above_chord.high
    assert 0.92 <= held / n_rounds <= 0.99


@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_no_interval_has_zero_width(n: int) -> None:
    rows = [[record(i, sources) for i in range(n)] for sources in ("bbbb", "aaaa", "abbb")]
    costs = [answer_costs(answers, STEPS) for answers in rows]
    for base, assistant, arm in [(0.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0)]:
        experts = Experts(np.full(n, base), np.full(n, assistant), costs[0], costs[1], confidence(rows[0]))
        for row in above("x@25", np.full(n, arm), costs[2], experts):
            for estimate in (row.above_chord, row.above_router):
                assert estimate is not None
                assert estimate.high - estimate.low > 1 / (2 * n + 2)
        for reference_row in reference(0.25, experts):
            assert reference_row.accuracy.high > reference_row.accuracy.low


# --- the report -------------------------------------------------------------------------------------------------------


def evaluation(path: Path, n: int, **changes: Any) -> tuple[RecordFolder, Any]:
    """Answers to n problems: the base right on every fourth, the assistant on all, an arm on every second."""
    path.with_suffix(".jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i} pears and", "answer": str(i)}) + "\n" for i in range(n))
    )
    task = load_task(path.with_suffix(".jsonl"))
    facts = {"task": "t", "task_sha256": task.digest, "options": {"max_tokens": 9, "temperature": 0.0}}
    folder = RecordFolder.create_or_open(path, {**facts, "base": "b", "assistant": "a"})
    for name, sources, every, facts in (
        ("base", "bbbb", 4, {"head": "never", "rate": None}),
        ("assistant", "aaaa", 1, {"head": "always", "rate": None}),
        ("mine@25", "abbb", 2, {"head": "h.gguf", "rate": 0.25}),
    ):
        folder.set_arm(name, facts)
        for i in range(n):
            text = str(i) if i % every == 0 else "9999"
            own = {"decode_s": 2.0, **changes} if name == "assistant" else changes
            folder.append(name, record(i, sources, pieces=(text, "", "", ""), **own))
    return folder, task


def rows_of(text: str, name: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {name} |")]


def test_the_report_has_chord_and_router(tmp_path: Path) -> None:
    folder, task = evaluation(tmp_path / "e", 40)
    folder.set_steps(STEPS.to_dict())
    summary = summarize(RecordFolder.open(folder.path), task, make_checker("number"))
    text = report.to_markdown(summary)
    (chord,), (router,) = rows_of(text, "chord@25"), rows_of(text, "router@25")
    assert chord[1:3] == ["40", f"{0.75 * 0.25 + 0.25:.1%}"]
    assert router[4] == chord[4] == "25.0%"
    heads = [line for line in text.splitlines() if line.startswith("| arm |")]
    assert len(chord) == len(rows_of(text, "base")[0]) == heads[0].count("|") - 1
    above_rows = [row for row in rows_of(text, "mine@25") if len(row) == heads[1].count("|") - 1]
    assert len(above_rows) == len(MEASURES) == len(summary.above)
    for row, cells in zip(summary.above, above_rows, strict=True):
        assert cells[5:7] == [f"{row.chord:.1%}", f"{100 * row.above_chord.value:+.1f}"]
    counted = {row.measure: row for row in summary.above}
    assert counted["assistant tokens"].above_chord.value == pytest.approx(0.5 - 0.4375)
    assert summary.arms[0].s_per_problem == pytest.approx(0.020 + 0.060 / 7 + 3 * 0.010)
    assert summary.arms[0].ms_per_token == pytest.approx(7.5)
    in_json = json.loads(json.dumps(summary.to_dict()))
    assert [row["name"] for row in in_json["references"]] == ["chord@25", "router@25"]
    assert in_json["meta"]["steps"] == STEPS.to_dict()
    assert "too few" not in text


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    folder, task = evaluation(tmp_path / "e", 4, logprobs=None, n_parallel=8)
    summary = summarize(folder, task, make_checker("number"))
    assert [(row.measure, row.router) for row in summary.above] == [("assistant tokens", None)]
    text = report.to_markdown(summary)
    assert [row.name for row in summary.references] == ["chord@25"]
    assert "base.jsonl" in text  # how to have a router
    assert "s/problem" not in text
    # Without one of the models there is no chord.
    (folder.path / "records" / "assistant.jsonl").unlink()
    summary = summarize(RecordFolder.open(folder.path), task, make_checker("number"))
    assert (summary.references, summary.above, summary.experts) == ((), (), {})
    assert "chord" not in report.to_markdown(summary)


@pytest.mark.parametrize("n", [2, 29, 30, 64])
def test_few_problems_are_named_beside_every_p_value(n: int, tmp_path: Path) -> None:
    folder, task = evaluation(tmp_path / "e", n)
    text = report.to_markdown(summarize(folder, task, make_checker("number")))
    differences = [line for line in text[text.index("McNemar") :].splitlines() if line.startswith("| ")][1:]
    assert len(differences) == 3
    for line in differences:
        p = line.split("|")[6].strip()
        assert ("30" in p and str(n) in p) == (n < 30)
        assert not p.startswith("0.000")
        low, high = line.split("|")[5].split(" to ")
        assert float(low) < float(high)
    if n == 2:
        assert "| base | assistant | 2 | -50.0 |" in text
        assert " 1.000 (" in differences[0]
    if n == 64:
        assert {line.split("|")[6].strip() for line in differences} == {"<0.001"}
    above_rows = [line for line in text.splitlines() if line.startswith("| mine@25 |") and "assistant |" in line]
    assert above_rows
    assert all(("too few" in line) == (n < 30) for line in above_rows)


def test_plots_show_chord_and_router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, task = evaluation(tmp_path / "e", 12)
    folder.set_steps(STEPS.to_dict())
    plotted: dict[str, dict[str, tuple[float, float]]] = {}
    figures = importlib.import_module("matplotlib.figure")

    def noting(figure: Any, file: Any, **options: Any) -> None:
        name_of = {plot.title: plot.name for plot in report._PLOTS}
        lines = {line.get_label().partition(":")[0]: line for line in figure.axes[0].get_lines()}
        plotted[name_of[figure.axes[0].get_xlabel()]] = {
            name: (lines[name].get_xdata()[0], lines[name].get_xdata()[-1]) for name in ("chord", "router")
        }

    monkeypatch.setattr(figures.Figure, "savefig", noting)
    report.write_plots(summarize(folder, task, make_checker("number")), folder.path)
    assert plotted == {
        "accuracy_by_rate": {"chord": pytest.approx((0, 100)), "router": pytest.approx((0, 100))},
        "accuracy_by_speed": {"chord": pytest.approx((4, 2)), "router": pytest.approx((4, 4 / 3))},
        "accuracy_by_cost": {
            "chord": pytest.approx((0.05857142857, 0.16428571428)),
            "router": pytest.approx((0.05857142857, 0.16428571428 + 0.05857142857)),
        },
    }


def test_the_command_tells_the_truth_about_cost(tiny_model: TinyModels, tmp_path: Path) -> None:
    task = tmp_path / "t.jsonl"
    task.write_text("".join(json.dumps({"prompt": f"There are {i} pears", "answer": i}) + "\n" for i in range(3)))
    out = tmp_path / "e"
    models = [
        "--base",
        tiny_model(**BASE),
        "--assistant",
        tiny_model(**ASSISTANT),
        "--n-threads",
        "1",
        "--n-ctx",
        "256",
    ]
    writing = ["--max-tokens", "8", "--temperature", "1", "--seed", "3", "--out", out, "--rate", "0.5"]

    def run(*more: Any) -> str:
        arguments = ["evaluate", task, *models, *writing, *more]
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    text = run()
    assert rows_of(text, "chord@50")
    assert rows_of(text, "router@50")
    meta = json.loads((out / "meta.json").read_text())
    steps = StepTimes.from_dict(meta["steps"])
    assert all(value > 0 for value in (*steps.base.values(), *steps.experts["assistant"].values()))
    assert {record.logprobs is not None for record in RecordFolder.open(out).read("base").values()} == {True}
    # Measured once: the numbers do not move when answers are added, whatever the machine does then.
    run("--rate", "0.7", "--limit", "2")
    assert json.loads((out / "meta.json").read_text())["steps"] == meta["steps"]
    assert json.loads(run("--report-only", "--json"))["meta"]["steps"] == meta["steps"]


@pytest.mark.parametrize("n_ctx", [40, 41, 64])
def test_a_small_context_has_no_room_for_step_times(n_ctx: int, tiny_model: TinyModels, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"prompt": "Hi", "answer": "x"}\n')
    task = load_task(tmp_path / "t.jsonl")
    folder = RecordFolder.create_or_open(tmp_path / "e", {"task": "t", "task_sha256": task.digest})
    arms = make_arms(["base"], {}, [], random=False)
    with colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), n_ctx=n_ctx, n_threads=1) as pair:
        assert pair.n_ctx == n_ctx
        answer_all(pair, task, folder, arms, {"max_tokens": 2}, chat=False)
    assert set(folder.read("base")) == {0}
    assert ("steps" in RecordFolder.open(folder.path).meta) == (n_ctx >= 41)


def test_heads_are_not_named_as_references(tmp_path: Path) -> None:
    for name in ("chord", "router"):
        with pytest.raises(OptionError, match="cannot be named"):
            make_arms([], {name: tmp_path / "head.gguf"}, [0.2])


# --- other models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [(), ("--parallel", "2")])
def test_another_model_answers_alone(parallel: tuple[str, ...], tiny_model: TinyModels, tmp_path: Path) -> None:
    task = tmp_path / "t.jsonl"
    task.write_text("".join(json.dumps({"prompt": f"There are {i} pears", "answer": i}) + "\n" for i in range(3)))
    out = tmp_path / "e"
    tuned = tiny_model(**{**BASE, "seed": 77})
    models = [
        "--base",
        tiny_model(**BASE),
        "--assistant",
        tiny_model(**ASSISTANT),
        "--n-threads",
        "1",
        "--n-ctx",
        "256",
    ]
    writing = ["--max-tokens", "8", "--temperature", "1", "--seed", "3", "--out", out, "--json", *parallel]

    def run(*more: Any) -> Any:
        arguments = ["evaluate", task, *models, *writing, *more]
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    arms = ["--arm", "base", "--arm", "assistant", "--arm", "random", "--arm", f"tuned={tuned}"]
    result = run(*arms)
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert {arm["name"]: arm["n_problems"] for arm in printed["arms"]} == dict.fromkeys(
        ("base", "assistant", "tuned", "random@20"), 3
    )
    folder = RecordFolder.open(out)
    answers = folder.read("tuned")
    assert {record.experts for record in answers.values()} <= {"0" * n for n in range(1, 9)}
    # What it wrote is what the model writes by itself, at the speed of its own decodes.
    with colm.load(tuned, tuned, "never", n_ctx=256, n_threads=1) as alone:
        for i, record in answers.items():
            own = alone.generate(f"There are {i} pears", max_tokens=8, temperature=1.0, seed=3 + i, lookahead=0)
            assert record.text == own.text
    assert folder.meta["arms"]["tuned"]["expert"]["file"] == Path(tuned).name
    StepTimes.from_dict(folder.meta["expert_steps"]["tuned"])
    # It is no arm of this pair: whole problems could not be sent to it at the assistant's share of tokens.
    assert {row["arm"] for row in printed["above"]} <= {"random@20"}
    # Another model under that name is refused, as is a name that is taken; nothing is loaded for the latter.
    for wrong, named in (
        (("--arm", f"tuned={tiny_model(**BASE)}"), "tuned"),
        (("--arm", "tuned="), "tuned"),
        (("--arm", "base=x.gguf"), "base"),
        (("--arm", "chord=x.gguf"), "chord"),
        (("--arm", "asistant"), "asistant"),
        (("--arm", f"mine={tuned}", "--head", "mine=head.gguf"), "mine"),
    ):
        refused = run(*wrong)
        assert refused.exit_code == 1
        assert isinstance(refused.exception, SystemExit)  # told in words, not as a traceback
        assert named in refused.stderr
