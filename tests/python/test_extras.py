"""Packages that only some commands need: asked for before the work, and results are out before anything can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from commands import run, succeed
from conftest import ASSISTANT, BASE, TinyModels

import colm_cpp as colm
from colm_cpp.learn import TrainingOptions, train


@pytest.fixture
def models(tiny_model: TinyModels) -> list[str]:
    files = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT))]
    return [*files, "--n-threads", "1", "--n-ctx", "256", "--quiet"]


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("work began")


def test_bench_asks_for_matplotlib_first(
    models: list[str], without: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("colm_cpp.engine.loading.load", never)
    result = run("bench", *models, "--plot", tmp_path / "plot.xyz")
    assert (result.exit_code, result.stdout) == (1, "")
    assert ".xyz" in result.stderr
    assert "png" in result.stderr
    without("matplotlib")
    result = run("bench", *models, "--plot", tmp_path / "plot.png")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "pip install matplotlib" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_bench_prints_before_it_draws(models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colm_cpp.report.bench.plot_bytes", broken)
    options = ("--tokens", "8", "--rounds", "2", "--json", "--head", "random")
    result = run("bench", *models, *options, "--plot", tmp_path / "plot.png")
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert len(json.loads(result.stdout)["arms"]) == 15


@pytest.fixture
def evaluation(models: list[str], tmp_path: Path) -> Callable[..., Result]:
    task = tmp_path / "task.jsonl"
    task.write_text('{"prompt": "1 + 1 =", "answer": 2}\n{"prompt": "2 + 2 =", "answer": 4}\n')

    def evaluate(*arguments: str) -> Result:
        return run("evaluate", task, *models, "--max-tokens", "3", "--out", tmp_path / "out", *arguments, draw=True)

    return evaluate


def test_evaluate_says_that_there_will_be_no_plots(
    evaluation: Callable[..., Result], without: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("matplotlib")
    result = evaluation()
    assert result.exit_code == 0, result.stderr
    assert result.stderr.startswith("colm: warning: ")
    assert "pip install matplotlib" in result.stderr
    assert "| assistant | 2 |" in result.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"report.md", "report.json"}
    assert not list((tmp_path / "out").glob("*.png"))
    # Before hours of work, not after.
    monkeypatch.setattr("colm_cpp.engine.loading.load", never)
    with pytest.raises(AssertionError, match="work began"):
        evaluation("--arm", "base")


def test_evaluate_prints_before_it_draws(
    evaluation: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colm_cpp.report.evaluation.write_plots", broken)
    result = evaluation()
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert result.stdout == (tmp_path / "out" / "report.md").read_text()


def test_training_asks_for_scipy_first(without: Callable[[str], None], tmp_path: Path) -> None:
    without("scipy")
    with pytest.raises(colm.MissingDependency, match="pip install scipy"):
        train([], TrainingOptions())
    result = run("train", tmp_path / "no-scores", "--out", tmp_path / "head.gguf")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "pip install scipy" in result.stderr


def test_a_page_that_cannot_be_written_costs_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = tmp_path / "trace.jsonl"
    succeed("generate", "x", "--pair", "demo", "--max-tokens", "4", "--trace", trace)

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("colm_cpp.cli._files.write_file", broken)
    result = run("patterns", trace, "--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert "4 tokens" in result.stdout
