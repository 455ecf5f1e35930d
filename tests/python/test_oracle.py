"""The engine against the oracle: the same tokens from the same models, with nothing of the engine's machinery.

Each case is drawn from its number alone. A case whose outcome rounding could decide is drawn again, and how often
that happens is bounded (`test_cases_cover_what_they_should`).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import oracle as o
import oracle_cases
import pytest
from conftest import RealModels
from engine_calls import written
from oracle_cases import GEMMA_TOLERANCE, N_CASES, PAIRS, TOLERANCE, Case, Cases, Outcome

import colm_cpp as colm

cases = oracle_cases.cases


def run_engine(pair: colm.Pair, case: Case) -> colm.Completion:
    """The text of a case."""
    return pair.generate(case.prompt, head=case.head.engine(), threshold=case.threshold, **case.options)


def tolerance_of(case: Case) -> float:
    """How far z and log-probabilities may be off."""
    base, assistant, _ = PAIRS[case.pair]
    return GEMMA_TOLERANCE if "gemma3" in (base["arch"], assistant["arch"]) else TOLERANCE


def difference(completion: colm.Completion, outcome: Outcome) -> str:
    """Where engine and oracle part; empty where they agree."""
    got, steps = written(completion), outcome.steps
    tolerance = tolerance_of(outcome.case)
    for t, (token, step) in enumerate(zip(got, steps, strict=False)):
        if token.source != step.source:
            return f"token {t}: source {token.source}, oracle {step.source}"
        if token.id != step.token:
            return f"token {t}: id {token.id}, oracle {step.token} (margin {step.margin})"
        for name, allowed in (("defer_logit", tolerance), ("logprob", tolerance), ("threshold", 1e-9)):
            value, expected = getattr(token, name), getattr(step, name)
            if (value is None) != (expected is None):
                return f"token {t}: {name} {value}, oracle {expected}"
            if value is not None and not math.isclose(value, expected, rel_tol=0.0, abs_tol=allowed):
                return f"token {t}: {name} {value}, oracle {expected}"
    if len(got) != len(steps):
        return f"{len(got)} tokens, oracle {len(steps)}"
    if completion.finish_reason != outcome.reason:
        return f"finish reason {completion.finish_reason}, oracle {outcome.reason}"
    deferred = sum(step.source == "assistant" for step in steps) / len(steps)
    if not math.isclose(completion.stats.deferral_rate, deferred):
        return f"deferral rate {completion.stats.deferral_rate}, oracle {deferred}"
    return ""


@pytest.mark.parametrize(
    "index",
    [*range(N_CASES // 12), *(pytest.param(i, marks=pytest.mark.slow) for i in range(N_CASES // 12, N_CASES))],
)
def test_engine_agrees_with_oracle(cases: Cases, index: int) -> None:
    """What the engine has read before stays in the models: cases of one pair reuse each other's prefixes."""
    outcome = cases[index]
    _, pair = cases.pair(outcome.case.pair)
    found = difference(run_engine(pair, outcome.case), outcome)
    if found:
        pair.forget()
        again = difference(run_engine(pair, outcome.case), outcome)
        pytest.fail(f"{found}\nafter forget(): {again or 'no difference'}\n{outcome.case}", pytrace=False)


def test_vocabularies_share_what_the_oracle_says(cases: Cases) -> None:
    for name in PAIRS:
        mirror, pair = cases.pair(name)
        assert pair.n_shared == mirror.n_shared, name
        assert pair.n_embd == mirror.base.n_embd, name


@pytest.mark.slow
def test_cases_cover_what_they_should(cases: Cases) -> None:
    outcomes = [cases[i] for i in range(N_CASES)]
    drawn = [outcome.case for outcome in outcomes]
    redrawn = sum(case.redrawn for case in drawn)
    assert redrawn < 0.05 * N_CASES, f"{redrawn} redrawn"

    def at_least(least: int, counts: Counter[Any], *values: object) -> None:
        rare = {value: counts[value] for value in values if counts[value] < least}
        assert not rare, counts

    at_least(5, Counter(case.threshold for case in drawn), 0.0, 1.0)
    at_least(30, Counter(case.options["strategy"] for case in drawn), "defer", "compose", "contrastive")
    at_least(
        20,
        Counter(case.options["schedule"] for case in drawn if case.options["schedule_tokens"] > 2),
        "constant",
        "linear",
        "cosine",
        "exponential",
    )
    at_least(30, Counter(case.options["hold"] for case in drawn), 1, 2, 3, 6)
    at_least(40, Counter("leave_threshold" in case.options for case in drawn), True, False)
    at_least(200, Counter(step.defer_logit is None for outcome in outcomes for step in outcome.steps), True, False)
    at_least(15, Counter(c.head.kind for c in drawn), "linear", "mlp", "token", "confidence", "entropy", "random")
    at_least(10, Counter(c.head.activation for c in drawn if c.head.widths), *colm.heads.ACTIVATIONS)
    at_least(30, Counter(f for case in drawn for f in case.head.features), *colm.heads.FEATURES)
    at_least(80, Counter(case.options["temperature"] > 0 for case in drawn), True, False)
    at_least(80, Counter(isinstance(case.prompt, str) for case in drawn), True)
    at_least(40, Counter(isinstance(case.prompt, str) for case in drawn), False)
    at_least(15, Counter(outcome.reason for outcome in outcomes), "eos", "length")

    inner = [outcome for outcome in outcomes if 0.0 < outcome.case.threshold < 1.0]
    sources = Counter(step.source for outcome in inner for step in outcome.steps)
    share = sources["assistant"] / sources.total()
    assert 0.2 < share < 0.8, share
    mixed = sum(len({step.source for step in outcome.steps}) == 2 for outcome in inner)
    assert mixed > 0.7 * len(inner), f"{mixed} of {len(inner)} cases have both sources"
    for outcome in outcomes:
        sources = Counter(step.source for step in outcome.steps)
        if outcome.case.threshold == 1.0:
            assert sources["assistant"] == 0
        if outcome.case.threshold == 0.0 and outcome.case.options["schedule"] == "constant":
            assert sources["base"] == 0


@pytest.fixture(scope="module")
def real_pair(real_models: RealModels) -> Iterator[tuple[o.OracleModel, o.OracleModel, colm.Pair]]:
    paths = real_models["base"], real_models["assistant"]
    base = o.OracleModel(paths[0], n_ctx=64, n_threads=2)
    assistant = o.OracleModel(paths[1], n_ctx=64, n_threads=2, embeddings=False)
    with colm.load(*paths, n_ctx=64) as pair:
        yield base, assistant, pair
    base.close()
    assistant.close()


REAL_PROMPTS = ("def fibonacci(n):", "The capital of France is", "SELECT name FROM")


@pytest.mark.real_models
@pytest.mark.parametrize("kind", ["confidence", "linear"])
def test_engine_agrees_with_oracle_on_real_models(
    real_pair: tuple[o.OracleModel, o.OracleModel, colm.Pair], kind: str
) -> None:
    """Default settings. Quantised weights are multiplied with rounded activations, so that reading token by token and
    all at once differ by up to some tenths in z; read all at once, engine and oracle agree."""
    base, assistant, pair = real_pair
    head: str | colm.Head = kind
    oracle_head: o.Head = kind
    if kind == "linear":
        hidden = [base.logits_and_hidden(base.tokenize(prompt))[1] for prompt in REAL_PROMPTS]
        size = float(np.sqrt(np.mean(np.square(hidden))) * math.sqrt(base.n_embd))
        theta = (np.random.default_rng(3).standard_normal(base.n_embd) * 2.0 / size).astype(np.float32)
        bias = -float(np.mean([theta @ h for h in hidden]))
        head, oracle_head = colm.Head.linear(theta, bias), ("linear", theta, np.float32(bias), (), 0)
    compared = 0
    sources: set[str] = set()
    for prompt in REAL_PROMPTS:
        completion = pair.generate(prompt, head=head, threshold=0.5, max_tokens=12, temperature=0.0)
        tokens = base.tokenize(prompt)
        steps, _ = o.oracle_generate(
            base, assistant, tokens, head=oracle_head, threshold=0.5, max_tokens=12, n_shared=pair.n_shared
        )
        for t, (token, step) in enumerate(zip(written(completion), steps, strict=False)):
            where = f"{kind}, {prompt!r}, token {t}: {token}, oracle {step}"
            assert abs(token.defer_logit - step.defer_logit) < 0.3, where
            if (token.id, token.source) != (step.token, step.source):
                assert step.margin < 0.3, where
                break  # from here on the texts differ
            assert abs(token.logprob - step.logprob) < 0.3, where
            compared += 1
            sources.add(token.source)
        # The position after the text, read all at once. A learned head has its last token read alone.
        text = [*tokens, *(step.token for step in steps[:-1])]
        pair.forget()
        once = written(pair.generate(text, head=head, threshold=0.5, max_tokens=1, temperature=0.0))[0]
        allowed = 0.3 if kind == "linear" else 1e-3
        assert abs(once.defer_logit - steps[-1].defer_logit) < allowed, f"{kind}, {prompt!r}"
        if steps[-1].margin > 2 * allowed:
            assert (once.id, once.source) == (steps[-1].token, steps[-1].source), f"{kind}, {prompt!r}"
    assert compared >= 24, "rounding decided too much; choose other prompts"
    assert sources == {"base", "assistant"}


def test_difference_finds_each_kind(cases: Cases) -> None:
    """The comparison itself: whatever is changed in the oracle's answer is noticed."""
    index = next(
        i
        for i in range(N_CASES)
        if cases[i].reason == "length" and 0 < cases[i].case.threshold < 1 and cases[i].steps[3].defer_logit is not None
    )
    outcome = cases[index]
    completion = run_engine(cases.pair(outcome.case.pair)[1], outcome.case)
    assert difference(completion, outcome) == ""
    step = outcome.steps[3]
    beyond = 1.1 * tolerance_of(outcome.case)
    other = "base" if step.source == "assistant" else "assistant"

    def change(**new: Any) -> Outcome:
        steps = [*outcome.steps[:3], dataclasses.replace(step, **new), *outcome.steps[4:]]
        return dataclasses.replace(outcome, steps=steps)

    assert "id" in difference(completion, change(token=step.token ^ 1))
    assert "source" in difference(completion, change(source=other))
    assert step.defer_logit is not None
    assert "defer_logit" in difference(completion, change(defer_logit=step.defer_logit + beyond))
    assert "defer_logit" in difference(completion, change(defer_logit=None))
    assert "logprob" in difference(completion, change(logprob=step.logprob - beyond))
    assert "threshold" in difference(completion, change(threshold=step.threshold + 1e-6))
    assert "finish" in difference(completion, dataclasses.replace(outcome, reason="eos"))
    assert "tokens" in difference(completion, dataclasses.replace(outcome, steps=outcome.steps[:-1]))
