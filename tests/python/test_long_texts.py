"""Long texts: chats that alternate in one slot, going back in models that cannot, reading beside others."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import TinyPairs, assert_same_text, ids

import colm_cpp as colm

PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "attention": ({"arch": "llama"}, {"arch": "qwen2"}),
    "hybrid": ({"arch": "jamba"}, {"arch": "qwen2"}),
    "recurrent and hybrid": ({"arch": "mamba"}, {"arch": "jamba"}),
    "windowed": ({"arch": "gemma3"}, {"arch": "gemma3", "seed": 3}),
}
CANNOT_GO_BACK = ["hybrid", "recurrent and hybrid", "windowed"]


def text(first: int, n: int) -> list[int]:
    return [(first * 31 + 7 * i + i * i % 11) % 200 for i in range(n)]


def load(tiny_pair: TinyPairs, kind: str, **options: Any) -> colm.Pair:
    if kind == "windowed":
        options["swa_full"] = False
    loaded: colm.Pair = tiny_pair(*PAIRS[kind], n_ctx=2560, **options)
    return loaded


def writing(pair: colm.Pair, **options: Any) -> dict[str, Any]:
    banned = {token: float("-inf") for model in (pair.base, pair.assistant) for token in model["eog_tokens"]}
    chosen = {"temperature": 0, "head": "random", "seed": 1, "threshold": 0.5, "logit_bias": banned, "max_tokens": 20}
    return {**chosen, **options}


LONG_SLOW = {"windowed", "hybrid", "recurrent and hybrid"}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind in LONG_SLOW else ()) for kind in PAIRS]
)
def test_two_chats_of_1500_tokens_in_one_slot_are_read_once(tiny_pair: TinyPairs, kind: str) -> None:
    """From the third turn on, the models read what is new, and at most a twentieth more."""
    pair = load(tiny_pair, kind)
    options = writing(pair)
    chats = [text(1, 1500), text(2, 1500)]
    for turn in range(6):
        chat = chats[turn % 2]
        stream = pair.stream(chat, **options)
        stats = stream.completion().stats
        read = stats.base_tokens_read + stats.assistant_tokens_read
        new = 2 * (100 + stats.generated_tokens)  # for both models
        if turn < 2:
            assert read > 2 * 1500
        else:
            assert read <= 1.05 * new, (turn, read, new)
        chats[turn % 2] = [*stream.token_ids, *text(turn, 100)]
    # The same text as that of a pair that has read nothing before.
    expected = ids(load(tiny_pair, kind, cache_mb=0).generate(chats[0], **options))
    assert ids(pair.generate(chats[0], **options)) == expected


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "hybrid" else pytest.mark.slow) for kind in CANNOT_GO_BACK]
)
def test_a_text_that_changes_is_read_from_the_checkpoint_before_the_change(tiny_pair: TinyPairs, kind: str) -> None:
    pair, fresh = load(tiny_pair, kind), load(tiny_pair, kind)
    options = writing(pair)
    prompt = text(1, 700)

    def read(prompt: list[int]) -> int:
        written = pair.generate(prompt, **options)
        fresh.forget()
        expected = fresh.generate(prompt, **options)
        assert ids(written) == ids(expected)
        assert expected.stats.base_tokens_read >= len(prompt)
        return written.stats.base_tokens_read

    assert read(prompt) == 719
    assert read(prompt) == 20  # the last token of the prompt, and of 20 tokens all but the last
    other_answer = [*prompt, *text(5, 30)]
    assert read(other_answer) in (49, 50)  # a window may reach back to the end of the prompt itself
    # Checkpoints lie at most 512 tokens apart, since a batch ends there.
    other_message = [*prompt[:650], *text(6, 50)]
    assert read(other_message) <= 700 - 512 + 19
    assert read([*other_message, *text(7, 30)]) in (49, 50)


def test_nothing_is_kept_for_going_back_without_a_cache(tiny_pair: TinyPairs) -> None:
    pair = load(tiny_pair, "hybrid", cache_mb=0)
    for _ in range(2):
        assert pair.generate(text(1, 300), **writing(pair)).stats.base_tokens_read == 319


@pytest.mark.parametrize("kind", PAIRS)
def test_a_cancelled_prefill_leaves_what_can_be_used(tiny_pair: TinyPairs, kind: str) -> None:
    pair = load(tiny_pair, kind, n_batch=64)
    options = writing(pair)
    stream = pair.stream(text(1, 1000), **options)
    stream.cancel()
    assert stream.completion().finish_reason == "cancelled"
    other = [*text(1, 500), *text(3, 20)]
    assert ids(pair.generate(other, **options)) == ids(load(tiny_pair, kind).generate(other, **options))


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        *(pytest.param("attention", head, marks=pytest.mark.slow) for head in ("never", "always")),
        ("attention", "confidence"),
        pytest.param("hybrid", "confidence", marks=pytest.mark.slow),
    ],
)
def test_a_short_text_ends_while_a_long_one_is_read(tiny_pair: TinyPairs, kind: str, head: str) -> None:
    """Each piece of the long one is a step, in which the short one gets a token."""
    pair = load(tiny_pair, kind, n_parallel=2, n_batch=128)
    options = writing(pair, head=head)
    prompts = [text(1, 10), text(2, 1500)]
    alone = [pair.generate(prompt, **options) for prompt in prompts]
    pair.forget()
    own: list[Any] = [{"max_tokens": 9}, {"max_tokens": 1}]
    with pair.stream_batch(prompts, n_parallel=2, each=own, **options) as stream:
        first, written = next(stream)
        assert first == 0
        assert isinstance(written, colm.Completion)
        assert ids(written) == ids(alone[0])[:9]
        steps = stream.counts["steps"]
        assert steps == 9
        second, written = next(stream)
        assert second == 1
        assert isinstance(written, colm.Completion)
        assert ids(written) == ids(alone[1])[:1]
        # A batch holds 128 tokens; the last of a prompt is read apart where a head asks for it.
        models = 1 + (head == "confidence")
        assert written.stats.base_tokens_read + written.stats.assistant_tokens_read >= 1500
        assert written.stats.base_tokens_read + written.stats.assistant_tokens_read <= models * 1500


def test_texts_that_share_a_long_beginning_read_it_once(tiny_pair: TinyPairs) -> None:
    pair = load(tiny_pair, "attention", n_parallel=3, n_batch=128)
    options = writing(pair, head="never", max_tokens=5)
    prompts = [[*text(1, 1000), *text(i, 30)] for i in range(3)]
    alone = [pair.generate(prompt, **options) for prompt in prompts]
    pair.forget()
    together = pair.generate_batch(prompts, n_parallel=3, **options)
    read = 0
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, colm.Completion)
        assert_same_text(one, other)
        read += one.stats.base_tokens_read
    assert read <= 1000 + 3 * (30 + 5)
