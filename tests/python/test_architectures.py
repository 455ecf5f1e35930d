"""Files of every architecture that llama.cpp knows load, or are refused; none ends the process."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import architecture_sweep as sweep
import architectures as arch
import gguf
import pytest
from architecture_keys import N_CTX
from gguf import GGMLQuantizationType as Q
from gguf import GGUFValueType as T

import colm_cpp as colm

needs_source = pytest.mark.skipif(
    "COLM_LLAMA_SOURCE" not in os.environ, reason="COLM_LLAMA_SOURCE names no llama.cpp source"
)
pytestmark = [
    needs_source,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="cases run in processes that are forked"),
]

SEED = 13
N_KEY_CASES = 7000
N_TENSOR_CASES = 2000


def value(number: int) -> arch.Value:
    return number, T.UINT32


def array(*numbers: int) -> arch.Value:
    return list(numbers), T.ARRAY, T.UINT32


NAMED: list[tuple[str, str, arch.Value | None]] = [
    ("gemma3", "rope.dimension_count", value(34)),  # a head has 32 values
    ("gemma3", "rope.dimension_count", value(2**31)),
    ("qwen2", "rope.dimension_count", value(64)),
    ("gemma4", "rope.dimension_count_swa", value(0)),
    ("olmo2", "attention.head_count", value(0)),
    ("olmo2", "attention.head_count", None),
    ("phimoe with experts", "attention.head_count", value(0)),
    ("qwen2vl", "rope.dimension_sections", None),
    ("qwen2vl", "rope.dimension_sections", array(0, 0, 0, 0)),
    ("qwen2vl", "rope.dimension_sections", array(1, 2**32 - 1, 0, 0)),
    ("qwen2vl", "rope.dimension_sections", array(8, 8)),
    ("qwen2vl", "rope.dimension_sections", ("x", T.STRING)),
    ("qwen35", "rope.dimension_sections", array(0, 0, 0, 0)),
    ("qwen35", "full_attention_interval", value(0)),
    ("rwkv6", "wkv.head_size", value(0)),
    ("afmoe with experts", "attention.sliding_window", None),
    ("modern-bert", "attention.head_count_kv", value(0)),
    ("deepseek4 with experts", "attention.output_group_count", value(0)),
    ("smollm3", "embedding_length_out", value(2**31)),
    ("wavtokenizer-dec", "attention.group_norm_groups", value(0)),
    ("wavtokenizer-dec", "attention.group_norm_groups", None),
]


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> dict[str, arch.Model]:
    names = {name for name, *_ in NAMED} | {"glm5-next with experts", "mamba", "jamba", "gpt2"}
    return arch.models(tmp_path_factory.mktemp("shapes"), sorted(names))


@pytest.mark.slow
def test_what_ended_the_process_is_refused(named: dict[str, arch.Model], tmp_path: Path) -> None:
    cases = [sweep.Case(name, f"{named[name].arch}.{key}", new) for name, key, new in NAMED]
    outcome = sweep.run(named, cases, tmp_path, n_parts=1)
    assert outcome.wrong == []
    assert [cases[i] for i in outcome.written] == []


@pytest.mark.slow
def test_weights_that_the_converter_leaves_in_16_and_8_bits(named: dict[str, arch.Model], tmp_path: Path) -> None:
    cases = [
        sweep.Case(name, tensor=tensor, kind=kind, shape=shape)
        for name, ends in (("mamba", "ssm_dt ssm_x"), ("jamba", "ssm_dt"), ("qwen35", "ssm_alpha ssm_beta"))
        for tensor, (shape, _) in named[name].tensors.items()
        if tensor.endswith(tuple(f".{end}.weight" for end in ends.split()))
        for kind in (Q.F16, Q.BF16, Q.Q8_0)
        if kind is not Q.Q8_0 or shape[0] % 32 == 0
    ]
    assert {(c.model, c.kind) for c in cases} >= {("mamba", Q.F16), ("jamba", Q.F16), ("qwen35", Q.Q8_0)}
    outcome = sweep.run(named, cases, tmp_path, n_parts=1)
    assert outcome.wrong == []
    assert [cases[i] for i in outcome.refused] == []


@pytest.mark.slow
def test_weights_that_llama_cpp_takes_in_float32_only(named: dict[str, arch.Model], tmp_path: Path) -> None:
    cases = [
        sweep.Case(name, tensor=tensor, kind=kind, shape=named[name].tensors[tensor][0])
        for name, tensor in (
            ("mamba", "blk.0.ssm_conv1d.weight"),
            ("mamba", "blk.0.ssm_a"),
            ("mamba", "blk.0.ssm_d"),
            ("qwen2", "blk.0.attn_q.bias"),
            ("gemma3", "output_norm.weight"),
        )
        for kind in (Q.F16, Q.BF16)
    ]
    outcome = sweep.run(named, cases, tmp_path, n_parts=1)
    assert outcome.wrong == []
    assert [cases[i] for i in outcome.written] == []


def test_attention_without_positions_has_no_rotated_dimensions(named: dict[str, arch.Model], tmp_path: Path) -> None:
    name = "glm5-next with experts"
    assert named[name].keys["glm5-next.rope.dimension_count"] == value(0)
    assert sweep.run(named, [sweep.Case(name)], tmp_path, n_parts=1).written == [0]


def test_context_beyond_the_table_of_positions(named: dict[str, arch.Model], tmp_path: Path) -> None:
    path = named["gpt2"].write(tmp_path / "gpt2.gguf")
    with colm.load(path, path, "entropy", n_ctx=512, n_threads=1) as pair:
        assert pair.n_ctx == 512
    with pytest.raises(colm.errors.OptionError, match=r"513.*512"):
        colm.load(path, path, "entropy", n_ctx=513, n_threads=1)


def test_experts_that_a_table_names_and_the_model_has_not(named: dict[str, arch.Model], tmp_path: Path) -> None:
    model = named["deepseek4 with experts"]
    table = "blk.0.ffn_gate_tid2eid.weight"
    keys = {**model.keys, "deepseek4.hash_layer_count": value(1)}
    tensors = {**model.tensors, table: ((2, len(arch.VOCAB)), Q.I32)}
    del tensors["blk.0.exp_probs_b.bias"]  # which only layers with a router have
    model = dataclasses.replace(model, keys=keys, tensors=tensors)
    path = model.write(tmp_path / "model.gguf")
    with colm.load(path, path, "entropy", n_ctx=N_CTX, n_threads=1) as pair:
        assert pair.generate("The", max_tokens=2).tokens
    data = path.read_bytes()
    at = int(next(t for t in gguf.GGUFReader(path).tensors if t.name == table).data_offset)
    path.write_bytes(data[:at] + (2).to_bytes(4, "little") + data[at + 4 :])  # of two experts
    with pytest.raises(colm.errors.LoadError, match=rf"{table}.*2.*from 0 to 1"):
        colm.load(path, path, "entropy", n_ctx=N_CTX, n_threads=1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, arch.Model]:
    return arch.models(tmp_path_factory.mktemp("shapes"), arch.all_names())


def say(outcome: sweep.Outcome, n: int) -> None:
    print(
        f"{n} cases: {len(outcome.written)} write, {len(outcome.refused)} are refused, {len(outcome.wrong)} are wrong"
    )


@pytest.mark.slow
def test_every_architecture(models: dict[str, arch.Model], tmp_path: Path) -> None:
    assert len({model.arch for model in models.values()}) >= 145
    cases = [sweep.Case(name) for name in models]
    outcome = sweep.run(models, cases, tmp_path)
    say(outcome, len(cases))
    assert outcome.wrong == []
    assert len(outcome.written) >= 130  # the others are encoders, or lack what these small files do not have


@pytest.mark.slow
@pytest.mark.parametrize(("make", "n"), [(sweep.key_cases, N_KEY_CASES), (sweep.tensor_cases, N_TENSOR_CASES)])
def test_damaged_files_of_every_architecture(models: dict[str, arch.Model], tmp_path: Path, make: Any, n: int) -> None:
    cases = make(models, n, SEED)
    outcome = sweep.run(models, cases, tmp_path)
    say(outcome, len(cases))
    assert outcome.wrong == []
    assert outcome.written
    assert outcome.refused
