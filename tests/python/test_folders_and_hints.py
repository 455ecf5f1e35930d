"""What commands of learning refuse before they work, and the command that they name next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from commands import fail, succeed
from conftest import ASSISTANT, BASE, TinyModels

import colm_cpp as colm
from colm_cpp.cli._pair import models_again


@pytest.fixture
def models(tiny_model: TinyModels) -> list[object]:
    files = ["--base", tiny_model(**BASE), "--assistant", tiny_model(**ASSISTANT)]
    return [*files, "--n-threads", "1", "--n-ctx", "256", "--quiet", "--max-tokens", "4"]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.jsonl"
    path.write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    return path


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (["--head", "a=random", "--head", "a=entropy"], ["random", "entropy", " a:"]),
        (["--head", "a=random", "--head", "b=entrpy"], ["entrpy"]),
        (["--head", "random", "--rate", "20.0"], ["--rate is 20", "0.2?"]),
        (["--arm", "base", "--rate", "1"], ["--rate is 1"]),
        (["--arm", "x=one.gguf", "--arm", "x=two.gguf"], ["--arm x="]),
    ],
)
def test_a_wrong_evaluation_leaves_nothing(
    options: list[str], facts: list[str], models: list[object], task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = fail("evaluate", task, *models, *options, "--out", out)
    for fact in facts:
        assert fact in result
    assert not out.exists()


def test_a_head_of_another_width(models: list[object], task: Path, tmp_path: Path) -> None:
    head = tmp_path / "wide.gguf"
    colm.Head.linear([0.5] * 48).replace(rates=(0.1, 0.9), thresholds=(0.9, 0.1)).save(head)
    out = tmp_path / "out"
    assert "48" in fail("evaluate", task, *models, "--head", f"wide={head}", "--out", out)
    assert not out.exists()


def test_a_rate_given_twice_counts_once(models: list[object], task: Path, tmp_path: Path) -> None:
    rates = ["--rate", "0.5", "--rate", "0.5"]
    result = succeed("evaluate", task, *models, "--arm", "random", *rates, "--out", tmp_path / "out", "--json")
    assert [arm["name"] for arm in json.loads(result.stdout)["arms"]] == ["random@50"]


@pytest.mark.parametrize("command", ["score", "evaluate"])
def test_a_file_is_no_folder(command: str, models: list[object], task: Path, tmp_path: Path) -> None:
    out = tmp_path / "file"
    out.write_text("precious")
    result = fail(command, task, *models, "--out", out)
    assert "--out must be a folder" in result
    assert str(out) in result
    assert out.read_text() == "precious"


def test_a_batch_on_standard_input(models: list[object]) -> None:
    rows = '{"prompt": "a", "id": 7}\n{"prompt": "b"}\n'
    result = succeed("generate", "--batch", "-", *models, "--head", "random", stdin=rows)
    written = sorted((json.loads(line) for line in result.stdout.splitlines()), key=lambda line: line["number"])
    assert [(line["line"], line.get("id")) for line in written] == [(1, 7), (2, None)]


def test_calibrate_names_a_command_that_works(models: list[object], task: Path, tmp_path: Path) -> None:
    out = tmp_path / "a head.gguf"
    result = succeed("calibrate", "confidence", task, *models, "--default-rate", "0.35", "--out", out)
    words = shlex.split(result.stdout.splitlines()[-1].partition("; try colm ")[2])
    assert words[-4:] == ["--head", str(out), "--defer-rate", "0.35"]
    succeed(*words, "--n-ctx", "256", "--n-threads", "1", "--max-tokens", "2")


def test_the_models_again() -> None:
    assert models_again({"pair": "demo", "base": None, "assistant": None}) == "--pair demo"
    given = {"pair": None, "base": "hf:a/b/c*.gguf", "assistant": "my file"}
    assert shlex.split(models_again(given)) == ["--base", "hf:a/b/c*.gguf", "--assistant", "my file"]
