"""A tiny random model of every architecture that llama.cpp knows, for tests that sweep over all of them.

llama.cpp itself says which tensors an architecture has: it is given the hyperparameters and asks for the values of
each tensor that it has made from them. Names of architectures and keys come from its source, whose folder the
environment variable COLM_LLAMA_SOURCE names.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from architecture_keys import EXPERTS, VOCAB, Value, _u32, hyperparameters, names
from gguf import GGUFValueType as T


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


_FORMAT = {
    T.UINT8: "B", T.INT8: "b", T.UINT16: "H", T.INT16: "h", T.UINT32: "I", T.INT32: "i", T.FLOAT32: "f", T.BOOL: "?",
    T.UINT64: "Q", T.INT64: "q", T.FLOAT64: "d",
}  # fmt: skip


def _pack(value: Any, kind: T, element: T | None = None) -> bytes:
    if kind is T.STRING:
        return _string(value)
    if kind is T.ARRAY:
        assert element is not None
        return struct.pack("<IQ", element, len(value)) + b"".join(_pack(v, element) for v in value)
    return struct.pack("<" + _FORMAT[kind], value)


def _pairs(values: Mapping[str, Value]) -> bytes:
    return b"".join(_string(key) + struct.pack("<I", value[1]) + _pack(*value) for key, value in values.items())


@cache
def _tokenizer() -> dict[str, Value]:
    tokens = VOCAB.tokens
    return {
        "tokenizer.ggml.model": ("gpt2", T.STRING),
        "tokenizer.ggml.pre": (VOCAB.pre, T.STRING),
        "tokenizer.ggml.tokens": ([t.text for t in tokens], T.ARRAY, T.STRING),
        "tokenizer.ggml.token_type": ([t.type for t in tokens], T.ARRAY, T.INT32),
        "tokenizer.ggml.merges": ([f"{a} {b}" for a, b in VOCAB.merges], T.ARRAY, T.STRING),
        "tokenizer.ggml.bos_token_id": _u32(VOCAB.id_of("<|endoftext|>")),
        "tokenizer.ggml.eos_token_id": _u32(VOCAB.id_of("<|im_end|>")),
        "tokenizer.ggml.add_bos_token": (False, T.BOOL),
        "tokenizer.ggml.token_type_count": _u32(2),
    }


@cache
def _tokenizer_bytes() -> bytes:
    return _pairs(_tokenizer())


@dataclass
class Model:
    """The hyperparameters and tensors of a file, to be written with changes."""

    arch: str
    keys: dict[str, Value]
    tensors: dict[str, tuple[tuple[int, ...], gguf.GGMLQuantizationType]]
    """Shapes in GGUF's order, the fastest dimension first."""

    def write(self, path: Path, changes: Mapping[str, Value | None] | None = None) -> Path:
        """Write the file with other values of some keys; None leaves a key out."""
        keys = {k: v for k, v in {**self.keys, **(changes or {})}.items() if v is not None}
        head = _pairs({"general.architecture": (self.arch, T.STRING), **keys}) + _tokenizer_bytes()
        infos, blobs, offset = [], [], 0
        for name, (shape, kind) in self.tensors.items():
            info = _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
            infos.append(info + struct.pack("<IQ", kind, offset))
            blob = _values(name, shape, kind)
            blob += bytes(-len(blob) % 32)
            blobs.append(blob)
            offset += len(blob)
        n_keys = 1 + len(keys) + len(_tokenizer())
        meta = struct.pack("<4sIQQ", b"GGUF", 3, len(infos), n_keys) + head + b"".join(infos)
        path.write_bytes(meta + bytes(-len(meta) % 32) + b"".join(blobs))
        return path


@cache
def _values(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> bytes:
    rng = np.random.default_rng([0, *name.encode()])
    values = rng.standard_normal(shape[::-1], dtype=np.float32) * np.float32(0.1)
    if ".ssm_a" in name:
        values = -np.abs(values)
    if kind == gguf.GGMLQuantizationType.I32:
        return np.zeros(shape[::-1], dtype=np.int32).tobytes()
    return gguf.quantize(values, kind).tobytes() if kind != gguf.GGMLQuantizationType.F32 else values.tobytes()


def _tensors(folder: Path, arch: str, keys: Mapping[str, Value]) -> dict[str, tuple[tuple[int, ...], int]]:
    """Asks llama.cpp for the tensors. It may end the process."""
    path = folder / f"{arch}.keys"
    ggml = ctypes.CDLL(str(Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))
    for name, result in (
        ("ggml_get_name", ctypes.c_char_p), ("gguf_find_tensor", ctypes.c_int64),
        ("gguf_get_n_tensors", ctypes.c_int64),
        ("gguf_init_from_file", ctypes.c_void_p), ("gguf_init_empty", ctypes.c_void_p),
        ("gguf_get_tensor_name", ctypes.c_char_p), ("gguf_get_tensor_ne", ctypes.POINTER(ctypes.c_int64)),
    ):  # fmt: skip
        getattr(ggml, name).restype = result
    Model(arch, dict(keys), {}).write(path)

    class Params(ctypes.Structure):
        _fields_ = [("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p)]

    metadata = ctypes.c_void_p(ggml.gguf_init_from_file(str(path).encode(), Params(True, None)))
    path.unlink()
    asked = ctypes.c_void_p(ggml.gguf_init_empty())

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    def on_tensor(tensor: int, _: Any) -> None:
        # Some are asked for again in every layer.
        if ggml.gguf_find_tensor(asked, ggml.ggml_get_name(ctypes.c_void_p(tensor))) < 0:
            ggml.gguf_add_tensor(asked, ctypes.c_void_p(tensor))

    load = llama_cpp.llama_cpp._lib.llama_model_init_from_user
    load.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, llama_cpp.llama_model_params]
    load.restype = ctypes.c_void_p
    if not load(metadata, ctypes.cast(on_tensor, ctypes.c_void_p), None, llama_cpp.llama_model_default_params()):
        raise ValueError(f"llama.cpp makes no model of {arch}")
    tensors = {}
    for i in range(ggml.gguf_get_n_tensors(asked)):
        index = ctypes.c_int64(i)
        shape = list(ggml.gguf_get_tensor_ne(asked, index)[:4])
        while len(shape) > 1 and shape[-1] == 1:
            shape.pop()
        tensors[ggml.gguf_get_tensor_name(asked, index).decode()] = (
            tuple(shape),
            int(ggml.gguf_get_tensor_type(asked, index)),
        )
    return tensors


def _write_tensors(folder: Path, names: Iterable[str]) -> None:
    """For each model a file of its tensors, or of what llama.cpp says against it."""
    for name in names:
        process = os.fork()
        if process == 0:
            os.dup2(os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT), 2)
            arch = name.removesuffix(EXPERTS)
            tensors = _tensors(folder, arch, hyperparameters(arch, moe=name != arch))
            (folder / f"{name}.json").write_text(json.dumps(tensors))
            os._exit(0)
        os.waitpid(process, 0)


def all_names() -> list[str]:
    """Every architecture, without experts and with them."""
    return [name + experts for name in names() for experts in ("", EXPERTS)]


def models(folder: Path, names: Iterable[str]) -> dict[str, Model]:
    """Models by name, but for those that llama.cpp does not make, and those that have the same without experts.

    A name is an architecture's, or that with `EXPERTS` behind it.
    """
    names = list(names)
    env = {**os.environ, "GGML_NO_BACKTRACE": "1"}
    subprocess.run([sys.executable, __file__, str(folder), json.dumps(names)], check=True, capture_output=True, env=env)
    found: dict[str, Model] = {}
    for name in names:
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        arch = name.removesuffix(EXPERTS)
        tensors = {
            k: (tuple(shape), gguf.GGMLQuantizationType(kind))
            for k, (shape, kind) in json.loads(path.read_text()).items()
        }
        if arch == name or arch not in found or found[arch].tensors != tensors:
            found[name] = Model(arch, hyperparameters(arch, moe=arch != name), tensors)
    return found


if __name__ == "__main__":
    import llama_cpp

    _write_tensors(Path(sys.argv[1]), json.loads(sys.argv[2]))
