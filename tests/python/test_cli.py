"""The command line: its options and its errors."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import commands
import pytest
from click.testing import CliRunner
from commands import Models, error_of, run

import colm_cpp as colm
from colm_cpp.cli import _options

models = commands.models


# -- options --------------------------------------------------------------------------------------------------


def test_every_option_of_the_api_is_on_the_command_line() -> None:
    fields = {field.name for field in dataclasses.fields(colm.LoadOptions)}
    assert set(_options.LOAD) == fields
    fields = {field.name for field in dataclasses.fields(colm.GenerationOptions)}
    assert {*_options.GENERATION, "head", "grammar", "response_format"} == fields
    shown = " ".join(run("generate", "--help").stdout.split())
    for spec in (*_options.LOAD.values(), *_options.GENERATION.values()):
        assert _options.flag_of(spec.name) in shown
        assert spec.help in shown
    assert "[default: 0.95]" in shown
    assert "[default: repack]" in shown


def test_options_reach_the_api() -> None:
    seen: dict[str, Any] = {}

    @click.command()
    @_options.from_table(_options.GENERATION, "Text")
    @_options.from_table(_options.LOAD, "Loading")
    @_options.model_options
    def command(**values: Any) -> None:
        seen["text"] = _options.collect(_options.GENERATION, values)
        seen["load"] = _options.collect(_options.LOAD, values)
        seen["base"] = _options.read_model_options(values["base_option"])

    arguments = "--max-tokens -1 --temperature 0 --logit-bias 3=1.5 --logit-bias 4=-inf --stop a --stop b --top-k 0"
    arguments += " --tensor-split 1,2.5 --no-mmap --mlock --flash-attn --lora C:\\x.gguf:0.5 --lora hf:o/r/y.gguf"
    arguments += " --base-option n-ctx=64 --base-option use_mmap=false --base-option lora=z.gguf:2"
    arguments += " --base-option flash_attn=none --base-option type_k=q8_0"
    result = CliRunner().invoke(command, arguments.split(), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert seen["text"] == {
        "max_tokens": -1,
        "temperature": 0.0,
        "logit_bias": {3: 1.5, 4: float("-inf")},
        "stop": ["a", "b"],
        "top_k": 0,
    }
    assert seen["load"] == {
        "tensor_split": [1.0, 2.5],
        "use_mmap": False,
        "use_mlock": True,
        "flash_attn": True,
        "lora": [("C:\\x.gguf", 0.5), ("hf:o/r/y.gguf", 1.0)],
    }
    base = {"n_ctx": 64, "use_mmap": False, "lora": [("z.gguf", 2.0)], "flash_attn": None, "type_k": "q8_0"}
    assert seen["base"] == base
    colm.LoadOptions.merge(seen["load"], seen["base"])
    colm.GenerationOptions.of(seen["text"]).to_core(0.5)
    assert CliRunner().invoke(command, [], catch_exceptions=False).exit_code == 0
    assert seen == {"text": {}, "load": {}, "base": {}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--top-k", "many"], "'many'"),
        (["--strategy", "both"], "'both'"),
        (["--logit-bias", "5"], "'5'"),
        (["--tensor-split", "a"], "'a'"),
        (["--base-option", "n_ctx"], "'n_ctx'"),
        (["--base-option", "n_ctx=x"], "'x'"),
        (["--grammar", "root ::= [a]", "--json-schema", "x"], "--grammar and --json-schema"),
        (["--file", "x"], "--file"),
    ],
)
def test_usage_errors(models: Models, arguments: list[str], said: str) -> None:
    result = run("generate", "Hi", *models.arguments, *arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("command", [("score", "x.jsonl"), ("evaluate", "x.jsonl"), ("calibrate", "h.gguf", "x.jsonl")])
@pytest.mark.parametrize("n", ["0", "300", "many"])
def test_how_many_at_once_is_checked_before_anything_is_read(command: tuple[str, ...], n: str, tmp_path: Path) -> None:
    nowhere = ("--base", "none.gguf", "--assistant", "none.gguf", "--out", tmp_path / "out")
    result = run(*command, *nowhere, "--parallel", n)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--parallel" in result.stderr
    assert n in result.stderr
    assert not n.isdigit() or "1<=x<=256" in result.stderr
    assert not (tmp_path / "out").exists()
    # Within the range it goes on to the files.
    for allowed in ("1", "256"):
        assert "--parallel" not in error_of(run(*command, *nowhere, "--parallel", allowed))


def test_no_prompt_is_a_usage_error(models: Models) -> None:
    result = run("generate", *models.arguments, stdin="")
    assert result.exit_code == 2
    assert "standard input" in result.stderr
    assert run("generate", "Hi").exit_code == 2
    assert run("inspect").exit_code == 2
    assert run("inspect", "--base", models.base).exit_code == 2
    assert run("inspect", models.base, "--head", "confidence").exit_code == 2


# -- errors ---------------------------------------------------------------------------------------------------


def test_errors_are_one_line(models: Models, tmp_path: Path) -> None:
    def failure(*arguments: str | Path) -> str:
        return error_of(run("generate", "Hi", *models.arguments, *arguments))

    missing = tmp_path / "a\nb\x1b[2Jmissing.gguf"
    assert f"{tmp_path}/a b\\x1b[2Jmissing.gguf" in failure("--base", missing)
    assert re.search(r"--n-ctx .*\b1\b.*\b2\b", failure("--base-option", "n_ctx=1"))
    assert "'n_ctx'" in failure("--base-option", "n_ctxx=1")
    assert "'nonsense'" in failure("--head", "nonsense")
    assert "--threshold" in failure("--threshold", "2")
    assert re.search(r"--seed .*-1\b", failure("--seed", "-1"))  # ("--seed", "-1")
    assert "--trace" in failure("--trace", tmp_path / "no" / "trace")
    assert "grammar" in failure("--grammar", "root ::= (")
    assert str(tmp_path / "none") in failure("--grammar-file", tmp_path / "none")
    schema = tmp_path / "schema.json"
    schema.write_text("{,}")
    assert "line 1, column 2" in failure("--json-schema", schema)
    schema.write_text("[]")
    assert f"{schema} is of type list" in failure("--json-schema", schema)
    assert "prompt" in error_of(run("generate", "", *models.arguments))
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    refused = error_of(run("generate", "--file", tmp_path / "latin1", *models.arguments))
    assert all(fact in refused for fact in (str(tmp_path / "latin1"), "UTF-8", "0xe9", "offset 3"))
    assert "--chat-template" in error_of(
        run("generate", "Hi", "--chat", *models.arguments, "--base", models.assistant, "--assistant", models.base)
    )
