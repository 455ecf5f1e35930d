"""Look-ahead: the base drafts deferred tokens, and the assistant verifies them. The same texts, with fewer calls."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from commands import fail, run, succeed
from conftest import ASSISTANT, BASE, TinyModels, TinyPairs, assert_same_text

import colm_cpp as colm

PROMPTS = ["The sun", "a", "two hundred and one", "Once upon a time there was", "x" * 40, "Hello", "12 + 7 =", "b c d"]
TWIN = {**BASE, "extra_tail": (), "n_padding": 11}
"""The base's weights: the assistant rejects a draft token only where noise or a strategy changes the distribution."""

SharedPairs = Callable[..., colm.Pair]


def assert_same(written: colm.Completion, plain: colm.Completion) -> None:
    assert_same_text(written, plain)
    assert written.stats.deferral_rate == plain.stats.deferral_rate
    assert written.stats.seed == plain.stats.seed
    for one, other in zip(written.tokens, plain.tokens, strict=True):
        assert one.threshold == pytest.approx(other.threshold, abs=2e-3)
        assert [top.id for top in one.top_logprobs][:1] == [top.id for top in other.top_logprobs][:1]


def random_options(rng: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {
        "temperature": rng.choice([0.0, 0.0, 0.7, 1.0]),
        "threshold": rng.choice([0.0, 0.5, 0.6, 0.65, 0.7]),
        "head": rng.choice(["confidence", "confidence", "entropy", "random", "always"]),
        "seed": rng.randrange(1000),
        "max_tokens": rng.choice([1, 7, 16, 24]),
        "strategy": rng.choice(["defer", "defer", "compose", "contrastive"]),
    }
    chosen = rng.randrange(8)
    if chosen == 0:
        options["repeat_penalty"] = 1.3
    elif chosen == 1:
        options["grammar"] = "root ::= [a-z ]+"
    elif chosen == 2:
        options["stop"] = ["e", " t"]
    elif chosen == 3:
        options |= {"schedule": "cosine", "schedule_tokens": 12}
    elif chosen == 4:
        options |= {"target_rate": 0.4, "threshold": 0.6}
    elif chosen == 5:
        options["logprobs"] = 3
    return options


@pytest.mark.parametrize("n", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_random_cases(n: int, shared_pairs: SharedPairs) -> None:
    """Same tokens, sources and seeds as without, whatever the options, with a stranger and with a twin as assistant."""
    rng = random.Random(4)
    pairs = [shared_pairs(BASE, ASSISTANT), shared_pairs(BASE, TWIN)]
    drafted = accepted = saved = 0
    for number in range(n):
        pair, options = pairs[number % 2], random_options(rng)
        prompt = rng.choice(PROMPTS)
        plain = pair.generate(prompt, lookahead=0, **options)
        written = pair.generate(prompt, lookahead=rng.choice([1, 2, 4, 8, 15, "auto"]), **options)
        assert_same(written, plain)
        stats = plain.stats
        assert (stats.drafted_tokens, stats.acceptance_rate, stats.lookahead) == (0, 0.0, False)
        assert written.stats.lookahead
        drafted += written.stats.drafted_tokens
        accepted += written.stats.accepted_tokens
        if made := written.stats.drafted_tokens:
            assert written.stats.acceptance_rate == written.stats.accepted_tokens / made
        saved += plain.stats.assistant_calls - written.stats.assistant_calls
    assert drafted > 3 * n
    assert 0.2 < accepted / drafted < 0.95
    assert saved > n


def test_one_call_for_many_tokens(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(BASE, TWIN)
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
    options: dict[str, Any] = {"threshold": 0.0, "max_tokens": 32, "temperature": 0, "logit_bias": banned}
    for lookahead, calls in ((0, 32), (1, 32), (2, 16), (8, 4), (15, 3)):
        pair.forget()
        out = pair.generate("The sun", lookahead=lookahead, **options)
        assert out.stats.assistant_calls == calls
        assert out.stats.generated_tokens == 32
        assert out.stats.drafted_tokens == out.stats.accepted_tokens == (32 if lookahead else 0)
        # Nothing is read twice: nobody asks what follows the last draft token.
        assert out.stats.assistant_tokens_read == out.stats.prompt_tokens + 31
        assert out.stats.base_steps == 32


def test_draws_agree_where_distributions_do(shared_pairs: SharedPairs) -> None:
    """At temperature 1.5 the twin still accepts every draft token: noise belongs to the position, not to the model."""
    out = shared_pairs(BASE, TWIN).generate("Hello", threshold=0.0, temperature=1.5, seed=5, max_tokens=40, lookahead=8)
    assert out.stats.drafted_tokens > 20
    assert out.stats.accepted_tokens == out.stats.drafted_tokens


def test_seeds_still_differ(pair: colm.Pair) -> None:
    texts = {
        pair.generate("Hello", threshold=0.5, temperature=1.0, seed=seed, lookahead="auto").text for seed in range(8)
    }
    assert len(texts) == 8


def test_only_what_is_certain_is_streamed(shared_pairs: SharedPairs) -> None:
    """Every token that leaves is the plain path's, at the moment it leaves."""
    pair = shared_pairs(BASE, ASSISTANT)
    options: dict[str, Any] = {"threshold": 0.65, "temperature": 0, "max_tokens": 30, "seed": 1}
    plain = pair.generate("The sun", lookahead=0, **options)
    for n in range(1, 30):
        stream = pair.stream("The sun", lookahead=6, **options)
        got = list(itertools.islice(stream, n))
        stream.close()
        assert [(token.id, token.text) for token in got] == [(t.id, t.text) for t in plain.tokens[:n]]


def test_the_end_inside_a_draft(shared_pairs: SharedPairs) -> None:
    """The base drafts the end of the text; the tokens behind it are never written."""
    pair = shared_pairs(BASE, TWIN)
    eog = pair.base["eog_tokens"]
    options: dict[str, Any] = {"threshold": 0.0, "temperature": 0, "max_tokens": 60, "seed": 1}
    for bias in (2.0, 3.0, 4.0, 5.0):
        likely = dict.fromkeys(eog, bias)
        plain = pair.generate("a", lookahead=0, logit_bias=likely, **options)
        written = pair.generate("a", lookahead=15, logit_bias=likely, **options)
        assert_same(written, plain)
    assert written.finish_reason == "eos"
    assert written.end_token is not None
    assert written.end_token.source == "assistant"


def test_the_context_ends(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(BASE, TWIN, n_ctx=32)
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
    options: dict[str, Any] = {"threshold": 0.0, "temperature": 0, "max_tokens": None, "logit_bias": banned, "seed": 1}
    plain = pair.generate("The sun", lookahead=0, **options)
    written = pair.generate("The sun", lookahead=15, **options)
    assert_same(written, plain)
    assert written.finish_reason == "length"
    assert written.stats.prompt_tokens + written.stats.generated_tokens == 32


@pytest.mark.parametrize("archs", [("llama", "mamba"), ("mamba", "llama"), ("jamba", "qwen2")], ids="-".join)
def test_models_that_cannot_go_back(shared_pairs: SharedPairs, archs: tuple[str, str]) -> None:
    """Off, and said so."""
    pair = shared_pairs({"arch": archs[0], "seed": 5}, {"arch": archs[1], "seed": 6})
    out = pair.generate("The sun", threshold=0.3, temperature=0, max_tokens=20, lookahead=8)
    assert not out.stats.lookahead
    assert out.stats.drafted_tokens == 0
    assert out.stats.deferral_rate > 0


def test_a_sliding_window(tiny_pair: TinyPairs) -> None:
    gemma = {"arch": "gemma3", "seed": 7}
    options: dict[str, Any] = {"threshold": 0.5, "temperature": 0, "max_tokens": 60, "seed": 1}
    whole = tiny_pair(gemma, gemma)
    written = whole.generate("The sun", lookahead=6, **options)
    assert written.stats.lookahead
    assert written.stats.drafted_tokens > 0
    assert_same(written, whole.generate("The sun", lookahead=0, **options))
    assert not tiny_pair(gemma, gemma, swa_full=False).generate("The sun", lookahead=6, **options).stats.lookahead


def test_small_batches(tiny_pair: TinyPairs) -> None:
    """The base drafts no more than one batch can verify."""
    for n_batch in (1, 2, 5):
        pair = tiny_pair(BASE, TWIN, n_batch=n_batch)
        options: dict[str, Any] = {"threshold": 0.6, "temperature": 0, "max_tokens": 30, "seed": 1}
        plain = pair.generate("The sun", lookahead=0, **options)
        written = pair.generate("The sun", lookahead=15, **options)
        assert_same(written, plain)
        assert written.stats.lookahead == (n_batch > 1)


def test_many_texts_share_the_calls(shared_pairs: SharedPairs) -> None:
    """Each drafts for itself. Those who wrote each token stay the same, and the assistant is asked half as often."""
    pair = shared_pairs(BASE, TWIN)
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
    options: dict[str, Any] = {"threshold": 0.65, "temperature": 0, "max_tokens": 40, "logit_bias": banned}
    each = [{"seed": 1}] * 4
    alone = [pair.generate(prompt, lookahead=0, seed=1, **options) for prompt in PROMPTS[:4]]
    n_deferred = sum(token.deferred for completion in alone for token in completion.tokens)
    calls = []
    for lookahead in (0, 8):
        with pair.stream_batch(PROMPTS[:4], n_parallel=4, each=each, lookahead=lookahead, **options) as stream:
            results = dict(stream)
            calls.append(stream.counts["assistant_decodes"])
        for number, plain in enumerate(alone):
            written = results[number]
            assert isinstance(written, colm.Completion)
            assert_same(written, plain)
            assert written.stats.lookahead == (lookahead > 0)
    assert n_deferred > 40
    assert 2 * calls[1] <= calls[0]


def test_random_texts_at_once(shared_pairs: SharedPairs) -> None:
    """Each with options and a look-ahead of its own."""
    rng = random.Random(5)
    pair = shared_pairs(BASE, TWIN)
    n_drafted = 0
    for _ in range(12):
        each = [{**random_options(rng), "lookahead": rng.choice([0, 1, 4, 15, "auto"])} for _ in range(5)]
        prompts = [rng.choice(PROMPTS) for _ in each]
        together = pair.generate_batch(prompts, n_parallel=rng.choice([2, 4]), each=each)
        for prompt, options, written in zip(prompts, each, together, strict=True):
            assert isinstance(written, colm.Completion)
            assert_same(written, pair.generate(prompt, **{**options, "lookahead": 0}))
            n_drafted += written.stats.drafted_tokens
    assert n_drafted > 100


@pytest.mark.parametrize("value", [-1, 16, 2.5, "much", None, True])
def test_bad_values(pair: colm.Pair, value: Any) -> None:
    with pytest.raises(colm.OptionError, match=r"lookahead is .*15"):
        pair.generate("a", lookahead=value)


def test_the_command_line(tiny_model: TinyModels) -> None:
    files = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**TWIN)), "--head", "always"]
    options = ["--max-tokens", "8", "--temperature", "0", "--json", "--n-threads", "1"]
    outs = []
    for lookahead in ("0", "auto", "4"):
        result = succeed("generate", "The sun", *files, *options, "--lookahead", lookahead)
        outs.append(result.stdout)
    assert '"drafted_tokens": 0' in outs[0]
    assert '"drafted_tokens": 8' in outs[2] or '"drafted_tokens": 7' in outs[2]
    assert "lookahead is 16; it must be from 0 to 15" in fail("generate", "The sun", *files, "--lookahead", "16")
    assert run("generate", "x", *files, "--lookahead", "some").exit_code == 2
