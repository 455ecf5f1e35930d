"""Traces written and read by the API: every token comes back as it was."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from commands import succeed
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels, ids

import colm_cpp as colm
from colm_cpp.report.traces import read_texts
from colm_cpp.results import Tokens
from colm_cpp.traces.record import Record


def test_a_text_comes_back(pair: colm.Pair, tmp_path: Path) -> None:
    out = pair.generate("The sun", head="random", seed=3, max_tokens=12, logprobs=2)
    colm.write_trace(tmp_path / "t", out, prompt="The sun")
    (trace,) = colm.read_trace(tmp_path / "t")
    assert trace.tokens == out.tokens
    assert (trace.text, trace.prompt, trace.facts["seed"]) == (out.text, "The sun", 3)
    assert (trace.finish_reason, trace.end_token) == (out.finish_reason, out.end_token)
    assert trace.stats == out.stats.to_dict()
    colm.write_trace(tmp_path / "again", trace)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "t").read_bytes()


def test_several_texts_with_their_own_facts(pair: colm.Pair, tmp_path: Path) -> None:
    """A hold leaves tokens at which the head was not asked; they stay apart from those with a probability of 0 or 1."""
    texts = pair.generate_batch(["The sun", "A b"], head="random", threshold=0.4, seed=1, max_tokens=9, hold=3)
    assert any(token.defer_prob is None for text in texts for token in text.tokens)
    alone = pair.generate("The sun", head="always", seed=1, max_tokens=3)
    colm.write_trace(tmp_path / "t", [*texts, alone], models="tiny")
    traces = colm.read_trace(tmp_path / "t")
    assert [trace.tokens for trace in traces] == [text.tokens for text in (*texts, alone)]
    assert [trace.facts for trace in traces] == [{"seed": seed, "models": "tiny"} for seed in (1, 2, 1)]
    assert {token.defer_logit for token in traces[2].tokens} == {math.inf}


def test_what_json_has_no_number_for(pair: colm.Pair, tmp_path: Path) -> None:
    token = colm.Token(1, "a", 0, -math.inf, 0.5, -math.inf, (colm.TopLogprob(2, "\u202eb", -math.inf),))
    text = replace(pair.generate("x", head="never", seed=1, max_tokens=1), tokens=Tokens([token]))
    colm.write_trace(tmp_path / "t", text)
    assert colm.read_trace(tmp_path / "t")[0].tokens == (token,)
    assert "\u202e" not in (tmp_path / "t").read_text(encoding="utf-8")


def test_what_a_line_does_not_say_is_not_a_number(tmp_path: Path) -> None:
    lines = [{"format": "colm-trace", "version": 1}, {"id": 1, "text": "a", "source": "assistant"}]
    lines += [{"id": 2, "text": "b", "source": "base", "defer_prob": 0.25}]
    (tmp_path / "t").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    (trace,) = colm.read_trace(tmp_path / "t")
    first, second = trace.tokens
    assert (first.expert, first.defer_prob) == (1, None)
    assert second.defer_prob == pytest.approx(0.25)
    assert all(math.isnan(value) for value in (first.threshold, first.logprob, second.threshold))
    assert (trace.finish_reason, trace.stats, trace.end_token, trace.prompt) == (None, None, None, None)


def test_the_command_writes_the_same(tiny_model: TinyModels, tmp_path: Path) -> None:
    files = tiny_model(**BASE), tiny_model(**ASSISTANT)
    options = ["--head", "random", "--seed", "5", "--max-tokens", "10", "--n-ctx", "128"]
    arguments = ["generate", "Hi", "--base", str(files[0]), "--assistant", str(files[1]), *options, "--quiet"]
    succeed(*arguments, "--trace", tmp_path / "t")
    (trace,) = colm.read_trace(tmp_path / "t")
    with colm.load(*files, "random", **{**TINY_LOAD, "n_ctx": 128}) as pair:
        wanted = pair.generate("Hi", seed=5, max_tokens=10)
    assert ids(trace) == ids(wanted)
    assert (trace.prompt, trace.finish_reason) == ("Hi", wanted.finish_reason)
    assert read_texts([tmp_path / "t"])[0].tokens[: len(trace.tokens)] == trace.tokens


def test_tokens_of_a_record(pair: colm.Pair) -> None:
    out = pair.generate("The sun", head="random", threshold=0.4, seed=2, max_tokens=12, hold=2)
    tokens = Record.from_json(Record.of(0, out).to_json()).tokens
    assert [(token.id, token.text, token.expert) for token in tokens] == [
        (token.id, token.text, token.expert) for token in out.tokens
    ]
    for token, wanted in zip(tokens, out.tokens, strict=True):
        assert token.logprob == pytest.approx(wanted.logprob, abs=1e-4)
        assert (token.defer_prob is None) == (wanted.defer_prob is None)
        assert token.defer_prob is None or token.defer_prob == pytest.approx(wanted.defer_prob, abs=1e-4)


@pytest.mark.parametrize("first", [b"", b"hello", b'{"format": "colm-scores"}\n', b"[1]\n"])
def test_other_files_are_refused(first: bytes, tmp_path: Path) -> None:
    (tmp_path / "t").write_bytes(first)
    if first:
        with pytest.raises(colm.CorpusError, match=r"t:1 "):
            colm.read_trace(tmp_path / "t")
    else:
        assert colm.read_trace(tmp_path / "t") == []
