"""Scores by bytes: each segment against the sum over all rows of tokens that write it, which an oracle makes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import oracle as o
import pytest
import tiny_models as tm
from click.testing import CliRunner
from conftest import TINY_LOAD, TinyModels
from test_byte_level import SPM, WORDS, of_all_rows

import colm_cpp as colm
from colm_cpp import learn
from colm_cpp.cli import main
from colm_cpp.corpus.selection import select
from colm_cpp.corpus.shared_texts import SharedText
from colm_cpp.evaluate.byte_level import byte_logprobs
from colm_cpp.evaluate.byte_reader import END, ByteModel, ByteReader
from colm_cpp.learn import Scorer, Scores
from colm_cpp.learn.by_bytes import by_bytes
from colm_cpp.learn.score_files import columns_of
from colm_cpp.learn.segments import maker_of

ROWS = [
    {"prompt": "The quick", "completion": " the q"},
    {"prompt": "A river", "completion": " é d"},
]
# A second byte-level vocabulary, with other merges. Unlike SPM it puts nothing behind a control token.
OTHER = {"seed": 75, "vocab": tm.Vocab(n_merges=12)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="module")
def scorer(tiny_model: TinyModels) -> Iterator[Scorer]:
    with Scorer(tiny_model(**WORDS), tiny_model(**SPM), by_bytes=True, **TINY_LOAD) as made:
        yield made


def texts_of(scorer: Scorer, corpus: Path) -> list[SharedText]:
    make = maker_of(scorer, chat=None, system=None)
    texts = [text for document in select([corpus]).documents() for text in make(document)]  # type: ignore[arg-type]
    assert all(isinstance(text, SharedText) for text in texts)
    return texts  # type: ignore[return-value]


def models_of(scorer: Scorer) -> dict[str, ByteModel]:
    return {name: ByteModel(scorer.open_core(), number, name) for number, name in enumerate(scorer.models)}


@pytest.mark.parametrize("which", [0, 1])
def test_a_segment_has_the_probability_of_all_its_rows(
    scorer: Scorer, corpus: Path, tiny_model: TinyModels, which: int
) -> None:
    """Both models, with SPM's own space too; the texts end with the token that ends them."""
    texts = texts_of(scorer, corpus)
    n = sum(text.n_scored for text in texts)
    unknown = {name: np.full(n, math.nan) for name in scorer.models}
    models = models_of(scorer)
    name = list(models)[which]
    found = by_bytes(models, texts, unknown, tolerance=0.0)[name]
    options = (WORDS, SPM)[which]
    row = 0
    with o.OracleModel(tiny_model(**options), n_ctx=64, exact=True) as model:
        for text in texts:
            tokens = list(text.tokens_of[name])
            prompt = tokens[: text.segments[0].spans[which][0]]
            data, before = b"", 0.0
            for segment in text.segments:
                first, last = segment.spans[which]
                data += b"".join(models[name].pieces[token] for token in tokens[first:last])
                if segment.n_bytes:
                    now = math.log(of_all_rows(model, options["vocab"], prompt, data))
                    assert found[row] == pytest.approx(now - before, abs=2e-4)
                    before = now
                else:
                    assert found[row] == pytest.approx(read(models[name], prompt, data).next()[END], abs=1e-9)
                row += 1
    assert row == n >= 6


def read(model: ByteModel, prompt: list[int], data: bytes) -> ByteReader:
    reader = ByteReader(model, prompt, tolerance=0.0)
    for byte in data:
        reader.read(byte)
    return reader


def test_scores_have_it_and_all_else_is_as_by_tokens(
    scorer: Scorer, corpus: Path, tiny_model: TinyModels, tmp_path: Path
) -> None:
    learn.score(scorer, select([corpus]), tmp_path / "bytes")
    with Scorer(tiny_model(**WORDS), tiny_model(**SPM), **TINY_LOAD) as by_tokens:
        learn.score(by_tokens, select([corpus]), tmp_path / "tokens")
        with pytest.raises(colm.CorpusError, match="by_bytes"):
            learn.score(by_tokens, select([corpus]), tmp_path / "bytes")
    exact, plain = Scores(tmp_path / "bytes"), Scores(tmp_path / "tokens")
    assert exact.meta["by_bytes"]
    assert "by_bytes" not in plain.meta
    for column in columns_of(plain.meta):
        if column not in ("base_logprob", "assistant_logprob"):
            np.testing.assert_array_equal(exact[column], plain[column])
    texts, models = texts_of(scorer, corpus), models_of(scorer)
    unknown = {name: np.full(len(plain), math.nan) for name in models}
    for name, wanted in by_bytes(models, texts, unknown).items():
        of_bytes, of_tokens = exact[f"{name}_logprob"], plain[f"{name}_logprob"]
        np.testing.assert_allclose(of_bytes, wanted, atol=1e-5)
        # One row of tokens has no more probability than all of them.
        for one in (0, 1):
            rows = np.asarray(plain["text"]) == one
            assert of_bytes[rows].sum() > of_tokens[rows].sum()


def test_a_control_token_in_a_text_stays_a_token(tiny_model: TinyModels, tmp_path: Path) -> None:
    """What stands before it, and behind it, are texts of their own."""
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"prompt": "Seven", "completion": " in<|im_end|> the"}) + "\n")
    with Scorer(tiny_model(**WORDS), tiny_model(**OTHER), by_bytes=True, **TINY_LOAD) as scorer:
        (text,) = texts_of(scorer, path)
        models = models_of(scorer)
        marks = {name: np.arange(100.0, 100.0 + text.n_scored) for name in models}
        for number, (name, found) in enumerate(by_bytes(models, [text], marks, tolerance=0.0).items()):
            tokens, spans = text.tokens_of[name], [segment.spans[number] for segment in text.segments]
            (at,) = [
                k for k, (a, b) in enumerate(spans) if models[name].pieces[tokens[a]] == b"" and k + 1 < len(spans)
            ]
            assert found[at] == marks[name][at]
            for begin, end, data in ((0, at, b" in"), (at + 1, len(spans) - 1, b" the")):
                alone = byte_logprobs(ByteReader(models[name], tokens[: spans[begin][0]], tolerance=0.0), data).sum()
                assert found[begin:end].sum() == pytest.approx(alone, abs=1e-4)


def test_the_command(corpus: Path, tiny_model: TinyModels, tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        load = ["--n-ctx", "128", "--batch-invariant", "-q"]
        result = CliRunner().invoke(main, ["score", str(corpus), *load, "--by-bytes", *arguments])
        return f"{result.exit_code} {result.output}"

    base, spm = tiny_model(**WORDS), tiny_model(**SPM)
    said = run("--base", str(base), "--assistant", str(spm), "--out", str(tmp_path / "scores"))
    assert said.startswith("0 ")
    assert Scores(tmp_path / "scores").meta["by_bytes"]
    said = run("--base", str(base), "--assistant", str(base), "--out", str(tmp_path / "alike"))
    assert said.startswith("1 ")
    assert "these have one" in said
    assert not (tmp_path / "alike").exists()
    said = run("--base", str(base), "--assistant", str(base), "--out", str(tmp_path / "alike"), "--respond")
    assert said.startswith("1 ")
    assert "these have one" in said
    assert not (tmp_path / "alike").exists(), "before an answer is written"
