"""Bad input gets a typed error, nothing is lost, and the process never dies.

What could kill the process runs in a child (this file as a script), which is started again behind a case that did;
every case there ends in a typed error or in success. The rest runs here.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models as tm
from gguf import GGUFValueType as T

import colm_cpp as colm
from colm_cpp import errors
from colm_cpp.engine.facts import Facts
from colm_cpp.engine.tokens import Tokenizing

INF = float("inf")
NAN = float("nan")
FAST: dict[str, Any] = {"n_ctx": 64, "n_threads": 1, "n_threads_batch": 1}
VOCAB = tm.Vocab()
N_FUZZ = 200


# -- files ----------------------------------------------------------------------------------------------------


def rewrite(
    source: Path,
    target: Path,
    changes: Mapping[str, tuple[Any, ...] | None] | None = None,
    tensors: Mapping[str, Callable[[Any], Any]] | None = None,
) -> Path:
    """A copy of a GGUF file with other keys ((value, type[, element type]), or None to drop one) and tensors."""
    reader = gguf.GGUFReader(source)
    left = dict(changes or {})
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    writer.kv_data[0].clear()
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        element = field.types[1] if len(field.types) > 1 else None
        value = left.pop(key, (field.contents(), field.types[0], element))
        if value is not None:
            writer.add_key_value(key, *value)
    for key, value in left.items():
        if value is not None:
            writer.add_key_value(key, *value)
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        writer.add_tensor(tensor.name, (tensors or {}).get(tensor.name, lambda same: same)(data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


LORA_A, LORA_B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


def make_adapter(
    path: Path,
    *,
    arch: str = "llama",
    keys: Mapping[str, tuple[Any, ...]] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Path:
    """A LoRA adapter for the tiny llama, damaged as asked."""
    writer = gguf.GGUFWriter(path, arch)
    all_keys = {
        "general.type": ("adapter", T.STRING),
        "adapter.type": ("lora", T.STRING),
        "adapter.lora.alpha": (8.0, T.FLOAT32),
        **(keys or {}),
    }
    for key, value in all_keys.items():
        writer.add_key_value(key, *value)
    small = np.full((4, 32), 0.01, dtype=np.float32)
    for name, data in ({LORA_A: small, LORA_B: small.T.copy()} if tensors is None else tensors).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_files(folder: Path) -> None:
    """The files that every case starts from."""
    tm.make_model(folder / "base.gguf", seed=1, extra_tail=(tm.DEFER,), chat_template=tm.CHATML, n_ctx_train=512)
    tm.make_model(folder / "assistant.gguf", seed=2, n_embd=64, n_ctx_train=512)
    colm.Head.linear(np.linspace(-1, 1, 32)).save(folder / "head.gguf")
    make_adapter(folder / "adapter.gguf")


@lru_cache
def data_offset(path: Path) -> int:
    """Where a GGUF file's header ends."""
    return int(gguf.GGUFReader(path).tensors[0].data_offset)


# -- cases that run in a child --------------------------------------------------------------------------------

ANY = "a typed error or success"
Case = tuple[Callable[[Path], Any], str]
CASES: dict[str, Case] = {}


def case(name: str, expect: str, run: Callable[[Path], Any]) -> None:
    """Registers a case: `expect` is a pattern of "Class: message", "OK", or ANY."""
    assert name not in CASES
    CASES[name] = (run, expect)


def use_model(path: Path, **options: Any) -> str:
    with colm.load(path, path, "confidence", **{**FAST, **options}) as pair:
        _ = pair.base, pair.assistant, repr(pair)
        return pair.generate("the fox", max_tokens=2, logprobs=2, seed=1).text


def use_changed(folder: Path, **how: Any) -> str:
    return use_model(rewrite(folder / "base.gguf", folder / "changed.gguf", **how))


def changed_bytes(folder: Path, name: str, change: Callable[[bytearray], Any]) -> Path:
    data = bytearray((folder / name).read_bytes())
    changed = change(data)
    path = folder / "damaged.gguf"
    path.write_bytes(data if changed is None else changed)
    return path


def flip(seed: int, end: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        rng = random.Random(seed)
        at = rng.randrange(4, end)
        data[at] = rng.choice([data[at] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255])

    return change


def register_damaged_files() -> None:
    for seed in range(N_FUZZ):
        case(
            f"fuzz model {seed}",
            ANY,
            lambda d, s=seed: use_model(changed_bytes(d, "base.gguf", flip(s, data_offset(d / "base.gguf")))),
        )
        case(
            f"fuzz head {seed}",
            ANY,
            lambda d, s=seed: colm.Head.load(changed_bytes(d, "head.gguf", flip(s, data_offset(d / "head.gguf")))),
        )
    for i in range(60):
        # Shares of the file: its first bytes, its header (about 5 %) and its data.
        share = i / 4000 if i < 20 else (i - 19) / 400 if i < 40 else (i - 39) / 21
        for name, use in (("base", use_model), ("head", colm.Head.load)):
            case(
                f"cut {name} {i}",
                "LoadError: .*damaged.gguf",
                lambda d, share=share, name=name, use=use: use(
                    changed_bytes(d, f"{name}.gguf", lambda data: data[: int(share * (len(data) - 64))])
                ),
            )
    case(
        "cut adapter",
        "LoadError: .*damaged.gguf",
        lambda d: use_model(
            d / "base.gguf", lora=changed_bytes(d, "adapter.gguf", lambda data: data[: len(data) - 300])
        ),
    )
    for length in (0, 3, 4, 5, 8, 20, 24):
        case(
            f"first {length} bytes",
            "LoadError: .*damaged.gguf",
            lambda d, n=length: use_model(changed_bytes(d, "base.gguf", lambda data: data[:n])),
        )
    for seed in range(10):
        case(
            f"noise after the magic {seed}",
            "LoadError: .*damaged.gguf",
            lambda d, s=seed: use_model(
                changed_bytes(d, "base.gguf", lambda _: bytearray(b"GGUF" + random.Random(s).randbytes(3000)))
            ),
        )


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
        case(
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
        case(f"no {key}", ANY, lambda d, key=key: use_changed(d, changes={key: None}))
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
        case(
            f"array {key} {values[:2]!s} {len(values)} {kind.name}",
            expect,
            lambda d, key=key, values=values, kind=kind: use_changed(d, changes={key: (values, T.ARRAY, kind)}),
        )
    for dtype in ("int8", "int16", "int32", "int64", "float64"):
        for tensor in ("token_embd.weight", "output.weight", "blk.0.attn_q.weight", "output_norm.weight"):
            case(
                f"{dtype} {tensor}",
                refused,
                lambda d, tensor=tensor, dtype=dtype: use_changed(d, tensors={tensor: lambda data: data.astype(dtype)}),
            )
    case(
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
        case(f"output {name}", expect, lambda d, change=change: use_changed(d, tensors={"output.weight": change}))
    # Biases and state-space parameters, which llama.cpp takes as float32 only.
    for arch, tensor in (
        ("qwen2", "blk.0.attn_q.bias"),
        ("mamba", "blk.0.ssm_a"),
        ("mamba", "blk.0.ssm_d"),
        ("mamba", "blk.0.ssm_dt.bias"),
        ("mamba", "blk.0.ssm_conv1d.bias"),
        ("mamba", "blk.0.ssm_conv1d.weight"),
    ):
        case(
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
        case(
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
        case(
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
        case(
            f"no UTF-8 in {name}",
            ANY,
            lambda d, what=what: use_model(
                changed_bytes(d, "base.gguf", lambda data: data.replace(what, what[:-1] + b"\xff", 1))
            ),
        )
    case(
        "no UTF-8 in a differing token",
        "VocabMismatch: token 385",
        lambda d: colm.load(
            d / "base.gguf",
            changed_bytes(d, "base.gguf", lambda data: data.replace(b"<|im_start|>", b"<|im_st\xffrt|>", 1)),
            "confidence",
            **FAST,
        ),
    )


def register_adapters() -> None:
    small = np.full((4, 32), 0.01, dtype=np.float32)
    refused = r"LoadError: .*lora\.gguf"
    for name, expect, how in (
        ("good", "OK", {}),
        ("for another architecture", "LoadError: .*lora.gguf.*arch", {"arch": "qwen2"}),
        ("with an integer alpha", refused, {"keys": {"adapter.lora.alpha": (8, T.UINT32)}}),
        ("with a text alpha", refused, {"keys": {"adapter.lora.alpha": ("8", T.STRING)}}),
        ("with an integer type", refused, {"keys": {"adapter.type": (1, T.UINT32)}}),
        ("with an integer general.type", refused, {"keys": {"general.type": (1, T.UINT32)}}),
        ("of another width", refused, {"tensors": {LORA_A: small[:, :16].copy(), LORA_B: small.T[:16].copy()}}),
        ("of two ranks", refused, {"tensors": {LORA_A: small, LORA_B: small.T[:, :3].copy()}}),
        ("without B", refused, {"tensors": {LORA_A: small}}),
        ("of int32", refused, {"tensors": {LORA_A: small.astype("int32"), LORA_B: small.T.astype("int32")}}),
        ("of float64", refused, {"tensors": {LORA_A: small.astype("float64"), LORA_B: small.T.astype("float64")}}),
        ("of three dimensions", refused, {"tensors": {LORA_A: np.stack([small] * 2), LORA_B: np.stack([small.T] * 2)}}),
        ("of NaN", "GenerationError: ", {"tensors": {LORA_A: small * NAN, LORA_B: small.T.copy()}}),
    ):
        case(
            f"adapter {name}",
            expect,
            lambda d, how=how: use_model(d / "base.gguf", lora=make_adapter(d / "lora.gguf", **how)),
        )


def use_grammar(folder: Path, grammar: Any) -> str:
    with colm.load(folder / "base.gguf", folder / "assistant.gguf", "confidence", **FAST) as pair:
        before = pair.generate("the", max_tokens=3, temperature=0).text
        try:
            return pair.generate("the", max_tokens=3, seed=1, grammar=grammar).text
        finally:
            assert pair.generate("the", max_tokens=3, temperature=0).text == before


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def register_grammars() -> None:
    rules = 100_000
    chain = "root ::= r0\n" + "".join(f"r{i} ::= r{i + 1}\n" for i in range(rules)) + f'r{rules} ::= "a"'
    bad = "GrammarError: "
    for name, grammar, expect in (
        ("of nested groups", "root ::= " + "(" * rules + '"a"' + ")" * rules, bad),
        ("of a long chain of rules", chain, bad),
        ("with a maximum below the minimum", 'root ::= "a"{2,1}', bad + ".*2,1|" + bad),
        ("with repetition of repetition", 'root ::= ("a"{1,2000}){1,2000}', ANY),
        ("with more digits than a number has", 'root ::= "a"{99999999999999999999}', bad),
        ("with a repetition of a million", 'root ::= "a"{1,1000000}', ANY),
        ("with a star of stars", 'root ::= ("a"*)*', ANY),
        ("of nothing", 'root ::= ""', ANY),
        ("of an empty class", "root ::= []", ANY),
        ("of many alternatives", "root ::= " + '("a" | "a" "a" | "a")' * 20, ANY),
        ("of an unknown token id", "root ::= <[99999999]>", "GenerationError: |" + bad),
        ("beyond Unicode", 'root ::= "\\U00110000"', ANY),
        ("of text", "a", bad),
        ("with a text that does not end", 'root ::= "a', bad),
        ("with a class that does not end", "root ::= [a", bad),
        ("with an escape that does not end", 'root ::= "\\', bad),
    ):
        case(f"grammar {name}", expect, lambda d, grammar=grammar: use_grammar(d, grammar))
    for name, schema, expect in (
        ("of a very long string", {"type": "string", "maxLength": 10**9}, bad),
        ("of very many items", {"type": "array", "items": {"type": "string"}, "minItems": 10**9}, bad),
        ("nested deeply", nested(5000), bad),
        ("that refers to itself", {"$ref": "#"}, bad),
        ("with a file reference", {"$ref": "file:///etc/passwd"}, bad),
    ):
        case(f"schema {name}", expect, lambda d, schema=schema: use_grammar(d, schema))


def use_long_text(folder: Path, pre: str, text: str) -> None:
    path = tm.make_model(folder / "long.gguf", vocab=dataclasses.replace(VOCAB, pre=pre))
    with colm.load(path, path, "confidence", **FAST) as pair:
        ids = pair.tokenize(text)
        assert pair.detokenize(ids) == text
        pair.generate(text)


def open_fifo(folder: Path) -> None:
    path = folder / "fifo.gguf"
    os.mkfifo(path)
    use_model(path)


def open_bytes_path(folder: Path) -> None:
    path = os.fsdecode(os.fsencode(folder) + b"/\xff.gguf")
    Path(path).write_bytes((folder / "base.gguf").read_bytes())
    use_model(Path(path))


def with_little_memory(megabytes: int, run: Callable[[], Any]) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, before[1]))
    try:
        run()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def use_logprobs(folder: Path) -> None:
    with colm.load(folder / "base.gguf", folder / "assistant.gguf", "confidence", **FAST) as pair:
        result = pair.generate("the", max_tokens=1, logprobs=2**31 - 1)
        assert len(result.tokens[0].top_logprobs) == pair.n_shared


def register_large_input() -> None:
    # llama.cpp splits texts with regular expressions; the standard library's recurse once per character.
    for pre, text in (
        ("qwen2", "a" * 150_000),
        ("tekken", "a" * 150_000),
        ("gpt-4o", "a" * 150_000),
        ("llama4", "a" * 150_000),
        ("default", "1" * 150_000),
        ("falcon", "!" * 150_000),
    ):
        case(
            f"long text for {pre}",
            "ContextFull: .*150000.*64|TokenizeError: ",
            lambda d, pre=pre, text=text: use_long_text(d, pre, text),
        )
    if sys.platform == "linux":
        for megabytes in (300, 1500):  # less than the bookkeeping of the cells, and less than the cells
            case(
                f"a context that {megabytes} MB cannot hold",
                "LoadError: .*16777216.*base.gguf.*n_ctx",
                lambda d, n=megabytes: with_little_memory(
                    n, lambda: use_model(d / "base.gguf", n_ctx=2**24, check_memory=False)
                ),
            )
    case("more logprobs than tokens", "OK", use_logprobs)
    case("a model path that is no text", ANY, open_bytes_path)
    if hasattr(os, "mkfifo"):
        case("a pipe as a model", "LoadError: .*fifo.gguf", open_fifo)


register_damaged_files()
register_changed_keys()
register_adapters()
register_grammars()
register_large_input()


def child(folder: Path, names: list[str]) -> None:
    """Runs cases, announcing each one before it may kill the process."""
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30, 12 * 2**30))
    for name in names:
        print(json.dumps([name, None]), flush=True)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 5)  # its default action ends the process, wherever it hangs
        try:
            CASES[name][0](folder)
            result = "OK"
        except colm.ColmError as error:
            result = f"{type(error).__name__}: {error}"
        except Exception as error:
            result = f"untyped {type(error).__name__}: {error}"
        print(json.dumps([name, result[:1000]]), flush=True)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each case: "OK", "Class: message", "untyped Class: message" or "the process died: code"."""
    folder = tmp_path_factory.mktemp("child")
    make_files(folder)
    results: dict[str, str] = {}
    left = list(CASES)
    while left:
        done = subprocess.run(
            [sys.executable, __file__, str(folder)],
            input=json.dumps(left),
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
        )
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        assert lines, done.stderr
        for name, result in lines:
            results[name] = result or f"the process died: {done.returncode}: {done.stderr[-300:]}"
        left = left[left.index(lines[-1][0]) + 1 :]
    return results


def fits(result: str, expect: str) -> bool:
    if expect == ANY:
        return not result.startswith(("untyped", "the process died"))
    return re.match(expect, result, re.DOTALL) is not None


@pytest.mark.parametrize("kind", ["model", "head"])
def test_flipped_bytes_give_a_typed_error_or_load(outcomes: dict[str, str], kind: str) -> None:
    of_kind = {name: result for name, result in outcomes.items() if name.startswith(f"fuzz {kind}")}
    assert len(of_kind) == N_FUZZ
    assert {name: result for name, result in of_kind.items() if not fits(result, ANY)} == {}
    # The damage was real and did not always end at the first check.
    assert len({result.split(":")[0] for result in of_kind.values()}) >= 3


@pytest.mark.parametrize("name", ["base", "head"])
def test_truncated_files_are_refused(outcomes: dict[str, str], name: str) -> None:
    of_kind = {case: result for case, result in outcomes.items() if case.startswith(f"cut {name} ")}
    assert len(of_kind) == 60
    assert {case: result for case, result in of_kind.items() if not fits(result, CASES[case][1])} == {}
    assert any("cut short" in result for result in of_kind.values())


@pytest.mark.parametrize("name", [name for name in CASES if not re.match(r"fuzz |cut (base|head) ", name)])
def test_in_a_child(outcomes: dict[str, str], name: str) -> None:
    assert fits(outcomes[name], CASES[name][1]), outcomes[name]


# -- loading --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad-input")
    make_files(folder)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[colm.Pair]:
    with colm.load(folder / "base.gguf", folder / "assistant.gguf", "confidence", **FAST) as pair:
        yield pair


@pytest.fixture
def still_usable(pair: colm.Pair) -> Iterator[None]:
    """What a test did to the pair must not show in the text after it."""
    expected = pair.generate("the fox", max_tokens=4, temperature=0).text
    yield
    assert pair.generate("the fox", max_tokens=4, temperature=0).text == expected


def load(folder: Path, **options: Any) -> colm.Pair:
    given = {"base": folder / "base.gguf", "assistant": folder / "assistant.gguf", "head": "confidence", **FAST}
    return colm.load(**{**given, **options})


def says(error: pytest.ExceptionInfo[BaseException], *parts: object) -> None:
    for part in parts:
        assert str(part) in str(error.value), f"{part!r} is not in: {error.value}"


@pytest.mark.parametrize("role", ["base", "assistant"])
@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("missing.gguf", None, ["no file"]),
        ("empty.gguf", b"", ["GGUF"]),
        ("text.gguf", b"Once upon a time there was no model here.", ["not a GGUF file"]),
        ("magic.gguf", b"GGUF", ["damaged"]),
        ("pickle.gguf", b"\x80\x04\x95", ["not a GGUF file"]),
    ],
)
def test_file_that_is_no_model(
    folder: Path, tmp_path: Path, role: str, name: str, content: bytes | None, parts: list[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(errors.LoadError) as error:
        load(folder, **{role: path})
    says(error, path, *parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (".", ["folder", ".gguf"]),
        ("head.gguf", ["deferral head", "head="]),
        ("adapter.gguf", ["LoRA adapter", "lora="]),
    ],
)
@pytest.mark.parametrize("role", ["base", "assistant"])
def test_another_thing_in_place_of_a_model(folder: Path, role: str, name: str, parts: list[str]) -> None:
    with pytest.raises(errors.LoadError) as error:
        load(folder, **{role: folder / name})
    says(error, folder / name if name != "." else folder, *parts)


def test_truncated_model_names_both_sizes(folder: Path, tmp_path: Path) -> None:
    data = (folder / "base.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[:-1000])
    with pytest.raises(errors.LoadError) as error:
        load(folder, base=tmp_path / "cut.gguf")
    says(error, tmp_path / "cut.gguf", len(data) - 1000, len(data), "download it again")


@pytest.mark.parametrize("value", [None, 5, b"base.gguf", ["base.gguf"]])
def test_model_path_of_a_wrong_type(folder: Path, value: object) -> None:
    with pytest.raises(TypeError, match=f"base.*{type(value).__name__}"):
        load(folder, base=value)


@pytest.mark.parametrize("path", ["", "\0", "base.gguf\0", "\ud800.gguf", "x" * 5000])
@pytest.mark.parametrize("where", ["base", "assistant", "lora", "head"])
def test_path_that_no_file_has(folder: Path, where: str, path: str) -> None:
    given = str(folder / path) if path else path
    wanted = (errors.LoadError, errors.HeadError) if where == "head" else errors.LoadError
    with pytest.raises(wanted) as error:
        load(folder, **{where: given})
    assert len(str(error.value)) > 10


@pytest.mark.parametrize("path", ["head.gguf\0", "\ud800.gguf", "", "."])
def test_head_path_that_no_file_has(folder: Path, path: str) -> None:
    with pytest.raises(errors.LoadError):
        colm.Head.load(str(folder / path) if path else "")


def mismatch(folder: Path, base: Path, assistant: Path) -> errors.VocabMismatch:
    with pytest.raises(errors.VocabMismatch) as error:
        load(folder, base=base, assistant=assistant)
    return error.value


@pytest.mark.parametrize("swap", [False, True])
def test_vocabularies_that_differ_in_a_token(folder: Path, tmp_path: Path, swap: bool) -> None:
    other = tm.make_model(tmp_path / "other.gguf", vocab=VOCAB.replace_token(100, "zzz").replace_token(200, "yyy"))
    pair = (other, folder / "assistant.gguf")
    error = mismatch(folder, *(pair[::-1] if swap else pair))
    texts = ["zzz", "d"]
    assert error.token_id == 100
    assert [error.base_text, error.assistant_text] == (texts[::-1] if swap else texts)
    for part in ("token 100", '"zzz"', '"d"', "one tokenizer"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("vocab", "part"),
    [
        (tm.Vocab.spm(), "SPM"),
        (dataclasses.replace(VOCAB, add_bos=True), "adds token 384"),
    ],
    ids=["type", "bos"],
)
@pytest.mark.parametrize("swap", [False, True])
def test_vocabularies_that_behave_differently(
    folder: Path, tmp_path: Path, vocab: tm.Vocab, part: str, swap: bool
) -> None:
    other = tm.make_model(tmp_path / "other.gguf", vocab=vocab)
    pair = (other, folder / "assistant.gguf")
    error = mismatch(folder, *(pair[::-1] if swap else pair))
    assert error.token_id == -1
    assert error.base_text != error.assistant_text
    assert part in str(error)


@pytest.mark.parametrize(
    "options",
    [
        {"n_padding": 13},
        {"extra_tail": ("<|more|>", ("tuned", tm.USER_DEFINED))},
        {"extra_tail": ("<|more|>",), "n_padding": 5},
        {"vocab": tm.Vocab(n_padding=5, tail=("<|late|>",), tail_after_padding=True)},
    ],
    ids=["padding", "tail", "tail and padding", "tail behind padding"],
)
@pytest.mark.parametrize("swap", [False, True])
def test_tails_are_allowed(folder: Path, tmp_path: Path, options: dict[str, Any], swap: bool) -> None:
    other = tm.make_model(tmp_path / "other.gguf", seed=5, **options)
    files = (other, folder / "assistant.gguf")
    with load(folder, **dict(zip(("base", "assistant"), files[::-1] if swap else files, strict=True))) as pair:
        assert pair.n_shared == len(VOCAB)
        result = pair.generate("the fox", max_tokens=30, seed=1, threshold=0.9)
        assert all(token.id < len(VOCAB) for token in result.tokens)
        with pytest.raises(errors.TokenizeError) as error:
            pair.generate([len(VOCAB)])
        says(error, len(VOCAB), len(VOCAB) - 1)


LOAD_OPTIONS: list[tuple[str, object, type[Exception], list[object]]] = [
    ("n_ctx", 1, errors.OptionError, ["n_ctx", 1, 2, 2**28]),
    ("n_ctx", -1, errors.OptionError, ["n_ctx", -1]),
    ("n_ctx", 2**28 + 1, errors.OptionError, ["n_ctx", 2**28 + 1, 2**28]),
    ("n_ctx", 2.5, errors.OptionError, ["n_ctx", 2.5]),
    ("n_ctx", "many", errors.OptionError, ["n_ctx", "many"]),
    ("n_ctx", True, errors.OptionError, ["n_ctx", True]),
    ("n_batch", 0, errors.OptionError, ["n_batch", 0, 2**20]),
    ("n_batch", -5, errors.OptionError, ["n_batch", -5]),
    ("n_batch", 2**20 + 1, errors.OptionError, ["n_batch", 2**20 + 1, 2**20]),
    ("n_batch", None, errors.OptionError, ["n_batch", None]),
    ("n_ubatch", 0, errors.OptionError, ["n_ubatch", 0]),
    ("n_threads", 0, errors.OptionError, ["n_threads", 0, 512]),
    ("n_threads", -1, errors.OptionError, ["n_threads", -1]),
    ("n_threads", 100_000, errors.OptionError, ["n_threads", 100_000, 512]),
    ("n_threads_batch", 100_000, errors.OptionError, ["n_threads_batch", 100_000, 512]),
    ("n_gpu_layers", -2, errors.OptionError, ["n_gpu_layers", -2]),
    ("main_gpu", -1, errors.OptionError, ["main_gpu", -1]),
    ("main_gpu", 2**40, errors.OptionError, ["main_gpu", 2**40]),
    ("split_mode", "both", errors.OptionError, ["split_mode", "both", "layer"]),
    ("tensor_split", [1.0] * 100, errors.OptionError, ["tensor_split", 100, "at most"]),
    ("tensor_split", [1, -0.5], errors.OptionError, ["tensor_split", -0.5]),
    ("tensor_split", [NAN], errors.OptionError, ["tensor_split", "NaN"]),
    ("tensor_split", [INF], errors.OptionError, ["tensor_split", "inf"]),
    ("tensor_split", ["a"], errors.OptionError, ["tensor_split", "a"]),
    ("tensor_split", [10**400], errors.OptionError, ["tensor_split"]),
    ("tensor_split", 0.5, errors.OptionError, ["tensor_split", 0.5]),
    ("type_k", "q7", errors.OptionError, ["type_k", "q7", "q8_0"]),
    ("type_k", 8, errors.OptionError, ["type_k", 8, "q8_0"]),
    ("rope_freq_base", -1, errors.OptionError, ["rope_freq_base"]),
    ("rope_freq_base", NAN, errors.OptionError, ["rope_freq_base", "NaN"]),
    ("rope_freq_base", INF, errors.OptionError, ["rope_freq_base"]),
    ("rope_freq_scale", "x", errors.OptionError, ["rope_freq_scale", "x"]),
    ("rope_freq_scale", 10**400, errors.OptionError, ["rope_freq_scale"]),
    ("lora", 5, errors.OptionError, ["lora", 5]),
    ("lora", [5], errors.OptionError, ["lora", 5]),
    ("lora", [(5, 1.0)], errors.OptionError, ["lora", 5]),
    ("lora", [("a.gguf", NAN)], errors.OptionError, ["scale", "NaN"]),
    ("lora", [("a.gguf", "x")], errors.OptionError, ["scale", "x"]),
    ("lora", "missing.gguf", errors.LoadError, ["missing.gguf"]),
    ("lora", ["missing.gguf"], errors.LoadError, ["missing.gguf"]),
    ("n_ctxx", 5, TypeError, ["n_ctxx", "did you mean 'n_ctx'"]),
    ("zzz", 5, TypeError, ["zzz", "n_ctx"]),
    ("base_options", {"n_threadz": 1}, TypeError, ["n_threadz", "n_threads"]),
    ("assistant_options", {"n_batch": 0}, errors.OptionError, ["n_batch", 0]),
]


@pytest.mark.parametrize(
    ("name", "value", "wanted", "parts"), LOAD_OPTIONS, ids=[f"{o[0]}={str(o[1])[:20]}" for o in LOAD_OPTIONS]
)
def test_load_option(folder: Path, name: str, value: object, wanted: type[Exception], parts: list[object]) -> None:
    with pytest.raises(wanted) as error:
        load(folder, **{name: value})
    assert error.type is wanted
    says(error, *parts)


@pytest.mark.parametrize(
    "options",
    [
        {"n_ctx": 2},
        {"n_ctx": 0},
        {"n_ctx": None},
        {"n_batch": 2**20},
        {"n_batch": 16, "n_ubatch": 512},
        {"n_batch": 1, "n_ubatch": 1},
        {"main_gpu": 99},
        {"main_gpu": 99, "split_mode": "none"},
        {"tensor_split": [0, 0]},
        {"tensor_split": []},
        {"type_k": "bf16", "type_v": "f32"},
        {"use_mlock": True, "use_mmap": False},
        {"lora": []},
    ],
    ids=str,
)
def test_unusual_load_options_work_or_are_refused(folder: Path, options: dict[str, Any]) -> None:
    try:
        pair = load(folder, **options)
    except colm.ColmError:
        assert "main_gpu" in options  # depends on the machine
        return
    with pair:
        assert pair.generate("a", max_tokens=1, seed=1).stats.generated_tokens == 1


@pytest.mark.parametrize("flash_attn", [True, False, None])
@pytest.mark.parametrize("name", ["type_k", "type_v"])
def test_quantised_cache_of_heads_that_are_no_blocks(folder: Path, name: str, flash_attn: bool | None) -> None:
    with pytest.raises(errors.OptionError) as error:
        load(folder, **{name: "q8_0", "flash_attn": flash_attn})
    says(error, name, 32, folder / "base.gguf", 8, "f16")


def test_quantised_cache_of_values_needs_flash_attention(tmp_path: Path) -> None:
    path = tm.make_model(tmp_path / "wide.gguf", n_embd=128)
    for flash_attn in (True, None):
        with colm.load(path, path, "confidence", type_v="q8_0", type_k="q4_0", flash_attn=flash_attn, **FAST) as pair:
            assert pair.generate("the fox", max_tokens=3, seed=1).tokens
    with pytest.raises(errors.OptionError) as error:
        colm.load(path, path, "confidence", type_v="q8_0", flash_attn=False, **FAST)
    says(error, "type_v", "flash")


def test_context_beyond_the_memory(folder: Path) -> None:
    with pytest.raises(errors.NotEnoughMemory) as error:
        load(folder, n_ctx=2**28)
    assert isinstance(error.value, MemoryError)
    assert error.value.needed > error.value.available > 0
    says(error, f"{error.value.needed / 1e9:.1f} GB", f"{error.value.available / 1e9:.1f} GB", "n_ctx", "check_memory")


def test_progress_that_raises(folder: Path) -> None:
    class Mine(Exception):
        pass

    raised = Mine("in the callback")

    def progress(done: float) -> None:
        if done > 0.5:
            raise raised

    with pytest.raises(Mine) as error:
        load(folder, progress=progress)
    assert error.value is raised
    with load(folder) as pair:
        assert pair.generate("a", max_tokens=1, seed=1).tokens


@pytest.mark.parametrize("stop_at", [0.0, 0.5, 1.0])
def test_progress_that_says_stop(folder: Path, stop_at: float) -> None:
    calls: list[float] = []

    def progress(done: float) -> bool:
        calls.append(done)
        return done < stop_at

    with pytest.raises(errors.LoadError) as error:
        load(folder, progress=progress)
    says(error, "progress", "False")
    assert calls == sorted(calls)
    assert calls[-1] >= stop_at > max(calls[:-1], default=-1.0)


# -- heads ----------------------------------------------------------------------------------------------------


def test_no_head_lists_the_choices(folder: Path) -> None:
    with load(folder, head=None) as pair, pytest.raises(errors.HeadError) as error:
        pair.generate("the")
    says(error, "no deferral head", ".gguf", "colm_cpp.Head", "'confidence'", "'entropy'", "'random'", "<|defer|>")
    with pytest.raises(errors.HeadError) as error:
        colm.generate("the", base=folder / "base.gguf", assistant=folder / "assistant.gguf")
    says(error, "head", "'confidence'")


@pytest.mark.parametrize("head", [5, 0.5, [1.0], b"confidence", np.zeros(3), True], ids=repr)
def test_head_of_a_wrong_type(folder: Path, pair: colm.Pair, head: Any) -> None:
    for attempt in (lambda: load(folder, head=head), lambda: pair.generate("the", head=head)):
        with pytest.raises(errors.HeadError) as error:
            attempt()
        says(error, type(head).__name__, "'confidence'")


@pytest.mark.parametrize("head", ["<|nope|>", "nope", "Confidence", "", "\0", "a\ud800", "<\ud800>"])
@pytest.mark.usefixtures("still_usable")
def test_head_that_names_nothing(folder: Path, pair: colm.Pair, head: str) -> None:
    for attempt in (lambda: load(folder, head=head), lambda: pair.generate("the", head=head)):
        with pytest.raises(errors.HeadError):
            attempt()
    if "\ud800" not in head and "\0" not in head:
        with pytest.raises(errors.HeadError) as error:
            pair.generate("the", head=head)
        says(error, head)


@pytest.mark.parametrize("name", ["base.gguf", "adapter.gguf"])
def test_model_in_place_of_a_head(folder: Path, pair: colm.Pair, name: str) -> None:
    for attempt in (
        lambda: colm.Head.load(folder / name),
        lambda: load(folder, head=folder / name),
        lambda: pair.generate("the", head=folder / name),
    ):
        with pytest.raises(errors.HeadError) as error:
            attempt()
        says(error, folder / name, "llama", "colm-head")


def test_missing_head_file(folder: Path, pair: colm.Pair) -> None:
    for attempt in (lambda: load(folder, head="no.gguf"), lambda: pair.generate("the", head=Path("no.gguf"))):
        with pytest.raises(errors.LoadError) as error:
            attempt()
        says(error, "no.gguf")


@pytest.mark.usefixtures("still_usable")
def test_head_of_another_width(folder: Path, pair: colm.Pair) -> None:
    head = colm.Head.linear(np.ones(33))
    for attempt in (lambda: load(folder, head=head), lambda: pair.generate("the", head=head)):
        with pytest.raises(errors.HeadMismatch) as error:
            attempt()
        says(error, 33, 32, folder / "base.gguf")


@pytest.mark.usefixtures("still_usable")
def test_head_of_another_vocabulary(folder: Path, pair: colm.Pair) -> None:
    head = colm.Head.linear(np.ones(32), vocab_fingerprint="0123456789abcdef")
    for attempt in (lambda: load(folder, head=head), lambda: pair.generate("the", head=head)):
        with pytest.raises(errors.HeadMismatch) as error:
            attempt()
        says(error, "0123456789abcdef", pair.vocab_fingerprint)
    fitting = head.replace(vocab_fingerprint=pair.vocab_fingerprint)
    assert pair.generate("the", head=fitting, max_tokens=1, seed=1).tokens


# -- prompts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", ["empty"]),
        ([], ["no tokens"]),
        (None, ["NoneType", "token ids"]),
        (5, ["int", "token ids"]),
        (b"text", ["bytes", "token ids"]),
        (bytearray(b"text"), ["bytearray"]),
        ("a\ud800b", ["surrogate", "\\ud800", "character 1"]),
        ([1, -1], ["prompt token 1", "-1", "386"]),
        ([387], ["387", "<|defer|>", "386"]),
        ([388], ["388", "386"]),
        ([2**31], [2**31]),
        ([-(2**70)], [-(2**70)]),
        ([1.0], ["1.0", "whole"]),
        ([np.float32(1)], ["whole"]),
        ([True], ["True", "whole"]),
        ([None], ["None", "whole"]),
        (["a"], ["'a'", "whole"]),
        ([int], ["int", "whole"]),
        ([[1]], ["[1]", "whole"]),
        ([b"a"], ["b'a'", "whole"]),
        pytest.param([10**5000], ["prompt token"], id="huge"),
    ],
    ids=lambda value: ascii(value)[:20],
)
@pytest.mark.usefixtures("still_usable")
def test_prompt(pair: colm.Pair, prompt: Any, parts: list[object]) -> None:
    for attempt in (lambda: pair.generate(prompt), lambda: pair.stream(prompt)):
        with pytest.raises(errors.TokenizeError) as error:
            attempt()
        says(error, *parts)


def test_prompt_longer_than_the_context(pair: colm.Pair) -> None:
    for prompt in ([1] * 65, "!" * 65):
        with pytest.raises(errors.ContextFull) as error:
            pair.generate(prompt)
        assert (error.value.n_prompt, error.value.n_ctx) == (65, 64)
        says(error, 65, 64, "n_ctx")
    assert pair.generate([1] * 64).finish_reason == "length"
    assert pair.generate([1] * 63, seed=1, logit_bias=ban(pair, 384, 386)).stats.generated_tokens == 1


def test_nul_in_a_prompt_is_a_character(pair: colm.Pair) -> None:
    ids = pair.tokenize("a\0b")
    assert len(ids) == 3
    assert pair.detokenize(ids) == "a\0b"
    assert pair.generate("a\0b", max_tokens=1, seed=1).stats.prompt_tokens == 3


@pytest.mark.parametrize("text", [None, 5, b"a", ["a"], "\udfff"], ids=ascii)
def test_tokenize(pair: colm.Pair, text: Any) -> None:
    with pytest.raises(errors.TokenizeError):
        pair.tokenize(text)


@pytest.mark.parametrize("tokens", [None, 5, "abc", b"abc", [-1], [387], [2**40], [1.0], [True]], ids=repr)
def test_detokenize(pair: colm.Pair, tokens: Any) -> None:
    with pytest.raises(errors.TokenizeError):
        pair.detokenize(tokens)


# -- generation options ---------------------------------------------------------------------------------------


def ban(pair: colm.Pair, *ids: int) -> dict[int, float]:
    return dict.fromkeys(ids or range(pair.n_shared), -INF)


GENERATION_OPTIONS: list[tuple[str, object, type[Exception], list[object]]] = [
    ("threshold", 1.5, errors.OptionError, ["threshold", 1.5, "between 0 and 1"]),
    ("threshold", -0.25, errors.OptionError, ["threshold", -0.25]),
    ("threshold", NAN, errors.OptionError, ["threshold", "NaN"]),
    ("threshold", INF, errors.OptionError, ["threshold", "inf"]),
    ("threshold", "high", errors.OptionError, ["threshold", "high"]),
    ("threshold", [0.5], errors.OptionError, ["threshold", [0.5]]),
    ("threshold", 10**400, errors.OptionError, ["threshold"]),
    ("max_tokens", -2, errors.OptionError, ["max_tokens", -2]),
    ("max_tokens", 1.5, errors.OptionError, ["max_tokens", 1.5]),
    ("max_tokens", 2**40, errors.OptionError, ["max_tokens", 2**40]),
    ("max_tokens", int, errors.OptionError, ["max_tokens", "int"]),
    ("temperature", -0.5, errors.OptionError, ["temperature", -0.5, "0 or more"]),
    ("temperature", NAN, errors.OptionError, ["temperature", "NaN"]),
    ("temperature", INF, errors.OptionError, ["temperature", "inf"]),
    ("temperature", 1e300, errors.OptionError, ["temperature"]),
    ("temperature", 10**400, errors.OptionError, ["temperature"]),
    ("temperature", None, errors.OptionError, ["temperature", None]),
    ("temperature", "hot", errors.OptionError, ["temperature", "hot"]),
    ("top_p", 1.5, errors.OptionError, ["top_p", 1.5, "between 0 and 1"]),
    ("top_p", -0.5, errors.OptionError, ["top_p", -0.5]),
    ("top_p", NAN, errors.OptionError, ["top_p", "NaN"]),
    ("min_p", 1.5, errors.OptionError, ["min_p", 1.5]),
    ("min_p", INF, errors.OptionError, ["min_p", "inf"]),
    ("typical_p", 0, errors.OptionError, ["typical_p", 0, "above 0"]),
    ("typical_p", 1.5, errors.OptionError, ["typical_p", 1.5]),
    ("top_k", 2**31, errors.OptionError, ["top_k", 2**31]),
    ("top_k", 1.5, errors.OptionError, ["top_k", 1.5]),
    ("top_k", NAN, errors.OptionError, ["top_k", "nan"]),
    ("repeat_penalty", 0, errors.OptionError, ["repeat_penalty", 0, "above 0"]),
    ("repeat_penalty", -1, errors.OptionError, ["repeat_penalty", -1]),
    ("repeat_penalty", INF, errors.OptionError, ["repeat_penalty", "inf"]),
    ("frequency_penalty", INF, errors.OptionError, ["frequency_penalty", "inf"]),
    ("presence_penalty", NAN, errors.OptionError, ["presence_penalty", "NaN"]),
    ("seed", -1, errors.OptionError, ["seed", -1, 2**32 - 2]),
    ("seed", 2**32 - 1, errors.OptionError, ["seed", 2**32 - 1, 2**32 - 2]),
    ("seed", 2**40, errors.OptionError, ["seed", 2**40, 2**32 - 2]),
    ("seed", 1.5, errors.OptionError, ["seed", 1.5]),
    ("logprobs", -1, errors.OptionError, ["logprobs", -1]),
    ("logprobs", 2**31, errors.OptionError, ["logprobs", 2**31]),
    ("logprobs", "3", errors.OptionError, ["logprobs", "3"]),
    ("stop", "", errors.OptionError, ["stop", "empty"]),
    ("stop", ["a", ""], errors.OptionError, ["stop", "empty"]),
    ("stop", [1], errors.OptionError, ["stop", 1]),
    ("stop", 5, errors.OptionError, ["stop", 5]),
    ("stop", b"ab", errors.OptionError, ["stop"]),
    ("stop", "a\ud800", errors.OptionError, ["stop", "surrogate"]),
    ("logit_bias", {5: NAN}, errors.OptionError, ["logit_bias", "NaN"]),
    ("logit_bias", {5: INF}, errors.OptionError, ["logit_bias", "inf", "-inf"]),
    ("logit_bias", {5: "x"}, errors.OptionError, ["logit_bias", "x"]),
    ("logit_bias", {-1: 1.0}, errors.OptionError, ["logit_bias", -1, 386]),
    ("logit_bias", {387: 1.0}, errors.OptionError, ["logit_bias", 387, 386]),
    ("logit_bias", {2**40: 1.0}, errors.OptionError, ["logit_bias", 2**40]),
    ("logit_bias", {"a": 1.0}, errors.OptionError, ["logit_bias", "a"]),
    ("logit_bias", [1.0], errors.OptionError, ["logit_bias"]),
    ("strategy", "vote", errors.OptionError, ["strategy", "vote", "compose"]),
    ("strategy", None, errors.OptionError, ["strategy", None]),
    ("beta", -1, errors.OptionError, ["beta", -1]),
    ("beta", INF, errors.OptionError, ["beta", "inf"]),
    ("alpha", 0, errors.OptionError, ["alpha", 0, "above 0"]),
    ("alpha", 2, errors.OptionError, ["alpha", 2]),
    ("schedule", "steps", errors.OptionError, ["schedule", "steps", "cosine"]),
    ("schedule_tokens", -1, errors.OptionError, ["schedule_tokens", -1]),
    ("tempreature", 1.0, TypeError, ["tempreature", "did you mean 'temperature'"]),
    ("zzz", 1.0, TypeError, ["zzz", "temperature"]),
]


@pytest.mark.parametrize(
    ("name", "value", "wanted", "parts"),
    GENERATION_OPTIONS,
    ids=[f"{o[0]}={ascii(o[1])[:20]}" for o in GENERATION_OPTIONS],
)
@pytest.mark.usefixtures("still_usable")
def test_generation_option(
    pair: colm.Pair, name: str, value: object, wanted: type[Exception], parts: list[object]
) -> None:
    for attempt in (
        lambda: pair.stream("the", **{name: value}),
        lambda: pair.chat([{"role": "user", "content": "hi"}], **{name: value}),
    ):
        with pytest.raises(wanted) as error:
            attempt()
        assert error.type is wanted
        says(error, *parts)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-45},
        {"temperature": 1e38},
        {"repeat_penalty": 1e-38},
        {"repeat_penalty": 3e38},
        {"frequency_penalty": 3e38},
        {"frequency_penalty": -3e38},
        {"presence_penalty": -3e38},
        {"top_p": 0},
        {"min_p": 1.0},
        {"typical_p": 1e-30},
        {"top_k": -(2**31)},
        {"top_k": 2**31 - 1},
        {"logit_bias": {5: 3e38}, "repeat_penalty": 1e-30},
        {"logit_bias": {}},
        {"stop": []},
        {"stop": None},
        {"max_tokens": 0},
        {"threshold": None},
        {"threshold": 0},
        {"threshold": 1},
        {"schedule": "exponential", "threshold": 0.0, "schedule_tokens": 2**31 - 1},
        {"strategy": "contrastive", "beta": 1000, "threshold": 0},
        {"strategy": "contrastive", "alpha": 5e-324, "threshold": 0},
        {"seed": 2**32 - 2},
        {"logprobs": 0},
    ],
    ids=str,
)
@pytest.mark.usefixtures("still_usable")
def test_extreme_generation_options(pair: colm.Pair, options: dict[str, Any]) -> None:
    try:
        result = pair.generate("the fox", **{"max_tokens": 5, "seed": 1, **options})
    except errors.GenerationError:
        return
    json.dumps(result.to_dict(), allow_nan=False)
    assert all(0 <= token.id < pair.n_shared for token in result.tokens)


@pytest.mark.parametrize(
    ("grammar", "parts"),
    [
        ("", ["empty"]),
        (" \n", ["empty"]),
        ("root ::= \0", ["NUL"]),
        ('root ::= "\ud800"', ["surrogate"]),
        (5, ["int", "GBNF"]),
        (b"root", ["bytes", "GBNF"]),
        (["a"], ["list", "GBNF"]),
        ('root ::= "a', ["line 1", "column 12", '"']),
        ("root ::= (", ["line 1", ")"]),
        ('other ::= "a"', ["root"]),
        ("root ::= missing", ["missing"]),
        ('root ::= root "a" | "b"', ["left recursion"]),
        ('root ::= a\na ::= b\nb ::= a "x"', ["left recursion"]),
        ('root ::= "a"{99999999999999999999}', ["{99999999999999999999}", 100000]),
        ({"type": 5}, ["schema", "5"]),
        ({"type": "strong"}, ["schema", "strong"]),
        ("{", ["schema"]),
        ("{1: 2}", ["schema"]),
        ({"$ref": "#/nowhere"}, ["schema", "nowhere"]),
        ({"$ref": "http://127.0.0.1:1/x"}, ["schema"]),
        ({"const": {1, 2}}, ["schema"]),
        pytest.param({"enum": object()}, ["schema"], id="an object in a schema"),
    ],
    ids=lambda value: ascii(value)[:30],
)
@pytest.mark.usefixtures("still_usable")
def test_grammar(pair: colm.Pair, capfd: pytest.CaptureFixture[str], grammar: Any, parts: list[object]) -> None:
    with pytest.raises(errors.GrammarError) as error:
        pair.stream("the", grammar=grammar)
    says(error, *parts)
    assert capfd.readouterr() == ("", "")


def test_circular_schema(pair: colm.Pair) -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"self": schema}
    with pytest.raises(errors.GrammarError):
        pair.stream("the", grammar=schema)


@pytest.mark.usefixtures("still_usable")
def test_grammar_that_no_token_satisfies(pair: colm.Pair) -> None:
    only = pair.tokenize("\x01")
    assert len(only) == 1
    options: dict[str, Any] = {"grammar": 'root ::= "a" "\\x01"', "logit_bias": ban(pair, *only), "max_tokens": 9}
    stream = pair.stream("the", **options)
    assert next(stream).text == "a"
    with pytest.raises(errors.GenerationError, match="grammar"):
        next(stream)
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(stream)
    assert list(stream) == []
    assert stream.finish_reason != "eos"
    assert stream.stats.generated_tokens == 1
    with pytest.raises(colm.ColmError):
        stream.completion()
    with pytest.raises(errors.GenerationError, match="grammar"):
        pair.generate("the", **options)


@pytest.mark.usefixtures("still_usable")
def test_bias_that_bans_every_token(pair: colm.Pair) -> None:
    with pytest.raises(errors.GenerationError, match="logit_bias"):
        pair.generate("the", logit_bias=ban(pair))


def test_long_options_are_checked_before_loading(tmp_path: Path) -> None:
    with pytest.raises(errors.OptionError, match="top_p"):
        colm.generate("a", base=tmp_path / "no", assistant=tmp_path / "no", head="confidence", top_p=2)


# -- chat -----------------------------------------------------------------------------------------------------

HELLO = [{"role": "user", "content": "hi"}]


def test_chat_without_a_template(folder: Path) -> None:
    with load(folder, base=folder / "assistant.gguf") as pair:
        with pytest.raises(errors.ChatTemplateError) as error:
            pair.chat(HELLO)
        says(error, folder / "assistant.gguf", "chat_template=")
        assert pair.chat(HELLO, chat_template=tm.CHATML, max_tokens=1, seed=1).tokens


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("", ["no chat template"]),
        ("{{", ["parsed", "line 1"]),
        ("\n{% for %}", ["parsed", "line 2"]),
        ("{% if x %}", ["parsed"]),
        ("{{ 1 | nofilter }}", ["nofilter"]),
        ("{{ raise_exception('roles must alternate') }}", ["roles must alternate"]),
        ("{{ nothing.here }}", ["nothing"]),
        ("{{ messages[9].content }}", ["9"]),
        ("{{ 1 / 0 }}", ["ZeroDivisionError"]),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", ["unsafe"]),
        ("{{ cycler.__init__.__globals__ }}", ["unsafe"]),
        ("{{ lipsum.__globals__['os'].system('true') }}", ["unsafe"]),
        ("{{ messages.append(1) }}", ["unsafe"]),
        ("{% include '/etc/passwd' %}", ["loader"]),
        ("{{ range(10 ** 9) | list }}", ["range"]),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ["recursion"]),
        ("{{ 'a' * 10 ** 15 }}", [10**15]),
        (5, ["template"]),
        (b"{{ messages }}", ["template"]),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.usefixtures("still_usable")
def test_chat_template(pair: colm.Pair, template: Any, parts: list[object]) -> None:
    for attempt in (
        lambda: pair.chat(HELLO, chat_template=template),
        lambda: pair.stream_chat(HELLO, chat_template=template),
        lambda: pair.render_chat(HELLO, chat_template=template),
    ):
        with pytest.raises(errors.ChatTemplateError) as error:
            attempt()
        assert re.search("|".join(re.escape(str(part)) for part in parts), str(error.value), re.IGNORECASE)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__ }}",
        "{{ self.__init__ }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ '%s' % messages.__class__ }}",
        "{{ messages | attr('__class__') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
    ],
)
def test_chat_template_finds_no_way_out(pair: colm.Pair, template: str) -> None:
    try:
        text = pair.render_chat(HELLO, chat_template=template)
    except errors.ChatTemplateError:
        return
    assert "class" not in text
    assert "module" not in text


@pytest.mark.parametrize(
    ("messages", "parts"),
    [
        (None, ["NoneType", "role"]),
        ("hi", ["str", "role"]),
        ({"role": "user"}, ["dict", "role"]),
        ([], ["empty"]),
        ([5], ["message 0", "5", "role"]),
        ([*HELLO, {}], ["message 1", "role"]),
        ([{"role": "user"}], ["message 0", "content"]),
        ([{"content": "hi"}], ["message 0", "role"]),
        ([{"role": 5, "content": "hi"}], ["message 0", "5"]),
        pytest.param(iter(HELLO), ["list"], id="an iterator"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_chat_messages(pair: colm.Pair, messages: Any, parts: list[object]) -> None:
    with pytest.raises(errors.ChatTemplateError) as error:
        pair.chat(messages)
    says(error, *parts)


def test_chat_variables(pair: colm.Pair) -> None:
    variables: Any
    for variables in (5, {"messages": []}, {1: 2}):
        with pytest.raises(errors.ChatTemplateError):
            pair.chat(HELLO, template_variables=variables)


def test_chat_with_a_lone_surrogate(pair: colm.Pair) -> None:
    with pytest.raises(errors.TokenizeError, match="surrogate"):
        pair.chat([{"role": "user", "content": "\ud800"}])


# -- closed pairs ---------------------------------------------------------------------------------------------

USES: dict[str, Callable[[colm.Pair], Any]] = {
    "generate": lambda pair: pair.generate("the"),
    "stream": lambda pair: pair.stream("the"),
    "chat": lambda pair: pair.chat(HELLO),
    "stream_chat": lambda pair: pair.stream_chat(HELLO),
    "generate_batch": lambda pair: pair.generate_batch(["the"]),
    "stream_batch": lambda pair: pair.stream_batch(["the"]),
    "render_chat": lambda pair: pair.render_chat(HELLO),
    "tokenize_chat": lambda pair: pair.tokenize_chat(HELLO),
    "tokenize": lambda pair: pair.tokenize("the"),
    "detokenize": lambda pair: pair.detokenize([1]),
    "forget": lambda pair: pair.forget(),
    "save_session": lambda pair: pair.save_session("a.session"),
    "load_session": lambda pair: pair.load_session("a.session"),
    "n_ctx": lambda pair: pair.n_ctx,
    "n_embd": lambda pair: pair.n_embd,
    "n_shared": lambda pair: pair.n_shared,
    "vocab_fingerprint": lambda pair: pair.vocab_fingerprint,
    "base": lambda pair: pair.base,
    "assistant": lambda pair: pair.assistant,
    "__enter__": lambda pair: pair.__enter__(),
}
HARMLESS = {"close", "cancel", "closed", "head"}


def test_every_use_of_a_pair_is_tried() -> None:
    public = {name for kind in (colm.Pair, Tokenizing, Facts) for name in vars(kind) if not name.startswith("_")}
    assert public == {*USES, *HARMLESS} - {"__enter__"}


@pytest.mark.parametrize("name", ["Completion", "TokenStream", "BatchStream"])
def test_what_writing_gives_is_exported(name: str) -> None:
    returned = " ".join(
        str(inspect.signature(getattr(colm.Pair, method)).return_annotation)
        for method in ("generate", "generate_batch", "stream", "stream_batch")
    )
    assert name in re.findall(r"\w+", returned)
    assert name in colm.__all__
    assert inspect.getdoc(getattr(colm, name))


@pytest.fixture(scope="module")
def closed(folder: Path) -> tuple[colm.Pair, dict[str, colm.TokenStream]]:
    pair = load(folder)
    done = pair.stream("the", max_tokens=1, seed=1, logit_bias=ban(pair, 384, 386))
    list(done)
    begun = pair.stream("the", seed=1)
    next(begun)
    streams = {"new": pair.stream("the"), "begun": begun, "done": done}
    pair.close()
    return pair, streams


@pytest.mark.parametrize("name", USES)
def test_closed_pair(closed: tuple[colm.Pair, dict[str, colm.TokenStream]], name: str) -> None:
    with pytest.raises(errors.PairClosed, match="closed"):
        USES[name](closed[0])


def test_closed_pair_answers_what_it_can(closed: tuple[colm.Pair, dict[str, colm.TokenStream]]) -> None:
    pair = closed[0]
    pair.close()
    pair.cancel()
    assert pair.closed
    assert pair.head == "confidence"
    assert repr(pair) == "<colm_cpp.Pair, closed>"


@pytest.mark.parametrize("name", ["new", "begun"])
def test_stream_of_a_closed_pair(closed: tuple[colm.Pair, dict[str, colm.TokenStream]], name: str) -> None:
    stream = closed[1][name]
    for use in (next, list, colm.TokenStream.completion, lambda s: s.stats, lambda s: s.calls):
        with pytest.raises(errors.PairClosed):
            use(stream)
    assert stream.finish_reason is None
    stream.cancel()
    stream.close()


def test_finished_stream_of_a_closed_pair(closed: tuple[colm.Pair, dict[str, colm.TokenStream]]) -> None:
    stream = closed[1]["done"]
    assert list(stream) == []
    assert stream.finish_reason == "length"
    assert stream.stats.generated_tokens == 1
    assert len(stream.completion().tokens) == 1


def test_results_hold_no_nan(pair: colm.Pair) -> None:
    result = pair.generate("the", max_tokens=3, seed=1, threshold=0.0, logprobs=3)
    for token in result.tokens:
        assert math.isfinite(token.logprob)
        assert not math.isnan(token.defer_logit)


if __name__ == "__main__":
    child(Path(sys.argv[1]), json.load(sys.stdin))
