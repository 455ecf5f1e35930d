"""Writing at a rate: by the table, and by steering one text."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import calibrated_pairs
import numpy as np
import pytest
from calibrated_pairs import HEADS, endless, experts, linear

from colm_cpp import Pair
from colm_cpp.errors import HeadError, OptionError
from colm_cpp.learn import Calibrated

wide = calibrated_pairs.wide
calibrated = calibrated_pairs.calibrated


# --- writing by rate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("rate", [0.1, 0.33, 0.6])
def test_a_rate_is_its_threshold(name: str, rate: float, wide: Pair, calibrated: dict[str, Calibrated]) -> None:
    head = calibrated[name].head
    options: dict[str, Any] = {"head": head, "max_tokens": 40, "seed": 1}
    wide.forget()
    by_rate = wide.generate("The city", defer_rate=rate, **options)
    wide.forget()
    explicit = wide.generate("The city", threshold=head.threshold_for_rate(rate), **options)
    assert by_rate.tokens == explicit.tokens
    assert {token.threshold for token in by_rate.tokens} == {head.threshold_for_rate(rate)}
    assert set(experts(by_rate)) == {"0", "1"}


def test_random_needs_no_table(wide: Pair) -> None:
    options: dict[str, Any] = {"head": "random", "max_tokens": 256, "seed": 4, "logit_bias": endless(wide)}
    wide.forget()
    by_rate = wide.generate("The city", defer_rate=0.25, **options)
    wide.forget()
    assert by_rate.tokens == wide.generate("The city", threshold=0.75, **options).tokens
    assert by_rate.stats.deferral_rate == pytest.approx(0.25, abs=0.09)  # 3 standard deviations


def test_a_head_without_a_table_says_what_to_do(wide: Pair) -> None:
    for head, name in ((linear(wide.n_embd), "linear"), ("confidence", "confidence"), ("always", "always")):
        with pytest.raises(HeadError, match=f"head {name} .*20%.*colm calibrate.*threshold="):
            wide.generate("The city", head=head, defer_rate=0.2)
    # A head of one's own that happens to be called random has no rule of its own either.
    with pytest.raises(HeadError, match="colm calibrate"):
        wide.generate("The city", head=linear(wide.n_embd).replace(name="random"), defer_rate=0.2)


@pytest.mark.parametrize("other", [{"threshold": 0.4}, {"target_rate": 0.2}])
def test_two_ways_to_say_how_much(other: dict[str, Any], wide: Pair) -> None:
    with pytest.raises(OptionError, match=f"defer_rate.*{next(iter(other))}"):
        wide.generate("The city", head="random", defer_rate=0.2, **other)


@pytest.mark.parametrize("name", ["defer_rate", "target_rate"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, "much"])
def test_rates_out_of_range(name: str, value: Any, wide: Pair) -> None:
    with pytest.raises(OptionError, match=f"{name} is "):
        wide.generate("The city", head="random", **{name: value})


def test_a_schedule_and_a_target_contradict_each_other(wide: Pair) -> None:
    with pytest.raises(OptionError, match=r"schedule.*target_rate"):
        wide.generate("The city", target_rate=0.2, schedule="linear", schedule_tokens=8)


# --- steering one text ------------------------------------------------------------------------------------------------


def steered(start: float, rate: float, seen: list[float], n_deferred: int) -> float:
    """The threshold behind ``seen``, as policy.h describes it."""
    deviation = 1.0 if len(seen) < 8 else max(0.05, float(np.std(seen, ddof=1)))
    logit = math.log(start) - math.log1p(-start) + 0.75 * deviation * (n_deferred - rate * len(seen))
    return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize(("temperature", "given"), [(0.0, None), (1.0, None), (1.0, 0.999)])
def test_a_text_keeps_to_its_target(name: str, temperature: float, given: float | None, wide: Pair) -> None:
    head = HEADS[name](wide.n_embd)
    options: dict[str, Any] = {"max_tokens": 256, "temperature": temperature, "seed": 3, "logit_bias": endless(wide)}
    completion = wide.generate("The answer", head=head, target_rate=0.2, threshold=given, **options)
    tokens = completion.tokens
    assert len(tokens) == 256
    assert completion.stats.deferral_rate == pytest.approx(0.2, abs=0.03)
    start = 0.5 if given is None else given
    for i, token in enumerate(tokens):
        before = [other.defer_logit for other in tokens[:i]]
        wanted = steered(start, 0.2, before, sum(other.deferred for other in tokens[:i]))
        assert token.threshold == pytest.approx(wanted, rel=1e-9)
        assert token.deferred == (token.defer_logit > math.log(token.threshold) - math.log1p(-token.threshold))
    # Up where the assistant wrote, down where the base did.
    moves = {later.threshold > earlier.threshold for earlier, later in pairwise(tokens) if earlier.deferred}
    assert moves == {True}


@pytest.mark.parametrize(("rate", "who"), [(0.0, "0"), (1.0, "1")])
def test_the_ends_of_the_target_are_the_models_alone(rate: float, who: str, wide: Pair) -> None:
    assert set(experts(wide.generate("The answer", target_rate=rate, max_tokens=30, seed=1))) == {who}


def test_a_target_starts_from_the_table_where_there_is_one(wide: Pair, calibrated: dict[str, Calibrated]) -> None:
    head = calibrated["linear"].head
    options: dict[str, Any] = {"target_rate": 0.4, "max_tokens": 1, "seed": 1, "logit_bias": endless(wide)}

    def first(**changes: Any) -> float:
        return wide.generate("The answer", **{**options, **changes}).tokens[0].threshold

    assert first(head=head) == pytest.approx(head.threshold_for_rate(0.4), rel=1e-9)
    assert first(head=head, threshold=0.9) == pytest.approx(0.9, rel=1e-9)
    assert first(head=linear(wide.n_embd).replace(default_threshold=0.25)) == pytest.approx(0.25, rel=1e-9)
    assert first(head="random") == pytest.approx(0.6, rel=1e-9)
    assert first(head="confidence") == pytest.approx(0.5, rel=1e-9)
