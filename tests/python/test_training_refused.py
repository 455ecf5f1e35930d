"""Scores and options that a fit refuses; colm train."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import commands
import made_scores
import numpy as np
import pytest
from click.testing import Result
from made_scores import FACTS, PLAIN, planted, write_scores

from colm_cpp import Head
from colm_cpp.errors import CorpusError, MissingDependency, OptionError
from colm_cpp.learn import Scores, TrainingOptions, train
from colm_cpp.learn.inputs import Inputs

scores = made_scores.scores


# --- what is refused --------------------------------------------------------------------------------------------------


def test_folders_of_different_pairs(tmp_path: Path) -> None:
    made = planted(100)
    first = write_scores(tmp_path / "a", made.hidden, made.columns)
    for key, value in (("vocab_fingerprint", "f" * 16), ("base", "other"), ("assistant", "other")):
        other: dict[str, Any] = {key: value}
        second = write_scores(tmp_path / key, made.hidden, made.columns, **other)
        with pytest.raises(CorpusError, match=f"{key} has {key} '{value}' and .*a has '{FACTS[key]}'; "):
            train([first, second], PLAIN)
    narrow = write_scores(tmp_path / "narrow", made.hidden[:, :4], made.columns)
    with pytest.raises(CorpusError, match=r"n_embd 4 and .* 8"):
        train([first, narrow], PLAIN)
    with pytest.raises(CorpusError, match="colm score"):
        train([], PLAIN)


@pytest.mark.parametrize("column", ["base_logprob", "assistant_logprob", "base_top_logprob"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf, 0.5])
def test_values_that_are_no_log_probabilities_are_named(column: str, value: float, tmp_path: Path) -> None:
    made = planted(100)
    values = np.full(100, -1.0)
    values[47] = value
    folder = write_scores(tmp_path / "s", made.hidden, {**made.columns, column: values})
    with pytest.raises(CorpusError, match=rf"{column} is -?(nan|inf|0\.5) in row 47 \(text 2\)"):
        train([folder], PLAIN)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_hidden_states_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    made = planted(100)
    made.hidden[63, 3] = value
    folder = write_scores(tmp_path / "s", made.hidden, made.columns)
    with pytest.raises(CorpusError, match=r"base_hidden is not finite in row 63 \(text 3\)"):
        train([folder], PLAIN)


@pytest.mark.parametrize("column", ["base_hidden", "base_logprob", "text"])
def test_a_folder_cut_short(column: str, scores: Scores) -> None:
    file = scores.path / f"{column}.npy"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CorpusError, match=rf"{column}\.npy"):
        Scores(scores.path)


def test_a_file_cut_short_while_it_is_read(scores: Scores) -> None:
    chosen = Inputs([scores], [np.arange(len(scores))], (), 0, in_memory=False)
    os.truncate(scores.path / "base_hidden.npy", 4000)
    with pytest.raises(CorpusError, match="cut short while it was being read"):
        chosen.moments()


def test_another_format_version(scores: Scores) -> None:
    file = scores.path / "meta.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 99}))
    with pytest.raises(CorpusError, match=r"99\b.*\b1\b"):
        Scores(scores.path)


def test_one_text_alone(tmp_path: Path) -> None:
    made = planted(100)
    folder = write_scores(tmp_path / "s", made.hidden, made.columns, 100)
    with pytest.raises(CorpusError, match="1 text"):
        train([folder], PLAIN)


def test_labels_that_are_all_alike(tmp_path: Path) -> None:
    made = planted(1500)
    folder = write_scores(tmp_path / "s", made.hidden, {**made.columns, "base_top": made.columns["token"]})
    with pytest.raises(CorpusError, match=r"label a is"):
        train([folder], dataclasses.replace(PLAIN, objective="weak"))
    trained = train([folder], PLAIN)
    assert trained.weak_fit is None
    assert trained.main_fit is not None
    assert trained.notes[0].endswith("the fit starts without it")
    assert trained.held_out.auc_a is None


def test_without_scipy(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> ModuleType:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingDependency, match="pip install scipy"):
        train([scores], PLAIN)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "tree"}, "kind is 'tree'.* linear, mlp"),
    ({"objective": "x"}, "objective is 'x'.* marginal, weak, regret"),
    ({"label": "c"}, "label is 'c'.* a, b, differ"),
    ({"features": "mood"}, "feature 'mood' is unknown"),
    ({"features": "margin,margin"}, "name each feature once"),
    ({"features": ""}, "name each feature once"),
    ({"features": "none", "use_hidden": False}, "use_hidden=False.*features='none'"),
    ({"cost": -0.1}, "cost is -0.1"),
    ({"cost": True}, "cost is True"),
    ({"cost": {"math": False}}, "cost of 'math' is False"),
    ({"l2": True}, "l2 is True"),
    ({"l2": math.nan}, "l2 is NaN"),
    ({"feature_l2": math.inf}, "feature_l2 is inf"),
    ({"held_out": 0.0}, "held_out is 0.0"),
    ({"held_out": 1.0}, "held_out is 1.0"),
    ({"max_iterations": 0}, "max_iterations is 0"),
    ({"patience": 0}, "patience is 0"),
    ({"n_units": 0}, "n_units is 0"),
    ({"top_k": 0}, "top_k is 0"),
    ({"memory_limit": 0}, "memory_limit is 0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=range(len(BAD)))
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainingOptions(**changes)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Result:
    return commands.run("train", *arguments)


def test_the_command_prints_a_table(scores: Scores, tmp_path: Path) -> None:
    made = planted(500, seed=3)
    other = write_scores(tmp_path / "more", made.hidden, made.columns)
    out = tmp_path / "h.gguf"
    result = run(scores.path, other.path, "--out", out, "--features", "log_odds", "--l2", "0.01", "--seed", "3")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["held", "out", "scores", "more", "training"]
    cells = {name.strip(): row for name, *row in (re.split(r" {2,}", line.strip()) for line in lines[1:])}
    options = TrainingOptions(features="log_odds", l2=0.01, seed=3)
    trained = train([scores, other], options)
    shown = [trained.held_out, *trained.by_folder.values(), trained.training]
    assert cells["tokens"] == [str(m.n_tokens) for m in shown]
    assert cells["NLL of the pair with this head"] == [f"{m.joint_nll:.3f}" for m in shown]
    assert cells["AUC, most likely tokens differ"] == ["-"] * 4
    assert lines[-1].startswith(f"{out}: linear head; calibrate it next")
    assert "weak   1  training 0." in result.stderr
    assert "marginal   1  training " in result.stderr
    head = Head.load(out)
    assert head.name == "h"
    np.testing.assert_array_equal(head.weights[0], trained.head.weights[0])


def test_the_command_prints_json_and_nothing_else(scores: Scores, tmp_path: Path) -> None:
    out = tmp_path / "h.gguf"
    result = run(
        scores.path, "-o", out, "--json", "--name", "mine", "--kind", "mlp", "--n-units", "3", "--top-logprobs", "2"
    )
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert result.stderr == ""
    assert printed["head"] == str(out)
    assert printed["options"]["n_units"] == 3
    assert printed["notes"] == []
    assert printed["held_out"]["n_texts"] == 22
    head = Head.load(out)
    assert (head.name, head.kind, head.weights[0].shape) == ("mine", "mlp", (3, 8 + 5))


def test_the_command_replaces_a_file_only_when_told(scores: Scores, tmp_path: Path) -> None:
    out = tmp_path / "h.gguf"
    out.write_bytes(b"precious")
    result = run(scores.path, "--out", out)
    assert result.exit_code == 1
    assert "exists; give another name, or --force to replace it" in result.stderr
    assert out.read_bytes() == b"precious"
    result = run(scores.path, "--out", out, "--force", "--quiet", "--features", "none", "--no-hidden")
    assert result.exit_code == 1
    assert "--no-hidden and --features" in result.stderr
    assert out.read_bytes() == b"precious"
    result = run(scores.path, "--out", out, "--force", "--quiet", "--features", "none")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert Head.load(out).n_embd == 8


def test_the_command_warns(tmp_path: Path) -> None:
    made = planted(200)
    folder = write_scores(tmp_path / "s", made.hidden, made.columns)
    result = run(folder.path, "--out", tmp_path / "h.gguf", "--quiet", "--top-logprobs", "3")
    assert result.exit_code == 0
    assert result.stderr.startswith("colm: warning: there are 160 training tokens")
    assert result.stderr.count("\n") == 1
