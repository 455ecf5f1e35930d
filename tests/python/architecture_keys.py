"""Small hyperparameters for every architecture that llama.cpp knows, and the names of its keys."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

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
