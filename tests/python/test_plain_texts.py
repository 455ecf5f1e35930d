"""Texts that only an adapter learns from: tokenised as those that were scored, without loading a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY_LOAD, TinyModels
from tiny_models import CHATML, Vocab

from colm_cpp import _core, learn
from colm_cpp.errors import CorpusError, LoadError
from colm_cpp.tune.data import texts_of
from colm_cpp.tune.plain_texts import plain_texts

ROWS = [
    {"prompt": "The name of the river?", "completion": "It is in the city."},
    {"prompt": "the fox", "completion": " jumps over the lazy dog"},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The answer"}]},
]


@pytest.mark.parametrize("vocabulary", [{}, {"vocab": Vocab.spm(), "add_bos": True}])
@pytest.mark.parametrize("chat", [None, False])
def test_the_same_tokens_as_scored_and_no_model_is_loaded(
    vocabulary: dict[str, Any],
    chat: bool | None,
    tiny_model: TinyModels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = tiny_model(seed=1, chat_template=CHATML, **vocabulary)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with learn.Scorer(base, tiny_model(seed=2, n_embd=64, **vocabulary), **TINY_LOAD) as scorer:
        learn.score(scorer, learn.select([rows]), tmp_path / "scores", chat=chat, system="Be short.")
    scores = learn.Scores(tmp_path / "scores")
    for loads in ("Pair", "ScoringPair"):
        monkeypatch.delattr(_core, loads)
    scored = texts_of(scores)
    made = plain_texts(base, learn.select([rows]), scores, [])
    assert [text.tokens.tolist() for text in made] == [text.tokens.tolist() for text in scored]
    assert [text.positions.tolist() for text in made] == [text.positions.tolist() for text in scored]
    assert [text.tokens.tolist() for text in plain_texts(base, learn.select([rows]), scores, scored[:1])] == [
        text.tokens.tolist() for text in scored[1:]
    ]
    with pytest.raises(CorpusError, match="already"):
        plain_texts(base, learn.select([rows]), scores, scored)
    with pytest.raises(LoadError, match="missing"):
        plain_texts(tmp_path / "missing.gguf", learn.select([rows]), scores, [])
