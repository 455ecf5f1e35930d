"""A model whose ids are permuted (``benchmarks/permute_vocabulary.py``): its pair writes the same texts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm
from conftest import TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.evaluate.demo import demo_problems
from colm_cpp.sources.preset import DEMO_FOLDER

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODELS = ("base", "assistant")


@pytest.fixture
def permute(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("permute_vocabulary")
    yield module.permute
    for name in ("permute_vocabulary", "unlike"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("vocab", [tm.Vocab(n_padding=3), tm.Vocab.spm(n_merges=100, n_padding=3)], ids=("bpe", "spm"))
def test_a_permuted_model_writes_the_same(
    permute: Any, tiny_model: TinyModels, tmp_path: Path, vocab: tm.Vocab
) -> None:
    """Alone: the same text of other tokens, with the same probabilities."""
    file = tiny_model(seed=8, vocab=vocab)
    permute(file, tmp_path / "permuted.gguf", 3)
    texts = []
    for model in (file, tmp_path / "permuted.gguf"):
        with colm.load(model, model, "never", **TINY_LOAD) as pair:
            texts.append(pair.generate("the quick brown", max_tokens=20, temperature=0.0))
            assert pair.detokenize(pair.tokenize("it's über 日本")) in ("it's über 日本", " it's über 日本")
    first, second = texts
    assert first.text == second.text
    assert [t.text for t in first.tokens] == [t.text for t in second.tokens]
    assert [t.id for t in first.tokens] != [t.id for t in second.tokens]
    assert [t.logprob for t in second.tokens] == pytest.approx([t.logprob for t in first.tokens], abs=1e-4)


@pytest.mark.parametrize("n", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_the_demo_pair_writes_the_same_texts(permute: Any, tmp_path: Path, n: int) -> None:
    permute(DEMO_FOLDER / "assistant.gguf", tmp_path / "permuted.gguf", 1)
    options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 96, "lookahead": 0, "defer_rate": 0.3}
    load: dict[str, Any] = {"n_threads": 1, "n_threads_batch": 1, "batch_invariant": True, "n_parallel": 8}
    prompts = [problem.messages for problem in demo_problems()[:n]]
    written: list[list[colm.Completion]] = []
    for assistant in (DEMO_FOLDER / "assistant.gguf", tmp_path / "permuted.gguf"):
        with colm.load(DEMO_FOLDER / "base.gguf", assistant, DEMO_FOLDER / "head.gguf", **load) as pair:
            assert pair.one_vocabulary is (assistant.parent == DEMO_FOLDER)
            written.append(pair.generate_batch(prompts, n_parallel=8, **options))
    alike, unlike = written
    assert [text.text for text in unlike] == [text.text for text in alike]
    assert {token.source for text in unlike for token in text.tokens} == {"base", "assistant"}


def test_the_speeds_are_those_of_both_pairs(
    permute: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both pairs write in turns; the unlike one asks its assistant more often, and look-ahead spares calls."""
    permute(DEMO_FOLDER / "assistant.gguf", tmp_path / "permuted.gguf", 1)
    files = [str(path) for path in (*(DEMO_FOLDER / f"{name}.gguf" for name in MODELS), tmp_path / "permuted.gguf")]
    counts = ["--rates", "0.3", "--prompts", "4", "--tokens", "16", "--rounds", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["permute_vocabulary.py", "speed", *files, *counts])
    sys.modules["permute_vocabulary"].main()
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["30%", "0"], ["30%", "4"]]
    (_, _, alike, calls, unlike, calls_unlike, speed), ahead = rows
    assert float(calls) == 1.0 < float(calls_unlike)
    assert float(ahead[5]) < float(calls_unlike)
    quotients = [float(value) for value in speed.partition("(")[2].rstrip(")").split(", ")]
    assert len(quotients) == 2
    assert min(quotients) - 0.01 <= float(speed.split()[0]) <= max(quotients) + 0.01
    assert float(alike) > 0.0 < float(unlike)
