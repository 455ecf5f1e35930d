"""What transformers' reader of GGUF files leaves out of a model, put right: torch then computes what llama.cpp does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from .. import _core
from .._shown import shown
from ..errors import LoadError
from ..files.paths import to_native

__all__ = ["ARCHITECTURES", "GgufFacts"]

# Those whose torch model was compared with llama.cpp's, by the architecture's name in the file.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")


class GgufFacts:
    """What a base's file says of its architecture.

    Attributes:
        file: the file.
        architecture: one of :data:`ARCHITECTURES`.
    """

    def __init__(self, file: Path) -> None:
        """Reads the file's header.

        Raises:
            LoadError: the architecture is none of :data:`ARCHITECTURES`, or has a part that the torch model lacks.
        """
        metadata: dict[str, Any] = _core.inspect_gguf(to_native(file))["metadata"]
        architecture = metadata.get("general.architecture")
        if architecture not in ARCHITECTURES:
            raise LoadError(
                f"{file} is of architecture {shown(architecture)}; only these can be tuned: {', '.join(ARCHITECTURES)}"
            )
        self.file, self.architecture = file, architecture
        self._metadata = metadata
        if self._number("expert_count", 0):
            raise LoadError(f"{file} is a mixture of experts, which cannot be tuned; choose a dense model")
        self._scaling = self._get("rope.scaling.type", "none")
        if self._scaling != "none" and (self._scaling, architecture) != ("linear", "gemma3"):
            raise LoadError(
                f"{file} scales its positions ({architecture}.rope.scaling.type is {shown(self._scaling)}), which "
                "cannot be tuned; choose a model without"
            )
        gguf: Any = importlib.import_module("gguf")
        self._reader: Any = gguf.GGUFReader(str(file))

    def _get(self, key: str, default: Any = None) -> Any:
        return self._metadata.get(f"{self.architecture}.{key}", default)

    def _number(self, key: str, default: Any) -> Any:
        value = self._get(key, default)
        return value if isinstance(value, int | float) else default

    def corrections(self) -> dict[str, Any]:
        """Values of the torch model's configuration that transformers does not take from the file."""
        width, n_heads = self._number("embedding_length", 0), self._number("attention.head_count", 1)
        head = self._number("attention.key_length", self._number("rope.dimension_count", width // n_heads))
        values: dict[str, Any] = {} if self.architecture == "qwen2" else {"head_dim": head}
        if self.architecture == "gemma3":
            n_layers = self._number("block_count", 0)
            # llama.cpp knows the 27B model by its layers; all others divide by the root of the head's width.
            values["query_pre_attn_scalar"] = width // n_heads if n_layers == 62 else head
            values["layer_types"] = [
                "sliding_attention" if sliding else "full_attention" for sliding in self._sliding(n_layers)
            ]
            values["final_logit_softcapping"] = self._get("final_logit_softcapping")
            full = {"rope_type": "default", "rope_theta": self._number("rope.freq_base", 10000.0)}
            if self._scaling == "linear":
                full |= {"rope_type": "linear", "factor": self._number("rope.scaling.factor", 1.0)}
            local = {"rope_type": "default", "rope_theta": self._number("rope.freq_base_swa", 10000.0)}
            values["rope_parameters"] = {"full_attention": full, "sliding_attention": local}
        return values

    def _sliding(self, n_layers: int) -> list[bool]:
        """Which layers see a window only: an array, or every layer but each n-th; gemma3's n is 6."""
        if not self._number("attention.sliding_window", 0):
            return [False] * n_layers
        field = self._reader.fields.get(f"{self.architecture}.attention.sliding_window_pattern")
        pattern = 6 if field is None else field.contents()
        if isinstance(pattern, list):
            return [bool(sliding) for sliding in pattern]
        return [pattern == 0 or layer % pattern < pattern - 1 for layer in range(n_layers)]

    def correct(self, model: Any) -> None:
        """Puts right what is no value of the configuration: Llama 3's factors of the rotary frequencies."""
        factors = [tensor for tensor in self._reader.tensors if tensor.name == "rope_freqs.weight"]
        if factors:
            frequencies = model.model.rotary_emb.inv_freq
            values = np.asarray(factors[0].data, np.float32).reshape(-1)
            frequencies.div_(frequencies.new_tensor(values))
