"""The test models and the oracle themselves: that they load, vary, and say what they should."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import oracle as o
import pytest
import tiny_models as tm

TEXTS = [
    "",
    "The answer is that there are two rivers in the city.",
    "  two  spaces,\n\n\ttabs and 1234 digits!? it's, don't",
    "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f600 \u05d0\u05d1 \x00\x01",
]
PROMPT = "The answer is that there are two rivers in the city."


class Models:
    """Makes and loads models once per module."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loaded: dict[str, tuple[Path, o.OracleModel]] = {}

    def __call__(self, **options: object) -> tuple[Path, o.OracleModel]:
        key = repr(sorted(options.items()))
        if key not in self.loaded:
            path = tm.make_model(self.folder / f"{len(self.loaded)}.gguf", **options)  # type: ignore[arg-type]
            self.loaded[key] = (path, o.OracleModel(path, n_ctx=256))
        return self.loaded[key]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    made = Models(tmp_path_factory.mktemp("models"))
    yield made
    for _, model in made.loaded.values():
        model.close()


def greedy(model: o.OracleModel, tokens: list[int], n: int) -> list[int]:
    """The `n` tokens that the model alone would add, whatever they are."""
    text = list(tokens)
    for _ in range(n):
        text.append(int(np.argmax(model.logits_and_hidden(text)[0])))
    return text[len(tokens) :]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("arch", tm.ARCHS)
def test_distributions(models: Models, arch: str, tied: bool) -> None:
    """Every architecture evaluates, with distributions of moderate entropy that depend on the whole text."""
    _, model = models(arch=arch, tied=tied, extra_tail=(tm.DEFER,))
    text = model.tokenize(PROMPT)
    entropies, defer_logits = [], []
    rng = np.random.default_rng(0)
    for _ in range(40):
        logits, hidden = model.logits_and_hidden(text)
        assert np.isfinite(logits).all()
        assert np.isfinite(hidden).all()
        log_p = o.log_softmax(logits)
        entropies.append(o.entropy(log_p))
        defer_logits.append(float(logits[-1]))
        text.append(int(rng.choice(model.n_vocab, p=np.exp(log_p))))
    assert 0.8 < float(np.median(entropies)) < 4.0
    assert np.quantile(entropies, 0.9) - np.quantile(entropies, 0.1) > 0.5
    assert min(defer_logits) < -1
    assert max(defer_logits) > 1
    logits, _ = model.logits_and_hidden(text)
    for changed in (0, len(text) - 2):  # gemma3's second layer sees beyond its window
        other = [*text]
        other[changed] ^= 1
        assert np.abs(model.logits_and_hidden(other)[0] - logits).max() > 0.05


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("arch", tm.ARCHS)
def test_hidden_state_is_what_the_output_matrix_multiplies(models: Models, arch: str, tied: bool) -> None:
    path, model = models(arch=arch, tied=tied, extra_tail=(tm.DEFER,))
    logits, hidden = model.logits_and_hidden(model.tokenize(PROMPT))
    np.testing.assert_allclose(tm.output_matrix(path) @ hidden, logits, atol=1e-3)


def test_llama_agrees_with_numpy(models: Models) -> None:
    """One layer, written out: what the oracle reads is the final-norm state at the last position."""
    path, _ = models(arch="llama", n_layer=1, n_head=2, n_head_kv=1)
    tensors = {t.name: np.array(t.data, dtype=np.float64) for t in gguf.GGUFReader(path).tensors}

    def norm(x: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        size = np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        return np.asarray(x / size * tensors[f"{name}.weight"])

    def rope(x: npt.NDArray[np.float64], position: int) -> npt.NDArray[np.float64]:
        pairs = x.reshape(-1, 2)  # llama turns neighbours
        angles = position * 10000.0 ** (-np.arange(len(pairs)) / len(pairs))
        turned = (pairs[:, 0] + 1j * pairs[:, 1]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], axis=1).reshape(-1)

    with o.OracleModel(path, n_ctx=64, exact=True) as model:
        tokens = model.tokenize(PROMPT)
        logits, hidden = model.logits_and_hidden(tokens)
    x = tensors["token_embd.weight"][tokens]
    h = norm(x, "blk.0.attn_norm")
    q, k, v = (h @ tensors[f"blk.0.attn_{n}.weight"].T for n in "qkv")
    last = len(tokens) - 1
    keys = np.stack([rope(k[i], i) for i in range(len(tokens))])
    out = []
    for head in range(2):
        scores = keys @ rope(q[last, head * 16 : head * 16 + 16], last) / 4.0
        out.append(np.exp(o.log_softmax(scores)) @ v)
    y = x[last] + tensors["blk.0.attn_output.weight"] @ np.concatenate(out)
    f = norm(y, "blk.0.ffn_norm")
    gate, up = tensors["blk.0.ffn_gate.weight"] @ f, tensors["blk.0.ffn_up.weight"] @ f
    y = y + tensors["blk.0.ffn_down.weight"] @ (gate / (1 + np.exp(-gate)) * up)
    np.testing.assert_allclose(norm(y, "output_norm"), hidden, atol=1e-4)
    np.testing.assert_allclose(tensors["output.weight"] @ norm(y, "output_norm"), logits, atol=1e-3)


def test_creation_is_fast_and_repeatable(tmp_path: Path) -> None:
    tm.make_model(tmp_path / "warm.gguf")
    for arch in tm.ARCHS:
        start = time.perf_counter()
        a = tm.make_model(tmp_path / "a.gguf", arch=arch, seed=3)
        assert time.perf_counter() - start < 0.3
        b = tm.make_model(tmp_path / "b.gguf", arch=arch, seed=3)
        c = tm.make_model(tmp_path / "c.gguf", arch=arch, seed=4)
        assert a.read_bytes() == b.read_bytes() != c.read_bytes()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "vocab",
    [tm.Vocab(), tm.Vocab(pre="gpt-2"), tm.Vocab(pre="default"), tm.Vocab(pre="llama-bpe"), tm.Vocab.spm()],
    ids=["qwen2", "gpt-2", "default", "llama-bpe", "spm"],
)
def test_tokenization_round_trip(models: Models, vocab: tm.Vocab, text: str) -> None:
    _, model = models(vocab=vocab)
    tokens = model.tokenize(text, add_special=False)
    data = b"".join(model.token_bytes(t) for t in tokens)
    prefix = b" " if vocab.kind == "spm" and text else b""  # add_space_prefix
    assert data == prefix + text.encode()
    assert data == b"".join(vocab.piece(t) for t in tokens)


def test_merges_and_partial_characters(models: Models) -> None:
    vocab = tm.Vocab()
    _, model = models(vocab=vocab)
    assert [model.token_bytes(t) for t in model.tokenize(" the the")] == [b" the", b" the"]
    pieces = [vocab.piece(i) for i in range(len(vocab))]
    assert len(model.tokenize(PROMPT)) < len(PROMPT) / 2
    # Tokens that are a part of a character, a whole one and two.
    assert {b"\xc3", b"\xe6\x97", "\u00e9".encode(), " \u65e5\u672c".encode()} <= set(pieces)


def test_pieces_of_all_tokens(models: Models) -> None:
    for vocab in (tm.Vocab(), tm.Vocab.spm()):
        vocab = vocab.with_tail(tm.DEFER, ("<|user|>", tm.USER_DEFINED), n_padding=3)
        _, model = models(vocab=vocab)
        assert model.n_vocab == len(vocab)
        for i, token in enumerate(vocab.tokens):
            if token.type == tm.UNUSED:
                assert model.token_bytes(i, special=True) == b""
            else:
                assert model.token_bytes(i, special=True) == vocab.piece(i)
            if token.type in (tm.CONTROL, tm.UNKNOWN):
                assert model.token_bytes(i) == b""


def test_special_tokens(models: Models) -> None:
    vocab = tm.Vocab(tail=(tm.DEFER,), n_padding=2)
    _, model = models(vocab=vocab)
    ids = [vocab.id_of(text) for text in ("<|im_start|>", "x", tm.DEFER)]
    assert model.tokenize(f"<|im_start|>x{tm.DEFER}") == ids
    assert ids[-1] not in model.tokenize(tm.DEFER, parse_special=False)
    ends = [vocab.id_of(text) for text in ("<|endoftext|>", "<|im_end|>")]
    assert [i for i in range(len(vocab)) if model.is_eog(i)] == ends
    assert not model.is_eog(-1)
    assert not model.is_eog(len(vocab))


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_bos_and_eos(models: Models, kind: str) -> None:
    vocab = tm.Vocab() if kind == "bpe" else tm.Vocab.spm()
    plain = models(vocab=vocab, add_bos=False)[1].tokenize("the")
    assert models(vocab=vocab, add_bos=True)[1].tokenize("the") == [vocab.id_of(vocab.bos or 0), *plain]
    assert models(vocab=vocab, add_bos=True, bos=7)[1].tokenize("the") == [7, *plain]
    assert not models(vocab=vocab)[1].is_eog(20)
    assert models(vocab=vocab, eos=20)[1].is_eog(20)
    assert models(vocab=vocab, eot=20)[1].is_eog(20)


def test_vocabulary_variants() -> None:
    vocab = tm.Vocab()
    n = len(vocab)
    assert vocab == tm.Vocab()
    assert vocab.tokens == tm.Vocab().tokens
    padded = vocab.with_tail(n_padding=2)
    assert [t.text for t in padded.tokens[n:]] == [f"[PAD{n}]", f"[PAD{n + 1}]"]
    assert len(vocab.padded_to(512)) == 512
    with_defer = vocab.with_tail(tm.DEFER, n_padding=2)
    assert [t.text for t in with_defer.tokens[n:]] == [tm.DEFER, f"[PAD{n + 1}]", f"[PAD{n + 2}]"]
    behind = tm.Vocab(tail=(tm.DEFER,), n_padding=2, tail_after_padding=True)
    assert [t.text for t in behind.tokens[n:]] == [f"[PAD{n}]", f"[PAD{n + 1}]", tm.DEFER]
    other = vocab.replace_token(300, "zzz")
    assert [i for i in range(n) if other.tokens[i] != vocab.tokens[i]] == [300]
    with pytest.raises(ValueError, match="twice"):
        _ = vocab.replace_token(300, "a").tokens
    with pytest.raises(ValueError, match="more than"):
        vocab.padded_to(10)
    with pytest.raises(KeyError):
        vocab.id_of("no such token")


def test_replaced_token_loads(models: Models) -> None:
    for vocab in (tm.Vocab(), tm.Vocab.spm()):
        _, model = models(vocab=vocab.replace_token(300, "zzz"))
        assert model.token_bytes(300) == b"zzz"


def test_padding_does_not_change_the_rest(models: Models) -> None:
    _, plain = models(seed=5)
    _, padded = models(seed=5, extra_tail=(tm.DEFER,), n_vocab=512)
    tokens = plain.tokenize(PROMPT)
    a, b = plain.logits_and_hidden(tokens), padded.logits_and_hidden(tokens)
    assert padded.n_vocab == 512
    np.testing.assert_allclose(a[0], b[0][: plain.n_vocab], atol=1e-4)
    np.testing.assert_allclose(a[1], b[1], atol=1e-4)


def test_row_scale(models: Models) -> None:
    vocab = tm.Vocab()
    _, model = models(vocab=vocab)
    path = tm.make_model(models.folder / "scaled.gguf", vocab=vocab, row_scale={"<|im_end|>": 0.0, 65: 2.0})
    tokens = model.tokenize(PROMPT)
    logits, _ = model.logits_and_hidden(tokens)
    with o.OracleModel(path, n_ctx=64) as scaled:
        changed, _ = scaled.logits_and_hidden(tokens)
    assert changed[vocab.id_of("<|im_end|>")] == 0
    assert changed[65] == pytest.approx(2 * logits[65], rel=1e-4)


def test_options_are_checked(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"arch": "nope"},
        {"n_embd": 33},
        {"n_head_kv": 3},
        {"tied": True, "row_scale": {1: 2.0}},
    ]
    for options in wrong:
        with pytest.raises(ValueError):
            tm.make_model(tmp_path / "x.gguf", **options)
    with pytest.raises(RuntimeError, match="cannot load"):
        o.OracleModel(tmp_path / "missing.gguf")


def test_oracle_checks_its_input(models: Models) -> None:
    _, model = models()
    for tokens in ([], [0] * 257, [-1], [model.n_vocab]):
        with pytest.raises(ValueError):
            model.logits_and_hidden(tokens)


def test_oracle_without_embeddings(models: Models) -> None:
    path, model = models()
    tokens = model.tokenize(PROMPT)
    with o.OracleModel(path, n_ctx=64, embeddings=False) as plain:
        logits, hidden = plain.logits_and_hidden(tokens)
    assert hidden.size == 0
    np.testing.assert_allclose(logits, model.logits_and_hidden(tokens)[0], atol=1e-4)


@pytest.fixture(scope="module")
def pair(models: Models) -> tuple[o.OracleModel, o.OracleModel, int]:
    """A base with a deferral token, an assistant of another kind without one, and the token's id."""
    vocab = tm.Vocab()
    _, base = models(seed=1, vocab=vocab, extra_tail=(tm.DEFER,), n_padding=3)
    _, assistant = models(seed=2, arch="qwen2", n_embd=64, vocab=vocab)
    return base, assistant, len(vocab)


def test_one_sided_thresholds(pair: tuple[o.OracleModel, o.OracleModel, int]) -> None:
    """Thresholds 1 and 0 are the base alone and the assistant alone."""
    base, assistant, defer = pair
    prompt = base.tokenize(PROMPT)
    for threshold, model, source in ((1.0, base, "base"), (0.0, assistant, "assistant")):
        head = ("token", defer)
        steps, ended_by = o.oracle_generate(
            base, assistant, prompt, head=head, threshold=threshold, max_tokens=12, n_shared=defer
        )
        assert {s.source for s in steps} == {source}
        text = list(prompt)
        for step in steps:
            log_p = o.log_softmax(model.logits_and_hidden(text)[0][:defer])
            assert step.token == int(np.argmax(log_p))
            assert step.logprob == pytest.approx(float(np.max(log_p)))
            text.append(step.token)
        assert ended_by == ("eos" if base.is_eog(text[-1]) else "length")
        assert len(steps) == 12 or ended_by == "eos"


def make_heads(n_embd: int, defer: int) -> dict[str, o.Head]:
    rng = np.random.default_rng(0)
    features = ("log_odds", "entropy", "margin", "top_k_logprobs")
    n_in = n_embd + 3 + 5
    return {
        "linear": ("linear", rng.standard_normal(n_in) / 3, 0.3, features, 5),
        "plain": ("linear", rng.standard_normal(n_embd) / 3, 0.0, (), 0),
        "mlp": (
            "mlp",
            [rng.standard_normal((7, n_in)) / 3, rng.standard_normal((1, 7))],
            [np.zeros(7), np.ones(1) / 9],
            "gelu",
            features,
            5,
        ),
        "token": ("token", defer),
        "confidence": "confidence",
        "entropy": "entropy",
        "random": "random",
    }


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("strategy", ["defer", "compose", "contrastive"])
@pytest.mark.parametrize("name", list(make_heads(32, 0)))
def test_oracle_generates(
    pair: tuple[o.OracleModel, o.OracleModel, int], name: str, strategy: str, temperature: float
) -> None:
    base, assistant, defer = pair
    options: dict[str, Any] = {
        "head": make_heads(base.n_embd, defer)[name],
        "threshold": 0.6,
        "strategy": strategy,
        "schedule": "cosine",
        "schedule_tokens": 4,
        "max_tokens": 14,
        "n_shared": defer,
        "blocked": (5, 6),
        "temperature": temperature,
        "seed": 11,
    }
    prompt = base.tokenize(PROMPT)
    steps, ended_by = o.oracle_generate(base, assistant, prompt, **options)
    again, _ = o.oracle_generate(base, assistant, prompt, **options)
    assert steps == again
    assert steps
    assert ended_by in ("eos", "length")
    for t, step in enumerate(steps):
        assert step.token < defer
        assert step.token not in (5, 6)
        assert step.threshold == pytest.approx(o.threshold_at(0.6, "cosine", 4, t))
        assert (step.source == "assistant") == o.defers(step.defer_logit, step.threshold)
        assert step.logprob <= 0
        assert step.margin >= 0
    if ended_by == "length":
        assert len(steps) == 14
        assert not any(base.is_eog(s.token) for s in steps)


def test_both_sources_occur(pair: tuple[o.OracleModel, o.OracleModel, int]) -> None:
    """Each head has a threshold at which the two models take turns, so that tests can tell them apart."""
    base, assistant, defer = pair
    prompt = base.tokenize(PROMPT)
    for name, head in make_heads(base.n_embd, defer).items():
        probe, _ = o.oracle_generate(
            base, assistant, prompt, head=head, threshold=1.0, max_tokens=20, n_shared=defer, temperature=1.0
        )
        eta = o.sigmoid(float(np.median([s.defer_logit for s in probe])))
        steps, _ = o.oracle_generate(
            base, assistant, prompt, head=head, threshold=eta, max_tokens=20, n_shared=defer, temperature=1.0
        )
        assert {s.source for s in steps} == {"base", "assistant"}, name


def test_samplers(pair: tuple[o.OracleModel, o.OracleModel, int]) -> None:
    """A chain that leaves one candidate is greedy; one that leaves all depends on its seed."""
    base, assistant, defer = pair
    prompt = base.tokenize(PROMPT)

    def tokens(**options: Any) -> list[int]:
        steps, _ = o.oracle_generate(
            base, assistant, prompt, head="confidence", threshold=0.5, max_tokens=8, n_shared=defer, **options
        )
        return [s.token for s in steps]

    assert tokens(temperature=1.0, top_k=1) == tokens() == tokens(temperature=1e-3, top_k=0, min_p=0.0, top_p=1.0)
    open_chain = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert len({tuple(tokens(seed=s, **open_chain)) for s in range(4)}) == 4


def test_end_of_generation_of_either_model(models: Models) -> None:
    """A token that only the assistant calls an end ends the text as well, and is a part of it."""
    _, base = models(seed=1)
    prompt = base.tokenize(PROMPT)
    alone = greedy(base, prompt, 3)
    _, assistant = models(seed=2, eos=alone[2])
    steps, ended_by = o.oracle_generate(base, assistant, prompt, head="random", threshold=1.0, max_tokens=9)
    assert ended_by == "eos"
    assert [s.token for s in steps] == alone[: alone.index(alone[2]) + 1]


def test_definitions() -> None:
    """The oracle's mathematics against values worked out by hand."""
    log_p = np.log(np.array([0.7, 0.2, 0.1]))
    features = o.head_features(log_p, ("margin", "log_odds", "top_k_logprobs", "entropy"), 2)
    h = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    np.testing.assert_allclose(features, [math.log(3.5), math.log(7 / 3), math.log(0.7), math.log(0.2), h])
    # p1 within 1e-16 of 1: 1 - p1 would be 0.
    np.testing.assert_allclose(o.head_features(o.log_softmax([45.0, 0.0]), ("log_odds",)), [45.0])
    np.testing.assert_allclose(o.head_features(o.log_softmax([90.0, 0.0]), ("log_odds",)), [50.0])

    def z(head: o.Head) -> float:
        raw = np.zeros(3, dtype=np.float32)
        return o.defer_logit(head, hidden=raw, logits=raw, log_p=log_p, seed=1, position=2)

    assert o.sigmoid(z("confidence")) == pytest.approx(0.3)
    assert o.sigmoid(z("entropy")) == pytest.approx(1 - math.exp(-h))
    assert o.splitmix64(0) == 0xE220A8397B1DCDAF  # the generator's published first output for seed 0
    us = [o.sigmoid(o.random_logit(7, i)) for i in range(2000)]
    assert 0.48 < float(np.mean(us)) < 0.52
    assert 0.07 < float(np.var(us)) < 0.1

    schedules = {"constant": 0.25, "linear": 0.625, "cosine": 0.625, "exponential": 0.5}
    for name, middle in schedules.items():
        assert o.threshold_at(0.25, name, 0, 0) == 0.25
        assert o.threshold_at(0.25, name, 4, 0) == (0.25 if name == "constant" else 1.0)
        assert o.threshold_at(0.25, name, 4, 2) == pytest.approx(middle)
        assert o.threshold_at(0.25, name, 4, 9) == pytest.approx(0.25)
    assert o.threshold_at(0.0, "exponential", 2, 1) == pytest.approx(0.01)
    assert o.threshold_at(0.0, "exponential", 2, 2) == 0.0

    assert o.defers(-99.0, 0.0)
    assert not o.defers(99.0, 1.0)
    assert o.defers(0.1, 0.5)
    assert not o.defers(0.0, 0.5)
    assert o.defers(math.inf, 0.5)
    assert not o.defers(-math.inf, 0.5)

    b, a = np.log(np.array([0.5, 0.3, 0.2])), np.log(np.array([0.1, 0.85, 0.05]))
    np.testing.assert_allclose(
        np.exp(o.routed_scores("compose", b, a, math.log(3.0))), 0.25 * np.exp(b) + 0.75 * np.exp(a)
    )
    np.testing.assert_allclose(np.exp(o.routed_scores("compose", b, a, math.inf)), np.exp(a))
    np.testing.assert_allclose(
        o.routed_scores("contrastive", b, a, 0.0, 0.5, 0.1), [a[0] - 0.5 * b[0], a[1] - 0.5 * b[1], -np.inf]
    )
