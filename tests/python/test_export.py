"""Heads from safetensors checkpoints: which matrix, which row."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import (
    LAST,
    MATRIX,
    N_EMBD,
    N_VOCAB,
    OTHER,
    Tensors,
    assert_theta,
    model,
    write_json,
    write_safetensors,
)

from colm_cpp.errors import HeadError, LoadError, OptionError
from colm_cpp.heads.export import read_theta

DEFER = "<|defer|>"


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
