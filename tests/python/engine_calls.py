"""Pairs of tiny models, and which decodes a text should take: for tests of the engine through the Python API."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest
import tiny_models as tm

import colm_cpp as colm

SharedPairs: TypeAlias = Callable[..., colm.Pair]

PROMPT = "The answer is that there are two rivers in the city."
GREEDY: dict[str, Any] = {"temperature": 0.0}
WILD: dict[str, Any] = {"temperature": 5.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
D = tm.DEFER

# No text ends by itself: the only tokens that could end it are never chosen, being in the tails.
PLAIN = tm.Vocab(specials=("<|bos|>", "<|user|>"), bos="<|bos|>", eos=0)
N_PLAIN = len(PLAIN)
ENDLESS_BASE: dict[str, Any] = {"vocab": PLAIN, "extra_tail": (D,), "eos": D, "seed": 1, "n_padding": 4}
ENDLESS_ASSISTANT: dict[str, Any] = {"vocab": PLAIN, "n_padding": 7, "eos": N_PLAIN, "seed": 2}

# One model's fine-tuning made a token the end of a text, and the other has it without that meaning.
STOP = tm.Vocab(specials=("<|bos|>", "<|user|>", "<|stop|>"), bos="<|bos|>", eos=0)
STOP_ID = STOP.id_of("<|stop|>")


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
