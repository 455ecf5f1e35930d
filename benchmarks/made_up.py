"""GGUF files with the shapes of Qwen2.5 models and made-up weights: what a step takes depends on the shapes alone.

Types are those that llama.cpp's quantiser gives the tensors of a Q4_K_M file. The vocabulary is another file's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType

__all__ = ["SHAPES", "Shape", "made_up", "no_end", "tensors"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; ``tied``: the output is the token embedding again."""

    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    n_ff: int
    tied: bool


SHAPES = {
    "tiny": Shape(256, 3, 4, 2, 512, True),
    "0.5B": Shape(896, 24, 14, 2, 4864, True),
    "1.5B": Shape(1536, 28, 12, 2, 8960, True),
    "3B": Shape(2048, 36, 16, 2, 11008, True),
    "7B": Shape(3584, 28, 28, 4, 18944, False),
    "14B": Shape(5120, 48, 40, 8, 13824, False),
}
# Of a block: weights, bytes, where its float16 scales lie, and the deviation of a weight where a scale is 1.
_BLOCKS = {
    Type.Q4_K: (256, 144, (0, 2), 258.0),  # scale, and offset in proportion; 6 bits each of 8 parts
    Type.Q6_K: (256, 210, (208,), 1366.0),  # 8 bits of each of 16 parts
    Type.Q5_0: (32, 22, (0,), 9.2),
    Type.Q8_0: (32, 34, (0,), 73.9),
}
_NARROW = {Type.Q4_K: Type.Q5_0, Type.Q6_K: Type.Q8_0}  # of rows that are no multiple of 256


def tensors(shape: Shape, n_vocab: int) -> Iterator[tuple[str, tuple[int, ...], Type]]:
    """Name, sizes (rows first) and type of each tensor."""

    def matrix(name: str, n_out: int, n_in: int, *, better: bool = False) -> tuple[str, tuple[int, ...], Type]:
        wanted = Type.Q6_K if better else Type.Q4_K
        return f"{name}.weight", (n_out, n_in), wanted if n_in % 256 == 0 else _NARROW[wanted]

    n, eighth = shape.n_layer, shape.n_layer // 8
    n_kv = shape.n_embd // shape.n_head * shape.n_head_kv
    embedding = matrix("token_embd", n_vocab, shape.n_embd, better=shape.tied)
    if shape.tied and shape.n_embd % 256 != 0:
        embedding = (*embedding[:2], Type.Q8_0)
    yield embedding
    yield "output_norm.weight", (shape.n_embd,), Type.F32
    if not shape.tied:
        yield matrix("output", n_vocab, shape.n_embd, better=True)
    for i in range(n):
        better = i < eighth or i >= 7 * n // 8 or (i - eighth) % 3 == 2
        block = f"blk.{i}"
        for norm in ("attn_norm", "ffn_norm"):
            yield f"{block}.{norm}.weight", (shape.n_embd,), Type.F32
        for part, n_out in (("q", shape.n_embd), ("k", n_kv), ("v", n_kv)):
            yield matrix(f"{block}.attn_{part}", n_out, shape.n_embd, better=better and part == "v")
            yield f"{block}.attn_{part}.bias", (n_out,), Type.F32
        yield matrix(f"{block}.attn_output", shape.n_embd, shape.n_embd)
        yield matrix(f"{block}.ffn_gate", shape.n_ff, shape.n_embd)
        yield matrix(f"{block}.ffn_up", shape.n_ff, shape.n_embd)
        yield matrix(f"{block}.ffn_down", shape.n_embd, shape.n_ff, better=better)


def _rows(rng: np.random.Generator, sizes: tuple[int, ...], type: Type) -> np.ndarray:
    """The bytes of a matrix whose weights have the deviation 1 / sqrt(width)."""
    n_weights, n_bytes, scales, deviation = _BLOCKS[type]
    n_out, n_in = sizes
    blocks = np.frombuffer(rng.bytes(n_out * n_in // n_weights * n_bytes), np.uint8).reshape(-1, n_bytes).copy()
    scale = 1 / (deviation * math.sqrt(n_in))
    for place, factor in zip(scales, (1.0, 7.5), strict=False):  # Q4_K: 7.5 is the mean of its 4 bits
        blocks[:, place : place + 2] = np.frombuffer(np.float16(factor * scale).tobytes(), np.uint8)
    return blocks.reshape(n_out, -1)


def _vocabulary(file: Path, n_vocab: int | None) -> Iterator[tuple[str, Any, list[GGUFValueType]]]:
    """Key, value and types of each field of the vocabulary, filled up to a number of tokens."""
    more: dict[str, Callable[[int], Any]] = {
        "tokens": lambda i: f"[unused{i}]",
        "token_type": lambda i: int(gguf.TokenType.UNUSED),
        "scores": lambda i: 0.0,
    }
    for field in gguf.GGUFReader(file).fields.values():
        if field.name.startswith("tokenizer."):
            value = field.contents()
            make = more.get(field.name.removeprefix("tokenizer.ggml."))
            if n_vocab is not None and make is not None:
                value = [*value, *(make(i) for i in range(len(value), n_vocab))]
            yield field.name, value, field.types


def made_up(path: Path, vocabulary: Path, shape: Shape, seed: int = 0, n_vocab: int | None = None) -> Path:
    """Writes a model of a shape, one tensor at a time, and returns its path. A file that is there is left as it is.

    Args:
        path: the file.
        vocabulary: a GGUF file, whose vocabulary is copied.
        shape: the model's sizes.
        seed: of the weights.
        n_vocab: tokens that the vocabulary is filled up to. None: as many as it has.
    """
    if path.exists():
        return path
    part = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(part, "qwen2")
    n_tokens = 0
    for name, value, types in _vocabulary(vocabulary, n_vocab):
        writer.add_key_value(name, value, types[0], types[-1] if types[0] == GGUFValueType.ARRAY else None)
        if name == "tokenizer.ggml.tokens":
            n_tokens = len(value)
    writer.add_name(path.stem)
    writer.add_block_count(shape.n_layer)
    writer.add_context_length(32768)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_K_M)
    wanted = list(tensors(shape, n_tokens))
    for name, sizes, type in wanted:
        if type == Type.F32:
            writer.add_tensor_info(name, sizes, np.dtype(np.float32), 4 * sizes[0])
        else:
            n_weights, n_bytes, _, _ = _BLOCKS[type]
            row = sizes[1] // n_weights * n_bytes
            writer.add_tensor_info(name, (sizes[0], row), np.dtype(np.uint8), sizes[0] * row, type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    rng = np.random.default_rng(seed)
    for name, sizes, type in wanted:
        if type == Type.F32:
            writer.write_tensor_data(np.full(sizes, 0.0 if name.endswith(".bias") else 1.0, np.float32))
        else:
            writer.write_tensor_data(_rows(rng, sizes, type))
    writer.close()
    part.rename(path)
    return path


def no_end(model: Path) -> dict[int, float]:
    """A bias that forbids the tokens that may end a text: what a made-up model writes would soon end it."""
    fields = gguf.GGUFReader(model).fields
    types, texts = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("token_type", "tokens"))
    control = int(gguf.TokenType.CONTROL)
    ends = [i for i, (kind, text) in enumerate(zip(types, texts, strict=True)) if kind == control or text == "</s>"]
    return dict.fromkeys(ends, -math.inf)
