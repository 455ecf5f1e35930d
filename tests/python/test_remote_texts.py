"""Pairs whose assistant is behind each of the protocols write what the pair with the same model here writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from conftest import ASSISTANT, TINY_LOAD, TinyModels, each_once, ids
from far_server import FAR_BASE

pytest.importorskip("httpx")

from remote_lookalikes import PROTOCOLS, LookAlike

import colm_cpp as colm

PROMPT = "The quick brown"
TEXTS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "threshold": 0.5},
    "the assistant alone": {"temperature": 0.0, "head": "always"},
    "drawn": {"temperature": 0.9, "seed": 5, "top_k": 10, "threshold": 0.5},
    "ahead": {"temperature": 0.0, "threshold": 0.5, "lookahead": 6},
}


class OfModel:
    """A tiny model as a look-alike has it: its tokenizer, and the distribution after some tokens."""

    def __init__(self, pair: colm.Pair) -> None:
        self._pair = pair
        self._lock = threading.Lock()
        self._known: dict[tuple[int, ...], list[float]] = {}
        self.n_ids = pair.base["n_vocab"]
        self.fingerprint = pair.vocab_fingerprint

    def tokenize(self, text: str) -> list[int]:
        return self._pair.tokenize(text, add_special=False, parse_special=False)

    def __call__(self, tokens: Sequence[int]) -> list[float]:
        with self._lock:
            if tuple(tokens) not in self._known:
                written = self._pair.generate(tokens, max_tokens=1, temperature=0.0, logprobs=10**6)
                first = written.tokens[0] if written.tokens else written.end_token
                assert first is not None
                known = {top.id: top.logprob for top in first.top_logprobs}
                self._known[tuple(tokens)] = [known.get(i, -9999.0) for i in range(self.n_ids)]
            return self._known[tuple(tokens)]


@pytest.fixture(scope="module")
def model(tiny_model: TinyModels) -> Iterator[OfModel]:
    file = tiny_model(**ASSISTANT)
    with colm.load(file, file, head="never", **TINY_LOAD) as pair:
        yield OfModel(pair)


@pytest.fixture
def server(request: pytest.FixtureRequest, model: OfModel) -> Iterator[LookAlike]:
    with LookAlike(request.param, words=model, model=model, n_ctx=256) as server:
        yield server


@pytest.mark.parametrize(("text", "server"), each_once(TEXTS, PROTOCOLS), indirect=["server"])
def test_texts_are_those_of_the_local_pair(
    server: LookAlike, shared_pairs: Callable[..., colm.Pair], tiny_model: TinyModels, text: str
) -> None:
    options = {"max_tokens": 24, **TEXTS[text]}
    local = shared_pairs(base=FAR_BASE)
    expected = local.generate(PROMPT, **{**options, "lookahead": 0})
    assert "assistant" in {token.source for token in expected.tokens}
    with colm.load(tiny_model(**FAR_BASE), server.url, "confidence", remote_top_k=16, **TINY_LOAD) as pair:
        server.asked.clear()
        written = pair.generate(PROMPT, **options)
        assert ids(written) == ids(expected)
        assert written.text == expected.text
        work = written.stats.experts["assistant"]
        assert work.calls == len(server.asked)


def test_no_more_ids_than_the_server_gives(model: OfModel, tiny_model: TinyModels) -> None:
    """What is in force is what statistics say."""
    with (
        LookAlike("openai", words=model, model=model, n_ctx=256) as server,
        colm.load(tiny_model(**FAR_BASE), server.url, "always", **TINY_LOAD) as pair,
    ):
        assert pair.assistant["top_k"] == 20
        assert pair.generate(PROMPT, max_tokens=3, temperature=0.0).stats.experts["assistant"].top_k == 20
