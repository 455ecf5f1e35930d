"""Where commands write: in one piece, over nothing that they read, and over nothing that exists without --force."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from commands import run, succeed
from conftest import ASSISTANT, BASE, TinyModels
from test_output_file import POSIX, full_disk, names

import colm_cpp as colm


def refused(result: Result, *facts: object) -> None:
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    for fact in facts:
        assert str(fact) in result.stderr


def refused_late(result: Result, fact: str) -> None:
    """After something was printed."""
    assert result.exit_code == 1, result.output
    assert fact in result.stderr


@pytest.fixture
def files(tiny_model: TinyModels, tmp_path: Path) -> dict[str, Path]:
    """Models, a head, an adapter, prompts, each a file of its own in one folder."""
    made = {"base": tmp_path / "base.gguf", "assistant": tmp_path / "assistant.gguf"}
    made["base"].write_bytes(tiny_model(**BASE).read_bytes())
    made["assistant"].write_bytes(tiny_model(**ASSISTANT).read_bytes())
    made["head"] = tmp_path / "head.gguf"
    colm.Head.linear(np.linspace(-1, 1, 32, dtype=np.float32)).save(made["head"])
    for name, text in (
        ("prompts", '{"prompt": "x"}\n'),
        ("prompt", "x"),
        ("grammar", 'root ::= "a"\n'),
        ("schema", "{}"),
        ("template", "{{ messages[0].content }}"),
        ("lora", "no adapter"),
    ):
        made[name] = tmp_path / name
        made[name].write_text(text)
    return made


def pair_of(files: dict[str, Path]) -> list[str]:
    return ["--base", str(files["base"]), "--assistant", str(files["assistant"]), "--n-threads", "1", "--n-ctx", "256"]


# -- every command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("victim", ["base", "assistant", "head", "lora", "grammar", "schema", "template", "prompt"])
def test_generate_writes_over_nothing_that_it_reads(files: dict[str, Path], victim: str, force: list[str]) -> None:
    options = {
        "lora": ["--base-option", f"lora={files['lora']}:0.5"],
        "grammar": ["--grammar-file", files["grammar"]],
        "schema": ["--json-schema", files["schema"]],
        "template": ["--chat-template", files["template"]],
    }.get(victim, [])
    before = files[victim].read_bytes()
    common = [*pair_of(files), "--head", files["head"], *options, *force]
    refused(run("generate", "--file", files["prompt"], *common, "--trace", files[victim]), "--trace", files[victim])
    if victim != "prompt":
        batch = ("generate", "--batch", files["prompts"], *common, "--out")
        refused(run(*batch, files[victim]), "--out", files[victim])
        refused(run(*batch, files["prompts"]), "--out", files["prompts"])
    assert files[victim].read_bytes() == before
    assert files["prompts"].read_text() == '{"prompt": "x"}\n'


@POSIX
def test_standard_input_is_read_too(files: dict[str, Path]) -> None:
    command = ["generate", *pair_of(files), "--head", "random", "--trace", str(files["prompt"]), "--force"]
    with files["prompt"].open("rb") as stdin:
        result = subprocess.run(
            [sys.executable, "-m", "colm_cpp.cli", *command], stdin=stdin, capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 1
    assert str(files["prompt"]) in result.stderr
    assert files["prompt"].read_text() == "x"


def test_existing_files_need_force(files: dict[str, Path], tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("precious")
    one = ("generate", "Hi", *pair_of(files), "--head", "entropy", "--max-tokens", "2", "--trace", old)
    many = ("generate", "--batch", files["prompts"], *pair_of(files), "--head", "entropy", "--out", old)
    for command in (one, many):
        refused(run(*command), "--force", old)
        assert old.read_text() == "precious"
    succeed(*one, "--force")
    trace = tmp_path / "trace"
    trace.write_bytes(old.read_bytes())
    assert json.loads(old.read_text().splitlines()[0])["format"] == "colm-trace"
    succeed(*many, "--force", "--max-tokens", "2")
    assert json.loads(old.read_text())["number"] == 0
    old.write_text("precious")
    page = ("patterns", trace, "--html", old)
    refused(run(*page), "--force", old)
    assert old.read_text() == "precious"
    succeed(*page, "--force")
    assert old.read_text().startswith("<!")
    plot = ("bench", "--pair", "demo", "--plot", old)
    refused(run(*plot), "--force", old)


def test_a_missing_model_empties_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    old = tmp_path / "old.jsonl"
    old.write_text("precious")
    nowhere = ("--base", tmp_path / "none.gguf", "--assistant", files["assistant"], "--head", "entropy", "--force")
    refused(run("generate", "x", *nowhere, "--trace", old), "none.gguf")
    refused(run("generate", "--batch", files["prompts"], *nowhere, "--out", old), "none.gguf")
    # A prompt that does not fit ends the text before its first token.
    small = ("generate", "many words " * 500, *pair_of(files), "--head", "entropy", "--force", "--trace", old)
    assert run(*small).exit_code == 1
    assert old.read_text() == "precious"
    assert names(tmp_path) == {path.name for path in files.values()} | {"old.jsonl"}


def test_a_page_is_not_written_over_its_trace(files: dict[str, Path], tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    succeed("generate", "x", *pair_of(files), "--head", "random", "--max-tokens", "3", "--trace", trace)
    before = trace.read_bytes()
    refused(run("patterns", trace, "--html", trace, "--force"), "--html", trace)
    assert trace.read_bytes() == before


def test_learning_writes_over_nothing_that_it_reads(files: dict[str, Path], tmp_path: Path) -> None:
    corpus = tmp_path / "scores" / "texts.jsonl"
    corpus.parent.mkdir()
    corpus.write_text('{"prompt": "a b", "completion": "c d"}\n')
    before = corpus.read_bytes()
    refused(run("score", corpus, *pair_of(files), "--out", corpus.parent), corpus)
    other = tmp_path / "other.jsonl"
    other.write_bytes(before)
    refused(run("score", other, *pair_of(files), "--out", corpus.parent), "texts.jsonl")
    assert corpus.read_bytes() == before

    task = tmp_path / "eval" / "report.json"
    task.parent.mkdir()
    task.write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    before = task.read_bytes()
    refused(run("evaluate", task, *pair_of(files), "--max-tokens", "2", "--out", task.parent), task)
    other.write_bytes(before)
    refused(run("evaluate", other, *pair_of(files), "--max-tokens", "2", "--out", task.parent), "report.json")
    assert task.read_bytes() == before
    succeed("evaluate", other, *pair_of(files), "--max-tokens", "2", "--out", tmp_path / "new")

    before = files["head"].read_bytes()
    vector = tmp_path / "theta.npy"
    np.save(vector, np.ones(32, np.float32))
    for output in (vector, files["base"]):
        kept = output.read_bytes()
        refused(run("export", vector, output, "--base", files["base"], "--force"), output)
        assert output.read_bytes() == kept
    for output in (files["prompts"], files["assistant"]):
        kept = output.read_bytes()
        command = ("calibrate", files["head"], files["prompts"], *pair_of(files), "--out", output, "--force")
        refused(run(*command), "--out", output)
        assert output.read_bytes() == kept
    assert files["head"].read_bytes() == before
    scores = tmp_path / "scores"
    refused(run("train", scores, "--out", scores / "texts.jsonl", "--force"), "--out", scores / "texts.jsonl")


@POSIX
def test_no_command_follows_a_link(files: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("precious")
    link = tmp_path / "link"
    link.symlink_to(target)
    own = tmp_path / "own.gguf"
    own.symlink_to(files["head"])
    head = files["head"].read_bytes()
    pair = pair_of(files)
    vector = tmp_path / "theta.npy"
    np.save(vector, np.ones(32, np.float32))
    trace = tmp_path / "trace"
    trace.write_text('{"format": "colm-trace", "version": 1, "prompt": "x"}\n')
    for command in (
        ("generate", "x", *pair, "--head", "random", "--trace", link),
        ("generate", "--batch", files["prompts"], *pair, "--head", "random", "--out", link),
        ("patterns", trace, "--html", link),
        ("bench", *pair, "--plot", link),
        ("export", vector, link),
        ("train", tmp_path, "--out", link),
        ("calibrate", files["head"], files["prompts"], *pair, "--out", link),
        ("calibrate", own, files["prompts"], *pair),
    ):
        refused(run(*command, "--force"), "link", target if link in command else files["head"])
    assert link.is_symlink()
    assert own.is_symlink()
    assert (target.read_text(), files["head"].read_bytes()) == ("precious", head)


# -- calibrate ------------------------------------------------------------------------------------------------


def test_calibrate_replaces_a_table_only_when_told(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first table goes in without asking; whatever fails, the file stays."""
    prompts = tmp_path / "many.jsonl"
    prompts.write_text('{"prompt": "The sun"}\n{"prompt": "A ship"}\n')
    command = ("calibrate", files["head"], prompts, *pair_of(files), "--max-tokens", "6", "--quiet", "--no-chat")
    first = files["head"].read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise colm.GenerationError("it failed in the middle")

    with monkeypatch.context() as patched:
        patched.setattr("colm_cpp.learn.calibration.calibrate", fail)
        refused(run(*command), "it failed in the middle")
    assert files["head"].read_bytes() == first

    succeed(*command)
    assert colm.Head.load(files["head"]).rates
    np.testing.assert_array_equal(colm.Head.load(files["head"]).weights[0], np.linspace(-1, 1, 32, dtype="f4")[None])

    second = files["head"].read_bytes()
    refused(run(*command), "--force", files["head"])
    assert files["head"].read_bytes() == second
    succeed(*command, "--force")


# -- standard output, pipes, full disks, signals ------------------------------------------------------------------


@POSIX
@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_standard_output(files: dict[str, Path], name: str) -> None:
    common = (*pair_of(files), "--head", "random", "--max-tokens", "3", "--seed", "1", "--quiet")
    result = succeed("generate", "--batch", files["prompts"], *common, "--out", name)
    assert json.loads(result.stdout)["number"] == 0
    result = run("generate", "x", *common, "--trace", name, "--json")
    header, *_, last = result.stdout.splitlines()
    assert json.loads(header)["format"] == "colm-trace"
    assert "text" in json.loads(last)
    refused(run("patterns", files["prompts"], "--html", "-"), "--html -")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
@pytest.mark.parametrize("batch", [False, True])
def test_a_device_that_is_full(files: dict[str, Path], batch: bool) -> None:
    common = (*pair_of(files), "--head", "random", "--max-tokens", "3", "--quiet")
    what = ("--batch", files["prompts"], "--out", "/dev/full") if batch else ("x", "--trace", "/dev/full")
    refused(run("generate", *what, *common), "No space left on device")
    assert os.path.exists("/dev/full")


@POSIX
@pytest.mark.parametrize("kind", ["trace", "batch", "head", "page"])
def test_a_full_disk_leaves_the_old_file(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("precious")
    common = [*pair_of(files), "--head", "random", "--max-tokens", "60", "--quiet", "--logprobs", "5", "--force"]
    prompts = tmp_path / "many"
    prompts.write_text('{"prompt": "x"}\n' * 9)
    if kind == "page":
        trace = tmp_path / "trace"
        succeed("generate", "x", *common, "--trace", trace)
    if kind == "head":
        np.save(tmp_path / "theta.npy", np.ones(4096, np.float32))
    command = {
        "trace": ["generate", "x", *common, "--trace", old],
        "batch": ["generate", "--batch", prompts, *common, "--out", old, "--json"],
        "head": ["export", tmp_path / "theta.npy", old, "--force"],
        "page": ["patterns", tmp_path / "trace", "--html", old, "--force"],
    }[kind]
    before = names(tmp_path)
    with full_disk():
        result = run(*command)
    refused_late(result, "old" if kind == "head" else "File too large")
    assert old.read_text() == "precious"
    assert names(tmp_path) == before


@pytest.fixture
def interrupted(files: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs a command that would write for long, and sends a signal once its temporary file has two lines."""

    def run(number: int, *arguments: Any) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "colm_cpp.cli", *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=-1,
            text=True,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            if any(path.read_bytes().count(b"\n") >= 2 for path in tmp_path.glob(".colm-*.tmp")):
                process.send_signal(number)
                break
            time.sleep(0.01)
        stderr = process.communicate(timeout=30)[1]
        assert process.returncode == 128 + number, stderr
        return stderr

    yield run
    assert not list(tmp_path.glob(".colm-*"))


@POSIX
def test_an_interrupted_batch_keeps_the_texts_that_had_ended(
    files: dict[str, Path], interrupted: Callable[..., str], tmp_path: Path
) -> None:
    rows = [{"prompt": "x", "max_tokens": 4}] * 2000
    prompts, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    common = (*pair_of(files), "--head", "never", "--quiet", "--parallel", "2")
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    interrupted(signal.SIGINT, "generate", "--batch", prompts, *common, "--out", out)
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert 2 <= len(written) < 2000
    assert len({line["number"] for line in written}) == len(written)


def test_texts_behind_one_that_did_not_end_are_kept(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt": "x", "max_tokens": 90}\n' + '{"prompt": "x", "max_tokens": 1}\n' * 3)
    following = colm.BatchStream.__next__
    ended: list[int] = []

    def interrupt(stream: colm.BatchStream) -> tuple[int, Any]:
        if len(ended) == 3:
            raise KeyboardInterrupt
        number, result = following(stream)
        ended.append(number)
        return number, result

    monkeypatch.setattr(colm.BatchStream, "__next__", interrupt)
    bans = [word for token in (256, 257) for word in ("--logit-bias", f"{token}=-inf")]
    common = (*pair_of(files), "--head", "never", "--temperature", "0", "--quiet", *bans)
    assert run("generate", "--batch", prompts, *common, "--out", out).exit_code == 130
    assert [json.loads(line)["number"] for line in out.read_text().splitlines()] == ended == [1, 2, 3]


@POSIX
def test_an_interrupted_trace_keeps_its_tokens(
    files: dict[str, Path], interrupted: Callable[..., str], tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text("an older one")
    common = (*pair_of(files), "--n-ctx", "60000", "--n-batch", "64", "--max-tokens", "-1", "--head", "never")
    grammar = ("--grammar", "root ::= [a-z] root", "--quiet", "--force")  # never ends
    interrupted(signal.SIGTERM, "generate", "x", *common, *grammar, "--trace", trace)
    lines = [json.loads(line) for line in trace.read_text().splitlines()]
    assert lines[0]["format"] == "colm-trace"
    assert lines[-1]["finish_reason"] == "interrupted"
    assert len(lines) >= 3
