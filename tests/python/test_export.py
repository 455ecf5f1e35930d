"""colm_cpp.heads.export: heads out of checkpoint folders, arrays and what torch.save wrote."""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from colm_cpp.errors import HeadError, LoadError, MissingDependency, OptionError
from colm_cpp.heads.export import export_head, read_theta
from colm_cpp.heads.head import Head

N_VOCAB, N_EMBD = 11, 6
DEFER = "<|defer|>"
# Multiples of 1/8 below 16: exact in bfloat16's 8 bits as well.
MATRIX = (np.arange(N_VOCAB * N_EMBD).reshape(N_VOCAB, N_EMBD) / 8.0).astype(np.float32)
OTHER = -MATRIX
LAST = MATRIX[-1]

Tensors = dict[str, tuple[str, npt.NDArray[Any]]]


def write_safetensors(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file without the library; bfloat16 by cutting float32 in half."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, (code, array) in tensors.items():
        if code == "BF16":
            raw = (np.ascontiguousarray(array, dtype="<f4").view("<u4") >> 16).astype("<u2").tobytes()
        else:
            raw = array.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2", "I8": "i1"}[code]).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def model(**changes: tuple[str, npt.NDArray[Any]] | None) -> Tensors:
    """The tensors of a tiny model; `lm_head__weight=None` leaves one out."""
    tensors: Tensors = {
        "model.embed_tokens.weight": ("F32", OTHER),
        "model.norm.weight": ("F32", np.ones(N_EMBD)),
        "lm_head.weight": ("F32", MATRIX),
    }
    for key, value in changes.items():
        name = key.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return tensors


def assert_theta(source: Path, theta: npt.NDArray[Any], bias: float = 0.0, **options: Any) -> None:
    got, got_bias = read_theta(source, **options)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, theta)
    assert got_bias == bias


# --- safetensors checkpoints --------------------------------------------------------------------


@pytest.mark.parametrize("code", ["F64", "F32", "F16", "BF16"])
def test_single_file_checkpoint_gives_the_last_row(tmp_path: Path, code: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__weight=(code, MATRIX)), {"format": "pt"})
    assert_theta(tmp_path, LAST)


def test_bfloat16_keeps_sign_and_small_values(tmp_path: Path) -> None:
    row = np.array([-1.5, 2.0**-100, -0.0, 3.0e38, 0.0, 1.0], dtype=np.float32)
    row = (row.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    write_safetensors(tmp_path / "theta.safetensors", {"theta": ("BF16", row)})
    got, _ = read_theta(tmp_path / "theta.safetensors")
    assert got.tobytes() == row.tobytes()


def write_shards(folder: Path) -> None:
    write_safetensors(folder / "model-00001-of-00002.safetensors", {"model.embed_tokens.weight": ("F32", OTHER)})
    write_safetensors(folder / "model-00002-of-00002.safetensors", {"lm_head.weight": ("BF16", MATRIX)})
    weight_map = {
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
        "lm_head.weight": "model-00002-of-00002.safetensors",
    }
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def test_sharded_checkpoint(tmp_path: Path) -> None:
    write_shards(tmp_path)
    # A shard that is not needed may be away: one shard of a large model is enough.
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    assert_theta(tmp_path, LAST)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(LoadError, match=r"model-00002-of-00002\.safetensors does not exist"):
        read_theta(tmp_path)


def test_a_shard_that_lacks_what_the_index_says_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    write_safetensors(tmp_path / "model-00002-of-00002.safetensors", {"other": ("F32", MATRIX)})
    with pytest.raises(LoadError, match=r"lacks lm_head\.weight, which the index says"):
        read_theta(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "is damaged: not JSON"),
        ("[1]", "a JSON list, not an object"),
        ("{}", "has no weight_map"),
        ('{"weight_map": {"lm_head.weight": "../model.safetensors"}}', "is not a file name"),
        ('{"weight_map": {"lm_head.weight": "/etc/model.safetensors"}}', "is not a file name"),
        ('{"weight_map": {"lm_head.weight": 7}}', "is not a file name"),
    ],
)
def test_a_damaged_index_is_a_load_error(tmp_path: Path, index: str, message: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    folder = tmp_path / "inner"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(LoadError, match=message):
        read_theta(folder)


@pytest.mark.parametrize("config", [None, {"tie_word_embeddings": True}, {"model_type": "gemma"}])
@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "embed_tokens.weight",
        "transformer.wte.weight",
        "bert.word_embeddings.weight",
    ],
)
def test_tied_embeddings_give_the_input_matrix(tmp_path: Path, name: str, config: Any) -> None:
    tensors: Tensors = {name: ("F32", MATRIX), "model.norm.weight": ("F32", np.ones(N_EMBD))}
    write_safetensors(tmp_path / "model.safetensors", tensors)
    if config is not None:
        write_json(tmp_path / "config.json", config)
    assert_theta(tmp_path, LAST)


def test_untied_without_an_output_matrix_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__weight=None))
    write_json(tmp_path / "config.json", {"tie_word_embeddings": False})
    with pytest.raises(HeadError, match="tie_word_embeddings: false"):
        read_theta(tmp_path)


@pytest.mark.parametrize("name", ["embed_out.weight", "language_model.lm_head.weight"])
def test_other_names_of_the_output_matrix(tmp_path: Path, name: str) -> None:
    write_safetensors(
        tmp_path / "model.safetensors", {name: ("F32", MATRIX), "model.embed_tokens.weight": ("F32", OTHER)}
    )
    assert_theta(tmp_path, LAST)


def test_several_candidates_are_listed(tmp_path: Path) -> None:
    tensors: Tensors = {
        "encoder.embed_tokens.weight": ("F32", MATRIX),
        "decoder.embed_tokens.weight": ("F32", MATRIX),
    }
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(HeadError, match=r"decoder\.embed_tokens\.weight, encoder\.embed_tokens\.weight"):
        read_theta(tmp_path)


def test_no_candidate_is_refused(tmp_path: Path) -> None:
    # "not_lm_head.weight" ends alike, but is another tensor.
    write_safetensors(tmp_path / "model.safetensors", {"not_lm_head.weight": ("F32", MATRIX)})
    with pytest.raises(HeadError, match=r"no tensor named like any of lm_head\.weight"):
        read_theta(tmp_path)


def test_the_output_bias_is_taken_along(tmp_path: Path) -> None:
    bias = np.arange(N_VOCAB) / 4
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__bias=("BF16", bias)))
    assert_theta(tmp_path, LAST, 2.5)
    assert_theta(tmp_path, MATRIX[2], 0.5, row=2)


def test_the_output_bias_of_tied_embeddings_is_taken_along(tmp_path: Path) -> None:
    tensors = model(lm_head__weight=None, lm_head__bias=("F32", np.arange(N_VOCAB)))
    write_safetensors(tmp_path / "model.safetensors", tensors)
    assert_theta(tmp_path, OTHER[-1], N_VOCAB - 1.0)


def test_the_bias_is_that_of_the_matrix(tmp_path: Path) -> None:
    tensors: Tensors = {"embed_out.weight": ("F32", MATRIX), "embed_out.bias": ("F32", np.arange(N_VOCAB))}
    write_safetensors(tmp_path / "model.safetensors", tensors | {"lm_head.bias": ("F32", np.zeros(N_VOCAB))})
    assert_theta(tmp_path, LAST, N_VOCAB - 1.0)


def test_several_output_biases_of_tied_embeddings_are_listed(tmp_path: Path) -> None:
    bias = ("F32", np.zeros(N_VOCAB))
    tensors = model(lm_head__weight=None, lm_head__bias=bias, cls__lm_head__bias=bias)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(HeadError, match=r"several output biases: cls\.lm_head\.bias, lm_head\.bias"):
        read_theta(tmp_path)


def test_an_output_bias_of_another_length_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__bias=("F32", np.ones(N_VOCAB - 1))))
    with pytest.raises(HeadError, match=r"lm_head\.bias .* has shape \(10,\), but .* 11 rows"):
        read_theta(tmp_path)


def test_an_output_matrix_that_is_none_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__weight=("F32", np.ones(4))))
    with pytest.raises(HeadError, match=r"has shape \(4,\); an output matrix is"):
        read_theta(tmp_path)


def test_a_quantised_output_matrix_is_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__weight=("I8", np.ones((4, 4)))))
    with pytest.raises(HeadError, match=r"lm_head\.weight .* has dtype I8; save it as one of"):
        read_theta(tmp_path)


# --- which row ----------------------------------------------------------------------------------

ADDED: dict[str, Callable[[int], Any]] = {
    "added_tokens.json": lambda i: {"<pad>": 3, DEFER: i},
    "tokenizer_config.json": lambda i: {
        "added_tokens_decoder": {"3": {"content": "<pad>"}, str(i): {"content": DEFER, "special": True}}
    },
    "tokenizer.json": lambda i: {"added_tokens": [{"id": 3, "content": "<pad>"}, {"id": i, "content": DEFER}]},
}


@pytest.mark.parametrize("file", ADDED)
@pytest.mark.filterwarnings("error")
def test_the_tokenizer_says_which_row(tmp_path: Path, file: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    write_json(tmp_path / file, ADDED[file](7))
    assert_theta(tmp_path, MATRIX[7])
    assert_theta(tmp_path, MATRIX[N_VOCAB - 1], row=N_VOCAB - 1)  # what the caller says goes first
    assert_theta(tmp_path, MATRIX[N_VOCAB - 2], row=-2)


@pytest.mark.parametrize("file", ADDED)
def test_an_id_beyond_the_matrix_is_refused(tmp_path: Path, file: str) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    write_json(tmp_path / file, ADDED[file](N_VOCAB))
    with pytest.raises(HeadError, match=rf"{file} \(id 11 for .*which has only 11"):
        read_theta(tmp_path)


@pytest.mark.parametrize("token_id", [-1, 2.5, True, None, "seven"])
def test_an_id_that_is_none_is_refused(tmp_path: Path, token_id: Any) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    write_json(tmp_path / "added_tokens.json", {DEFER: token_id})
    with pytest.raises(HeadError, match=r"gives <\|defer\|> the id .*; it must be 0 or more"):
        read_theta(tmp_path)


def test_two_different_ids_are_refused(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    write_json(tmp_path / "added_tokens.json", ADDED["added_tokens.json"](7))
    write_json(tmp_path / "tokenizer.json", ADDED["tokenizer.json"](8))
    with pytest.raises(HeadError, match=r"two ids, 7 in added_tokens\.json and 8 in tokenizer\.json"):
        read_theta(tmp_path)
    assert_theta(tmp_path, MATRIX[8], row=8)


def test_a_damaged_tokenizer_file_is_a_load_error(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LoadError, match=r"tokenizer\.json is damaged"):
        read_theta(tmp_path)


def test_a_tokenizer_without_the_token_gives_a_warning(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    # Fields of another type than expected are not about the token.
    write_json(tmp_path / "tokenizer.json", {"added_tokens": [3, {"id": 1}], "added_tokens_decoder": {"1": 2}})
    with pytest.warns(UserWarning, match=r"has no <\|defer\|>; taking the last row of lm_head") as record:
        got, _ = read_theta(tmp_path)
    np.testing.assert_array_equal(got, LAST)
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_theta(tmp_path, row=4)


@pytest.mark.parametrize("row", [N_VOCAB, -N_VOCAB - 1])
def test_a_row_beyond_the_matrix_is_refused(tmp_path: Path, row: int) -> None:
    write_safetensors(tmp_path / "model.safetensors", model())
    with pytest.raises(HeadError, match=rf"row={row} asks for a row of lm_head\.weight .* only 11"):
        read_theta(tmp_path, row=row)


def test_a_row_is_a_whole_number_and_for_folders_only(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "theta.safetensors", {"theta": ("F32", LAST)})
    with pytest.raises(OptionError, match="row=2 is for a checkpoint folder"):
        read_theta(tmp_path / "theta.safetensors", row=2)
    with pytest.raises(OptionError, match=r"row is 1\.5"):
        read_theta(tmp_path, row=1.5)  # type: ignore[arg-type]


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
        ({"theta": LAST, "scale": 2.0}, "holds 'scale' beside theta, of which no use can be made"),
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


LAYERS: dict[str, Any] = {
    "layers.0.weight": np.arange(12).reshape(2, 6) / 8,
    "layers.0.bias": np.array([0.5, -0.5]),
    "layers.1.weight": np.array([[1.0, -1.0]]),
    "layers.1.bias": np.array([0.25]),
}


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


# --- export_head --------------------------------------------------------------------------------


def test_export_head_sets_what_it_is_told(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__bias=("F32", np.arange(N_VOCAB) / 8)))
    head = export_head(
        tmp_path,
        base_name="b",
        assistant_name="a",
        default_threshold=0.25,
        vocab_fingerprint="00ff" * 4,
        row=4,
        name="n",
    )
    assert isinstance(head, Head)
    assert (head.kind, head.n_embd, head.features, head.top_k) == ("linear", N_EMBD, (), 0)
    assert (head.name, head.base_name, head.assistant_name) == ("n", "b", "a")
    assert (head.default_threshold, head.vocab_fingerprint) == (0.25, "00ff" * 4)
    np.testing.assert_array_equal(head.weights[0], MATRIX[4:5])
    hidden = np.arange(N_EMBD) / 2
    assert head.defer_logits([hidden])[0] == pytest.approx(float(MATRIX[4] @ hidden) + 0.5, rel=1e-12)
    with pytest.raises(HeadError, match="default_threshold is 2"):
        export_head(tmp_path, default_threshold=2)


def test_an_exported_head_is_loaded_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "head.npz", activation="gelu", **LAYERS)
    head = export_head(tmp_path / "head.npz", name="n")
    head.save(tmp_path / "head.gguf")
    again = Head.load(tmp_path / "head.gguf")
    inputs = np.linspace(-2, 2, 12).reshape(2, 6)
    np.testing.assert_array_equal(again.defer_logits(inputs), head.defer_logits(inputs))
    assert again.name == "n"


# --- torch --------------------------------------------------------------------------------------


def test_without_torch_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "pytorch_model.bin").touch()
    for source in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(MissingDependency, match=r"needs PyTorch.*pip install torch"):
            read_theta(source)


@pytest.mark.parametrize("package", ["safetensors", "ml_dtypes"])
def test_without_safetensors_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    write_safetensors(tmp_path / "model.safetensors", model())
    for source in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(MissingDependency, match=rf"needs {package}.*pip install .*{package}"):
            read_theta(source)
    np.save(tmp_path / "theta.npy", LAST)  # which needs neither
    assert_theta(tmp_path / "theta.npy", LAST)


def test_safetensors_are_read_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "gguf"):
        monkeypatch.setitem(sys.modules, name, None)
    write_safetensors(tmp_path / "model.safetensors", model(lm_head__weight=("BF16", MATRIX)))
    (tmp_path / "pytorch_model.bin").touch()  # safetensors go first
    assert_theta(tmp_path, LAST)


def test_a_torch_that_loads_unsafely_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    (tmp_path / "gperp_init.bin").touch()
    with pytest.raises(MissingDependency, match=r"needs PyTorch 2\.6 or newer, not 2\.5\.1.*pip install -U torch"):
        read_theta(tmp_path / "gperp_init.bin")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_bin_checkpoint(tmp_path: Path, dtype: str, zipped: bool) -> None:
    torch = pytest.importorskip("torch")
    state = {
        "model.embed_tokens.weight": torch.from_numpy(OTHER),
        "lm_head.weight": torch.from_numpy(MATRIX).to(getattr(torch, dtype)),
        "lm_head.bias": torch.arange(N_VOCAB).to(getattr(torch, dtype)) / 8,
    }
    torch.save(state, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    assert_theta(tmp_path, LAST, 1.25)
    assert_theta(tmp_path, MATRIX[3], 0.375, row=3)


def test_bin_checkpoint_with_tied_embeddings(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"transformer.wte.weight": torch.from_numpy(MATRIX)}, tmp_path / "pytorch_model.bin")
    assert_theta(tmp_path, LAST)


def test_sharded_bin_checkpoint(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    names = {
        "model.embed_tokens.weight": "pytorch_model-00001-of-00002.bin",
        "lm_head.weight": "pytorch_model-00002-of-00002.bin",
    }
    write_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": names})
    torch.save({"model.embed_tokens.weight": torch.from_numpy(OTHER)}, tmp_path / names["model.embed_tokens.weight"])
    torch.save({"lm_head.weight": torch.from_numpy(MATRIX)}, tmp_path / names["lm_head.weight"])
    assert_theta(tmp_path, LAST)


@pytest.mark.parametrize("shape", [(N_EMBD,), (1, N_EMBD)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_gperp_init(tmp_path: Path, shape: tuple[int, ...], wrapped: bool) -> None:
    torch = pytest.importorskip("torch")
    # As the published code leaves it: a parameter that still asks for its gradient.
    gperp = torch.from_numpy(LAST.reshape(shape).copy()).to(torch.bfloat16).requires_grad_()
    torch.save({"gperp": gperp} if wrapped else gperp, tmp_path / "gperp_init.bin")
    assert_theta(tmp_path / "gperp_init.bin", LAST)


def test_state_dicts_of_torch_modules(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    linear = torch.nn.Linear(N_EMBD, 1)
    torch.save(linear.state_dict(), tmp_path / "linear.pt")
    assert_theta(tmp_path / "linear.pt", linear.weight.detach().numpy()[0], linear.bias.item())
    torch.save({"theta": torch.ones(3), "bias": 0.5}, tmp_path / "number.pt")
    assert_theta(tmp_path / "number.pt", np.ones(3), 0.5)
    torch.save({k: torch.from_numpy(v) for k, v in LAYERS.items()} | {"activation": "gelu"}, tmp_path / "mlp.pth")
    head = export_head(tmp_path / "mlp.pth")
    assert (head.kind, head.activation, len(head.weights)) == ("mlp", "gelu", 2)
    np.testing.assert_array_equal(head.weights[0], LAYERS["layers.0.weight"])


class Trap:
    """Runs code when it is unpickled, and so tells whether it was."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["zip", "before torch 1.6", "pickle"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    torch = pytest.importorskip("torch")
    path, sprung = tmp_path / "gperp_init.bin", tmp_path / "sprung"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung), protocol=2))
    else:
        torch.save({"theta": Trap(sprung)}, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(HeadError, match=r"holds more than tensors .* loading that could run code") as caught:
        read_theta(path)
    assert "weights_only=False" not in str(caught.value)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "the content of .* is list; it must be a dense floating-point tensor"),
        ({"theta": None}, "theta of .* is NoneType"),
        ({"theta": "text"}, "theta of .* is str"),
        ({"step": 3, "theta": [0.0]}, "holds 'step' beside theta"),
        ({}, "holds no tensor"),
    ],
)
def test_bin_with_other_content_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch = pytest.importorskip("torch")
    torch.save(content, tmp_path / "head.bin")
    with pytest.raises(HeadError, match=message):
        read_theta(tmp_path / "head.bin")


def test_integer_tensors_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.ones(4, dtype=torch.int8), tmp_path / "head.bin")
    with pytest.raises(HeadError, match=r"is torch\.int8; it must be a dense floating-point tensor"):
        read_theta(tmp_path / "head.bin")
    torch.save(torch.ones(4).to_sparse(), tmp_path / "head.bin")
    with pytest.raises(HeadError, match="it must be a dense floating-point tensor"):
        read_theta(tmp_path / "head.bin")


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut off", "cut off before torch 1.6"])
def test_a_damaged_bin_is_a_load_error(tmp_path: Path, damage: str) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / "gperp_init.bin"
    torch.save(torch.from_numpy(LAST), path, _use_new_zipfile_serialization="before" not in damage)
    good = path.read_bytes()
    path.write_bytes({"garbage": b"hello there", "empty": b""}.get(damage, good[:-6]))
    with pytest.raises(LoadError, match=r"cannot be read by torch: .*; it is damaged"):
        read_theta(path)
