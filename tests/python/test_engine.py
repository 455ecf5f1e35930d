"""What the engine does and in which order, seen through the Python API: `stream.calls`, tokens and counts."""

from __future__ import annotations

import ctypes
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import llama_cpp
import numpy as np
import oracle as o
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, DEFAULT_KV, TINY_LOAD, TinyModels, TinyPairs

import colm_cpp as colm

SharedPairs: TypeAlias = Callable[..., colm.Pair]

PROMPT = "The answer is that there are two rivers in the city."
GREEDY: dict[str, Any] = {"temperature": 0.0}
D = tm.DEFER

# No text ends by itself: the only tokens that could end it are never chosen, being in the tails.
_PLAIN = tm.Vocab(specials=("<|bos|>", "<|user|>"), bos="<|bos|>", eos=0)
_N_PLAIN = len(_PLAIN)
ENDLESS_BASE: dict[str, Any] = {"vocab": _PLAIN, "extra_tail": (D,), "eos": D, "seed": 1, "n_padding": 4}
ENDLESS_ASSISTANT: dict[str, Any] = {"vocab": _PLAIN, "n_padding": 7, "eos": _N_PLAIN, "seed": 2}

# One model's fine-tuning made a token the end of a text, and the other has it without that meaning.
_STOP = tm.Vocab(specials=("<|bos|>", "<|user|>", "<|stop|>"), bos="<|bos|>", eos=0)
_STOP_ID = _STOP.id_of("<|stop|>")


class Call(NamedTuple):
    """One llama_decode."""

    model: str
    position: int
    n_tokens: int
    logits: bool
    hidden: bool


def arch_pair(base: str, assistant: str = "llama", **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of an endless pair of these architectures."""
    return {**ENDLESS_BASE, "arch": base, **changes}, {**ENDLESS_ASSISTANT, "arch": assistant, **changes}


def run(
    pair: colm.Pair, prompt: str | Sequence[int], **options: Any
) -> tuple[colm.Completion, list[Call], list[colm.Token]]:
    """The completion, every decode, and every token with the one that ended the text; without look-ahead."""
    stream = pair.stream(prompt, **{"lookahead": 0, **options})
    completion = stream.completion()
    return completion, [Call(*call) for call in stream.calls], written(completion)


def written(completion: colm.Completion) -> list[colm.Token]:
    """The tokens, with the one that ended the text."""
    return [*completion.tokens, *([completion.end_token] if completion.end_token else [])]


def ids(tokens: Iterable[colm.Token]) -> list[int]:
    return [token.id for token in tokens]


def of(model: str, calls: Iterable[Call]) -> list[Call]:
    """One model's calls."""
    return [call for call in calls if call.model == model]


def facts(completion: colm.Completion) -> tuple[Any, ...]:
    """What two runs of one text have in common; numbers only roughly, as batches are rounded differently."""
    tokens = [(t.id, t.text, t.source, round(t.threshold, 9)) for t in written(completion)]
    return completion.text, completion.finish_reason, tokens


def linear_head(pair: colm.Pair, seed: int = 0, **changes: Any) -> colm.Head:
    """A head that defers about half of the tokens of a tiny pair at threshold 0.5."""
    theta = np.random.default_rng(seed).normal(0, 2.5 / math.sqrt(pair.n_embd), pair.n_embd)
    return colm.Head.linear(theta.astype(np.float32), **changes)


def n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def reads(model: str, start: int, end: int, n_batch: int, hidden: bool) -> list[Call]:
    """The calls that bring a model from `start` to `end` tokens: full batches, with outputs of the last token only,
    which stands alone where its hidden state is wanted."""
    calls = []
    stop = end - 1 if hidden else end
    for position in range(start, stop, n_batch):
        n = min(n_batch, stop - position)
        calls.append(Call(model, position, n, not hidden and position + n == end, False))
    if hidden:
        calls.append(Call(model, end - 1, 1, True, True))
    return calls


def expected_calls(n_prompt: int, sources: Sequence[str], n_batch: int, hidden: bool) -> list[Call]:
    """The whole schedule of a text that nothing was read of before, from who wrote its tokens."""
    calls: list[Call] = []
    read = {"base": 0, "assistant": 0}
    for t, source in enumerate(sources):
        for model in ("base", "assistant"):
            if model == "base" or source == "assistant":
                calls += reads(model, read[model], n_prompt + t, n_batch, hidden and model == "base")
                read[model] = n_prompt + t
    return calls


def assert_counts(completion: colm.Completion, calls: Sequence[Call]) -> None:
    """The counts agree with the tokens and the calls."""
    stats, tokens = completion.stats, written(completion)
    assert stats.generated_tokens == len(tokens)
    deferred = sum(token.deferred for token in tokens)
    assert stats.deferral_rate == (deferred / len(tokens) if tokens else 0.0)
    assert stats.base_steps == sum(call.logits for call in of("base", calls)) == len(tokens)
    assert stats.assistant_calls == sum(call.logits for call in of("assistant", calls)) == deferred
    assert stats.base_tokens_read == sum(call.n_tokens for call in of("base", calls))
    assert stats.assistant_tokens_read == sum(call.n_tokens for call in of("assistant", calls))
    assert stats.prefill_s >= 0.0
    assert stats.decode_s >= 0.0
    if stats.decode_s > 0:
        assert stats.tokens_per_s == pytest.approx(len(tokens) / stats.decode_s)


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


# -- where a text ends ----------------------------------------------------------------------------------------------


def test_text_ends_when_the_context_is_full(tiny_pair: TinyPairs) -> None:
    pair = tiny_pair(ENDLESS_BASE, ENDLESS_ASSISTANT, n_ctx=40, n_batch=6)
    prompt = pair.tokenize(PROMPT)
    for head in ("confidence", linear_head(pair)):
        for threshold in (0.0, 0.5, 1.0):
            for max_tokens in (None, 1000):
                completion, calls, tokens = run(
                    pair, prompt, head=head, threshold=threshold, max_tokens=max_tokens, seed=1
                )
                assert completion.finish_reason == "length"
                assert len(prompt) + len(tokens) == pair.n_ctx == 40
                assert max(call.position + call.n_tokens for call in calls) == 39
    # One token less than the context leaves room for one; a full context for none.
    full = (prompt * 3)[:40]
    completion, calls, _ = run(pair, full[:39], threshold=0.0)
    assert (len(completion.tokens), completion.finish_reason) == (1, "length")
    completion, calls, _ = run(pair, full)
    assert (completion.text, completion.tokens, completion.finish_reason) == ("", (), "length")
    assert calls == []
    assert_counts(completion, calls)
    with pytest.raises(colm.ContextFull, match="41 tokens") as caught:
        pair.generate([*full, 65])
    assert (caught.value.n_prompt, caught.value.n_ctx) == (41, 40)


@pytest.mark.parametrize("smaller", ["base_options", "assistant_options"])
def test_the_smaller_context_counts(tiny_model: TinyModels, smaller: str) -> None:
    paths = tiny_model(**ENDLESS_BASE), tiny_model(**ENDLESS_ASSISTANT)
    load: dict[str, Any] = {**TINY_LOAD, smaller: {"n_ctx": 32}}
    with colm.load(*paths, "random", **load) as pair:
        assert pair.n_ctx == 32
        completion, _, tokens = run(pair, PROMPT, max_tokens=None, seed=0)
        assert completion.stats.prompt_tokens + len(tokens) == 32
        assert completion.finish_reason == "length"


def test_max_tokens(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    completion, calls, _ = run(pair, PROMPT, max_tokens=0)
    assert (completion.text, completion.tokens, completion.finish_reason) == ("", (), "length")
    assert calls == []
    assert_counts(completion, calls)
    for n in (1, 2, 17):
        completion, calls, tokens = run(pair, PROMPT, max_tokens=n, seed=n)
        assert len(tokens) == n
        assert completion.finish_reason == "length"
        assert sum(call.logits for call in of("base", calls)) == n, "nothing is computed beyond the last token"
    with pytest.raises(colm.OptionError, match="max_tokens"):
        pair.generate(PROMPT, max_tokens=-2)


def stop_ends(whole: str, stops: Sequence[str]) -> int:
    """Where a text ends that any of `stops` ends: before the first of them to be complete, or at its end."""
    found = [(whole.index(stop) + len(stop), whole.index(stop)) for stop in stops if stop in whole]
    if not found:
        return len(whole)
    # Of several that one token completes, the first to begin counts.
    return min(found)[1]


def test_stop_strings(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    rng = np.random.default_rng(0)
    n_split = n_cut = 0
    for seed in range(5):
        options: dict[str, Any] = {"max_tokens": 60, "seed": seed}
        whole = pair.generate(PROMPT, **options)
        ends = np.cumsum([len(token.text) for token in whole.tokens])
        for _ in range(12):
            start = int(rng.integers(0, len(whole.text) - 8))
            stop = whole.text[start : start + int(rng.integers(1, 9))]
            if "\ufffd" in stop:  # may stand for the beginning of a character that the next token completes
                continue
            at = whole.text.index(stop)
            stopped, calls, tokens = run(pair, PROMPT, stop=stop, **options)
            assert stopped.text == whole.text[:at], stop
            assert stopped.finish_reason == "stop"
            assert stopped.end_token is None
            # The text ends with the token that completes the stop string, which is among the tokens.
            n_tokens = int(np.searchsorted(ends, at + len(stop))) + 1
            assert ids(tokens) == ids(whole.tokens)[:n_tokens]
            n_split += at < len(whole.text) and int(np.searchsorted(ends, at + 1)) + 1 < n_tokens
            n_cut += at not in (0, *ends)
            assert_counts(stopped, calls)
    assert n_split >= 10, "no stop string was spread over tokens"
    assert n_cut >= 3, "no stop string began inside a token"


def test_several_stop_strings(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    options: dict[str, Any] = {"max_tokens": 40, "seed": 11}
    whole = pair.generate(PROMPT, **options)
    text = whole.text
    assert len(text) > 40
    never = "never in this text"
    assert pair.generate(PROMPT, stop=never, **options).text == text
    assert pair.generate(PROMPT, stop=[], **options).text == text
    # A text that may yet turn out to be a stop string is only held back.
    begun = [text[10:20] + "\x00", text[-3:] + "\x00"]
    held = pair.generate(PROMPT, stop=begun, **options)
    assert (held.text, held.finish_reason) == (text, "length")
    stops = [never, text[20:24], text[9:12], text[30:31]]
    got = pair.generate(PROMPT, stop=stops, **options)
    assert (got.text, got.finish_reason) == (text[: stop_ends(text, stops)], "stop")
    first = pair.generate(PROMPT, stop=text[:2], **options)
    assert (first.text, first.finish_reason) == ("", "stop")
    assert first.tokens
    assert all(token.text == "" for token in first.tokens)
    with pytest.raises(colm.OptionError, match="stop"):
        pair.generate(PROMPT, stop=["a", ""])


@pytest.mark.parametrize("ender", ["base", "assistant"])
def test_an_end_token_of_one_model_ends_the_text_of_both(shared_pairs: SharedPairs, ender: str) -> None:
    """Whoever of the two knows a token as the end, and whoever chooses it."""
    likely = {"row_scale": {"<|stop|>": 2.5}}
    base = {"vocab": _STOP, "extra_tail": (D,), "eos": D, "seed": 31, **likely}
    assistant = {"vocab": _STOP, "n_padding": 5, "eos": len(_STOP), "arch": "qwen2", "seed": 32, **likely}
    (base if ender == "base" else assistant)["eos"] = "<|stop|>"
    pair = shared_pairs(base, assistant)
    chosen_by, endless = set(), 0
    for seed in range(30):
        completion, calls, tokens = run(pair, PROMPT, head="random", seed=seed, max_tokens=20)
        assert_counts(completion, calls)
        assert _STOP_ID not in ids(completion.tokens)
        assert "<|stop|>" not in completion.text
        assert "".join(token.text for token in completion.tokens) == completion.text
        if completion.finish_reason == "eos":
            assert completion.end_token is not None
            assert completion.end_token.id == tokens[-1].id == _STOP_ID
            assert completion.end_token.text == ""
            assert completion.stats.generated_tokens == len(completion.tokens) + 1
            chosen_by.add(completion.end_token.source)
        else:
            assert completion.end_token is None
            assert len(completion.tokens) == 20
            endless += 1
    assert chosen_by == {"base", "assistant"}
    assert endless > 0


# -- which tokens may be chosen -------------------------------------------------------------------------------------

WILD: dict[str, Any] = {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


@pytest.mark.parametrize("strategy", ["defer", "compose", "contrastive"])
@pytest.mark.parametrize("known", ["by the base", "by both"])
def test_tails_and_the_heads_token_never_appear(shared_pairs: SharedPairs, known: str, strategy: str) -> None:
    likely = {"row_scale": {D: 6.0}}
    base = {**ENDLESS_BASE, **likely}
    assistant = {**ENDLESS_ASSISTANT}
    if known == "by both":
        assistant = {"vocab": _PLAIN, "extra_tail": (D,), "n_padding": 9, "eos": D, "seed": 2, **likely}
    pair = shared_pairs(base, assistant, n_ctx=512)
    assert pair.n_shared == _N_PLAIN + (known == "by both")
    seen: set[int] = set()
    for threshold in (0.0, 0.5, 1.0):
        options: dict[str, Any] = {"head": D, "strategy": strategy, "alpha": 1e-6, "threshold": threshold}
        completion, _, tokens = run(pair, PROMPT, max_tokens=300, seed=1, **WILD, **options)
        assert len(tokens) == 300
        assert completion.finish_reason == "length"
        assert max(ids(tokens)) < _N_PLAIN
        seen |= set(ids(tokens))
        for token in pair.generate(PROMPT, logprobs=500, max_tokens=20, seed=1, **options).tokens:
            named = [top.id for top in token.top_logprobs]
            assert max(named) < _N_PLAIN
            assert sum(math.exp(top.logprob) for top in token.top_logprobs) == pytest.approx(1.0, abs=1e-5)
        _, _, tokens = run(pair, PROMPT, max_tokens=100, **GREEDY, **options)
        assert max(ids(tokens)) < _N_PLAIN
    assert len(seen) > 200, "the vocabulary is hardly sampled"
    # The head's token is likely indeed: elsewhere it is chosen.
    if known == "by both":
        free, _, tokens = run(pair, PROMPT, head="confidence", max_tokens=100, seed=1, **WILD)
        assert (free.finish_reason, tokens[-1].id) == ("eos", _N_PLAIN)


def test_bias_cannot_bring_what_is_not_shared(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    for token in (pair.n_shared, pair.n_shared + 3, 10**6, -1):
        for threshold in (0.0, 1.0):
            with pytest.raises(colm.OptionError, match=f"logit_bias.* {token}"):
                pair.generate(PROMPT, threshold=threshold, logit_bias={token: 1000.0})
    last = pair.n_shared - 1
    got = pair.generate(PROMPT, logit_bias={last: 1000.0}, max_tokens=3, seed=0)
    assert ids(got.tokens) == [last] * 3
    # The head's token is masked before the bias is added, where the assistant has that token too.
    both = shared_pairs(ENDLESS_BASE, {**ENDLESS_ASSISTANT, "n_padding": 0, "extra_tail": (D, "<|x|>")})
    assert both.n_shared == _N_PLAIN + 1
    for options in (GREEDY, {"seed": 1}, {"seed": 1, **WILD}):
        try:
            got = both.generate(PROMPT, head=D, logit_bias={_N_PLAIN: 1000.0}, max_tokens=30, **options)
        except colm.OptionError:
            continue
        assert _N_PLAIN not in ids(written(got))


def test_prompt_tokens_must_be_shared(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    for token in (-1, pair.n_shared, 10**6):
        with pytest.raises(colm.TokenizeError, match=f"token 1 .*{token}"):
            pair.generate([65, token])
    with pytest.raises(colm.TokenizeError):
        pair.generate([])
    with pytest.raises(colm.TokenizeError):
        pair.generate("")


# -- choosing -------------------------------------------------------------------------------------------------------


def test_seeds(pair: colm.Pair) -> None:
    def text(seed: int | None, head: str = "confidence") -> tuple[list[int], int]:
        completion = pair.generate(PROMPT, head=head, seed=seed, max_tokens=16)
        return ids(written(completion)), completion.stats.seed

    texts = {seed: text(seed)[0] for seed in (0, 1, 2, 12345, 2**32 - 2)}
    assert len({tuple(tokens) for tokens in texts.values()}) == len(texts)
    for seed, tokens in texts.items():
        assert text(seed) == (tokens, seed)
    drawn = [text(None) for _ in range(4)]
    assert len({seed for _, seed in drawn}) == 4
    for tokens, seed in drawn:
        assert text(seed) == (tokens, seed)
    wrong: list[Any] = [-1, 2**32 - 1, 1.5, True]
    for seed in wrong:
        with pytest.raises(colm.OptionError, match="seed"):
            pair.generate(PROMPT, seed=seed)
    # The random head follows the seed, whatever the temperature.
    sources = {
        seed: [t.source for t in pair.generate(PROMPT, head="random", seed=seed, **GREEDY).tokens] for seed in (0, 1)
    }
    assert sources[0] != sources[1]


def test_temperature_zero_takes_the_likeliest(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    for strategy in ("defer", "compose", "contrastive"):
        for threshold in (0.0, 0.5, 1.0):
            options: dict[str, Any] = {
                "strategy": strategy,
                "threshold": threshold,
                "max_tokens": 30,
                "head": "confidence",
            }
            greedy = pair.generate(PROMPT, logprobs=2, **GREEDY, **options)
            assert len({t.source for t in greedy.tokens}) == (2 if threshold == 0.5 else 1)
            for token in greedy.tokens:
                assert token.id == token.top_logprobs[0].id
                assert token.logprob == token.top_logprobs[0].logprob
            # By way of the sampler chain, and with nothing else to choose from.
            for other in (
                {"logit_bias": {5: 0.0}, **GREEDY},
                {"repeat_penalty": 1.0, "presence_penalty": 1e-9, **GREEDY},
                {"top_k": 1, "temperature": 3.0},
                {"temperature": 1e-5},
            ):
                got = pair.generate(PROMPT, **other, **options)
                assert ids(got.tokens) == ids(greedy.tokens), other
                logprobs = [t.logprob for t in greedy.tokens]
                assert [t.logprob for t in got.tokens] == pytest.approx(logprobs, abs=1e-3)


class Reference:
    """The sampler chain of llama_cpp.Llama in front of the oracle's logits."""

    def __init__(self, n_vocab: int, options: Mapping[str, Any]) -> None:
        self.chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        self.seed = options["seed"]
        self.greedy = options.get("temperature") == 0.0
        samplers = []
        bias = options.get("logit_bias", {})
        if bias:
            array = (llama_cpp.llama_logit_bias * len(bias))()
            for entry, (token, value) in zip(array, bias.items(), strict=True):
                entry.token, entry.bias = token, value
            samplers.append(llama_cpp.llama_sampler_init_logit_bias(n_vocab, len(bias), array))
        samplers.append(
            llama_cpp.llama_sampler_init_penalties(
                n_vocab,
                64,
                options.get("repeat_penalty", 1.0),
                options.get("frequency_penalty", 0.0),
                options.get("presence_penalty", 0.0),
            )
        )
        if self.greedy:
            samplers.append(llama_cpp.llama_sampler_init_greedy())
        else:
            samplers += [
                llama_cpp.llama_sampler_init_top_k(40),
                llama_cpp.llama_sampler_init_typical(1.0, 1),
                llama_cpp.llama_sampler_init_top_p(0.95, 1),
                llama_cpp.llama_sampler_init_min_p(0.05, 1),
                llama_cpp.llama_sampler_init_temp(options.get("temperature", 0.8)),
            ]
        for sampler in samplers:
            llama_cpp.llama_sampler_chain_add(self.chain, sampler)

    def choose(self, logits: o.F32, position: int) -> int:
        data = (llama_cpp.llama_token_data * len(logits))()
        for token, (entry, logit) in enumerate(zip(data, logits, strict=True)):
            entry.id, entry.logit, entry.p = token, float(logit), 0.0
        array = llama_cpp.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self.chain, ctypes.byref(array))
        if self.greedy:
            token = int(array.data[array.selected].id)
        else:
            left = array.data[: array.size]
            token = o.gumbel_max([entry.id for entry in left], [entry.logit for entry in left], self.seed, position)
        llama_cpp.llama_sampler_accept(self.chain, token)
        return token

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self.chain)


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": 1.6},
        {"presence_penalty": 1.2},
        {"frequency_penalty": 0.7},
        {"repeat_penalty": 0.8, "frequency_penalty": -0.3, "presence_penalty": 0.4},
        {"logit_bias": {32: 6.0, 101: 4.0, 105: float("-inf"), 116: -20.0}},
        {"repeat_penalty": 1.3, "logit_bias": {32: 8.0, 259: 5.0}},
    ],
    ids=str,
)
def test_penalties_and_bias_are_llama_cpps(
    shared_pairs: SharedPairs, tiny_model: TinyModels, options: dict[str, Any]
) -> None:
    """More than 64 tokens, so that the window of the penalties moves; the prompt is not penalised."""
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    paths = tiny_model(**ENDLESS_BASE), tiny_model(**ENDLESS_ASSISTANT)
    prompt = pair.tokenize(PROMPT)
    with o.OracleModel(paths[0], 128, exact=True) as base, o.OracleModel(paths[1], 128, exact=True) as assistant:
        for sampling in (GREEDY, {"temperature": 0.8}):
            chosen: dict[str, Any] = {**sampling, "seed": 8, "max_tokens": 80, "head": "random"}
            got = pair.generate(prompt, **chosen, **options)
            plain = pair.generate(prompt, **chosen)
            assert len(got.tokens) == 80
            assert ids(got.tokens) != ids(plain.tokens), "no effect"
            assert {token.source for token in got.tokens} == {"base", "assistant"}
            reference = Reference(base.n_vocab, {**chosen, **options})
            text = list(prompt)
            for t, token in enumerate(got.tokens):
                model = assistant if token.deferred else base
                logits = model.logits_and_hidden(text)[0][: pair.n_shared]
                assert token.id == reference.choose(logits, len(text)), f"{sampling}, token {t}"
                # What is reported is the model's own probability, before penalties and bias.
                assert token.logprob == pytest.approx(o.log_softmax(logits)[token.id], abs=1e-3)
                text.append(token.id)
            reference.close()


GRAMMARS: list[tuple[Any, str]] = [
    ('root ::= ("yes" | "no") " " [0-9]{3} "."', r"(yes|no) [0-9]{3}\."),
    ('root ::= item (", " item){0,2}\nitem ::= [a-f]{1,4}', r"[a-f]{1,4}(, [a-f]{1,4}){0,2}"),
    ('root ::= "\u65e5\u672c" [\u00e9\u00fc] "caf\u00e9"?', r"日本[éü](café)?"),
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"enum": ["river", "city"]},
        "n": {"enum": [7, 42]},
        "list": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "n", "list"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("strategy", ["defer", "compose", "contrastive"])
@pytest.mark.parametrize("sampling", [GREEDY, {}, {"temperature": 2.0, "top_k": 0, "min_p": 0.0}], ids=str)
def test_grammars(pair: colm.Pair, sampling: dict[str, Any], strategy: str) -> None:
    # The cutoff of "contrastive" comes before the grammar, and 0.1 may leave nothing that the grammar allows.
    options: dict[str, Any] = {"strategy": strategy, "alpha": 1e-30, "head": "random", "max_tokens": None, **sampling}
    sources = set()
    for grammar, pattern in GRAMMARS:
        for seed in range(3):
            got = pair.generate(PROMPT, grammar=grammar, seed=seed, **options)
            assert got.finish_reason == "eos"
            assert re.fullmatch(pattern, got.text), got.text
            sources |= {token.source for token in written(got)}
    assert sources == {"base", "assistant"}
    for grammar in (SCHEMA, json.dumps(SCHEMA)):
        for seed in range(2):
            got = pair.generate(PROMPT, grammar=grammar, seed=seed, **options)
            assert got.finish_reason == "eos"
            value = json.loads(got.text)
            assert set(value) == {"name", "n", "list"}
            assert value["name"] in ("river", "city")
            assert value["n"] in (7, 42)
            assert 1 <= len(value["list"]) <= 3
            assert all(isinstance(entry, bool) for entry in value["list"])


def _allowed(grammar: Any, logits: np.ndarray[Any, np.dtype[np.float32]]) -> list[tuple[int, float]]:
    """Tokens and logits that are left of a whole vocabulary."""
    data = (llama_cpp.llama_token_data * len(logits))()
    for i, logit in enumerate(logits):
        data[i].id, data[i].logit, data[i].p = i, float(logit), 0.0
    array = llama_cpp.llama_token_data_array(data=data, size=len(logits), selected=-1, sorted=False)
    llama_cpp.llama_sampler_apply(grammar, ctypes.byref(array))
    return [(entry.id, entry.logit) for entry in array.data[: array.size] if math.isfinite(entry.logit)]


# Not `[^a-z]+`: llama.cpp refuses the first byte of every character there, since it might become one of them.
@pytest.mark.parametrize("text", ["root ::= [a-z ]+", "root ::= [A-Z0-9é]+", 'root ::= ("yes" | [0-9])+'], ids=str)
@pytest.mark.parametrize("top_k", [3, 40, 300])
def test_a_grammar_asked_about_few_tokens_is_one_asked_about_all(
    tiny_model: TinyModels, tiny_pair: TinyPairs, text: str, top_k: int
) -> None:
    """Against llama.cpp's grammar over the whole vocabulary at every token, wide grammars and narrow ones."""
    pair = tiny_pair(ENDLESS_BASE, ENDLESS_ASSISTANT)
    # So hot that every token which is left is as likely as any other: one too few shows.
    for temperature, biased in itertools.product((0.0, 100.0), (False, True)):
        chain = o._Chain(3, temperature or 1.0, top_k, 1.0, 0.0, 1.0)
        with o.OracleModel(tiny_model(**ENDLESS_BASE), exact=True) as model:
            grammar = llama_cpp.llama_sampler_init_grammar(model._vocab, text.encode(), b"root")
            got = pair.generate(
                PROMPT,
                threshold=1.0,
                grammar=text,
                temperature=temperature,
                top_k=top_k,
                top_p=1.0,
                min_p=0.0,
                seed=3,
                max_tokens=16,
                logit_bias={pair.tokenize("a")[0]: 0.0} if biased else None,
            )
            tokens = pair.tokenize(PROMPT)
            for token in got.tokens:
                allowed = _allowed(grammar, model.logits_and_hidden(tokens)[0][: len(_PLAIN)])
                if temperature == 0.0:
                    expected = max(allowed, key=lambda entry: entry[1])[0]
                else:
                    ids, logits = zip(*allowed, strict=True)
                    expected = chain.choose(ids, np.array(logits), len(tokens))
                assert token.id == expected
                llama_cpp.llama_sampler_accept(grammar, token.id)
                tokens.append(token.id)
            llama_cpp.llama_sampler_free(grammar)
        chain.close()


def test_a_grammar_cut_short_is_a_beginning(pair: colm.Pair) -> None:
    for seed in range(5):
        got = pair.generate(PROMPT, grammar='root ::= "(" [0-9]{20,} ")"', seed=seed, max_tokens=9)
        assert got.finish_reason == "length"
        assert re.fullmatch(r"\([0-9]*", got.text)


def test_bad_grammars_are_refused(pair: colm.Pair) -> None:
    for grammar in ("root ::= [", "start ::= 'a'", "", "root ::= undefined", {"type": "nonsense"}, 5):
        with pytest.raises(colm.GrammarError):
            pair.generate(PROMPT, grammar=grammar)
    assert pair.generate(PROMPT, max_tokens=2, seed=0).tokens, "the pair stays usable"


def test_banning_every_token_is_an_error(shared_pairs: SharedPairs) -> None:
    pair = shared_pairs(ENDLESS_BASE, ENDLESS_ASSISTANT)
    bans = dict.fromkeys(range(pair.n_shared), -math.inf)
    with pytest.raises(colm.GenerationError, match="logit_bias"):
        pair.generate(PROMPT, logit_bias=bans)
    del bans[77]
    for options in (GREEDY, {"seed": 0}):
        assert ids(pair.generate(PROMPT, logit_bias=bans, max_tokens=3, **options).tokens) == [77] * 3


# -- what is reported -----------------------------------------------------------------------------------------------


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
    return _PLAIN.piece(token) if _PLAIN.tokens[token].type == tm.NORMAL else b""


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
