"""A small transformer of the llama architecture in PyTorch, and its GGUF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from vocabulary import Vocabulary

__all__ = ["Llama", "Shape", "adapt", "read_gguf", "write_adapter", "write_gguf"]

_EPS = 1e-5
_ROPE_BASE = 10000.0


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; every width is a multiple of 32, the block of Q8_0."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_layer: int
    n_head: int
    n_ff: int


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.n_embd
        self.n_head = shape.n_head
        self.attn_norm = nn.RMSNorm(d, eps=_EPS)
        self.attn_qkv = nn.Linear(d, 3 * d, bias=False)
        self.attn_output = nn.Linear(d, d, bias=False)
        self.ffn_norm = nn.RMSNorm(d, eps=_EPS)
        self.ffn_gate_up = nn.Linear(d, 2 * shape.n_ff, bias=False)
        self.ffn_down = nn.Linear(shape.n_ff, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, t, d = x.shape  # [n_texts, n_tokens, n_embd]
        q, k, v = self.attn_qkv(self.attn_norm(x)).view(b, t, 3, self.n_head, d // self.n_head).unbind(2)
        q, k = (_rotate(y, cos, sin).transpose(1, 2) for y in (q, k))
        y = F.scaled_dot_product_attention(q, k, v.transpose(1, 2), is_causal=True)
        x = x + self.attn_output(y.transpose(1, 2).reshape(b, t, d))
        gate, up = self.ffn_gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.ffn_down(F.silu(gate) * up)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on neighbouring pairs, as llama.cpp has them for this architecture."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class Llama(nn.Module):
    """Token ids [n_texts, n_tokens] to logits [n_texts, n_tokens, n_vocab]; the output matrix is the embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.n_layer))
        self.output_norm = nn.RMSNorm(shape.n_embd, eps=_EPS)
        d_head = shape.n_embd // shape.n_head
        angles = torch.outer(torch.arange(shape.n_ctx), _ROPE_BASE ** (-torch.arange(0, d_head, 2) / d_head))
        self.register_buffer("cos", angles.cos()[:, None, :], persistent=False)
        self.register_buffer("sin", angles.sin()[:, None, :], persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                small = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.04 / (2 * shape.n_layer) ** 0.5 if small else 0.04)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.token_embd(ids)
        n_tokens = ids.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:n_tokens], self.sin[:n_tokens])
        return F.linear(self.output_norm(x), self.token_embd.weight)


def write_gguf(model: Llama, vocabulary: Vocabulary, path: Path, name: str, description: str) -> None:
    """Writes the model: matrices as Q8_0, norms as float32."""
    shape = model.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_description(description)
    writer.add_license("mit")
    writer.add_vocab_size(shape.n_vocab)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head)
    writer.add_rope_dimension_count(shape.n_embd // shape.n_head)
    writer.add_rope_freq_base(_ROPE_BASE)
    writer.add_layer_norm_rms_eps(_EPS)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    vocabulary.write(writer)
    for tensor, weight in _tensors(model):
        data = weight.detach().float().contiguous().numpy()
        if data.ndim == 1:
            writer.add_tensor(tensor, data)
        else:
            quantised = gguf.quantize(data, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(tensor, np.ascontiguousarray(quantised), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path) -> Llama:
    """The model that :func:`write_gguf` wrote, with weights as they are after Q8_0."""
    reader = gguf.GGUFReader(path)

    def size(key: str) -> int:
        return int(reader.fields[f"llama.{key}"].contents())

    shape = Shape(
        size("vocab_size"),
        size("context_length"),
        size("embedding_length"),
        size("block_count"),
        size("attention.head_count"),
        size("feed_forward_length"),
    )
    model = Llama(shape)
    found = {t.name: torch.from_numpy(gguf.dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
    with torch.no_grad():
        for name, weight in _tensors(model):  # views into the fused matrices
            weight.copy_(found[name])
    return model


class _LowRank(nn.Module):
    """A weight plus B A, at first with B = 0."""

    def __init__(self, n_out: int, n_in: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, n_in) / n_in**0.5)
        self.b = nn.Parameter(torch.zeros(n_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def adapt(model: Llama, rank: int) -> None:
    """Freezes the model and gives every matrix of its layers a LoRA of this rank to be trained."""
    model.requires_grad_(False)
    for layer in model.layers:
        for name in _linear(layer):
            linear = getattr(layer, name)
            lora = _LowRank(linear.out_features, linear.in_features, rank)
            parametrize.register_parametrization(linear, "weight", lora)


def _linear(layer: nn.Module) -> list[str]:
    return [name for name in _PARTS if isinstance(getattr(layer, name), nn.Linear)]


def write_adapter(model: Llama, path: Path, name: str, description: str) -> None:
    """Writes what :func:`adapt` added, in float16, as llama.cpp reads adapters."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_name(name)
    writer.add_description(description)
    writer.add_license("mit")
    writer.add_string("adapter.type", "lora")

    def add(tensor: str, a: Tensor, b: Tensor) -> None:
        for part, data in (("a", a), ("b", b)):
            writer.add_tensor(f"{tensor}.weight.lora_{part}", data.detach().half().contiguous().numpy())

    rank = 0
    for i, layer in enumerate(model.layers):
        for linear in _linear(layer):
            names, lora = _PARTS[linear], getattr(layer, linear).parametrizations.weight[0]
            rank = lora.a.shape[0]
            for part, b in zip(names, lora.b.chunk(len(names)), strict=True):
                add(f"blk.{i}.{part}", lora.a, b)
    writer.add_float32("adapter.lora.alpha", float(rank))  # the scale is alpha / rank
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# The parts of a layer, and what those that are fused here are called in the file.
_PARTS = {
    "attn_norm": ("attn_norm",),
    "attn_qkv": ("attn_q", "attn_k", "attn_v"),
    "attn_output": ("attn_output",),
    "ffn_norm": ("ffn_norm",),
    "ffn_gate_up": ("ffn_gate", "ffn_up"),
    "ffn_down": ("ffn_down",),
}


def _tensors(model: Llama) -> list[tuple[str, Tensor]]:
    found = [("token_embd.weight", model.token_embd.weight), ("output_norm.weight", model.output_norm.weight)]
    for i, layer in enumerate(model.layers):
        for part, names in _PARTS.items():
            for name, weight in zip(names, getattr(layer, part).weight.chunk(len(names)), strict=True):
                found.append((f"blk.{i}.{name}.weight", weight))
    return found
