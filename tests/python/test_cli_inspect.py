"""colm inspect, colm export, and the command itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pytest
from commands import Models, error_of, fail, run, succeed
from tiny_models import Vocab

import colm_cpp as colm
from colm_cpp.cli import _facts

models = commands.models


@pytest.fixture(scope="module")
def head_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "head.gguf"
    theta = np.linspace(-1, 1, 32, dtype=np.float32)
    colm.Head.linear(theta, 0.25, name="a head", default_threshold=0.5, rates=(0.1, 0.9), thresholds=(0.75, 0.25)).save(
        path
    )
    return path


# -- inspect --------------------------------------------------------------------------------------------------


def test_inspect_files(models: Models, head_file: Path) -> None:
    facts = json.loads(run("inspect", models.base, head_file, "--n-ctx", "100", "--json").stdout)
    model, head = facts["files"]
    assert model["architecture"] == "llama"
    assert (model["n_embd"], model["n_layer"], model["n_ctx_train"]) == (32, 2, 512)
    assert (model["n_vocab"], model["vocab_type"]) == (len(Vocab()), "gpt2")
    assert model["chat_template"] is True
    assert model["quantisation"] == "F32"
    assert model["file_bytes"] == models.base.stat().st_size
    assert model["memory"]["n_ctx"] == 100
    assert model["memory"]["kv_cache"] == 256 * 2 * 2 * 16 * 2  # llama.cpp rounds n_ctx up to 256 cells
    assert head["layers"] == [[1, 32]]
    assert head["calibration"][1]["threshold"] == 0.25
    shown = succeed("inspect", models.base, head_file)
    assert "the \\x1b[31mbase" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert "threshold 0.25" in shown.stdout


def test_inspect_pair(models: Models, head_file: Path) -> None:
    arguments = ("inspect", "--base", models.base, "--assistant", models.assistant)
    pair = json.loads(run(*arguments, "--head", head_file, "--json").stdout)["pair"]
    assert pair["compatible"] is True
    assert pair["n_shared"] == len(Vocab())
    assert (pair["base_model"]["tail"], pair["assistant_model"]["tail"]) == (0, 1)
    with models.load() as loaded:
        assert pair["base_model"]["vocab_fingerprint"] == loaded.vocab_fingerprint
    result = succeed(*arguments, "--head", "entropy")
    assert "pair: compatible" in result.stdout


def test_inspect_says_why_a_pair_does_not_fit(models: Models, head_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "rwkv.gguf"  # a tokenizer that may change a text
    other.write_bytes(models.assistant.read_bytes().replace(b"gpt2", b"rwkv"))
    result = run("inspect", "--base", models.base, "--assistant", other, "--json")
    assert result.exit_code == 1
    pair = json.loads(result.stdout)["pair"]
    assert (pair["compatible"], pair["differing_token"]) == (False, None)
    assert result.stderr == f"colm: error: {pair['reason']}\n"

    result = run("inspect", "--base", models.wide, "--assistant", models.assistant, "--head", head_file)
    assert result.exit_code == 1
    assert "pair: not compatible" in result.stdout
    assert "32" in result.stderr
    assert "64" in result.stderr

    cut = tmp_path / "cut.gguf"
    cut.write_bytes(models.base.read_bytes()[:-100])
    size = models.base.stat().st_size
    refused = fail("inspect", cut)
    assert all(fact in refused for fact in (str(cut), str(size - 100), str(size)))
    assert all(fact in fail("inspect", __file__) for fact in (__file__, "GGUF"))


def test_quantisation_names() -> None:
    assert _facts.quantisation(15) == "Q4_K_M"
    assert _facts.quantisation(999) == "file type 999"
    assert _facts.quantisation(None) is None


# -- export ---------------------------------------------------------------------------------------------------


def test_export(models: Models, tmp_path: Path) -> None:
    source, output = tmp_path / "theta.npz", tmp_path / "head.gguf"
    theta = np.linspace(-1, 1, 32, dtype=np.float32)
    np.savez(source, theta=theta, bias=np.float32(0.5))
    named = ("--base-name", "B", "--assistant-name", "A", "--threshold", "0.25", "--name", "N")
    result = succeed("export", source, output, *named)
    assert "linear head, n_embd 32, layers 32 -> 1" in result.stdout
    head = colm.Head.load(output)
    assert (head.base_name, head.assistant_name, head.name, head.default_threshold) == ("B", "A", "N", 0.25)
    np.testing.assert_array_equal(head.weights[0][0], theta)

    before = output.read_bytes()
    assert "--force" in error_of(run("export", source, output))
    assert output.read_bytes() == before
    succeed("export", source, output, "--force")
    assert output.read_bytes() != before
    assert str(tmp_path / "none") in error_of(run("export", tmp_path / "none", tmp_path / "x.gguf"))
    assert "--row 3" in error_of(run("export", source, tmp_path / "x.gguf", "--row", "3"))
    assert "--threshold" in error_of(run("export", source, tmp_path / "x.gguf", "--threshold", "2"))

    refused = error_of(run("export", source, tmp_path / "x.gguf", "--base", models.wide))
    assert all(fact in refused for fact in (str(models.wide), "32", "64"))
    result = run("export", source, output, "--base", models.base, "--force")
    with models.load() as pair:
        assert colm.Head.load(output).vocab_fingerprint == pair.vocab_fingerprint
        assert f"vocabulary {pair.vocab_fingerprint}" in result.stdout
        assert pair.generate("Hi", head=output, max_tokens=2, seed=1).tokens


def test_export_passes_warnings_on(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    _write_checkpoint(checkpoint)
    result = succeed("export", checkpoint, tmp_path / "head.gguf")
    assert result.stderr.startswith("colm: warning: ")
    assert result.stderr.count("\n") == 1


def _write_checkpoint(folder: Path) -> None:
    """A Hugging Face checkpoint whose tokenizer does not know the deferral token."""
    matrix = np.arange(12, dtype="<f4").reshape(3, 4)
    header = json.dumps(
        {"lm_head.weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, matrix.nbytes]}}
    ).encode()
    data = len(header).to_bytes(8, "little") + header + matrix.tobytes()
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"added_tokens": [], "model": {"vocab": {}}}')


# -- the command itself ---------------------------------------------------------------------------------------


def test_version_and_help() -> None:
    assert run("--version").stdout.startswith(f"colm {colm.__version__} ")
    shown = run("-h").stdout
    for verb in ("generate", "inspect", "export"):
        assert verb in shown
    assert run("nonsense").exit_code == 2


def test_help_imports_no_rich_and_no_llama_cpp() -> None:
    code = "import sys; from colm_cpp.cli import main\n"
    code += "try: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted({'rich', 'llama_cpp', 'gguf', 'huggingface_hub'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "[]"
