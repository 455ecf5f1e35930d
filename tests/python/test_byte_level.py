"""The next byte of a text, exactly: against sums over all rows of tokens that an oracle makes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import oracle as o
import pytest
import tiny_models as tm
from conftest import TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.evaluate.byte_level import END, ByteMixture, ByteReader, by_tokens, byte_logprobs, byte_reader

# Few enough merges that all ways to write a word can be counted.
WORDS: dict[str, Any] = {"seed": 71, "vocab": tm.Vocab(n_merges=40)}
SPM: dict[str, Any] = {"seed": 72, "vocab": tm.Vocab.spm(n_merges=30)}
LETTERS = tm.Vocab(n_merges=1)
PROMPT = "The quick"


@pytest.fixture(scope="module")
def pair(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    with colm.load(tiny_model(**WORDS), tiny_model(**SPM), "confidence", **TINY_LOAD) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def letters(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    """Two models whose tokens are the bytes; the one merge is never written."""
    options: dict[str, Any] = {"vocab": LETTERS, "row_scale": {256: 0.0}}
    with colm.load(tiny_model(seed=73, **options), tiny_model(seed=74, **options), "confidence", **TINY_LOAD) as loaded:
        yield loaded


def of_all_rows(model: o.OracleModel, vocab: tm.Vocab, prompt: list[int], text: bytes) -> float:
    """The sum over all rows of tokens whose bytes begin with the text, the last one reaching its end or beyond."""
    pieces = [vocab.piece(i) if token.type in (tm.NORMAL, tm.BYTE) else b"" for i, token in enumerate(vocab.tokens)]
    unused = [i for i, token in enumerate(vocab.tokens) if token.type == tm.UNUSED]

    def below(row: list[int], rest: bytes) -> float:
        logits = model.logits_and_hidden([*prompt, *row])[0].astype(np.float64)
        logits[unused] = -math.inf
        p = np.exp(o.log_softmax(logits))
        total = 0.0
        for i, piece in enumerate(pieces):
            if piece and piece.startswith(rest):
                total += float(p[i])
            elif piece and rest.startswith(piece):
                total += float(p[i]) * below([*row, i], rest[len(piece) :])
        return total

    return below([], text)


@pytest.mark.parametrize(("which", "text"), [("base", " the th"), ("assistant", " the q"), ("base", "é d")])
def test_a_text_has_the_probability_of_all_its_rows(
    pair: colm.Pair, tiny_model: TinyModels, which: str, text: str
) -> None:
    options = WORDS if which == "base" else SPM
    reader = byte_reader(pair, PROMPT, which, tolerance=0.0)
    found = byte_logprobs(reader, text.encode())
    assert reader.dropped == 0.0
    with o.OracleModel(tiny_model(**options), n_ctx=64, exact=True) as model:
        prompt = pair.tokenize(PROMPT, model=which)
        for n in (1, len(text.encode()) - 2, len(text.encode())):
            expected = of_all_rows(model, options["vocab"], prompt, text.encode()[:n])
            assert found[:n].sum() == pytest.approx(math.log(expected), abs=2e-4)


def test_what_may_follow_sums_to_one(pair: colm.Pair) -> None:
    readers: list[ByteReader | ByteMixture] = [
        byte_reader(pair, PROMPT),
        byte_reader(pair, PROMPT, "assistant"),
        ByteMixture(pair, PROMPT),
    ]
    for byte in " the über\n".encode():
        for reader in readers:
            following = reader.next()
            assert following.shape == (END + 1,)
            assert np.exp(following).sum() == pytest.approx(1.0, abs=1e-9)
            reader.read(byte)


def test_rows_that_hardly_count_are_dropped(pair: colm.Pair) -> None:
    text = b" the qu"
    all_rows, most, few = (byte_reader(pair, PROMPT, tolerance=tolerance) for tolerance in (0.0, 1e-7, 1e-2))
    exact, near, far = (byte_logprobs(reader, text).sum() for reader in (all_rows, most, few))
    assert near == pytest.approx(exact, abs=1e-4)
    assert far != pytest.approx(exact, abs=0.1)
    assert all_rows.n_asked > most.n_asked > few.n_asked >= len(text)
    assert all_rows.dropped == 0.0 < most.dropped < few.dropped


def test_of_single_bytes_it_is_the_model(letters: colm.Pair, tiny_model: TinyModels) -> None:
    text = b"fox,x"
    assert LETTERS.piece(256)[0] not in text
    reader = byte_reader(letters, PROMPT, tolerance=0.01)
    with o.OracleModel(tiny_model(seed=73, vocab=LETTERS, row_scale={256: 0.0}), n_ctx=64, exact=True) as model:
        tokens = letters.tokenize(PROMPT)
        for byte in text:
            p = np.exp(o.log_softmax(model.logits_and_hidden(tokens)[0].astype(np.float64)))
            merged = LETTERS.piece(256)
            following = np.exp(reader.next())
            for i in range(256):
                of_merge = p[256] if LETTERS.piece(i) == merged[:1] else 0.0
                assert following[LETTERS.piece(i)[0]] == pytest.approx(p[i] + of_merge, abs=1e-5)
            assert following[END] == pytest.approx(p[257:].sum(), abs=1e-5)
            tokens = [*tokens, next(i for i in range(256) if LETTERS.piece(i)[0] == byte)]
            reader.read(byte)
    assert reader.n_asked <= len(text) + 1


def test_a_pair_of_single_bytes_mixes_as_compose_does(letters: colm.Pair) -> None:
    """By one model or the other, with the head's probabilities: the distribution of `compose`."""
    mixture = ByteMixture(letters, PROMPT)
    text = b"xq"
    tokens = letters.tokenize(PROMPT)
    for byte in text:
        out = letters.generate(tokens, strategy="compose", threshold=0.0, max_tokens=1, temperature=0.0, logprobs=300)
        (token,) = [*out.tokens, *([out.end_token] if out.end_token else [])]
        of_compose = {top.id: top.logprob for top in token.top_logprobs}
        following = mixture.next()
        for i in range(256):
            if LETTERS.piece(i) != LETTERS.piece(256)[:1]:
                assert following[LETTERS.piece(i)[0]] == pytest.approx(of_compose[i], abs=1e-4)
        mixture.read(byte)
        tokens = [*tokens, next(i for i in range(256) if LETTERS.piece(i)[0] == byte)]
    read = by_tokens(letters, PROMPT, text.decode())
    assert read.n_spans == len(text)
    assert byte_logprobs(ByteMixture(letters, PROMPT), text).sum() == pytest.approx(read.pair, abs=1e-4)


def test_heads_that_always_or_never_defer(pair: colm.Pair) -> None:
    text = b" the"
    for head, name in (("never", "base"), ("always", "assistant")):
        alone = byte_logprobs(byte_reader(pair, PROMPT, name), text)
        assert byte_logprobs(ByteMixture(pair, PROMPT, head=head), text) == pytest.approx(alone, abs=1e-9)


def test_by_tokens_is_no_more_than_by_bytes(pair: colm.Pair) -> None:
    """One row of tokens has no more probability than all of them."""
    text = " the river and the city"
    read = by_tokens(pair, PROMPT, text)
    for name, by_token in read.models.items():
        by_byte = byte_logprobs(byte_reader(pair, PROMPT, name, tolerance=1e-5), text.encode()).sum()
        assert by_token <= by_byte + 1e-3
    assert 2 <= read.n_spans <= len(text)


def test_what_cannot_be_read_is_refused(pair: colm.Pair, tmp_path: Path) -> None:
    with pytest.raises(colm.OptionError, match="the models of this pair are base, assistant"):
        byte_reader(pair, PROMPT, "other")
    with pytest.raises(colm.OptionError, match="tolerance is 2"):
        byte_reader(pair, PROMPT, tolerance=2)
    with pytest.raises(colm.OptionError, match="spans the end of the prompt"):
        by_tokens(pair, "one t", "he fox")
    reader = byte_reader(pair, PROMPT)
    with pytest.raises(colm.ContextFull):
        byte_logprobs(reader, b"x1" * 200)
