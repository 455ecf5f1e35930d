"""Heads from NumPy arrays; damaged and missing files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LAST, LAYERS, MATRIX, N_EMBD, assert_theta, model, write_safetensors

from colm_cpp.errors import HeadError, LoadError
from colm_cpp.heads.export import export_head, read_theta

# --- damaged and missing ------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 7, 8, 40, -1])
def test_a_cut_off_safetensors_file_is_a_load_error(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, model())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(LoadError, match="damaged or cut off"):
        read_theta(tmp_path)


def safetensors_with(entry: Any) -> bytes:
    header = json.dumps({"theta": entry} if entry is not None else []).encode()
    return len(header).to_bytes(8, "little") + header + bytes(24)


@pytest.mark.parametrize(
    "content",
    [
        (2**63).to_bytes(8, "little") + bytes(100),
        (2).to_bytes(8, "little") + b"\xff\xff",
        safetensors_with(None),
        safetensors_with({"dtype": "F32", "shape": [6]}),
        safetensors_with({"dtype": "F32", "shape": [6], "data_offsets": [0, 24, 48]}),
        safetensors_with({"dtype": "F32", "shape": [-6], "data_offsets": [0, 24]}),
        safetensors_with({"dtype": "F32", "shape": ["6"], "data_offsets": [0, 24]}),
        safetensors_with({"dtype": "F32", "shape": [5], "data_offsets": [0, 24]}),
        safetensors_with({"dtype": "F32", "shape": [6], "data_offsets": [24, 0]}),
        safetensors_with({"dtype": "F32", "shape": [6], "data_offsets": [1, 25]}),
        safetensors_with({"dtype": ["F32"], "shape": [6], "data_offsets": [0, 24]}),
        safetensors_with(7),
    ],
    ids=range(12),
)
def test_a_damaged_safetensors_header_is_a_load_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "theta.safetensors"
    path.write_bytes(content)
    with pytest.raises(LoadError, match="damaged or cut off"):
        read_theta(path)


def test_the_damaged_files_above_differ_from_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "theta.safetensors"
    path.write_bytes(safetensors_with({"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}))
    assert_theta(path, np.zeros(6))


def test_missing_sources_are_load_errors(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="none does not exist"):
        read_theta(tmp_path / "none")
    with pytest.raises(LoadError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
        read_theta(str(tmp_path))
    (tmp_path / "head.gguf").touch()
    with pytest.raises(LoadError, match=r"the suffix '\.gguf', which is not known.*Head\.load"):
        read_theta(tmp_path / "head.gguf")


def test_a_folder_of_something_else_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "gperp_init.bin").touch()
    with pytest.raises(LoadError, match=r"gperp_init\.bin, the vector before training"):
        read_theta(tmp_path)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(LoadError, match="a LoRA adapter, so merge that"):
        read_theta(tmp_path)


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [">f8", "<f4", "f2", "i4"])
@pytest.mark.parametrize("shape", [(N_EMBD,), (1, N_EMBD)])
def test_npy(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    vector = np.arange(N_EMBD).astype(dtype)
    np.save(tmp_path / "theta.npy", vector.reshape(shape))
    assert_theta(tmp_path / "theta.npy", np.arange(N_EMBD))


@pytest.mark.parametrize(
    ("arrays", "bias"),
    [
        ({"theta": LAST}, 0.0),
        ({"weight": LAST[np.newaxis], "bias": np.array([0.25])}, 0.25),
        ({"theta": LAST, "b": np.array(-2.0)}, -2.0),
        ({"anything": LAST}, 0.0),
    ],
    ids=["theta", "weight and bias", "theta and b", "one array"],
)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_named_arrays(tmp_path: Path, suffix: str, arrays: dict[str, Any], bias: float) -> None:
    path = tmp_path / f"head{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        write_safetensors(path, {name: ("F32", array) for name, array in arrays.items()}, {"by": "me"})
    assert_theta(path, LAST, bias)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"theta": LAST, "weight": LAST}, "holds both theta and weight"),
        ({"theta": LAST, "bias": 0.0, "b": 0.0}, "holds both bias and b"),
        ({"theta": LAST, "scale": 2.0}, "holds 'scale' beside theta, which cannot be used"),
        ({"theta": LAST, "features": np.array(["entropy"])}, "holds 'features' beside theta"),
        ({"x": LAST, "y": LAST}, "holds 'x', 'y'; it must hold 'theta' or 'weight', or one array"),
        ({"bias": 0.0}, "holds 'bias'; it must hold"),
        ({"theta": MATRIX}, r"theta .* has shape \(11, 6\); it must be \[n_embd\]"),
        ({"theta": np.ones(0)}, r"theta .* has shape \(0,\)"),
        ({"theta": np.array(1.0)}, r"theta .* has shape \(\)"),
        ({"theta": LAST, "bias": np.zeros(2)}, "bias .* has 2 values; the bias must be one number"),
        ({"theta": np.array(["a", "b"])}, "theta .* has dtype <U1; use float32"),
        ({"theta": np.array([{}], dtype=object)}, "holds Python objects instead of numbers"),
        ({"lm_head.weight": MATRIX, "model.norm.weight": LAST}, "is part of a checkpoint; give its folder"),
        ({}, "holds no tensor; it must hold"),
    ],
)
def test_npz_with_other_content_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "head.npz", **arrays)
    with pytest.raises(HeadError, match=message):
        read_theta(tmp_path / "head.npz")


def test_values_that_float32_cannot_hold_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "theta.npy", np.array([1.0, 1e300]))
    with pytest.raises(HeadError, match=r"weights\[0\] has 1 value.* not finite"):
        export_head(tmp_path / "theta.npy")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("damage", ["garbage", "empty", "cut off", "a byte"])
def test_a_damaged_numpy_file_is_a_load_error(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"head{suffix}"
    if suffix == ".npy":
        np.save(path, LAST)
    else:
        np.savez(path, theta=LAST)
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(
        {
            "garbage": b"not numpy at all",
            "empty": b"",
            "cut off": good[:-30],
            "a byte": good[:middle] + bytes([good[middle] ^ 0xFF]) + good[middle + 1 :],
        }[damage]
    )
    with pytest.raises(LoadError, match="cannot be read as a numpy file"):
        read_theta(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_mlp(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"head{suffix}"
    if suffix == ".npz":
        np.savez(path, activation="silu", **LAYERS)
    else:
        write_safetensors(path, {k: ("F32", v) for k, v in LAYERS.items()}, {"activation": "silu"})
    head = export_head(path)
    assert (head.kind, head.activation, head.n_embd) == ("mlp", "silu", 6)
    for i in range(2):
        np.testing.assert_array_equal(head.weights[i], LAYERS[f"layers.{i}.weight"])
        np.testing.assert_array_equal(head.biases[i], LAYERS[f"layers.{i}.bias"])
    with pytest.raises(HeadError, match="holds an MLP, not one vector; use export_head"):
        read_theta(path)


def test_mlp_without_biases_or_activation(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", **{k: v for k, v in LAYERS.items() if k.endswith("weight")})
    head = export_head(tmp_path / "head.npz")
    assert head.activation == "relu"
    assert [b.tolist() for b in head.biases] == [[0, 0], [0]]


def test_mlp_layers_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    layers = {f"layers.{i}.weight": np.full((1, 1), i) for i in range(12)}  # "10" sorts before "2" as text
    np.savez(tmp_path / "head.npz", **layers)
    assert [float(w[0, 0]) for w in export_head(tmp_path / "head.npz").weights] == list(range(12))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"layers.1.weight": np.ones((1, 2))}, r"lacks layers\.0\.weight; number the layers from 0"),
        ({"layers.0.bias": np.ones(1)}, "lacks any weight"),
        ({**LAYERS, "layers.2.bias": np.ones(1)}, r"holds 'layers\.2\.bias' beside"),
        ({**LAYERS, "theta": LAST}, "holds 'theta' beside"),
        ({**LAYERS, "layers.1.weight": np.ones(2)}, r"layers\.1\.weight .* has shape \(2,\); it must be"),
        (
            {**LAYERS, "layers.1.weight": np.ones((1, 3))},
            r"weights\[1\] has shape \(1, 3\), but the 2 output",
        ),
        ({**LAYERS, "activation": "tanh"}, "activation is 'tanh'"),
        ({**LAYERS, "activation": 3}, "holds 'activation' beside"),
    ],
)
def test_a_malformed_mlp_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "head.npz", **arrays)
    with pytest.raises(HeadError, match=message):
        export_head(tmp_path / "head.npz")
