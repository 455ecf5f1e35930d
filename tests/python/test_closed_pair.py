"""A closed pair refuses every use, and says so."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_input
import pytest
from bad_input import HELLO, ban, load

import colm_cpp as colm
from colm_cpp import errors
from colm_cpp.engine.facts import Facts
from colm_cpp.engine.tokens import Tokenizing

folder = bad_input.folder
pair = bad_input.pair


USES: dict[str, Callable[[colm.Pair], Any]] = {
    "generate": lambda pair: pair.generate("the"),
    "stream": lambda pair: pair.stream("the"),
    "chat": lambda pair: pair.chat(HELLO),
    "stream_chat": lambda pair: pair.stream_chat(HELLO),
    "generate_batch": lambda pair: pair.generate_batch(["the"]),
    "stream_batch": lambda pair: pair.stream_batch(["the"]),
    "render_chat": lambda pair: pair.render_chat(HELLO),
    "tokenize_chat": lambda pair: pair.tokenize_chat(HELLO),
    "tokenize": lambda pair: pair.tokenize("the"),
    "detokenize": lambda pair: pair.detokenize([1]),
    "forget": lambda pair: pair.forget(),
    "save_session": lambda pair: pair.save_session("a.session"),
    "load_session": lambda pair: pair.load_session("a.session"),
    "n_ctx": lambda pair: pair.n_ctx,
    "n_embd": lambda pair: pair.n_embd,
    "one_vocabulary": lambda pair: pair.one_vocabulary,
    "n_shared": lambda pair: pair.n_shared,
    "vocab_fingerprint": lambda pair: pair.vocab_fingerprint,
    "base": lambda pair: pair.base,
    "assistant": lambda pair: pair.assistant,
    "experts": lambda pair: pair.experts,
    "open_core": lambda pair: pair.open_core(),
    "prompt_tokens": lambda pair: pair.prompt_tokens("the"),
    "prepared_head": lambda pair: pair.prepared_head("confidence"),
    "begin": lambda pair: pair.begin([1], colm.GenerationOptions()),
    "replay": lambda pair: pair.replay([1], [("base", 0, 1, True, True)]),
    "__enter__": lambda pair: pair.__enter__(),
}


HARMLESS = {"close", "cancel", "closed", "head", "heads", "names", "remote"}


def test_every_use_of_a_pair_is_tried() -> None:
    public = {name for kind in (colm.Pair, Tokenizing, Facts) for name in vars(kind) if not name.startswith("_")}
    assert public == {*USES, *HARMLESS} - {"__enter__"}


@pytest.mark.parametrize("name", ["Completion", "TokenStream", "BatchStream"])
def test_what_writing_gives_is_exported(name: str) -> None:
    returned = " ".join(
        str(inspect.signature(getattr(colm.Pair, method)).return_annotation)
        for method in ("generate", "generate_batch", "stream", "stream_batch")
    )
    assert name in re.findall(r"\w+", returned)
    assert name in colm.__all__
    assert inspect.getdoc(getattr(colm, name))


@pytest.fixture(scope="module")
def closed(folder: Path) -> tuple[colm.Pair, dict[str, colm.TokenStream]]:
    pair = load(folder)
    done = pair.stream("the", max_tokens=1, seed=1, logit_bias=ban(pair, 384, 386))
    list(done)
    begun = pair.stream("the", seed=1)
    next(begun)
    streams = {"new": pair.stream("the"), "begun": begun, "done": done}
    pair.close()
    return pair, streams


@pytest.mark.parametrize("name", USES)
def test_closed_pair(closed: tuple[colm.Pair, dict[str, colm.TokenStream]], name: str) -> None:
    with pytest.raises(errors.PairClosed, match="closed"):
        USES[name](closed[0])


def test_closed_pair_answers_what_it_can(closed: tuple[colm.Pair, dict[str, colm.TokenStream]]) -> None:
    pair = closed[0]
    pair.close()
    pair.cancel()
    assert pair.closed
    assert pair.head == "confidence"
    assert repr(pair) == "<colm_cpp.Pair, closed>"


@pytest.mark.parametrize("name", ["new", "begun"])
def test_stream_of_a_closed_pair(closed: tuple[colm.Pair, dict[str, colm.TokenStream]], name: str) -> None:
    stream = closed[1][name]
    for use in (next, list, colm.TokenStream.completion, lambda s: s.stats, lambda s: s.calls):
        with pytest.raises(errors.PairClosed):
            use(stream)
    assert stream.finish_reason is None
    stream.cancel()
    stream.close()


def test_finished_stream_of_a_closed_pair(closed: tuple[colm.Pair, dict[str, colm.TokenStream]]) -> None:
    stream = closed[1]["done"]
    assert list(stream) == []
    assert stream.finish_reason == "length"
    assert stream.stats.generated_tokens == 1
    assert len(stream.completion().tokens) == 1


def test_results_hold_no_nan(pair: colm.Pair) -> None:
    result = pair.generate("the", max_tokens=3, seed=1, threshold=0.0, logprobs=3)
    for token in result.tokens:
        assert math.isfinite(token.logprob)
        assert not math.isnan(token.defer_logit)
