"""Random weights for tiny models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

F32: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Shape:
    """What the weights depend on."""

    arch: str
    n_vocab: int
    n_embd: int
    n_layer: int
    n_head: int
    n_head_kv: int
    scale: float
    tied: bool
    seed: int

    @property
    def n_ff(self) -> int:
        return 2 * self.n_embd

    @property
    def d_head(self) -> int:
        return self.n_embd // self.n_head

    @property
    def d_inner(self) -> int:
        return 2 * self.n_embd  # llama.cpp accepts no other expansion

    d_conv = 4
    d_state = 8

    @property
    def dt_rank(self) -> int:
        return max(1, self.n_embd // 16)

    def recurrent(self, layer: int) -> bool:
        return self.arch == "mamba" or (self.arch == "jamba" and layer % 2 == 0)


class _Weights:
    """Draws the tensors of a model. Each tensor has a generator of its own, named after it."""

    def __init__(self, shape: _Shape) -> None:
        self.shape = shape
        self.tensors: dict[str, F32] = {}
        tied_std = shape.scale / np.sqrt(shape.n_embd)
        self.embd_std = tied_std if shape.tied or shape.arch == "gemma3" else 1.0
        # The size of what enters the first layer; gemma3 multiplies embeddings by sqrt(n_embd).
        self.residual = self.embd_std * (np.sqrt(shape.n_embd) if shape.arch == "gemma3" else 1.0)

    def normal(self, name: str, *dims: int, std: float, mean: float = 0.0) -> F32:
        """Add a tensor of normal numbers and return it."""
        # The generator depends on the name, not on the order, and fills rows from the first on: more rows
        # leave the earlier ones as they are.
        rng = np.random.default_rng([self.shape.seed, *name.encode()])
        values: F32 = (mean + std * rng.standard_normal(dims, dtype=np.float32)).astype(np.float32)
        self.tensors[name] = values
        return values

    def linear(self, name: str, n_out: int, n_in: int, gain: float = 1.0) -> None:
        """A matrix that gives outputs of size `gain` for inputs of size 1."""
        self.normal(name, n_out, n_in, std=gain / np.sqrt(n_in))

    def norm(self, name: str, width: int, size: float = 1.0) -> F32:
        """The weight of a norm: near `size`, never constant."""
        return self.normal(name, width, std=0.15 * size, mean=size)

    def draw(self) -> dict[str, F32]:
        s = self.shape
        self.normal("token_embd.weight", s.n_vocab, s.n_embd, std=self.embd_std)
        out_norm = self.norm("output_norm.weight", s.n_embd)
        # Random signs keep a tied model from repeating its last token for ever.
        out_norm *= np.random.default_rng([s.seed, 1]).choice(np.array([-1, 1], dtype=np.float32), s.n_embd)
        if not s.tied:
            self.linear("output.weight", s.n_vocab, s.n_embd, gain=s.scale)
        for i in range(s.n_layer):
            self.norm(f"blk.{i}.attn_norm.weight", s.n_embd)
            if s.recurrent(i):
                self._ssm(f"blk.{i}.")
            else:
                self._attention(f"blk.{i}.")
            if s.arch != "mamba":
                self._ffn(f"blk.{i}.")
        return self.tensors

    def _attention(self, p: str) -> None:
        s = self.shape
        n_kv = s.n_head_kv * s.d_head
        # Sharp enough that single positions matter even far back.
        for name, n_out, gain in (("q", s.n_embd, 1.6), ("k", n_kv, 1.6), ("v", n_kv, 1.0)):
            self.linear(f"{p}attn_{name}.weight", n_out, s.n_embd, gain)
            if s.arch == "qwen2":
                self.normal(f"{p}attn_{name}.bias", n_out, std=0.5)
        self.linear(f"{p}attn_output.weight", s.n_embd, s.n_embd, gain=1.4 * self.residual)
        if s.arch in ("qwen3", "gemma3"):
            self.norm(f"{p}attn_q_norm.weight", s.d_head, 1.6)
            self.norm(f"{p}attn_k_norm.weight", s.d_head, 1.6)
        if s.arch == "gemma3":
            self.norm(f"{p}post_attention_norm.weight", s.n_embd, self.residual)

    def _ffn(self, p: str) -> None:
        s = self.shape
        self.norm(f"{p}ffn_norm.weight", s.n_embd)
        self.linear(f"{p}ffn_gate.weight", s.n_ff, s.n_embd, gain=1.5)
        self.linear(f"{p}ffn_up.weight", s.n_ff, s.n_embd)
        self.linear(f"{p}ffn_down.weight", s.n_embd, s.n_ff, gain=self.residual)
        if s.arch == "gemma3":
            self.norm(f"{p}post_ffw_norm.weight", s.n_embd, self.residual)

    def _ssm(self, p: str) -> None:
        s = self.shape
        self.linear(f"{p}ssm_in.weight", 2 * s.d_inner, s.n_embd, gain=1.5)
        self.linear(f"{p}ssm_conv1d.weight", s.d_inner, s.d_conv, gain=1.5)
        self.normal(f"{p}ssm_conv1d.bias", s.d_inner, std=0.2)
        self.linear(f"{p}ssm_x.weight", s.dt_rank + 2 * s.d_state, s.d_inner, gain=2.0)
        self.linear(f"{p}ssm_dt.weight", s.d_inner, s.dt_rank, gain=0.7)
        # Goes through softplus: steps between about 0.05 and 1.
        self.normal(f"{p}ssm_dt.bias", s.d_inner, std=1.0, mean=-1.5)
        # Must be negative; small values are a long memory.
        decay = np.linspace(0.05, 2.0, s.d_state, dtype=np.float32)
        self.tensors[f"{p}ssm_a"] = np.ascontiguousarray(np.broadcast_to(-decay, (s.d_inner, s.d_state)))
        self.norm(f"{p}ssm_d", s.d_inner, 0.5)
        self.linear(f"{p}ssm_out.weight", s.n_embd, s.d_inner, gain=1.2 * self.residual)
        if s.arch == "jamba":
            self.norm(f"{p}ssm_dt_norm.weight", s.dt_rank)
            self.norm(f"{p}ssm_b_norm.weight", s.d_state)
            self.norm(f"{p}ssm_c_norm.weight", s.d_state)
