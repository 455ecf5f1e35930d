"""The report of an evaluation, and colm evaluate."""

from __future__ import annotations

import importlib
import json
import re
import struct
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import evaluations
import pytest
from commands import fail, run, succeed
from conftest import ASSISTANT, BASE, TinyModels
from evaluations import begin, make_record, make_task, write_lines

from colm_cpp.errors import CorpusError
from colm_cpp.evaluate.statistics import paired_difference, wilson_interval
from colm_cpp.learn import Arm, Record, RecordFolder, Task, load_task, make_checker, summarize
from colm_cpp.report import evaluation as report

folder = evaluations.folder
head_file = evaluations.head_file


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
        pytest.param({"base": 2, "assistant": 2, "random@20": 2}, " 2 ", marks=pytest.mark.slow),
        pytest.param({"base": 0, "assistant": 0, "random@20": 0}, "no answer", marks=pytest.mark.slow),
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

    names = {"deferral rate (% of tokens)": "accuracy_by_rate.png", "tokens per second": "accuracy_by_speed.png"}

    def noting(figure: Any, file: Any, **options: Any) -> None:
        bars, labels = figure.axes[0].get_legend_handles_labels()
        points = {label: bar for label, bar in zip(labels, bars, strict=True) if hasattr(bar, "lines")}
        plotted[names[figure.axes[0].get_xlabel()]] = {
            label: list(bar.lines[0].get_xdata()) for label, bar in points.items()
        }
        file.write(b"drawing it takes a second")

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
    result = succeed(
        "evaluate", task.path, "--base", "none", "--assistant", "none", "--out", folder.path, "--report-only"
    )
    assert result.stderr.startswith("colm: warning: ")
    assert "pip install matplotlib" in result.stderr


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_end_to_end(tiny_model: TinyModels, tmp_path: Path, head_file: Path) -> None:
    rows: list[Any] = [{"prompt": f"There are {i} pears and", "answer": i} for i in range(3)]
    task = write_lines(tmp_path / "t.jsonl", [*rows, {"prompt": "no answer"}])
    out = tmp_path / "e"
    models = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT))]
    models += ["--n-threads", "1", "--n-ctx", "256"]
    writing = ["--max-tokens", "8", "--temperature", "1", "--seed", "3", "--out", str(out)]
    first = succeed("evaluate", task, *models, *writing, "--arm", "base", "--limit", "2")
    assert f"{task}:4" not in first.stderr  # that row was not reached
    heads = ["--head", f"mine={head_file}", "--rate", "0.5"]
    result = succeed("evaluate", task, *models, *writing, *heads, "--json", draw=True)
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
    assert all(set(record.experts) == {"1"} for record in folder.read("assistant").values())
    assert {path.name for path in out.glob("*.png")} == {
        f"accuracy_by_{name}.png" for name in ("rate", "speed", "cost")
    }

    # The report needs the answers alone.
    for path in out.glob("report.*"):
        path.unlink()
    nowhere = ["--base", str(tmp_path / "none.gguf"), "--assistant", str(tmp_path / "none.gguf")]
    again = succeed("evaluate", task, *nowhere, "--out", out, "--report-only")
    assert again.stdout == (out / "report.md").read_text()
    assert "| mine@50 | 3 |" in again.stdout
    assert json.loads((out / "report.json").read_text()) == printed
    # Without that flag the models are needed.
    assert run("evaluate", task, *nowhere, "--out", out).exit_code == 1

    # Many at once: the answers that are missing, and no time of those counts.
    more = succeed("evaluate", task, *models, *writing, "--rate", "0.7", "--parallel", "2", "--json")
    timed = {arm["name"]: (arm["n_timed"], arm["tokens_per_s"] is None) for arm in json.loads(more.stdout)["arms"]}
    assert timed == {
        "base": (3, False),
        "assistant": (3, False),
        "mine@50": (3, False),
        "random@50": (3, False),
        "random@70": (0, True),
    }
    assert {record.n_parallel for record in folder.read("random@70").values()} == {2}

    assert '"max_tokens": 9' in fail("evaluate", task, *models, *writing, "--max-tokens", "9")


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
    assert said in fail("evaluate", task.path, *nowhere, *extra)
    assert not (tmp_path / "e").exists()
