"""How an evaluation's report tells what a pair must beat, and other models that answer alone."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import commands
import pytest
from conftest import ASSISTANT, BASE, TinyModels
from evaluations import write_lines
from made_answers import STEPS, evaluation, rows_of

import colm_cpp as colm
from colm_cpp.evaluate import evaluation as evaluation_module
from colm_cpp.evaluate.costs import StepTimes
from colm_cpp.evaluate.references import MEASURES
from colm_cpp.evaluate.steps import Spread, StepCosts
from colm_cpp.learn import RecordFolder, load_task, make_arms, make_checker, summarize
from colm_cpp.learn import evaluate as answer_all
from colm_cpp.report import evaluation as report


def three_pears(folder: Path) -> Path:
    """A task of three problems."""
    return write_lines(folder / "t.jsonl", [{"prompt": f"There are {i} pears", "answer": i} for i in range(3)])


def models_of(tiny_model: TinyModels) -> list[Any]:
    """A tiny pair as `colm evaluate` takes it."""
    files = ["--base", tiny_model(**BASE), "--assistant", tiny_model(**ASSISTANT)]
    return [*files, "--n-threads", "1", "--n-ctx", "256"]


# --- the report -------------------------------------------------------------------------------------------------------


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
    task, out = three_pears(tmp_path), tmp_path / "e"
    models = models_of(tiny_model)
    writing = ["--max-tokens", "8", "--temperature", "1", "--seed", "3", "--out", out, "--rate", "0.5"]

    def run(*more: Any) -> str:
        return commands.succeed("evaluate", task, *models, *writing, *more).stdout

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


def test_a_pair_that_comes_later_is_timed_beside_the_folders_own(
    tiny_model: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is half as fast when the second pair comes: its times are stored at the speed of before."""
    (tmp_path / "t.jsonl").write_text('{"prompt": "Hi", "answer": "x"}\n')
    task = load_task(tmp_path / "t.jsonl")
    folder = RecordFolder.create_or_open(tmp_path / "e", {"task": "t", "task_sha256": task.digest})
    timed: list[int] = []

    def time_steps(*pairs: colm.Pair) -> list[StepCosts]:
        timed.append(len(pairs))

        def costs(n: int) -> StepCosts:
            def spread(ms: float) -> Spread:
                return Spread.of([ms * len(timed) * (1 + n)])

            return StepCosts({1: spread(0.01)}, {"assistant": {1: spread(0.03)}}, spread(0.011))

        return [costs(n) for n in range(len(pairs))]

    monkeypatch.setattr(evaluation_module, "time_steps", time_steps)
    arms = make_arms(["base"], {}, [], random=False)
    with colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), n_ctx=64, n_threads=1) as pair:
        for experts in ({}, {}, {"other": pair}, {"other": pair}):
            answer_all(pair, task, folder, arms, {"max_tokens": 1}, chat=False, experts=experts)
    assert timed == [1, 2]
    own = StepTimes.from_dict(folder.meta["steps"])
    other = StepTimes.from_dict(folder.meta["expert_steps"]["other"])
    assert (own.base, own.experts["assistant"], own.base_hidden) == ({1: 0.01}, {1: 0.03}, 0.011)
    assert other.base[1] == pytest.approx(0.02)
    assert other.experts["assistant"][1] == pytest.approx(0.06)
    assert other.base_hidden == pytest.approx(0.022)


# --- other models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [("--parallel", "2"), pytest.param((), marks=pytest.mark.slow)])
def test_another_model_answers_alone(parallel: tuple[str, ...], tiny_model: TinyModels, tmp_path: Path) -> None:
    task, out = three_pears(tmp_path), tmp_path / "e"
    tuned = tiny_model(**{**BASE, "seed": 77})
    models = models_of(tiny_model)
    writing = ["--max-tokens", "8", "--temperature", "1", "--seed", "3", "--out", out, "--json", *parallel]

    def run(*more: Any) -> Any:
        return commands.run("evaluate", task, *models, *writing, *more)

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
