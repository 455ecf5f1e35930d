"""The test models themselves: that they load, vary, and say what they should."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gguf
import loaded_models
import numpy as np
import numpy.typing as npt
import oracle as o
import pytest
import tiny_models as tm
from loaded_models import PROMPT, Models

models = loaded_models.models


TEXTS = [
    "",
    "The answer is that there are two rivers in the city.",
    "  two  spaces,\n\n\ttabs and 1234 digits!? it's, don't",
    "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f600 \u05d0\u05d1 \x00\x01",
]


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
