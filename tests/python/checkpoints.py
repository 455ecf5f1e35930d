"""Checkpoints for the tests of exporting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from colm_cpp.heads.export import read_theta

N_VOCAB, N_EMBD = 11, 6


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


LAYERS: dict[str, Any] = {
    "layers.0.weight": np.arange(12).reshape(2, 6) / 8,
    "layers.0.bias": np.array([0.5, -0.5]),
    "layers.1.weight": np.array([[1.0, -1.0]]),
    "layers.1.bias": np.array([0.25]),
}
