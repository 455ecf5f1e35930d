"""What the engine does and in which order, seen through the Python API: `stream.calls`, tokens and counts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, DEFAULT_KV
from engine_calls import (
    ENDLESS_ASSISTANT,
    ENDLESS_BASE,
    GREEDY,
    PROMPT,
    Call,
    D,
    SharedPairs,
    arch_pair,
    assert_counts,
    expected_calls,
    facts,
    ids,
    linear_head,
    n_common,
    of,
    run,
    written,
)

import colm_cpp as colm

# -- who reads what, and when ---------------------------------------------------------------------------------------


HEADS = ("confidence", "entropy", "random", D, "linear", "mlp")


def make_head(pair: colm.Pair, name: str) -> str | colm.Head:
    """A head by name, with random weights where it has any."""
    if name == "linear":
        return linear_head(pair)
    if name == "mlp":
        rng = np.random.default_rng(1)
        weights = [rng.normal(0, 0.4, (6, pair.n_embd + 2)), rng.normal(0, 1, (1, 6))]
        return colm.Head.mlp(weights, [np.zeros(6), np.zeros(1)], features=("entropy", "margin"))
    return name


@pytest.mark.parametrize("head", HEADS)
def test_assistant_is_never_called_at_threshold_one(pair: colm.Pair, head: str) -> None:
    completion, calls, tokens = run(pair, PROMPT, head=make_head(pair, head), threshold=1.0, max_tokens=12)
    assert of("assistant", calls) == []
    assert completion.stats.assistant_calls == completion.stats.assistant_tokens_read == 0
    assert {token.source for token in tokens} == {"base"}
    assert completion.stats.deferral_rate == 0.0


@pytest.mark.parametrize("head", HEADS)
def test_assistant_is_called_everywhere_at_threshold_zero(pair: colm.Pair, head: str) -> None:
    n = len(pair.tokenize(PROMPT))
    completion, calls, tokens = run(pair, PROMPT, head=make_head(pair, head), threshold=0.0, max_tokens=12)
    assert [(call.position, call.n_tokens) for call in of("assistant", calls)] == [
        (0, n),
        *((n + t, 1) for t in range(len(tokens) - 1)),
    ]
    assert len([call for call in of("base", calls) if call.logits]) == len(tokens), "the base always reads"
    assert {token.source for token in tokens} == {"assistant"}
    assert completion.stats.deferral_rate == 1.0


@pytest.mark.parametrize("n_batch", [512, 4, 1])
@pytest.mark.parametrize("head", HEADS)
def test_every_call_is_the_one_that_is_needed(shared_pairs: SharedPairs, head: str, n_batch: int) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT, n_batch=n_batch, **DEFAULT_KV)
    threshold = 0.9 if head == "entropy" else 0.5
    made = make_head(pair, head)
    learned = isinstance(made, colm.Head)
    n, both = len(pair.tokenize(PROMPT)), 0
    for seed in range(4):
        pair.forget()
        completion, calls, tokens = run(pair, PROMPT, head=made, seed=seed, max_tokens=24, threshold=threshold)
        sources = [token.source for token in tokens]
        assert calls == expected_calls(n, sources, n_batch, hidden=learned)
        assert_counts(completion, calls)
        both += len(set(sources)) == 2
        if n_batch == 512:
            catching_up = of("assistant", calls)
            assert len(catching_up) == sources.count("assistant"), "one call each, however much is unread"
            assert all(a.position + a.n_tokens == b.position for a, b in pairwise(catching_up))
    assert both >= 3, "both models should take part"


def test_assistant_catches_up_several_tokens_at_once(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    pair.forget()
    n = len(pair.tokenize(PROMPT))
    _, calls, tokens = run(pair, PROMPT, head="random", threshold=0.6, max_tokens=60, seed=3)
    at = [t for t, token in enumerate(tokens) if token.deferred]
    lengths = [b - a for a, b in pairwise([-n, *at])]
    assert [call.n_tokens for call in of("assistant", calls)] == lengths
    assert max(lengths[1:]) >= 3, "no run of the base's tokens to catch up with"


def test_hidden_states_are_asked_for_by_learned_heads_alone(pair: colm.Pair) -> None:
    n = len(pair.tokenize(PROMPT))
    for head in HEADS:
        pair.forget()
        _, calls, _ = run(pair, PROMPT, head=make_head(pair, head), max_tokens=3, **GREEDY)
        base = of("base", calls)
        if head in ("linear", "mlp"):
            assert base[:2] == [Call("base", 0, n - 1, False, False), Call("base", n - 1, 1, True, True)]
            assert all(call.hidden for call in base[1:])
        else:
            assert base[0] == Call("base", 0, n, True, False)
            assert not any(call.hidden for call in base)
        assert not any(call.hidden for call in of("assistant", calls))


def test_one_token_prompt(pair: colm.Pair) -> None:
    for head in HEADS:
        pair.forget()
        learned = head in ("linear", "mlp")
        _, calls, tokens = run(pair, [65], head=make_head(pair, head), max_tokens=4, **GREEDY)
        assert calls[0] == Call("base", 0, 1, True, learned)
        assert calls == expected_calls(1, [token.source for token in tokens], 512, learned)


def test_batches_do_not_change_the_text(shared_pairs: SharedPairs) -> None:
    texts = []
    for load in ({}, {"n_batch": 4}, {"n_batch": 4, "n_ubatch": 2}, {"n_ubatch": 3}):
        pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT, **load)
        for head in ("confidence", linear_head(pair)):
            pair.forget()
            texts.append(facts(pair.generate(PROMPT, head=head, max_tokens=30, seed=1)))
    assert texts[::2] == [texts[0]] * 4
    assert texts[1::2] == [texts[1]] * 4


# -- what is kept from text to text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("archs", [("llama", "qwen2"), ("gemma3", "gemma3"), ("qwen2", "llama")])
def test_shared_prefix_is_read_once(shared_pairs: SharedPairs, archs: tuple[str, str], learned: bool) -> None:
    pair = shared_pairs(*arch_pair(*archs))
    head = linear_head(pair) if learned else "confidence"
    first = pair.tokenize(PROMPT)
    options: dict[str, Any] = {"head": head, "threshold": 0.0, "max_tokens": 20, "seed": 5}
    for n_kept in (0, 1, 7, len(first) - 1, len(first)):
        pair.forget()
        before = pair.generate(first, **options)
        held = [*first, *ids(before.tokens)][:-1]  # the last token was written and not read
        second = [*held[:n_kept], 65, 66, 67]
        common = n_common(held, second)
        assert common >= n_kept
        after, calls, tokens = run(pair, second, **options)
        for model in ("base", "assistant"):
            read = of(model, calls)
            assert read[0].position == common
            assert sum(call.n_tokens for call in read) == len(second) - common + len(tokens) - 1
            assert all(a.position + a.n_tokens == b.position for a, b in pairwise(read))
        assert_counts(after, calls)
        pair.forget()
        fresh, calls, _ = run(pair, second, **options)
        assert of("base", calls)[0].position == of("assistant", calls)[0].position == 0
        assert facts(after) == facts(fresh)
        assert [t.defer_logit for t in after.tokens] == pytest.approx([t.defer_logit for t in fresh.tokens], abs=5e-3)


def test_each_model_keeps_what_it_has_read_itself(shared_pairs: SharedPairs) -> None:
    """The assistant may lag behind the base, by any number of texts."""
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    pair.forget()
    first = pair.tokenize(PROMPT)
    one = pair.generate(first, threshold=0.0, max_tokens=5, **GREEDY)
    held = [*first, *ids(one.tokens)][:-1]
    other = [*first[:4], 65, 66]
    pair.generate(other, threshold=1.0, max_tokens=5, **GREEDY)  # the base leaves the first text
    longer = [*held, 70, 71]
    _, calls, _ = run(pair, longer, threshold=0.0, max_tokens=1, **GREEDY)
    assert calls == [
        Call("base", 4, len(longer) - 4, True, False),
        Call("assistant", len(held), 2, True, False),
    ]


def test_same_prompt_again_reads_its_last_token(pair: colm.Pair) -> None:
    first, _, _ = run(pair, PROMPT, threshold=0.0, max_tokens=6, **GREEDY)
    n = first.stats.prompt_tokens
    again, calls, _ = run(pair, PROMPT, threshold=0.0, max_tokens=6, **GREEDY)
    assert calls[:2] == [Call("base", n - 1, 1, True, False), Call("assistant", n - 1, 1, True, False)]
    assert facts(again) == facts(first)


def test_chat_goes_on_where_it_was(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs({**BASE, "chat_template": tm.CHATML}, ASSISTANT)
    pair.forget()
    messages = [{"role": "user", "content": "What is the name of the river?"}]
    options: dict[str, Any] = {"threshold": 0.0, "max_tokens": 10, **GREEDY}
    prompt = pair.tokenize(pair.render_chat(messages))
    answer = pair.chat(messages, lookahead=0, **options)
    held = [*prompt, *ids(written(answer))][:-1]
    messages += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "And the other?"}]
    longer = pair.tokenize(pair.render_chat(messages))
    stream = pair.stream_chat(messages, lookahead=0, **options)
    after = stream.completion()
    calls = [Call(*call) for call in stream.calls]
    # The answer is tokenized anew, so not every token of it need be the same.
    common = n_common(held, longer)
    assert common >= len(prompt)
    for model in ("base", "assistant"):
        assert of(model, calls)[0].position == common
    pair.forget()
    assert facts(pair.chat(messages, **options)) == facts(after)


@pytest.mark.parametrize("arch", ["mamba", "jamba"])
def test_recurrent_models_read_again_from_the_start(shared_pairs: SharedPairs, arch: str) -> None:
    pair = shared_pairs(*arch_pair(arch, "qwen2"))
    pair.forget()
    options: dict[str, Any] = {"threshold": 0.0, "max_tokens": 8, "seed": 2}
    first = pair.tokenize(PROMPT)
    before = pair.generate(first, **options)
    second = [*first[:12], 65, 66]
    after, calls, _ = run(pair, second, **options)
    assert of("base", calls)[0] == Call("base", 0, len(second), True, False)
    assert of("assistant", calls)[0].position == n_common(first, second), "the assistant can go back"
    pair.forget()
    assert facts(pair.generate(second, **options)) == facts(after)

    # The same text, and then one that goes on: nothing has to be forgotten for the latter.
    pair.forget()
    assert facts(pair.generate(first, **options)) == facts(before)
    longer = [*first, *ids(before.tokens), 70]
    after, calls, _ = run(pair, longer, **options)
    assert of("base", calls)[0] == Call("base", len(longer) - 2, 2, True, False)
    again, calls, _ = run(pair, longer, **options)
    assert of("base", calls)[0] == Call("base", 0, len(longer), True, False)
    pair.forget()
    assert facts(pair.generate(longer, **options)) == facts(after) == facts(again)


@pytest.mark.parametrize("archs", [("llama", "qwen2"), ("mamba", "gemma3"), ("gemma3", "jamba")])
def test_a_stream_left_early_leaves_no_trace(shared_pairs: SharedPairs, archs: tuple[str, str]) -> None:
    pair = shared_pairs(*arch_pair(*archs))
    prompts = (PROMPT, "The answer is 42", "the dog")
    pair.forget()
    fresh = []
    for prompt in prompts:
        pair.forget()
        fresh.append(facts(pair.generate(prompt, max_tokens=12, seed=4)))
    for n_taken in (0, 1, 3):
        for prompt, expected in zip(prompts, fresh, strict=True):
            for taken, _ in enumerate(pair.stream(PROMPT, max_tokens=50, seed=9)):
                if taken == n_taken:
                    break
            assert facts(pair.generate(prompt, max_tokens=12, seed=4)) == expected
    stream = pair.stream(PROMPT, max_tokens=50, seed=9)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert stream.finish_reason is None


@pytest.mark.parametrize("archs", [("llama", "qwen2"), ("mamba", "llama"), ("gemma3", "jamba")])
def test_interleaved_streams(shared_pairs: SharedPairs, archs: tuple[str, str]) -> None:
    pair = shared_pairs(*arch_pair(*archs))
    texts: list[tuple[str, dict[str, Any]]] = [
        (PROMPT, {"head": linear_head(pair), "seed": 1, "max_tokens": 14}),
        ("The answer is", {"head": "confidence", "seed": 2, "max_tokens": 9}),
        (PROMPT, {"head": "random", "temperature": 0.0, "seed": 3, "max_tokens": 12, "strategy": "compose"}),
        ("the dog", {"head": D, "seed": 4, "max_tokens": 6, "repeat_penalty": 1.5}),
    ]
    alone = []
    for prompt, options in texts:
        pair.forget()
        alone.append(pair.generate(prompt, **options))
    streams = [pair.stream(prompt, **options) for prompt, options in texts]
    open_streams = list(streams)
    while open_streams:
        open_streams = [stream for stream in open_streams if next(stream, None) is not None]
    for stream, expected in zip(streams, alone, strict=True):
        got = stream.completion()
        assert facts(got) == facts(expected)
        for a, b in zip(written(got), written(expected), strict=True):
            assert a.defer_logit == pytest.approx(b.defer_logit, abs=5e-3)
            assert a.logprob == pytest.approx(b.logprob, abs=5e-3)


def test_generate_inside_a_stream(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    pair.forget()
    outer = facts(pair.generate(PROMPT, max_tokens=6, seed=1))
    inner = facts(pair.generate("the dog", max_tokens=6, seed=2))
    stream = pair.stream(PROMPT, max_tokens=6, seed=1)
    for _ in stream:
        assert facts(pair.generate("the dog", max_tokens=6, seed=2)) == inner
    assert facts(stream.completion()) == outer


def test_heads_of_many_texts_are_those_that_were_named(pair: colm.Pair, tmp_path: Path) -> None:
    """A path that was made for one text alone may have the address of the one before."""
    for name, bias in (("stays", -5.0), ("defers", 5.0)):
        colm.Head.linear([0.0] * pair.n_embd, bias).save(tmp_path / name)
    names = ["stays", "defers"] * 8
    for n_parallel in (1, 2, 4):
        each = ({"head": tmp_path / name, "threshold": 0.5} for name in names)
        written = pair.generate_batch([PROMPT] * 16, each=each, n_parallel=n_parallel, max_tokens=2, **GREEDY)
        rates = [completion.stats.deferral_rate for completion in written if isinstance(completion, colm.Completion)]
        assert rates == [float(name == "defers") for name in names]
