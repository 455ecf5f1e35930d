"""``batch_invariant``: the same numbers, bit for bit, whatever is read in the same batch."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from conftest import ASSISTANT, BASE, TinyModels, TinyPairs

import colm_cpp as colm

PROMPTS = [
    "The sun",
    "a",
    "two hundred and one",
    "Once upon a time there was a fox",
    "x" * 40,
    "Hello",
    "12 + 7 =",
    "b",
]
Q4_K_M = 15


def quantised(source: Path, target: Path) -> Path:
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = Q4_K_M
    params.nthread = 1
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0
    return target


@pytest.fixture(scope="module")
def quantised_files(tiny_model: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Rows of 256 values, which K-quants need."""
    folder = tmp_path_factory.mktemp("quantised")
    return [
        quantised(tiny_model(arch="llama", n_embd=256, n_ctx_train=1024, seed=seed), folder / f"{seed}.gguf")
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def quantised_pair(quantised_files: list[Path]) -> Iterator[colm.Pair]:
    with colm.load(*quantised_files, "confidence", n_ctx=256, n_threads=1, batch_invariant=True) as pair:
        yield pair


@pytest.fixture
def float_pair(tiny_pair: TinyPairs) -> colm.Pair:
    return tiny_pair(BASE, ASSISTANT, type_k="f16", type_v="f16", flash_attn=None, batch_invariant=True)


@pytest.fixture(params=["quantised_pair", "float_pair"])
def invariant(request: pytest.FixtureRequest) -> colm.Pair:
    pair = request.getfixturevalue(request.param)
    assert isinstance(pair, colm.Pair)
    return pair


def bits(out: colm.Completion) -> list[tuple[Any, ...]]:
    return [(t.id, t.source, t.defer_logit, t.logprob, t.top_logprobs) for t in out.tokens]


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_look_ahead(invariant: colm.Pair, temperature: float) -> None:
    drafted = 0
    for seed, prompt in enumerate(PROMPTS):
        options: dict[str, Any] = {"threshold": 0.6, "temperature": temperature, "seed": seed, "logprobs": 3}
        invariant.forget()
        plain = invariant.generate(prompt, max_tokens=40, **options)
        invariant.forget()
        written = invariant.generate(prompt, max_tokens=40, lookahead=9, **options)
        assert bits(written) == bits(plain)
        drafted += written.stats.drafted_tokens
    assert drafted > 50


# Attention is split between two threads. They wait for each other, which is slow where another process computes.
@pytest.mark.parametrize("n_threads", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_look_ahead_far_into_a_text(n_threads: int, quantised_files: list[Path]) -> None:
    options: dict[str, Any] = {"threshold": 0.6, "temperature": 0.0, "max_tokens": 20, "logprobs": 1}
    with colm.load(*quantised_files, "confidence", n_ctx=1024, n_threads=n_threads, batch_invariant=True) as pair:
        prompt = (pair.tokenize("The quick brown fox jumps over the lazy dog. ") * 100)[:600]
        plain = pair.generate(prompt, **options)
        pair.forget()
        assert bits(pair.generate(prompt, lookahead=9, **options)) == bits(plain)


def test_among_others(invariant: colm.Pair) -> None:
    options: dict[str, Any] = {"threshold": 0.6, "temperature": 0.8, "max_tokens": 24, "logprobs": 2}
    if 1 in (invariant.base["n_ubatch"], invariant.assistant["n_ubatch"]):
        # As of float32 on x86, where even two tokens have a kernel of their own.
        with pytest.raises(colm.OptionError, match="batch_invariant"):
            invariant.generate_batch(PROMPTS, seed=7, n_parallel=8, **options)
        return
    together = invariant.generate_batch(PROMPTS, seed=7, n_parallel=8, **options)
    for number, (prompt, out) in enumerate(zip(PROMPTS, together, strict=True)):
        invariant.forget()
        alone = invariant.generate(prompt, seed=7 + number, **options)
        assert isinstance(out, colm.Completion)
        assert bits(out) == bits(alone)


def test_what_was_kept_of_the_text_before(invariant: colm.Pair) -> None:
    """A prompt whose beginning is in the cache is read from there, in other batches than anew."""
    options: dict[str, Any] = {"threshold": 0.5, "temperature": 0.0, "max_tokens": 12}
    for end in (1, 3, 5, 8):
        prompt = "Question: how many apples are in the basket? Answer:"
        invariant.forget()
        anew = invariant.generate(prompt, **options)
        invariant.forget()
        invariant.generate(prompt[:end], **options)
        assert bits(invariant.generate(prompt, **options)) == bits(anew)


def test_how_long_a_pass_is(invariant: colm.Pair, tiny_pair: TinyPairs) -> None:
    for model in (invariant.base, invariant.assistant):
        assert 1 <= model["n_ubatch"] <= 16
    assert tiny_pair(n_batch=64, n_ubatch=64).base["n_ubatch"] == 64


def test_of_one_model_alone(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(n_batch=64, n_ubatch=64, assistant_options={"batch_invariant": True})
    assert pair.base["n_ubatch"] == 64
    assert pair.assistant["n_ubatch"] <= 16


def test_a_model_that_cannot_go_back(tiny_pair: TinyPairs) -> None:
    mamba = {"arch": "mamba", "seed": 3}
    pair = tiny_pair(mamba, {"arch": "mamba", "seed": 4}, batch_invariant=True)
    assert pair.assistant["n_ubatch"] == 1
    assert pair.generate("Hello", max_tokens=4).stats.generated_tokens > 0
    with pytest.raises(colm.OptionError, match="batch_invariant"):
        pair.generate_batch(PROMPTS, n_parallel=4)
    assert len(pair.generate_batch(PROMPTS[:2], n_parallel=1, max_tokens=4)) == 2


def test_without_repacked_weights(tiny_pair: TinyPairs) -> None:
    """Another kernel, the same method."""
    options: dict[str, Any] = {"threshold": 0.6, "temperature": 0.0, "max_tokens": 24}
    written = tiny_pair(repack=False).generate("The sun", **options)
    assert [t.id for t in written.tokens] == [t.id for t in tiny_pair().generate("The sun", **options).tokens]
