"""``benchmarks/made_up.py`` and ``benchmarks/shapes.py``: files with a model's shapes, and measurements with them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import pytest
from conftest import BASE, TinyModels
from programs import load_program

from colm_cpp.tune.quantizing import file_type, quantize

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
made_up: Any = load_program(BENCHMARKS / "made_up.py")

SMALL = {
    "tied": made_up.Shape(256, 9, 4, 2, 512, True),
    "with an output": made_up.Shape(256, 9, 4, 2, 512, False),
    "narrow, as the 0.5B": made_up.Shape(128, 9, 4, 2, 512, True),
}


def types_of(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_types_are_those_of_llama_cpps_quantiser(name: str, tiny_model: TinyModels, tmp_path: Path) -> None:
    ours = made_up.made_up(tmp_path / "ours.gguf", tiny_model(**BASE), SMALL[name])
    quantize(ours, tmp_path / "theirs.gguf", file_type("q4_k_m"))
    assert types_of(ours) == types_of(tmp_path / "theirs.gguf")
    assert {"Q4_K", "Q6_K"} <= set(types_of(ours).values())


def test_weights_are_of_a_models_size(tiny_model: TinyModels, tmp_path: Path) -> None:
    path = made_up.made_up(tmp_path / "ours.gguf", tiny_model(**BASE), SMALL["narrow, as the 0.5B"])
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.tensor_type.name != "F32":
            weights = gguf.dequantize(tensor.data, tensor.tensor_type)
            scale = weights.shape[-1] ** -0.5
            assert weights.std() == pytest.approx(scale, rel=0.2), tensor.tensor_type.name
            assert abs(weights.mean()) < 0.2 * scale, tensor.tensor_type.name


def test_a_vocabulary_is_filled_up(tiny_model: TinyModels, tmp_path: Path) -> None:
    path = made_up.made_up(tmp_path / "ours.gguf", tiny_model(**BASE), SMALL["tied"], n_vocab=2000)
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(set(tokens)) == len(fields["tokenizer.ggml.token_type"].contents()) == 2000


@pytest.mark.slow
def test_what_is_measured_is_not_measured_again(tiny_model: TinyModels, tmp_path: Path) -> None:
    """Twice the same command: the second prints the same table without a measurement."""
    command = [
        sys.executable,
        "shapes.py",
        str(tiny_model(**BASE)),
        "--pairs",
        "tiny/tiny",
        "--folder",
        str(tmp_path),
        "--tokens",
        "6",
    ]
    command += ["--tokens", "6", "--rounds", "1", "--rates", "0.4", "--n-threads", "1"]
    told = [
        subprocess.run(command, cwd=BENCHMARKS, check=True, capture_output=True, text=True, timeout=300).stdout
        for _ in range(2)
    ]
    lines = [json.loads(line) for line in (tmp_path / "measured.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 1 + 2 * 5  # steps; of each agreement two models alone and three ways of both
    assert told[0].count("tokens/s, ") - told[1].count("tokens/s, ") == 10
    tables = [text.partition("\ntiny/tiny: the base alone")[2] for text in told]
    assert tables[0] == tables[1] != ""
    assert (tmp_path / "shapes.png").read_bytes().startswith(b"\x89PNG")
    assert [line["accepted"] / line["drafted"] for line in lines if line.get("lookahead") == 4] == [1.0]
