"""Files and options that once could end the process, each in a child: a typed error, or it works."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import bad_input
import gguf
import numpy as np
import pytest
import tiny_models as tm
from bad_input import FAST, INF, LORA_A, LORA_B, NAN, VOCAB, make_adapter, make_files
from gguf import GGUFValueType as T

import colm_cpp as colm

folder = bad_input.folder
pair = bad_input.pair


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
    tm.finish(writer)
    return target


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


# -- closed pairs ---------------------------------------------------------------------------------------------


if __name__ == "__main__":
    child(Path(sys.argv[1]), json.load(sys.stdin))
