"""Reading the deferral vector out of a Hugging Face checkpoint folder.

The published Co-LLM code adds the token ``<|defer|>`` to the base's vocabulary: the deferral vector
is that token's row, the last, of the output matrix.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._shown import shortened, shown
from ..errors import HeadError, LoadError
from ._tensorfiles import TensorFile, open_tensors, read_json
from .checks import MAX_EMBD

DEFER_TOKEN = "<|defer|>"
# Names of the output matrix (GPT-NeoX calls it embed_out), and of the input matrix that stands in
# for it in a model whose embeddings are tied. A prefix may go before each, with a dot.
OUTPUT_MATRICES = ("lm_head.weight", "embed_out.weight")
INPUT_MATRICES = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
# In the order in which transformers looks for them.
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER_FILES = ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")


def read_deferral_row(folder: Path, row: int = -1) -> tuple[npt.NDArray[np.float32], float]:
    """Read the deferral vector and its bias from a checkpoint folder.

    Args:
        folder: holds ``model.safetensors`` or ``pytorch_model.bin``, or shards of either with
            their ``.index.json``.
        row: row of the output matrix. -1, the default, means that of ``<|defer|>`` if the folder's
            tokenizer files know it, else the last one.

    Returns:
        theta ``[n_embd]`` and the bias (0 where the model has none).

    Raises:
        LoadError: a file is missing or damaged.
        HeadError: the folder has no matrix, or no such row, to take the vector from.
        MissingDependency: torch is needed and not installed.
    """
    checkpoint = Checkpoint(folder)
    matrix, bias_name = _find_matrix(checkpoint)
    shape = checkpoint.shape(matrix)
    if len(shape) != 2 or 0 in shape or shape[1] > MAX_EMBD:
        raise HeadError(
            f"{matrix} in {folder} has shape {shown(shape)}; an output matrix is [n_vocab, n_embd], with n_embd at "
            f"most {MAX_EMBD}"
        )
    index = _pick_row(folder, matrix, shape[0], row)
    theta = checkpoint.read(matrix, index)
    bias = 0.0
    if bias_name is not None:
        if checkpoint.shape(bias_name) != shape[:1]:
            raise HeadError(
                f"{bias_name} in {folder} has shape {shown(checkpoint.shape(bias_name))}, but {matrix} "
                f"has {shape[0]} rows; the two must agree"
            )
        bias = float(checkpoint.read(bias_name, index))
    return theta, bias


class Checkpoint:
    """The tensors of a checkpoint folder, whichever files they lie in; files are opened on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[Path, TensorFile] = {}
        self._where: dict[str, Path] = {}
        for name in _WEIGHT_FILES:
            single, index = folder / name, folder / f"{name}.index.json"
            if single.is_file():
                self._where = dict.fromkeys(self._file(single).names(), single)
                return
            if index.is_file():
                self._where = _read_index(index)
                return
        hint = ""
        if (folder / "adapter_config.json").is_file():
            hint = "; it holds a LoRA adapter, so merge that into the base and save the whole model first"
        elif (folder / "gperp_init.bin").is_file():
            hint = "; it holds gperp_init.bin, the vector before training: give that file if you want it"
        raise LoadError(
            f"{folder} holds none of {', '.join(_WEIGHT_FILES)}, nor an .index.json for one of them; "
            f"give the folder that save_pretrained wrote{hint}"
        )

    def names(self) -> Iterable[str]:
        return self._where.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._holder(name).shape(name)

    def read(self, name: str, row: int) -> npt.NDArray[np.float32]:
        return self._holder(name).read(name, row)

    def _holder(self, name: str) -> TensorFile:
        holder = self._file(self._where[name])
        if name not in holder.names():
            raise LoadError(f"{holder.path} lacks {name}, which the index says it holds; download it again")
        return holder

    def _file(self, path: Path) -> TensorFile:
        if path not in self._open:
            self._open[path] = open_tensors(path)
        return self._open[path]


def _read_index(index: Path) -> dict[str, Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise LoadError(f"{index} is damaged: it has no weight_map; download it again")
    for name, file in weight_map.items():
        # An index may come from anywhere; it must not lead out of its folder.
        if not isinstance(file, str) or file != Path(file).name:
            raise LoadError(f"{index} is damaged: {shown(name)} lies in {shown(file)}, which is not a file name")
    return {name: index.parent / file for name, file in weight_map.items()}


def _find_matrix(checkpoint: Checkpoint) -> tuple[str, str | None]:
    """Name the output matrix, or the tied input matrix, and the output bias where there is one."""
    outputs = _matching(checkpoint.names(), OUTPUT_MATRICES)
    candidates = outputs
    if not outputs:
        if _says_untied(checkpoint.folder):
            raise HeadError(
                f"{checkpoint.folder} has no lm_head.weight, yet its config.json says tie_word_embeddings: "
                "false; the output matrix is missing, so save the model again"
            )
        candidates = _matching(checkpoint.names(), INPUT_MATRICES)
    if not candidates:
        wanted = ", ".join(OUTPUT_MATRICES + INPUT_MATRICES)
        raise HeadError(
            f"{checkpoint.folder} has no tensor named like any of {wanted}; save the deferral vector alone "
            "(.npy or .npz) and export that"
        )
    if len(candidates) > 1:
        raise HeadError(
            f"{checkpoint.folder} has several matrices that could hold the deferral vector: "
            f"{shortened(', '.join(candidates))}; save the wanted row alone (.npy or .npz) and export that"
        )
    if outputs:
        own = outputs[0].removesuffix("weight") + "bias"
        biases = [own] if own in checkpoint.names() else []
    else:
        biases = _matching(checkpoint.names(), ("lm_head.bias",))
    if len(biases) > 1:
        raise HeadError(f"{checkpoint.folder} has several output biases: {shortened(', '.join(biases))}; keep one")
    return candidates[0], biases[0] if biases else None


def _matching(names: Iterable[str], endings: tuple[str, ...]) -> list[str]:
    return sorted(name for name in names if any(name == end or name.endswith("." + end) for end in endings))


def _says_untied(folder: Path) -> bool:
    # Only an explicit false counts: save_pretrained leaves out what is the default.
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("tie_word_embeddings") is False


def _pick_row(folder: Path, matrix: str, n_rows: int, row: int) -> int:
    source = f"row={shown(row)}"
    if row == -1:
        found = find_defer_id(folder)
        if found is not None:
            row, file = found
            source = f"{file} (id {row} for {DEFER_TOKEN})"
        elif any((folder / name).is_file() for name in _TOKENIZER_FILES):
            warnings.warn(
                f"the tokenizer in {folder} has no {DEFER_TOKEN}; taking the last row of {matrix}. If this "
                "checkpoint was not trained to defer, the head that results means nothing",
                stacklevel=5,  # the caller of read_theta or export_head
            )
    if not -n_rows <= row < n_rows:
        raise HeadError(
            f"{source} asks for a row of {matrix} in {folder}, which has only {n_rows}; "
            "the matrix and the tokenizer must be of one model"
        )
    return row % n_rows


def find_defer_id(folder: Path) -> tuple[int, str] | None:
    """Look up the id of ``<|defer|>`` in a folder's tokenizer files.

    Returns:
        The id and the name of the file that gives it, or None if none does.

    Raises:
        LoadError: a tokenizer file is damaged.
        HeadError: two entries give different ids, or one that is not a number of 0 or more.
    """
    found: tuple[int, str] | None = None
    for name in _TOKENIZER_FILES:
        if not (folder / name).is_file():
            continue
        for given in _ids_in(read_json(folder / name)):
            short = isinstance(given, str) and len(given) <= 10 and given.isdecimal()
            token_id = int(given) if isinstance(given, str) and short else given
            if type(token_id) is not int or not 0 <= token_id < 2**31:
                raise HeadError(f"{folder / name} gives {DEFER_TOKEN} the id {shown(given)}; it must be 0 or more")
            if found is not None and found[0] != token_id:
                raise HeadError(
                    f"{folder} gives {DEFER_TOKEN} two ids, {found[0]} in {found[1]} and {token_id} in {name}"
                    "; remove the wrong file, or say which row to take"
                )
            found = found or (token_id, name)
    return found


def _ids_in(content: dict[str, Any]) -> Iterator[object]:
    """Give the ids of the token in any of the three layouts, which share no key."""
    if DEFER_TOKEN in content:  # added_tokens.json: {text: id}
        yield content[DEFER_TOKEN]
    decoder = content.get("added_tokens_decoder")  # tokenizer_config.json: {id: {"content": text}}
    for key, item in decoder.items() if isinstance(decoder, dict) else ():
        if isinstance(item, dict) and item.get("content") == DEFER_TOKEN:
            yield key
    added = content.get("added_tokens")  # tokenizer.json: [{"id": id, "content": text}]
    for item in added if isinstance(added, list) else ():
        if isinstance(item, dict) and item.get("content") == DEFER_TOKEN:
            yield item.get("id")
