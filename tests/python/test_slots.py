"""Slots: texts that a pair writes at the same time, and what their slots held before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from conftest import TinyPairs, assert_same_text, ids

import colm_cpp as colm

OPTIONS: dict[str, Any] = {"temperature": 0, "threshold": 0.65, "max_tokens": 12}
N_LONG = 400


def long_prompt(first: int, n: int = N_LONG) -> list[int]:
    return [(first + 7 * i) % 200 for i in range(n)]


@pytest.mark.parametrize("archs", [("llama", "qwen2"), ("jamba", "qwen2"), ("mamba", "jamba")], ids="-".join)
def test_two_chats_in_alternation_are_read_once(tiny_pair: TinyPairs, archs: tuple[str, str]) -> None:
    """In one slot. From the third turn on, each model reads what is new, and the last token of the turn before."""
    pair = tiny_pair({"arch": archs[0]}, {"arch": archs[1]}, n_ctx=2048)
    alone = tiny_pair({"arch": archs[0]}, {"arch": archs[1]}, n_ctx=2048, cache_mb=0)
    chats = [long_prompt(1), long_prompt(2)]
    for turn in range(6):
        chat = chats[turn % 2]
        stream = pair.stream(chat, **OPTIONS)
        written = stream.completion()
        assert ids(written) == ids(alone.generate(chat, **OPTIONS))
        new = 10 + written.stats.generated_tokens
        if turn >= 2:
            assert written.stats.base_tokens_read <= new + OPTIONS["max_tokens"]
            assert written.stats.assistant_tokens_read <= new + 2 * OPTIONS["max_tokens"]
        text = stream.token_ids
        if written.end_token is not None:
            text = text[:-1]
        chats[turn % 2] = text + long_prompt(turn, 10)


def test_nothing_is_kept_without_a_cache(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(n_ctx=2048, cache_mb=0)
    for first in (1, 2, 1):
        read = pair.generate(long_prompt(first), **OPTIONS).stats.base_tokens_read
        assert read >= N_LONG


def test_the_cache_has_a_limit(tiny_pair: TinyPairs) -> None:
    """Of many chats the ones longest ago are read again."""
    pair = tiny_pair(n_ctx=2048, cache_mb=1)
    read = [pair.generate(long_prompt(i % 12), **OPTIONS).stats.base_tokens_read for i in range(24)]
    assert min(read) >= N_LONG
    assert pair.generate(long_prompt(10), **OPTIONS).stats.base_tokens_read < N_LONG


def test_forget_forgets_what_was_kept(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(n_ctx=2048)
    pair.generate(long_prompt(1), **OPTIONS)
    pair.generate(long_prompt(2), **OPTIONS)
    pair.forget()
    assert pair.generate(long_prompt(1), **OPTIONS).stats.base_tokens_read >= N_LONG


def test_threads_share_the_slots(tiny_pair: TinyPairs) -> None:
    """Each text is what it is alone, and one that is long does not make the short ones wait."""
    pair = tiny_pair(n_ctx=1024, n_parallel=3)
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
    options: dict[str, Any] = {"temperature": 0, "threshold": 0.65, "logit_bias": banned}
    prompts = ["The sun", "a", "two hundred and one", "Hello"]
    expected = [pair.generate(prompt, max_tokens=20, **options) for prompt in prompts]
    whole = pair.generate("Once", max_tokens=600, **options)
    ended: list[str] = []
    results: dict[str, colm.Completion] = {}

    def write(prompt: str, n: int) -> None:
        results[prompt] = pair.generate(prompt, max_tokens=n, **options)
        ended.append(prompt)

    threads = [threading.Thread(target=write, args=("Once", 600))]
    threads += [threading.Thread(target=write, args=(prompt, 20)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended[-1] == "Once"
    assert_same_text(results["Once"], whole)
    for prompt, plain in zip(prompts, expected, strict=True):
        assert_same_text(results[prompt], plain)


def test_a_new_text_takes_the_slot_that_knows_its_beginning(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(n_ctx=1024, n_parallel=2, cache_mb=0)
    for first in (1, 2):
        pair.generate(long_prompt(first), **OPTIONS)
    for first in (2, 1, 2):
        assert pair.generate([*long_prompt(first), 9], **OPTIONS).stats.base_tokens_read < 40


def test_batches_use_the_pair_s_slots(tiny_pair: TinyPairs) -> None:
    """No further context, and what was read alone is known."""
    pair = tiny_pair(n_ctx=1024, n_parallel=2)
    pair.generate(long_prompt(1), **OPTIONS)
    results = pair.generate_batch([long_prompt(1), long_prompt(2)], n_parallel=2, **OPTIONS)
    read = [c.stats.base_tokens_read for c in results if isinstance(c, colm.Completion)]
    assert read[0] < 40
    assert read[1] >= N_LONG


def test_a_wider_batch_keeps_its_contexts(pair: colm.Pair) -> None:
    """For the next call; what it read is known then."""
    prompts = [long_prompt(i, 60) for i in range(3)]
    first = pair.generate_batch(prompts, n_parallel=3, **OPTIONS)
    again = pair.generate_batch(prompts, n_parallel=3, **OPTIONS)
    for one, other in zip(first, again, strict=True):
        assert isinstance(one, colm.Completion)
        assert isinstance(other, colm.Completion)
        assert_same_text(one, other)
        assert one.stats.base_tokens_read >= 60
        assert other.stats.base_tokens_read < 60


@pytest.mark.parametrize(
    ("option", "value"),
    [("n_parallel", 0), ("n_parallel", 257), ("n_parallel", "2"), ("cache_mb", -1), ("cache_mb", 0.5)],
)
def test_bad_values(tiny_pair: TinyPairs, option: str, value: Any) -> None:
    with pytest.raises(colm.OptionError, match=option):
        tiny_pair(**{option: value})


def test_streams_in_one_loop_keep_what_they_read(tiny_pair: TinyPairs) -> None:
    """With a slot for each, nothing is read twice."""
    pair: colm.Pair = tiny_pair(n_ctx=1024, n_parallel=2)
    make: Callable[[str], colm.TokenStream] = lambda prompt: pair.stream(prompt, **OPTIONS)  # noqa: E731
    one, two = make("The sun rises"), make("a longer text than that")
    assert len(list(zip(one, two, strict=False))) > 2
    for stream in (one, two):
        assert stream.stats.base_tokens_read <= len(stream.token_ids)
