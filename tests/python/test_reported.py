"""What a text reports of its tokens: probabilities, counts, times."""

from __future__ import annotations

import itertools
import math
from typing import Any

import oracle as o
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE
from engine_calls import (
    ENDLESS_ASSISTANT,
    ENDLESS_BASE,
    GREEDY,
    PLAIN,
    PROMPT,
    WILD,
    Call,
    D,
    SharedPairs,
    assert_counts,
    ids,
    linear_head,
    of,
    run,
    written,
)

import colm_cpp as colm


@pytest.mark.parametrize("strategy", ["defer", "compose", "contrastive"])
@pytest.mark.parametrize("sampling", [GREEDY, {"temperature": 1.5, "top_k": 0}], ids=str)
def test_logprobs(pair: colm.Pair, sampling: dict[str, Any], strategy: str) -> None:
    options: dict[str, Any] = {"seed": 4, "max_tokens": 25, "strategy": strategy, "head": "random", **sampling}
    pair.forget()
    _, _, tokens = run(pair, PROMPT, logprobs=3, **options)
    among = 0
    for token in tokens:
        values = [top.logprob for top in token.top_logprobs]
        named = {top.id: top.logprob for top in token.top_logprobs}
        assert len(named) == len(values) <= 3
        assert len(values) == 3 or strategy == "contrastive"
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1.0 + 1e-6
        for top in token.top_logprobs:
            assert top.text == pair.detokenize([top.id], special=True)
        if token.id in named:
            assert token.logprob == named[token.id]
            among += 1
        else:
            assert token.logprob <= values[-1]
    assert among > 0
    assert len({token.source for token in tokens}) == 2
    pair.forget()  # so that batches, and with them the last digits, are the same
    every = pair.generate(PROMPT, logprobs=10**6, **options)
    for a, b in zip(written(every), tokens, strict=True):
        assert a.top_logprobs[:3] == b.top_logprobs
        assert dict.fromkeys(top.id for top in a.top_logprobs).keys() <= set(range(pair.n_shared))
        assert sum(math.exp(top.logprob) for top in a.top_logprobs) == pytest.approx(1.0, abs=1e-5)
        assert a.logprob == next(top.logprob for top in a.top_logprobs if top.id == a.id)
    for without in (None, 0):
        plain = pair.generate(PROMPT, logprobs=without, **options)
        assert ids(written(plain)) == ids(tokens)
        assert all(token.top_logprobs == () for token in written(plain))
    with pytest.raises(colm.OptionError, match="logprobs"):
        pair.generate(PROMPT, logprobs=-1)


def schedule(name: str, eta: float, k: int, t: int) -> float:
    """The formulas of the documentation."""
    p = 1.0 if k == 0 else min(1.0, t / k)
    if name == "linear":
        return 1 + (eta - 1) * p
    if name == "cosine":
        return eta + (1 - eta) * (1 + math.cos(math.pi * p)) / 2
    if name == "exponential" and p < 1.0:
        return float(max(eta, 1e-4) ** p)
    return eta


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "exponential"])
def test_schedules(shared_pairs: SharedPairs, name: Any) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    for eta in (0.0, 0.3, 1.0):
        for k in (0, 1, 7, 100):
            got = pair.generate(
                PROMPT, threshold=eta, schedule=name, schedule_tokens=k, max_tokens=12, seed=0, head="random"
            )
            expected = [schedule(name, eta, k, t) for t in range(12)]
            assert [token.threshold for token in got.tokens] == pytest.approx(expected, abs=1e-12)
            for token in got.tokens:
                if token.threshold in (0.0, 1.0):
                    assert token.deferred == (token.threshold == 0.0)
                else:
                    assert token.deferred == (token.defer_prob > token.threshold)
            if name != "constant" and k > 0:
                assert not got.tokens[0].deferred, "a schedule begins at 1"
    for wrong in ({"schedule_tokens": -1}, {"schedule": "square"}, {"threshold": 1.1}, {"threshold": math.nan}):
        with pytest.raises(colm.OptionError):
            pair.generate(PROMPT, **wrong)


def test_threshold_of_the_head_is_the_default(pair: colm.Pair) -> None:
    def thresholds(**options: Any) -> set[float]:
        return {token.threshold for token in pair.generate(PROMPT, max_tokens=2, seed=0, **options).tokens}

    assert thresholds() == {0.5}
    assert thresholds(head=linear_head(pair)) == {0.5}
    assert thresholds(head=linear_head(pair, default_threshold=0.25)) == {0.25}
    assert thresholds(head=linear_head(pair, default_threshold=0.25), threshold=0.75) == {0.75}


def test_text_is_whole_characters(shared_pairs: SharedPairs) -> None:
    """Tokens hold parts of characters; what is streamed never does, and loses no byte."""
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    n_joined = 0
    for seed in range(12):
        stream = pair.stream(PROMPT, seed=seed, max_tokens=80, head="random", **WILD)
        tokens = list(stream)
        completion = stream.completion()
        assert completion.tokens == tuple(tokens)
        text = "".join(token.text for token in tokens)
        assert text == completion.text == str(completion)
        assert text == b"".join(_piece(token.id) for token in tokens).decode("utf-8", "replace")
        for token in tokens:
            token.text.encode("utf-8")
            n_joined += token.text not in ("", _piece(token.id).decode("utf-8", "replace"))
    assert n_joined >= 3, "no character was spread over tokens"


def _piece(token: int) -> bytes:
    return PLAIN.piece(token) if PLAIN.tokens[token].type == tm.NORMAL else b""


def test_characters_of_several_tokens(shared_pairs: SharedPairs) -> None:
    """A grammar has the models write characters byte by byte."""
    pair = shared_pairs({**BASE, "vocab": tm.Vocab(n_merges=1)}, {**ASSISTANT, "vocab": tm.Vocab(n_merges=1)})
    wanted = "\u00e9\u65e5\U0001f600!"
    stream = pair.stream(PROMPT, grammar=f'root ::= "{wanted}"', seed=0, head="random")
    texts = [token.text for token in stream]
    assert texts == ["", "\u00e9", "", "", "\u65e5", "", "", "", "\U0001f600", "!"]
    for stop, expected in (("\u65e5", "\u00e9"), ("\U0001f600!", "\u00e9\u65e5"), ("\u00e9", "")):
        got = pair.generate(PROMPT, grammar=f'root ::= "{wanted}"', stop=stop, seed=0, head="random")
        assert (got.text, got.finish_reason) == (expected, "stop")
    cut = pair.generate(PROMPT, grammar=f'root ::= "{wanted}"', max_tokens=4, seed=0, head="random")
    assert (cut.text, cut.finish_reason) == ("\u00e9\ufffd", "length")


def test_counts_at_every_moment(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    pair.forget()
    stream = pair.stream(PROMPT, seed=0, max_tokens=20, head="random", lookahead=0)
    assert stream.calls == []
    assert stream.stats.generated_tokens == 0
    tokens = []
    for n, token in enumerate(stream, start=1):
        tokens.append(token)
        stats = stream.stats
        calls = [Call(*call) for call in stream.calls]
        assert stats.generated_tokens >= n, "a token may be held back until its text is certain"
        assert stats.base_steps == stats.generated_tokens
        assert stats.base_tokens_read == sum(call.n_tokens for call in of("base", calls))
        assert stats.assistant_tokens_read == sum(call.n_tokens for call in of("assistant", calls))
        assert stats.seed == 0
    completion = stream.completion()
    assert_counts(completion, [Call(*call) for call in stream.calls])
    assert completion.stats == stream.stats
    n = len(pair.tokenize(PROMPT))
    assert completion.stats.prompt_tokens == n
    # Everything but the last token was read once by the base, by the assistant up to its last turn.
    last = max(t for t, token in enumerate(tokens) if token.deferred)
    assert completion.stats.base_tokens_read == n + 19
    assert completion.stats.assistant_tokens_read == n + last


def test_defer_prob_is_the_sigmoid(pair: colm.Pair) -> None:
    for token in pair.generate(PROMPT, seed=0, max_tokens=20).tokens:
        assert token.defer_prob == pytest.approx(o.sigmoid(token.defer_logit), rel=1e-12)
        assert token.deferred == (token.source == "assistant") == (token.defer_logit > 0.0)


@pytest.mark.parametrize("top_k", [1, 3, 40])
@pytest.mark.parametrize("grammar", [None, "root ::= [a-z ]+"], ids=["free", "grammar"])
def test_bias_and_penalties_of_few_tokens_are_those_of_all(pair: colm.Pair, top_k: int, grammar: str | None) -> None:
    """A bias of 0 for all the others has every token written down, as llama.cpp's own samplers want it."""
    a, e, space = (pair.tokenize(text)[0] for text in ("a", "e", " "))
    few = {a: 6.0, e: -math.inf, space: -3.0}
    every = dict.fromkeys(range(pair.base["n_vocab"] - 4), 0.0)
    del every[pair.tokenize(D)[0]]
    penalties: list[dict[str, Any]] = [
        {},
        {"repeat_penalty": 1.5},
        {"frequency_penalty": 2.0, "presence_penalty": -9.0},
    ]
    for seed, (temperature, penalty) in enumerate(itertools.product((0.0, 1.2, 100.0), penalties)):
        options: dict[str, Any] = {**GREEDY, **penalty, "top_k": top_k, "top_p": 1.0, "min_p": 0.0, "grammar": grammar}
        options |= {"temperature": temperature, "seed": seed, "threshold": 0.5, "max_tokens": 24}
        texts = []
        for bias in (few, {**every, **few}):
            pair.forget()
            texts.append(pair.generate(PROMPT, logit_bias=bias, **options).tokens)
        assert texts[0] == texts[1]


@pytest.mark.parametrize("top_k", [1, 2, 40, 256, 257, 0])
def test_a_small_top_k_is_found_as_llama_cpp_finds_it(pair: colm.Pair, top_k: int) -> None:
    """Without constraints the k largest logits are picked out first; a bias of 0 has llama.cpp sort all of them."""
    bias = {pair.tokenize("a")[0]: 0.0}
    for seed in range(12):
        options: dict[str, Any] = {"top_k": top_k, "temperature": 1.2, "min_p": 0.0, "top_p": 0.98, "seed": seed}
        pair.forget()
        quick = pair.generate(PROMPT, threshold=0.5, max_tokens=24, **options)
        pair.forget()
        plain = pair.generate(PROMPT, threshold=0.5, max_tokens=24, logit_bias=bias, **options)
        assert quick.tokens == plain.tokens
