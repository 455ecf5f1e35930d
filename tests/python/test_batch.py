"""Texts that are written at once: the same as alone, and what they share."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import assert_same_text, each_once

import colm_cpp as colm

PROMPTS = ["The sun", "a", "two hundred and one", "Once upon a time there was", "x" * 40, "Hello", "12 + 7 =", "b c d"]


def assert_same(written: colm.Completion | colm.ColmError, alone: colm.Completion) -> None:
    assert isinstance(written, colm.Completion)
    assert_same_text(written, alone)
    assert written.stats.assistant_calls == alone.stats.assistant_calls
    assert written.stats.base_steps == alone.stats.base_steps


OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0, "threshold": 0.7},
    {"temperature": 0, "threshold": 0.65, "strategy": "compose"},
    {"temperature": 0, "threshold": 0.65, "strategy": "contrastive"},
    {"temperature": 1.0, "threshold": 0.65, "seed": 7},
    {"temperature": 0.7, "head": "random", "threshold": 0.6, "seed": 3},
    {"temperature": 0, "head": "always"},
    {"temperature": 0, "head": "never"},
    {"temperature": 0, "head": "entropy", "target_rate": 0.4},
    {"temperature": 0.9, "threshold": 0.65, "seed": 11, "repeat_penalty": 1.3, "logit_bias": {3: -4.0}},
    {"temperature": 0, "threshold": 0.65, "grammar": "root ::= [a-z ]+", "max_tokens": 12},
    {"temperature": 0, "threshold": 0.5, "schedule": "linear", "schedule_tokens": 10},
]


@pytest.mark.parametrize("n_parallel", [1, 3, 8])
def test_the_same_texts_as_alone(pair: colm.Pair, n_parallel: int) -> None:
    """Every text with options of its own, in a batch with all the others."""
    chosen = [{"max_tokens": 20, **OPTIONS[i % len(OPTIONS)]} for i in range(22)]
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(22)]
    alone = [pair.generate(prompt, lookahead=0, **options) for prompt, options in zip(prompts, chosen, strict=True)]
    pair.forget()
    together = pair.generate_batch(prompts, n_parallel=n_parallel, each=chosen)
    assert len(together) == 22
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)


ARCHS = ("llama", "qwen2", "gemma3", "mamba", "jamba")


@pytest.mark.parametrize(("base", "assistant"), each_once(ARCHS, [*ARCHS[1:], ARCHS[0]]))
def test_every_architecture(shared_pairs: Callable[..., colm.Pair], base: str, assistant: str) -> None:
    """Recurrent and hybrid models too: each text has a state of its own."""
    pair = shared_pairs({"arch": base, "seed": 5}, {"arch": assistant, "seed": 6})
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "threshold": 0.7}
    alone = []
    for prompt in PROMPTS:
        pair.forget()
        alone.append(pair.generate(prompt, lookahead=0, **options))
    assert any(0 < completion.stats.deferral_rate < 1 for completion in alone)
    for one, other in zip(pair.generate_batch(PROMPTS, n_parallel=3, **options), alone, strict=True):
        assert_same(one, other)


def test_learned_heads_see_each_text_s_own_state(pair: colm.Pair) -> None:
    """Beside texts whose heads look at nothing of the kind."""
    rng = random.Random(0)
    weights = [rng.uniform(-1, 1) for _ in range(pair.n_embd)]
    head = colm.Head.linear(weights, 0.1)
    each = [{"head": head, "threshold": 0.5} if i % 2 else {"head": "confidence", "threshold": 0.7} for i in range(8)]
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 0}
    alone = [pair.generate(p, lookahead=0, **{**options, **own}) for p, own in zip(PROMPTS, each, strict=True)]
    assert {token.source for c in alone[1::2] for token in c.tokens} == {"base", "assistant"}
    for one, other in zip(pair.generate_batch(PROMPTS, n_parallel=4, each=each, **options), alone, strict=True):
        assert_same(one, other)


def test_decodes_are_shared(pair: colm.Pair) -> None:
    """Eight texts take as many steps as one, one decode of the base each, and the assistant's only where asked."""
    n = 12
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
    options: dict[str, Any] = {"max_tokens": n, "temperature": 0, "logit_bias": banned}
    with pair.stream_batch(PROMPTS, n_parallel=8, head="never", **options) as stream:
        results = dict(stream)
        assert stream.counts["steps"] == n
        assert stream.counts["base_decodes"] == n
        assert stream.counts["assistant_decodes"] == 0
    assert sorted(results) == list(range(8))
    with pair.stream_batch(PROMPTS, n_parallel=8, head="always", **options) as stream:
        list(stream)
        assert (stream.counts["base_decodes"], stream.counts["assistant_decodes"]) == (0, n)
    with pair.stream_batch(PROMPTS, n_parallel=4, head="never", **options) as stream:
        list(stream)
        assert stream.counts["steps"] == 2 * n


def test_the_assistant_reads_along(pair: colm.Pair) -> None:
    """No token twice, and nothing of a text that it was never asked about."""
    options: dict[str, Any] = {"max_tokens": 24, "temperature": 0, "threshold": 0.7}
    heads = ["confidence"] * 6 + ["never"] * 2
    n_asked = 0
    for completion, head in zip(
        pair.generate_batch(PROMPTS, n_parallel=8, each=[{"head": head} for head in heads], **options),
        heads,
        strict=True,
    ):
        assert isinstance(completion, colm.Completion)
        n_prompt, sources = completion.stats.prompt_tokens, [token.source for token in completion.tokens]
        n_seen = n_prompt + len(sources) - (completion.end_token is None)
        assert completion.stats.base_tokens_read == n_seen
        if "assistant" in sources:
            last = len(sources) - 1 - sources[::-1].index("assistant")
            assert n_prompt + last <= completion.stats.assistant_tokens_read <= n_seen
            n_asked += 1
        else:
            assert completion.stats.assistant_tokens_read == 0
        assert "assistant" not in sources or head != "never"
    assert n_asked >= 5


def test_finished_texts_leave_and_waiting_ones_enter(pair: colm.Pair) -> None:
    """Short texts do not wait for long ones; prompts are taken when there is room for them."""
    taken = []
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}

    def prompts() -> Iterator[str]:
        for i, prompt in enumerate(PROMPTS):
            taken.append(i)
            yield prompt

    each = [{"max_tokens": 40}] + [{"max_tokens": 5}] * 7
    with pair.stream_batch(
        prompts(), n_parallel=2, each=each, head="never", temperature=0, logit_bias=banned
    ) as stream:
        first = next(stream)
        assert first[0] == 1
        assert taken == [0, 1]
        order = [first[0], *(number for number, _ in stream)]
        assert order == [1, 2, 3, 4, 5, 6, 7, 0]
        assert stream.counts["steps"] == 40  # 7 texts of 5 tokens beside one of 40


def test_a_failing_text_is_reported_alone(pair: colm.Pair) -> None:
    """Before it begins, and in the middle of a batch."""
    none_allowed = {token: float("-inf") for token in range(pair.n_shared)}
    each: list[Any] = [{}, {"logit_bias": none_allowed}, {"threshold": 2.0}, {}, {}]
    prompts: list[Any] = [PROMPTS[0], PROMPTS[1], PROMPTS[2], "y" * 5000, PROMPTS[3]]
    options: dict[str, Any] = {"max_tokens": 10, "temperature": 0, "threshold": 0.7}
    results = pair.generate_batch(prompts, each=each, n_parallel=5, return_exceptions=True, **options)
    kinds = [type(result) for result in results]
    assert kinds == [colm.Completion, colm.GenerationError, colm.OptionError, colm.ContextFull, colm.Completion]
    for i in (0, 4):
        assert_same(results[i], pair.generate(prompts[i], **options))
    with pytest.raises(colm.GenerationError):
        pair.generate_batch(prompts[:2], each=each[:2], **options)


def test_seeds_count_on(pair: colm.Pair) -> None:
    """One seed for all would make equal prompts give equal texts."""
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 1.5, "threshold": 0.65}
    together = pair.generate_batch(["The sun"] * 4, seed=10, **options)
    assert [c.stats.seed for c in together if isinstance(c, colm.Completion)] == [10, 11, 12, 13]
    for i, completion in enumerate(together):
        assert_same(completion, pair.generate("The sun", seed=10 + i, **options))
    drawn = pair.generate_batch(["The sun"] * 3, **options)
    assert len({c.stats.seed for c in drawn if isinstance(c, colm.Completion)}) == 3


def test_a_long_prompt_beside_texts_under_way(tiny_pair: Any) -> None:
    """It does not fit one batch, and with mixing the base's outputs are needed after the assistant's."""
    pair = tiny_pair(n_batch=16)
    prompts = ["a", "x" * 100, "The sun", "y" * 90]
    for strategy in ("defer", "compose"):
        options: dict[str, Any] = {"max_tokens": 15, "temperature": 0, "threshold": 0.7, "strategy": strategy}
        alone = [pair.generate(prompt, lookahead=0, **options) for prompt in prompts]
        for one, other in zip(pair.generate_batch(prompts, n_parallel=3, **options), alone, strict=True):
            assert_same(one, other)


def test_each_text_has_the_pair_s_context(tiny_pair: Any) -> None:
    """Not a share of it."""
    pair = tiny_pair(n_ctx=32)
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
    options: dict[str, Any] = {"max_tokens": None, "temperature": 0, "threshold": 0.7, "logit_bias": banned}
    for completion in pair.generate_batch(PROMPTS[:4], n_parallel=4, **options):
        assert isinstance(completion, colm.Completion)
        assert completion.finish_reason == "length"
        assert completion.stats.prompt_tokens + completion.stats.generated_tokens == 32


def test_nothing_to_write(pair: colm.Pair) -> None:
    """No prompts, no tokens."""
    assert pair.generate_batch([]) == []
    (completion,) = pair.generate_batch(["a"], max_tokens=0)
    assert isinstance(completion, colm.Completion)
    assert (completion.text, completion.finish_reason) == ("", "length")


def test_bad_options(pair: colm.Pair) -> None:
    """Those of all texts are refused before anything is made."""
    for wrong in (0, -1, 257, 1.5, True, "8"):
        with pytest.raises(colm.OptionError, match="n_parallel"):
            pair.stream_batch(["a"], n_parallel=wrong)  # type: ignore[arg-type]
    with pytest.raises(colm.OptionError, match="threshold"):
        pair.stream_batch(["a"], threshold=3)
    with pytest.raises(TypeError, match="treshold"):
        pair.stream_batch(["a"], treshold=0.5)  # type: ignore[call-arg]


def test_more_texts_than_a_batch_holds(tiny_pair: Any) -> None:
    """llama.cpp would abort."""
    pair = tiny_pair(n_batch=4)
    with pytest.raises(colm.OptionError, match=r"\b5\b"):
        pair.stream_batch(["a"], n_parallel=5)
    assert len(pair.generate_batch(PROMPTS, n_parallel=4, max_tokens=3)) == 8


def test_cancel_close_and_leave(tiny_pair: Any) -> None:
    """The pair goes on in every case but its own end."""
    pair = tiny_pair()
    options: dict[str, Any] = {"max_tokens": 200, "temperature": 0}
    stream = pair.stream_batch(PROMPTS, **options)
    stream.cancel()
    with pytest.raises(colm.PairClosed):
        next(stream)
    with pytest.raises(colm.PairClosed):
        _ = stream.counts
    for _ in pair.stream_batch(PROMPTS, **options):
        break
    assert pair.generate("a", max_tokens=2, temperature=0).tokens
    stream = pair.stream_batch(PROMPTS, **options)
    pair.close()
    with pytest.raises(colm.PairClosed):
        next(stream)


def test_cancel_from_another_thread(tiny_pair: Any) -> None:
    """While it computes."""
    pair = tiny_pair(n_ctx=4096)
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
    stream = pair.stream_batch(PROMPTS, max_tokens=None, temperature=0, logit_bias=banned)
    timer = threading.Timer(0.3, stream.cancel)
    timer.start()
    with pytest.raises(colm.PairClosed):
        next(stream)
    timer.join()


def test_alone_and_together_do_not_disturb_each_other(pair: colm.Pair) -> None:
    """A text that is written alone keeps what it has read."""
    options: dict[str, Any] = {"max_tokens": 20, "temperature": 0, "threshold": 0.7}
    expected = pair.generate("The sun", **options)
    pair.forget()
    stream = pair.stream("The sun", **options)
    tokens = [next(stream), next(stream)]
    together = pair.generate_batch(["The sun", "a"], **options)
    tokens += stream
    assert [token.id for token in tokens] == [token.id for token in expected.tokens]
    assert stream.stats.base_tokens_read == expected.stats.base_tokens_read
    assert_same(together[0], expected)


@pytest.mark.parametrize("head", ["confidence", "always"])
@pytest.mark.parametrize("archs", [("llama", "qwen2"), ("gemma3", "llama"), ("mamba", "jamba")], ids="-".join)
def test_a_common_beginning_is_read_once(
    shared_pairs: Callable[..., colm.Pair], archs: tuple[str, str], head: str
) -> None:
    """By each model, where its architecture can hold a part of a text; the texts are the same either way."""
    pair = shared_pairs({"arch": archs[0], "seed": 5}, {"arch": archs[1], "seed": 6})
    beginning = pair.tokenize("This is how every one of these texts begins: ")
    own = [pair.tokenize(text, add_special=False) for text in ("a b", "the sun", "a b", "12", "one two three")]
    prompts = [beginning + tokens for tokens in own]
    options: dict[str, Any] = {"max_tokens": 10, "temperature": 0, "threshold": 0.6, "head": head}
    alone = []
    for prompt in prompts:
        pair.forget()
        alone.append(pair.generate(prompt, lookahead=0, **options))
    # The last two come when others that are under way hold the beginning.
    each = [{"max_tokens": n} for n in (10, 3, 10, 10, 10)]
    together = pair.generate_batch(prompts, n_parallel=3, each=each, **options)
    for i in (0, 2, 3, 4):
        assert_same(together[i], alone[i])
    n_first = len(beginning)
    for model in ("base", "assistant"):
        read = [getattr(c.stats, f"{model}_tokens_read") for c in together if isinstance(c, colm.Completion)]
        again = [n > n_first for n in read]
        if model == "base" and head == "always":
            assert read == [0] * 5
        elif archs[0] == "mamba":
            assert all(again)
        elif model == "base" or head == "always":
            assert again == [True, False, False, False, False]
        else:  # asked about when it is needed: the texts that hold the beginning may have ended by then
            assert sum(again) <= 2
