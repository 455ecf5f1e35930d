"""The oracle itself: its definitions, and what it writes."""

from __future__ import annotations

import math
from typing import Any

import loaded_models
import numpy as np
import oracle as o
import pytest
import tiny_models as tm
from loaded_models import PROMPT, Models, greedy

models = loaded_models.models


def test_oracle_checks_its_input(models: Models) -> None:
    _, model = models()
    for tokens in ([], [0] * 257, [-1], [model.n_vocab]):
        with pytest.raises(ValueError):
            model.logits_and_hidden(tokens)


def test_oracle_without_embeddings(models: Models) -> None:
    path, model = models()
    tokens = model.tokenize(PROMPT)
    with o.OracleModel(path, n_ctx=64, embeddings=False) as plain:
        logits, hidden = plain.logits_and_hidden(tokens)
    assert hidden.size == 0
    np.testing.assert_allclose(logits, model.logits_and_hidden(tokens)[0], atol=1e-4)


@pytest.fixture(scope="module")
def pair(models: Models) -> tuple[o.OracleModel, o.OracleModel, int]:
    """A base with a deferral token, an assistant of another kind without one, and the token's id."""
    vocab = tm.Vocab()
    _, base = models(seed=1, vocab=vocab, extra_tail=(tm.DEFER,), n_padding=3)
    _, assistant = models(seed=2, arch="qwen2", n_embd=64, vocab=vocab)
    return base, assistant, len(vocab)


def test_one_sided_thresholds(pair: tuple[o.OracleModel, o.OracleModel, int]) -> None:
    """Thresholds 1 and 0 are the base alone and the assistant alone."""
    base, assistant, defer = pair
    prompt = base.tokenize(PROMPT)
    for threshold, model, source in ((1.0, base, "base"), (0.0, assistant, "assistant")):
        head = ("token", defer)
        steps, ended_by = o.oracle_generate(
            base, assistant, prompt, head=head, threshold=threshold, max_tokens=12, n_shared=defer
        )
        assert {s.source for s in steps} == {source}
        text = list(prompt)
        for step in steps:
            log_p = o.log_softmax(model.logits_and_hidden(text)[0][:defer])
            assert step.token == int(np.argmax(log_p))
            assert step.logprob == pytest.approx(float(np.max(log_p)))
            text.append(step.token)
        assert ended_by == ("eos" if base.is_eog(text[-1]) else "length")
        assert len(steps) == 12 or ended_by == "eos"


def make_heads(n_embd: int, defer: int) -> dict[str, o.Head]:
    rng = np.random.default_rng(0)
    features = ("log_odds", "entropy", "margin", "top_k_logprobs")
    n_in = n_embd + 3 + 5
    return {
        "linear": ("linear", rng.standard_normal(n_in) / 3, 0.3, features, 5),
        "plain": ("linear", rng.standard_normal(n_embd) / 3, 0.0, (), 0),
        "mlp": (
            "mlp",
            [rng.standard_normal((7, n_in)) / 3, rng.standard_normal((1, 7))],
            [np.zeros(7), np.ones(1) / 9],
            "gelu",
            features,
            5,
        ),
        "token": ("token", defer),
        "confidence": "confidence",
        "entropy": "entropy",
        "random": "random",
    }


@pytest.mark.parametrize(
    ("name", "strategy", "temperature"),
    [
        *((name, "defer", 0.0) for name in make_heads(32, 0)),
        *((name, strategy, 0.9) for name in ("mlp", "random") for strategy in ("defer", "compose", "contrastive")),
    ],
)
def test_oracle_generates(
    pair: tuple[o.OracleModel, o.OracleModel, int], name: str, strategy: str, temperature: float
) -> None:
    base, assistant, defer = pair
    options: dict[str, Any] = {
        "head": make_heads(base.n_embd, defer)[name],
        "threshold": 0.6,
        "strategy": strategy,
        "schedule": "cosine",
        "schedule_tokens": 4,
        "max_tokens": 14,
        "n_shared": defer,
        "blocked": (5, 6),
        "temperature": temperature,
        "seed": 11,
    }
    prompt = base.tokenize(PROMPT)
    steps, ended_by = o.oracle_generate(base, assistant, prompt, **options)
    again, _ = o.oracle_generate(base, assistant, prompt, **options)
    assert steps == again
    assert steps
    assert ended_by in ("eos", "length")
    for t, step in enumerate(steps):
        assert step.token < defer
        assert step.token not in (5, 6)
        assert step.threshold == pytest.approx(o.threshold_at(0.6, "cosine", 4, t))
        assert (step.source == "assistant") == o.defers(step.defer_logit, step.threshold)
        assert step.logprob <= 0
        assert step.margin >= 0
    if ended_by == "length":
        assert len(steps) == 14
        assert not any(base.is_eog(s.token) for s in steps)


def test_both_sources_occur(pair: tuple[o.OracleModel, o.OracleModel, int]) -> None:
    """Each head has a threshold at which the two models take turns, so that tests can tell them apart."""
    base, assistant, defer = pair
    prompt = base.tokenize(PROMPT)
    for name, head in make_heads(base.n_embd, defer).items():
        probe, _ = o.oracle_generate(
            base, assistant, prompt, head=head, threshold=1.0, max_tokens=20, n_shared=defer, temperature=1.0
        )
        eta = o.sigmoid(float(np.median([s.defer_logit for s in probe])))
        steps, _ = o.oracle_generate(
            base, assistant, prompt, head=head, threshold=eta, max_tokens=20, n_shared=defer, temperature=1.0
        )
        assert {s.source for s in steps} == {"base", "assistant"}, name


def test_samplers(pair: tuple[o.OracleModel, o.OracleModel, int]) -> None:
    """A chain that leaves one candidate is greedy; one that leaves all depends on its seed."""
    base, assistant, defer = pair
    prompt = base.tokenize(PROMPT)

    def tokens(**options: Any) -> list[int]:
        steps, _ = o.oracle_generate(
            base, assistant, prompt, head="confidence", threshold=0.5, max_tokens=8, n_shared=defer, **options
        )
        return [s.token for s in steps]

    assert tokens(temperature=1.0, top_k=1) == tokens() == tokens(temperature=1e-3, top_k=0, min_p=0.0, top_p=1.0)
    open_chain = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    assert len({tuple(tokens(seed=s, **open_chain)) for s in range(4)}) == 4


def test_end_of_generation_of_either_model(models: Models) -> None:
    """A token that only the assistant calls an end ends the text as well, and is a part of it."""
    _, base = models(seed=1)
    prompt = base.tokenize(PROMPT)
    alone = greedy(base, prompt, 3)
    _, assistant = models(seed=2, eos=alone[2])
    steps, ended_by = o.oracle_generate(base, assistant, prompt, head="random", threshold=1.0, max_tokens=9)
    assert ended_by == "eos"
    assert [s.token for s in steps] == alone[: alone.index(alone[2]) + 1]


def test_definitions() -> None:
    """The oracle's mathematics against values worked out by hand."""
    log_p = np.log(np.array([0.7, 0.2, 0.1]))
    features = o.head_features(log_p, ("margin", "log_odds", "top_k_logprobs", "entropy"), 2)
    h = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    np.testing.assert_allclose(features, [math.log(3.5), math.log(7 / 3), math.log(0.7), math.log(0.2), h])
    # p1 within 1e-16 of 1: 1 - p1 would be 0.
    np.testing.assert_allclose(o.head_features(o.log_softmax([45.0, 0.0]), ("log_odds",)), [45.0])
    np.testing.assert_allclose(o.head_features(o.log_softmax([90.0, 0.0]), ("log_odds",)), [50.0])

    def z(head: o.Head) -> float:
        raw = np.zeros(3, dtype=np.float32)
        return o.defer_logit(head, hidden=raw, logits=raw, log_p=log_p, seed=1, position=2)

    assert o.sigmoid(z("confidence")) == pytest.approx(0.3)
    assert o.sigmoid(z("entropy")) == pytest.approx(1 - math.exp(-h))
    assert o.splitmix64(0) == 0xE220A8397B1DCDAF  # the generator's published first output for seed 0
    us = [o.sigmoid(o.random_logit(7, i)) for i in range(2000)]
    assert 0.48 < float(np.mean(us)) < 0.52
    assert 0.07 < float(np.var(us)) < 0.1

    schedules = {"constant": 0.25, "linear": 0.625, "cosine": 0.625, "exponential": 0.5}
    for name, middle in schedules.items():
        assert o.threshold_at(0.25, name, 0, 0) == 0.25
        assert o.threshold_at(0.25, name, 4, 0) == (0.25 if name == "constant" else 1.0)
        assert o.threshold_at(0.25, name, 4, 2) == pytest.approx(middle)
        assert o.threshold_at(0.25, name, 4, 9) == pytest.approx(0.25)
    assert o.threshold_at(0.0, "exponential", 2, 1) == pytest.approx(0.01)
    assert o.threshold_at(0.0, "exponential", 2, 2) == 0.0

    assert o.defers(-99.0, 0.0)
    assert not o.defers(99.0, 1.0)
    assert o.defers(0.1, 0.5)
    assert not o.defers(0.0, 0.5)
    assert o.defers(math.inf, 0.5)
    assert not o.defers(-math.inf, 0.5)

    b, a = np.log(np.array([0.5, 0.3, 0.2])), np.log(np.array([0.1, 0.85, 0.05]))
    np.testing.assert_allclose(
        np.exp(o.routed_scores("compose", b, a, math.log(3.0))), 0.25 * np.exp(b) + 0.75 * np.exp(a)
    )
    np.testing.assert_allclose(np.exp(o.routed_scores("compose", b, a, math.inf)), np.exp(a))
    np.testing.assert_allclose(
        o.routed_scores("contrastive", b, a, 0.0, 0.5, 0.1), [a[0] - 0.5 * b[0], a[1] - 0.5 * b[1], -np.inf]
    )
