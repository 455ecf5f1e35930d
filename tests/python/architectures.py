"""A tiny random model of every architecture that llama.cpp knows, for tests that sweep over all of them.

llama.cpp itself says which tensors an architecture has: it is given the hyperparameters and asks for the values of
each tensor that it has made from them. Names of architectures and keys come from its source, whose folder the
environment variable COLM_LLAMA_SOURCE names.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import gguf
import numpy as np
import tiny_models as tm
from gguf import GGUFValueType as T

Value: TypeAlias = "tuple[Any, T] | tuple[Any, T, T]"
"""What a key holds: the value and its type, and the elements' type of an array."""

VOCAB = tm.Vocab(n_merges=32)
N_CTX = 64
EXPERTS = " with experts"


def source() -> Path:
    """The unpacked llama.cpp source."""
    return Path(os.environ["COLM_LLAMA_SOURCE"])


@cache
def names() -> tuple[str, ...]:
    """All architectures by the name that a file gives them."""
    text = (source() / "src/llama-arch.cpp").read_text()
    found = re.findall(r'\{\s*LLM_ARCH_\w+,\s*"([^"]+)"\s*\}', text)
    return tuple(sorted(set(found) - {"clip", "(unknown)"}))


@cache
def _key_names() -> dict[str, str]:
    text = (source() / "src/llama-arch.cpp").read_text()
    return dict(re.findall(r'\{\s*(LLM_KV_\w+),\s*"([^"]+)"\s*\}', text))


@cache
def _models() -> dict[str, str]:
    """The source of each architecture's model, by its file's stem without punctuation."""
    return {re.sub(r"\W", "", p.stem): p.read_text() for p in (source() / "src/models").glob("*.cpp")}


def keys_of(arch: str) -> tuple[str, ...]:
    """The hyperparameters that llama.cpp reads of this architecture, and of any."""
    text = (source() / "src/llama-model.cpp").read_text()
    start = text.index("::load_hparams(")
    text = text[start : text.index("\n}\n", start)]
    stem = re.sub(r"[\W_]", "", arch)
    own = [s for name, s in _models().items() if name.startswith(stem[:5]) or stem.startswith(name)]
    used = dict.fromkeys(re.findall(r"LLM_KV_\w+", text + "".join(own)))
    return tuple(_key_names()[k].replace("%s", arch) for k in used if "%s" in _key_names().get(k, ""))


# -- hyperparameters ------------------------------------------------------------------------------------------

_MLA = {
    "deepseek2", "deepseek2-ocr", "deepseek32", "glm-dsa", "dots3note", "kimi-linear", "bailingmoe3", "kimi-k3",
    "glm5-next", "hy_v4", "mistral4", "plm", "minicpm3",
}  # fmt: skip
_RECURRENT_LAYER = {
    "plamo2", "jamba", "nemotron_h", "nemotron_h_moe", "granitehybrid", "lfm2", "lfm2moe", "kimi-linear", "bailingmoe3",
    "kimi-k3", "glm5-next",
}  # fmt: skip
_PATTERN_BY_LAYER = {
    "cohere2moe", "mimo2", "step35", "spark2_5", "muse-glimmer", "granite_swa", "dots3note", "maple",
}  # fmt: skip
_LAYERS = {"llama4": 4, "gemma4": 5, "gemma3n": 22, "deepseek4": 4, "nemotron_h": 3, "nemotron_h_moe": 3, "hrm_text": 6}


def _u32(value: int) -> Value:
    return value, T.UINT32


def _u32s(values: Iterable[int]) -> Value:
    return list(values), T.ARRAY, T.UINT32


def _f32(value: float) -> Value:
    return value, T.FLOAT32


def hyperparameters(arch: str, *, moe: bool) -> dict[str, Value]:
    """Small ones for this architecture. Others than it reads do no harm."""
    n_layer = _LAYERS.get(arch, 2)
    mla = arch in _MLA
    n_head = 1 if mla else 2
    n_embd = 64
    n_ff = 96
    d_head = n_embd // n_head
    rope, nope, latent = 16, 16, 32  # of multi-head latent attention
    per_layer = [0 if i == 1 else n_head for i in range(n_layer)]
    keys: dict[str, Value] = {
        "vocab_size": _u32(len(VOCAB)),
        "context_length": _u32(512),
        "embedding_length": _u32(n_embd),
        "features_length": _u32(n_embd),
        "block_count": _u32(n_layer),
        "leading_dense_block_count": _u32(1),
        "feed_forward_length": _u32(n_ff),
        "use_parallel_residual": (False, T.BOOL),
        "logit_scale": _f32(1.0),
        "time_mix_extra_dim": _u32(8),
        "time_decay_extra_dim": _u32(8),
        "full_attention_interval": _u32(2),
        "attention.head_count": _u32(n_head),
        "attention.head_count_kv": _u32(n_head),
        "attention.max_alibi_bias": _f32(8.0),
        "attention.clamp_kqv": _f32(1.0),
        "attention.layer_norm_epsilon": _f32(1e-5),
        "attention.layer_norm_rms_epsilon": _f32(1e-5),
        "attention.group_norm_epsilon": _f32(1e-5),
        "attention.group_norm_groups": _u32(8),
        "attention.q_lora_rank": _u32(32),
        "attention.kv_lora_rank": _u32(latent),
        "attention.decay_lora_rank": _u32(8),
        "attention.iclr_lora_rank": _u32(8),
        "attention.value_residual_mix_lora_rank": _u32(8),
        "attention.gate_lora_rank": _u32(8),
        "attention.relative_buckets_count": _u32(8),
        "attention.sliding_window": _u32(16),
        "attention.sliding_window_pattern": _u32(2),
        "attention.indexer.head_count": _u32(64),
        "attention.indexer.key_length": _u32(128),
        "attention.indexer.top_k": _u32(1024),
        "attention.indexer.block_size": _u32(4),
        "attention.indexer.kpool": _u32(4),
        "attention.indexer.kpool_select_tail": (True, T.BOOL),
        "attention.indexer.local_blocks": _u32(1),
        "rope.dimension_sections": _u32s([d_head // 4] * 4),
        "rope.freq_base_swa": _f32(10000.0),
        "token_shift_count": _u32(2),
        "ssm.inner_size": _u32(2 * n_embd),
        "ssm.conv_kernel": _u32(4),
        "ssm.state_size": _u32(16),
        "ssm.time_step_rank": _u32(n_head),
        "ssm.group_count": _u32(0 if arch == "plamo2" else 2),
        "kda.head_dim": _u32(32),
        "kda.gate_lower_bound": _f32(-5.0),
        "wkv.head_size": _u32(d_head),
        "shortconv.l_cache": _u32(3),
        "residual_scale": _f32(3.5),
        "attn_res.block_size": _u32(12),
        "activation.situ_beta": _f32(4.0),
        "activation.situ_linear_beta": _f32(25.0),
        "hyper_connection.count": _u32(4),
        "hyper_connection.sinkhorn_iterations": _u32(2),
        "hyper_connection.epsilon": _f32(1e-6),
    }
    if moe:
        keys |= {
            "expert_feed_forward_length": _u32(n_ff),
            "expert_shared_feed_forward_length": _u32(n_ff // 2),
            "expert_latent_length": _u32(n_ff),
            "moe_latent_size": _u32(n_ff),
            "expert_chunk_feed_forward_length": _u32(n_ff),
            "interleave_moe_layer_step": _u32(2),
            "moe_every_n_layers": _u32(2),
            "expert_count": _u32(2),
            "expert_used_count": _u32(2),
            "expert_shared_count": _u32(1),
            "expert_gating_func": _u32(4 if arch == "deepseek4" else 2),
            "expert_group_scale": _f32(1.0),
            "experts_per_group": _u32(1),
            "expert_weights_scale": _f32(1.0),
            "expert_weights_norm": (True, T.BOOL),
        }
    if mla:
        no_rope = arch == "glm5-next"
        keys |= {
            "attention.head_count_kv": _u32(1),
            "attention.key_length": _u32(latent if no_rope else latent + rope),
            "attention.value_length": _u32(latent),
            "attention.key_length_mla": _u32(nope + rope),
            "attention.value_length_mla": _u32(16),
            "rope.dimension_count": _u32(0 if no_rope else rope),
        }
    if arch in ("plm", "minicpm3"):
        keys |= {"attention.key_length": _u32(nope + rope), "attention.value_length": _u32(16)}
    if arch in _RECURRENT_LAYER:
        keys |= {"attention.head_count": _u32s(per_layer), "attention.head_count_kv": _u32s(per_layer)}
        if arch == "glm5-next":
            keys["attention.head_count"] = _u32(n_head)
    if arch in _PATTERN_BY_LAYER:
        keys["attention.sliding_window_pattern"] = _u32s(i % 2 for i in range(n_layer))
    if arch in ("nemotron_h", "nemotron_h_moe"):
        keys["feed_forward_length"] = _u32s(0 if i <= 1 else n_ff for i in range(n_layer))
    if arch in ("qwen3next", "qwen35", "qwen35moe", "qwen4exp"):
        keys["ssm.inner_size"] = _u32(32)
    if arch in ("mamba", "jamba"):
        keys["ssm.time_step_rank"] = _u32(4)
    own: dict[str, dict[str, Value]] = {
        "gemma4": {
            "embedding_length_per_layer_input": _u32(n_embd // 2),
            "attention.shared_kv_layers": _u32(0),
            "attention.key_length_swa": _u32(d_head),
            "attention.value_length_swa": _u32(d_head),
            "attention.sliding_window_pattern": ([i % 5 != 4 for i in range(n_layer)], T.ARRAY, T.BOOL),
            "rope.dimension_count_swa": _u32(d_head),
        },
        "minimax-m3": {"rope.dimension_count": _u32(32), "attention.indexer.head_count": _u32(n_head)},
        "deepseek4": {
            "attention.head_count_kv": _u32(1),
            "attention.key_length": _u32(d_head),
            "attention.value_length": _u32(d_head),
            "rope.dimension_count": _u32(d_head // 2),
            "attention.output_group_count": _u32(2),
            "attention.output_lora_rank": _u32(32),
            "attention.compress_ratios": _u32s([0, 0, 4, 128]),
            "attention.compress_rope_freq_base": _f32(160000.0),
            "hash_layer_count": _u32(0),
            "swiglu_clamp_exp": _f32(10.0),
        },
        "dots3note": {
            "attention.kv_lora_rank_swa": _u32(latent),
            "attention.key_length_swa": _u32(latent + rope),
            "attention.value_length_swa": _u32(latent),
            "attention.key_length_mla_swa": _u32(nope + rope),
            "attention.value_length_mla_swa": _u32(16),
            "attention.indexer.types": _u32s([1, 0]),
        },
        "hy_v4": {
            "hyper_connection.magnitude": _f32(2.0),
            "swiglu_clamp_exp": _f32(10.0),
            "attention.indexer.types": _u32s([1, 0]),
        },
        "bailingmoe3": {
            "rope.dimension_sections": _u32s([2, 3, 3, 0]),
            "swiglu_clamp_exp": ([0.0, 4.0], T.ARRAY, T.FLOAT32),
            "swiglu_clamp_shexp": ([0.0, 5.0], T.ARRAY, T.FLOAT32),
        },
        "kimi-k3": {},
        "hrm_text": {"hrm.layers_per_stack": _u32(1), "hrm.h_cycles": _u32(2), "hrm.l_cycles": _u32(2)},
        "maple": {"swiglu_clamp_exp": _f32(7.0)},
        "gemma3n": {"attention.head_count": _u32(1), "attention.head_count_kv": _u32(1)},
        "wavtokenizer-dec": {
            "posnet.embedding_length": _u32(n_embd), "posnet.block_count": _u32(n_layer),
            "convnext.embedding_length": _u32(n_embd), "convnext.block_count": _u32(n_layer),
        },
    }  # fmt: skip
    keys |= own.get(arch, {})
    if arch in ("qwen4exp", "glm5-next"):
        n_ple = 4
        keys |= {
            "hyper_connection.low_rank": _u32(8),
            "attention.compress_ratios": _u32s([4] * n_layer),
            "attention.indexer.key_length": _u32(d_head if arch == "qwen4exp" else 128),
            "ple.layers": _u32s([0]),
            "ple.ngram_size": _u32(3),
            "ple.heads_per_ngram": _u32(2),
            "ple.conv_kernel": _u32(4),
            "ple.eos_token_id": _u32(0),
            "embedding_length_per_layer_input": _u32(n_embd // n_ple),
            "ple.layer_multipliers": ([1, 3, 5], T.ARRAY, T.UINT64),
            "ple.head_offsets": ([i * len(VOCAB) for i in range(n_ple)], T.ARRAY, T.UINT64),
            "ple.head_vocab_sizes": ([len(VOCAB)] * n_ple, T.ARRAY, T.UINT64),
        }
    named = {f"{arch}.{key}": value for key, value in keys.items()}
    for name, value in {"alpha_n": 1.0, "alpha_p": 1.0, "beta": 1.0, "eps": 1e-7}.items():
        named[f"xielu.{name}"] = _f32(value)
    return named


# -- files ----------------------------------------------------------------------------------------------------


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
