"""Adapters, grammars and large input that once could end the process, each in a child: a typed error, or it works."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from bad_cases import ANY, Cases, use_model
from bad_input import FAST, LORA_A, LORA_B, NAN, VOCAB, make_adapter
from gguf import GGUFValueType as T

import colm_cpp as colm

CASES = Cases()


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
        CASES.add(
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
        CASES.add(f"grammar {name}", expect, lambda d, grammar=grammar: use_grammar(d, grammar))
    for name, schema, expect in (
        ("of a very long string", {"type": "string", "maxLength": 10**9}, bad),
        ("of very many items", {"type": "array", "items": {"type": "string"}, "minItems": 10**9}, bad),
        ("nested deeply", nested(5000), bad),
        ("that refers to itself", {"$ref": "#"}, bad),
        ("with a file reference", {"$ref": "file:///etc/passwd"}, bad),
    ):
        CASES.add(f"schema {name}", expect, lambda d, schema=schema: use_grammar(d, schema))


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
        CASES.add(
            f"long text for {pre}",
            "ContextFull: .*150000.*64|TokenizeError: ",
            lambda d, pre=pre, text=text: use_long_text(d, pre, text),
        )
    if sys.platform == "linux":
        for megabytes in (300, 1500):  # less than the bookkeeping of the cells, and less than the cells
            CASES.add(
                f"a context that {megabytes} MB cannot hold",
                "LoadError: .*16777216.*base.gguf.*n_ctx",
                lambda d, n=megabytes: with_little_memory(
                    n, lambda: use_model(d / "base.gguf", n_ctx=2**24, check_memory=False)
                ),
            )
    CASES.add("more logprobs than tokens", "OK", use_logprobs)
    CASES.add("a model path that is no text", ANY, open_bytes_path)
    if hasattr(os, "mkfifo"):
        CASES.add("a pipe as a model", "LoadError: .*fifo.gguf", open_fifo)


register_adapters()
register_grammars()
register_large_input()


# They take the longest, and their like is tried by default.
SLOW = [*(f"long text for {pre}" for pre in ("tekken", "llama4", "falcon")), "a context that 1500 MB cannot hold"]


def is_quick(name: str) -> bool:
    return name not in SLOW


outcomes = CASES.fixture(__file__, is_quick)
test_in_a_child = CASES.test(is_quick)


@pytest.mark.slow
def test_more_in_a_child(tmp_path: Path) -> None:
    assert CASES.wrong(CASES.outcomes(__file__, tmp_path, filter(CASES.expected.__contains__, SLOW))) == {}


if __name__ == "__main__":
    CASES.main()
