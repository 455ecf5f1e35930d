"""``batch_invariant`` with options that bound passes and batches, or change the kernels of attention."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
from conftest import BASE, TINY_LOAD, TinyModels, TinyPairs

import colm_cpp as colm
from colm_cpp.corpus.texts import Text
from colm_cpp.learn import Scorer

TYPES = {"q4_k": 15, "q8_0": 7, "f16": 1, "bf16": 32}  # llama_ftype
PROMPTS = ["The sun", "a", "Once upon a time there was a fox"]


class Quantised:
    """Pairs of tiny models with weights of one type, each made once."""

    def __init__(self, models: TinyModels, folder: Path) -> None:
        self._models = models
        self._folder = folder

    def __call__(self, kind: str, arch: str = "llama") -> list[Path]:
        files = []
        for seed in (1, 2):
            source = self._models(arch=arch, n_embd=256, n_ctx_train=1024, seed=seed)
            target = self._folder / f"{arch}-{kind}-{seed}.gguf"
            if not target.exists():
                params = llama_cpp.llama_model_quantize_default_params()
                params.ftype = TYPES[kind]
                params.nthread = 1
                names = str(source).encode(), str(target).encode()
                assert llama_cpp.llama_model_quantize(*names, ctypes.byref(params)) == 0
            files.append(target)
        return files


@pytest.fixture(scope="module")
def quantised(tiny_model: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Quantised:
    return Quantised(tiny_model, tmp_path_factory.mktemp("quantised"))


def bits(out: Any) -> list[tuple[Any, ...]]:
    assert isinstance(out, colm.Completion), out
    return [(t.id, t.source, t.defer_logit, t.logprob, t.top_logprobs) for t in out.tokens]


def learned(pair: colm.Pair) -> colm.Head:
    """A head that looks at every value of the hidden state."""
    return colm.Head.linear(np.random.default_rng(0).standard_normal(pair.n_embd) * 0.1)


def check(pair: colm.Pair, n_long: int, max_tokens: int = 24) -> None:
    """The same bits with look-ahead as without, and, where that is allowed, among others as alone."""
    long = (pair.tokenize("The quick brown fox jumps over the lazy dog. ") * 100)[:n_long]
    prompts: list[Any] = [*PROMPTS, long]
    for head in ("confidence", learned(pair)):
        options: dict[str, Any] = {"head": head, "threshold": 0.55, "temperature": 0.0, "logprobs": 2}
        options["max_tokens"] = max_tokens
        alone = []
        for prompt in prompts:
            pair.forget()
            alone.append(bits(pair.generate(prompt, **options)))
            pair.forget()
            assert bits(pair.generate(prompt, lookahead=15, **options)) == alone[-1]
        try:
            together = pair.generate_batch(prompts, n_parallel=min(4, pair.base["n_batch"]), **options)
        except colm.OptionError:
            assert limit_of(pair) == 1
        else:
            assert [bits(out) for out in together] == alone


def limit_of(pair: colm.Pair) -> int:
    return int(min(pair.base["n_ubatch"], pair.assistant["n_ubatch"]))


@pytest.mark.parametrize(
    "options",
    [{"n_ubatch": 1}, {"n_ubatch": 2}, {"n_ubatch": 4}, {"n_batch": 3}, {"n_batch": 3, "n_ubatch": 2}, {"n_ctx": 17}],
    ids=str,
)
def test_smaller_passes_do_not_hide_the_limit(options: dict[str, Any], tiny_pair: TinyPairs) -> None:
    """Of float32 weights two rows already have a kernel of their own: with n_ubatch=1, passes of 16 were allowed."""
    plain = {**TINY_LOAD, "type_k": "f16", "type_v": "f16", "flash_attn": None, "batch_invariant": True}
    unbounded = tiny_pair(**plain)
    pair = tiny_pair(**{**plain, **options})
    for name in ("base", "assistant"):
        limit = getattr(unbounded, name)["n_ubatch"]
        given = min(options.get("n_ubatch", 16), options.get("n_batch", 16))
        assert getattr(pair, name)["n_ubatch"] == min(limit, given)


@pytest.mark.parametrize(
    "options",
    [{"n_ubatch": 1}, *(pytest.param(o, marks=pytest.mark.slow) for o in ({"n_ubatch": 4}, {"n_batch": 3}))],
    ids=str,
)
def test_bit_for_bit_with_smaller_passes(options: dict[str, Any], quantised: Quantised) -> None:
    with colm.load(*quantised("q4_k"), n_ctx=300, n_threads=1, batch_invariant=True, **options) as pair:
        check(pair, 250, max_tokens=8)


@pytest.mark.parametrize(
    "options",
    [
        {"flash_attn": False},
        *(pytest.param(o, marks=pytest.mark.slow) for o in ({"type_k": "f32", "type_v": "f32"}, {"type_k": "f32"})),
    ],
)
def test_attention_without_flash_attention(options: dict[str, Any], quantised: Quantised) -> None:
    """Its products have kernels for many rows. What they round otherwise is mostly lost in quantised weights."""
    with colm.load(*quantised("q4_k"), n_ctx=300, n_threads=1, batch_invariant=True, **options) as pair:
        assert (pair.base["n_ubatch"], pair.assistant["n_ubatch"]) == (1, 1)
        check(pair, 60, max_tokens=4)


@pytest.mark.parametrize("kind", ["bf16", pytest.param("f16", marks=pytest.mark.slow)])
def test_both_models_of_one_shape_have_one_limit(kind: str, quantised: Quantised) -> None:
    """Rounded to 16 bits before it is multiplied, what differs hardly shows in logits. It shows in hidden states."""
    with colm.load(*quantised(kind), n_ctx=300, n_threads=1, batch_invariant=True) as pair:
        assert pair.base["n_ubatch"] == pair.assistant["n_ubatch"]
        check(pair, 30, max_tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "arch"), list(itertools.product(TYPES, ("llama", "gemma3"))))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_ubatch": 4},
        {"n_batch": 8, "n_ubatch": 3},
        {"type_k": "f32", "type_v": "f32"},
        {"type_k": "f32", "type_v": "f32", "flash_attn": True, "n_threads": 2},
        {"type_k": "q8_0", "type_v": "q8_0"},
        {"type_k": "q8_0"},
        {"flash_attn": False},
        {"n_ctx": 600, "n_threads": 2},
        {"n_threads": 2, "n_threads_batch": 1},
    ],
    ids=str,
)
def test_bit_for_bit(kind: str, arch: str, options: dict[str, Any], quantised: Quantised) -> None:
    given: dict[str, Any] = {"n_ctx": 1024, "n_threads": 1, "batch_invariant": True, **options}
    with colm.load(*quantised(kind, arch), **given) as pair:
        assert pair.base["n_ubatch"] == pair.assistant["n_ubatch"]
        check(pair, 500)


def texts_of(scorer: Scorer) -> list[Text]:
    texts = []
    for i in range(4):
        tokens = scorer.tokenize("The quick brown fox jumps over the lazy dog."[3 * i :], True, True)
        n_prompt = len(tokens) // 2
        marks = (False,) * n_prompt + (True,) * (len(tokens) - n_prompt)
        texts.append(Text("", 0, tuple(tokens), marks))
    return texts


@pytest.mark.parametrize("kind", ["q4_k", "f16"])
def test_scoring(kind: str, quantised: Quantised) -> None:
    """Texts share one cache there."""
    load: dict[str, Any] = {"n_ctx": 300, "n_threads": 1, "batch_invariant": True}
    with Scorer(*quantised(kind), **load) as scorer:
        texts = texts_of(scorer)
        together, _ = scorer.score(texts, top_k=3)
        alone = [scorer.score([text], top_k=3)[0] for text in texts]
        for name, column in together.items():
            assert np.concatenate([one[name] for one in alone]).tobytes() == column.tobytes(), name


@pytest.mark.parametrize("options", [{"type_k": "f32"}, {"flash_attn": False}], ids=str)
def test_scoring_without_flash_attention_is_refused(options: dict[str, Any], quantised: Quantised) -> None:
    """What a text's attention sums depends on where it stands in the shared cache."""
    with pytest.raises(colm.OptionError, match=r"flash_attn=True.*batch_invariant"):
        Scorer(*quantised("q4_k"), n_ctx=300, n_threads=1, batch_invariant=True, **options)


# --- float32 --------------------------------------------------------------------------------------------------------


def drift(pair: colm.Pair) -> float:
    """How far log-probabilities of a text read at once lie from those of the text read token by token, in nats."""
    prompt = pair.tokenize("The quick brown fox jumps over the lazy dog. " * 5)
    options: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0, "threshold": 1.0, "logprobs": 5}
    pair.forget()
    at_once = pair.generate(prompt, **options).tokens[0].top_logprobs
    pair.forget()
    for n in range(1, len(prompt) + 1):
        one_by_one = pair.generate(prompt[:n], **options).tokens[0].top_logprobs
    return max(abs(a.logprob - b.logprob) for a, b in zip(at_once, one_by_one, strict=True))


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"type_k": "f32", "type_v": "f32"}, 0.0, 1e-4),
        # Flash attention reads float32 as float16, and so does what was the default.
        ({"type_k": "f32", "type_v": "f32", "flash_attn": True}, 2e-4, 2e-2),
        ({"type_k": "f16", "type_v": "f16"}, 2e-4, 2e-2),
    ],
    ids=str,
)
def test_float32_is_float32(options: dict[str, Any], low: float, high: float, tiny_model: TinyModels) -> None:
    files = [tiny_model(**{**BASE, "seed": seed, "n_embd": 64}) for seed in (1, 2)]
    with colm.load(*files, "confidence", n_ctx=256, n_threads=1, **options) as pair:
        assert low <= drift(pair) <= high
