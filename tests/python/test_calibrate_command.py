"""`colm calibrate`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import expert_files
import numpy as np
import pytest
from adapter_files import N_EMBD, write_adapter
from calibrated_pairs import PROMPTS, linear
from commands import ONE_THREAD, fail, run, succeed
from conftest import ASSISTANT, BASE, Asked, TinyModels
from expert_files import PROMPT
from expert_files import arguments as models

from colm_cpp import Head
from colm_cpp.learn.calibration import CHECKED_RATES, RATES

files = expert_files.files


@pytest.fixture
def arguments(tiny_model: TinyModels, tmp_path: Path) -> list[str]:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    models = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT)), "--n-threads", "1"]
    return [str(prompts), *models, "--n-ctx", "256"]


def test_the_command_makes_a_head_of_confidence(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "confidence.gguf"
    writing = ["--max-tokens", "48", "--temperature", "1", "--seed", "6"]
    result = succeed("calibrate", "confidence", *arguments, *writing, "--out", out, "--default-rate", "0.2")
    head = Head.load(out)
    assert head.default_threshold == pytest.approx(head.threshold_for_rate(0.2), abs=1e-6)
    assert head.name == "confidence"
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["wanted", "threshold", "measured", "tokens"]
    assert len(lines) == 1 + len(json.loads(head.calibration or "")["measurements"]) + 1 + len(RATES) + 1
    assert f"   20%  {head.threshold_for_rate(0.2):9.4g}" in lines
    assert lines[-1].startswith(f"{out}: calibrated; try colm generate PROMPT --")
    assert lines[-1].endswith(f" --head {out} --defer-rate 0.2")
    assert "calibrating: 100%, 60%: " in result.stderr  # no terminal: lines
    facts = json.loads(head.calibration or "")
    assert facts["options"] == {"max_tokens": 48, "temperature": 1.0, "seed": 6}
    assert facts["chat"] is False  # the base has no template

    # The same tokens by rate and by threshold, and the head's default is the rate of --default-rate.
    models = arguments[1:]
    printed = []
    for extra in (["--defer-rate", "0.2"], ["--threshold", repr(head.threshold_for_rate(0.2))], []):
        writing = ["--json", "--seed", "1", "--max-tokens", "30", *extra]
        result = succeed("generate", "The city", *models, "--head", out, *writing)
        tokens = json.loads(result.stdout)["tokens"]
        printed.append([(token["id"], token["source"]) for token in tokens])
    assert printed[0] == printed[1] == printed[2]
    assert {source for _, source in printed[0]} == {"base", "assistant"}


def test_the_command_writes_many_texts_at_once(arguments: list[str], tmp_path: Path, asked: Asked) -> None:
    measured = []
    for n in (1, 3):
        writing = ["--max-tokens", "16", "--limit", "4", "--out", tmp_path / f"{n}.gguf", "--parallel", str(n)]
        result = succeed("calibrate", "confidence", *arguments, *writing, "--json", "--quiet")
        assert asked.n_parallel[-1] == n
        measured.append([[row[0], row[2], row[3]] for row in json.loads(result.stdout)["measurements"]])
    assert measured[0] == measured[1]


def test_the_command_writes_into_the_head_itself(arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    head = linear(32)
    head.save(file)
    only = [part for rate in CHECKED_RATES[:2] for part in ("--rate", rate)]
    result = succeed("calibrate", file, *arguments, *only, "--max-tokens", "16", "--limit", "3", "--json", "--quiet")
    printed = json.loads(result.stdout)
    loaded = Head.load(file)
    assert printed["head"] == str(file)
    assert list(printed["thresholds"].values()) == list(loaded.thresholds)
    assert {row[0] for row in printed["measurements"]} == set(CHECKED_RATES[:2])
    assert json.loads(loaded.calibration or "")["n_prompts"] == 3
    np.testing.assert_array_equal(loaded.weights[0], head.weights[0])
    assert loaded.default_threshold is None
    # Few tokens cannot give every rate; what is off is said, a line each.
    assert all(line.startswith("colm: warning: ") and "%" in line for line in result.stderr.splitlines())


def test_the_command_refuses(arguments: list[str], tmp_path: Path) -> None:
    result = run("calibrate", "confidence", *arguments)
    assert result.exit_code == 2
    assert "--out" in result.stderr
    assert "confidence" in result.stderr
    out = tmp_path / "there.gguf"
    out.write_bytes(b"precious")
    refused = fail("calibrate", "confidence", *arguments, "--out", out)
    assert all(fact in refused for fact in ("--out", str(out), "--force"))
    assert out.read_bytes() == b"precious"
    assert "none.gguf" in fail("calibrate", tmp_path / "none.gguf", *arguments)
    result = run("calibrate", "hf:org/repo/head.gguf", *arguments)
    assert result.exit_code == 2
    assert "--out" in result.stderr


def test_a_head_whose_expert_is_not_there(files: dict[str, Path], tmp_path: Path) -> None:
    """With and without --pair it is a head, not a token of the base and not a file of prompts."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": PROMPT}) + "\n")
    out = ["--out", tmp_path / "out.gguf"]
    message = "the head 'confidence:law' names the expert 'law', and this pair has"
    assert f"{message} math and code" in fail("calibrate", "confidence:law", prompts, *models(files), *out)
    assert f"{message} sums and almanac" in fail("calibrate", "confidence:law", prompts, "--pair", "demo-three", *out)
    one = ["--base", files["base"], "--assistant", files["math"]]
    assert f"{message} assistant" in fail("calibrate", "confidence:law", prompts, *one, *out)
    # A head that names nobody: the message has one that works.
    undirected = tmp_path / "mine.gguf"
    linear(N_EMBD).save(undirected)
    for head in ("confidence", str(undirected)):
        error = fail("calibrate", head, prompts, *models(files), *out)
        assert "this pair has the experts math and code; name one of them, such as " + f"{head}:math" in error
    assert not (tmp_path / "out.gguf").exists()


def test_one_assistant_may_be_named(files: dict[str, Path], tmp_path: Path) -> None:
    """The command that it advises loads the same models in the same way."""
    prompts, out, adapter = tmp_path / "prompts.jsonl", tmp_path / "out.gguf", tmp_path / "a b.gguf"
    prompts.write_text(json.dumps({"prompt": PROMPT}) + "\n")
    write_adapter(adapter)
    one = ["--base", files["base"], "--assistant", files["math"], "--base-option", f"lora={adapter}"]
    write = ["--out", out, "--max-tokens", "8", "--rate", "0.5", "--assistant-option", "n-ctx=64", *ONE_THREAD]
    done = succeed("calibrate", "confidence:assistant", prompts, *one, *write)
    assert Head.load(out).expert_names == ("assistant",)
    advised = shlex.split(done.stdout.splitlines()[-1].partition("try colm ")[2])
    assert advised[advised.index("--base-option") + 1] == f"lora={adapter}"
    assert advised[advised.index("--assistant-option") + 1] == "n-ctx=64"
    succeed(*(PROMPT if word == "PROMPT" else word for word in advised), "--max-tokens", "2", *ONE_THREAD)
