"""Model files with other keys and tensors than a model has: a typed error, or they load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_models as tm
from bad_cases import ANY, Cases, changed_bytes, rewrite, use_model
from bad_input import FAST, INF, NAN
from gguf import GGUFValueType as T

import colm_cpp as colm

CASES = Cases()


def use_changed(folder: Path, **how: Any) -> str:
    return use_model(rewrite(folder / "base.gguf", folder / "changed.gguf", **how))


def register_changed_keys() -> None:
    u32, i32, f32, text = T.UINT32, T.INT32, T.FLOAT32, T.STRING
    refused = r"LoadError: .*changed\.gguf"
    too_large = refused + "|NotEnoughMemory: "
    for key, value, kind, expect in (
        # Assertions of llama.cpp.
        ("llama.block_count", 0, u32, refused),
        ("llama.block_count", 513, u32, refused),
        ("llama.block_count", 2**32 - 1, u32, too_large),
        ("llama.expert_count", 3, u32, refused),
        ("llama.expert_count", 1000, u32, refused),
        ("llama.expert_used_count", 3, u32, refused),
        ("llama.expert_group_count", 3, u32, refused),
        ("llama.nextn_predict_layers", 5, u32, refused),
        ("llama.rope.scaling.type", "x", text, refused),
        ("general.alignment", 1, u32, ANY),
        ("general.alignment", 0, u32, refused),
        ("general.alignment", 33, u32, refused),
        ("general.alignment", "x", text, refused),
        # An assertion while tokens are computed.
        ("llama.attention.layer_norm_rms_epsilon", -1.0, f32, r"(Load|Generation)Error: .*changed\.gguf"),
        ("llama.attention.layer_norm_rms_epsilon", NAN, f32, r"(Load|Generation)Error: "),
        ("llama.attention.layer_norm_rms_epsilon", INF, f32, r"(Load|Generation)Error: |OK"),
        # Arithmetic of the estimate of memory.
        ("llama.block_count", -1, i32, refused),
        ("llama.block_count", NAN, T.FLOAT64, refused),
        ("llama.embedding_length", NAN, f32, refused),
        ("llama.embedding_length", INF, f32, too_large),
        ("llama.embedding_length", 0, u32, refused),
        ("llama.embedding_length", 2**32 - 1, u32, too_large),
        ("llama.attention.head_count", 0, u32, refused),
        ("llama.attention.head_count", 3, u32, refused),
        ("llama.attention.head_count", "x", text, refused),
        ("llama.attention.head_count_kv", 0, u32, refused),
        ("llama.attention.head_count_kv", 2**31, u32, too_large),
        ("llama.attention.key_length", NAN, f32, refused),
        ("llama.attention.key_length", 0, u32, refused),
        ("llama.feed_forward_length", NAN, f32, refused),
        ("llama.context_length", 2**32 - 1, u32, ANY),
        ("llama.context_length", 2**63, T.UINT64, refused),
        ("llama.context_length", 0, u32, ANY),
        ("llama.rope.freq_base", NAN, f32, ANY),
        ("llama.rope.dimension_count", 3, u32, ANY),
        ("llama.vocab_size", 5, u32, ANY),
        ("general.architecture", "x", text, "LoadError: .*changed.gguf.*'x'"),
        ("general.architecture", "bert", text, refused),
        ("general.architecture", 5, u32, refused),
        ("general.architecture", "", text, refused),
        ("general.type", 5, u32, ANY),
        ("general.name", 5, u32, ANY),
        ("tokenizer.ggml.model", "x", text, refused),
        ("tokenizer.ggml.model", "bert", text, ANY),
        ("tokenizer.ggml.model", "none", text, refused),
        ("tokenizer.ggml.model", 5, u32, refused),
        ("tokenizer.ggml.pre", "x", text, refused),
        ("tokenizer.ggml.bos_token_id", 2**31, u32, ANY),
        ("tokenizer.ggml.eos_token_id", 2**32 - 1, u32, ANY),
        ("tokenizer.ggml.add_bos_token", "x", text, refused),
        ("tokenizer.ggml.tokens", 5, u32, refused),
        ("tokenizer.ggml.merges", "x", text, refused),
        ("tokenizer.chat_template", 5, u32, ANY),
        ("split.count", 3, T.UINT16, refused),
    ):
        CASES.add(
            f"key {key}={value!r} {kind.name}",
            expect,
            lambda d, key=key, value=value, kind=kind: use_changed(d, changes={key: (value, kind)}),
        )
    for key in (
        "llama.block_count",
        "llama.embedding_length",
        "llama.context_length",
        "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.model",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
        "tokenizer.ggml.token_type",
        "tokenizer.ggml.bos_token_id",
        "general.architecture",
    ):
        CASES.add(f"no {key}", ANY, lambda d, key=key: use_changed(d, changes={key: None}))
    texts = [token.text for token in tm.Vocab().with_tail(tm.DEFER).tokens]
    twice = [*texts[:6], texts[5], *texts[7:]]
    for key, values, kind, expect in (
        ("tokenizer.ggml.tokens", twice, text, r'LoadError: .*"ą" twice, again at token 6'),
        ("tokenizer.ggml.tokens", texts[:5], text, refused),
        ("tokenizer.ggml.tokens", ["", *texts[1:]], text, ANY),
        ("tokenizer.ggml.tokens", ["", "[EMPTY_0]", *texts[2:]], text, ANY),
        ("tokenizer.ggml.tokens", [1] * len(texts), i32, "LoadError: .*not an array of strings"),
        ("tokenizer.ggml.token_type", ["1"] * len(texts), text, refused),
        ("tokenizer.ggml.token_type", [1, 1], i32, refused),
        ("tokenizer.ggml.token_type", [1] * len(texts), T.UINT8, refused),
        ("tokenizer.ggml.token_type", [99] * len(texts), i32, ANY),
        ("tokenizer.ggml.scores", [1.0], f32, refused),
        ("tokenizer.ggml.scores", ["1"] * len(texts), text, refused),
        ("tokenizer.ggml.merges", [1, 2], i32, refused),
        ("tokenizer.ggml.merges", ["nospace"], text, ANY),
        ("llama.attention.head_count_kv", [2], i32, refused),
        ("llama.feed_forward_length", [64, -1], i32, ANY),
    ):
        CASES.add(
            f"array {key} {values[:2]!s} {len(values)} {kind.name}",
            expect,
            lambda d, key=key, values=values, kind=kind: use_changed(d, changes={key: (values, T.ARRAY, kind)}),
        )
    for dtype in ("int8", "int16", "int32", "int64", "float64"):
        for tensor in ("token_embd.weight", "output.weight", "blk.0.attn_q.weight", "output_norm.weight"):
            CASES.add(
                f"{dtype} {tensor}",
                refused,
                lambda d, tensor=tensor, dtype=dtype: use_changed(d, tensors={tensor: lambda data: data.astype(dtype)}),
            )
    CASES.add(
        "float16 norm",
        ANY,
        lambda d: use_changed(d, tensors={"output_norm.weight": lambda data: data.astype("float16")}),
    )
    for name, change, expect in (
        ("nan", lambda data: data * NAN, "GenerationError: .*(NaN|nan)"),
        ("shape", lambda data: data[:, :-1].copy(), refused),
        ("rows", lambda data: data[:-1].copy(), refused),
        ("3d", lambda data: data[np.newaxis], ANY),
    ):
        CASES.add(f"output {name}", expect, lambda d, change=change: use_changed(d, tensors={"output.weight": change}))
    # Biases and state-space parameters, which llama.cpp takes as float32 only.
    for arch, tensor in (
        ("qwen2", "blk.0.attn_q.bias"),
        ("mamba", "blk.0.ssm_a"),
        ("mamba", "blk.0.ssm_d"),
        ("mamba", "blk.0.ssm_dt.bias"),
        ("mamba", "blk.0.ssm_conv1d.bias"),
        ("mamba", "blk.0.ssm_conv1d.weight"),
    ):
        CASES.add(
            f"float16 {tensor} of {arch}",
            ANY,
            lambda d, arch=arch, tensor=tensor: use_model(
                rewrite(
                    tm.make_model(d / "other.gguf", arch=arch),
                    d / "changed.gguf",
                    tensors={tensor: lambda data: data.astype("float16")},
                )
            ),
        )
    # What one architecture asserts; 0 rotated dimensions made gemma3 compute without end.
    for arch, key, value in (
        ("gemma3", "rope.dimension_count", 0),
        ("gemma3", "rope.dimension_count", 3),
        ("gemma3", "rope.dimension_count", 300),
        ("gemma3", "attention.sliding_window_pattern", 1),
        ("qwen2", "rope.dimension_count", 4),
        ("jamba", "embedding_length", 64),
        ("jamba", "ssm.inner_size", 300),
    ):
        CASES.add(
            f"{arch}.{key}={value}",
            r"(Load|Generation)Error: .*changed\.gguf",
            lambda d, arch=arch, key=key, value=value: use_model(
                rewrite(
                    tm.make_model(d / "other.gguf", arch=arch),
                    d / "changed.gguf",
                    {f"{arch}.{key}": (value, u32)},
                )
            ),
        )
    for model in ("bert", "t5", "rwkv", "gpt2", "none", "plamo2"):
        CASES.add(
            f"SPM vocabulary called {model}",
            ANY,
            lambda d, model=model: use_model(
                rewrite(
                    tm.make_model(d / "other.gguf", vocab=tm.Vocab.spm()),
                    d / "changed.gguf",
                    {"tokenizer.ggml.model": (model, text)},
                )
            ),
        )
    # Texts that are no UTF-8 (each stands in the file once, so that only this one changes).
    for name, what in (
        ("a key", b"general.name"),
        ("the name", b"tiny"),
        ("the template", b"{% for message"),
        ("the BOS token", b"<|endoftext|>"),
    ):
        CASES.add(
            f"no UTF-8 in {name}",
            ANY,
            lambda d, what=what: use_model(
                changed_bytes(d, "base.gguf", lambda data: data.replace(what, what[:-1] + b"\xff", 1))
            ),
        )
    CASES.add(
        "no UTF-8 in a differing token",
        ANY,
        lambda d: colm.load(
            d / "base.gguf",
            changed_bytes(d, "base.gguf", lambda data: data.replace(b"<|im_start|>", b"<|im_st\xffrt|>", 1)),
            "random",
            **FAST,
        ).generate("the <|im_start|> end", max_tokens=20, threshold=0.5),
    )


register_changed_keys()


outcomes = CASES.fixture(__file__)
test_in_a_child = CASES.test()


if __name__ == "__main__":
    CASES.main()
