"""What a pair must beat, at which cost: the chord and the router."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_answers import STEPS, record

from colm_cpp.errors import OptionError
from colm_cpp.evaluate.costs import ROUTER_TOKENS, answer_costs, confidence
from colm_cpp.evaluate.references import MEASURES, Experts, above, curve, reference
from colm_cpp.learn import Record, make_arms


def made_up(n: int, seed: int, *, sure: float = 1.0) -> tuple[Experts, np.ndarray[Any, Any], list[list[Record]]]:
    """Experts and an arm with answers of random lengths; the base is surer where it is right, by ``sure``."""
    rng = np.random.default_rng(seed)
    base, assistant, arm = (rng.random(n) < p for p in (0.3, 0.7, 0.6))
    records: list[list[Record]] = [[], [], []]
    for i in range(n):
        lengths = rng.integers(5, 40, 3)
        p = -1.0 + sure * base[i] + 0.5 * rng.standard_normal()
        mixed = "".join(rng.choice(["a", "b"], lengths[2], p=[0.3, 0.7]))
        records[0].append(record(i, "b" * lengths[0], logprobs=(float(p),) * int(lengths[0])))
        records[1].append(record(i, "a" * lengths[1], decode_s=2.0))
        records[2].append(record(i, mixed, decode_s=1.5))
    experts = Experts(
        base.astype(float),
        assistant.astype(float),
        answer_costs(records[0], STEPS, "never"),
        answer_costs(records[1], STEPS, "always"),
        confidence(records[0]),
    )
    return experts, arm.astype(float), records


def mixed_cost(experts: Experts, measure: Any, sent: np.ndarray[Any, Any], begun: bool) -> float:
    """The cost where each problem is sent with a probability, from the definition."""
    base, assistant = experts.base_costs.of(measure), experts.assistant_costs.of(measure)
    assert base is not None
    assert assistant is not None
    cost = (1 - sent) * base[0] + sent * assistant[0]
    if begun and measure != "assistant tokens":
        writing = experts.base_costs.of(measure.split()[0] + " per token")
        assert writing is not None
        part = np.minimum(ROUTER_TOKENS, experts.base_costs.n_tokens) / experts.base_costs.n_tokens
        cost += sent * part * writing[0]
        if measure.endswith("problem"):
            cost += sent * (base[0] - writing[0])
    return float(cost.sum() / ((1 - sent) * base[1] + sent * assistant[1]).sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_chord_costs_what_the_arm_costs(seed: int) -> None:
    experts, arm, records = made_up(60, seed)
    costs = answer_costs(records[2], STEPS, "random")
    found = above("mine@30", arm, costs, experts)
    assert [row.measure for row in found] == list(MEASURES)
    inside = 0
    for row in found:
        own = costs.of(row.measure)
        assert own is not None
        assert row.cost == pytest.approx(own[0].sum() / own[1].sum())
        sent = np.full(60, row.share_of_problems)
        ends = [mixed_cost(experts, row.measure, np.full(60, f), False) for f in (0.0, 1.0)]
        if ends[0] < row.cost < ends[1]:
            inside += 1
            assert mixed_cost(experts, row.measure, sent, False) == pytest.approx(row.cost)
        else:  # beyond both, the nearer of the two
            assert row.share_of_problems == (0.0 if row.cost <= ends[0] else 1.0)
        expected = (1 - row.share_of_problems) * experts.base.mean() + row.share_of_problems * experts.assistant.mean()
        assert row.chord == pytest.approx(expected)
        assert row.above_chord.value == pytest.approx(arm.mean() - expected)
        assert row.above_chord.low < row.above_chord.value < row.above_chord.high
    assert inside >= 2


@pytest.mark.parametrize("seed", range(5))
def test_the_router_sends_the_least_sure_first(seed: int) -> None:
    experts, arm, records = made_up(25, seed)
    costs = answer_costs(records[2], STEPS, "random")
    assert experts.confidence is not None
    order = np.argsort(experts.confidence)
    for row in above("mine@30", arm, costs, experts):
        # Problem by problem, as far as the arm's cost goes; the next one with the probability that it still pays for.
        steps = []
        for m in range(26):
            sent = np.zeros(25)
            sent[order[:m]] = 1.0
            right = np.where(sent > 0, experts.assistant, experts.base).mean()
            steps.append((mixed_cost(experts, row.measure, sent, True), right))
        last = max((m for m in range(26) if steps[m][0] <= row.cost + 1e-12), default=0)
        expected = steps[last][1]
        if last < 25 and steps[last][0] <= row.cost:
            part = (row.cost - steps[last][0]) / (steps[last + 1][0] - steps[last][0])
            expected += part * (steps[last + 1][1] - expected)
        assert row.router == pytest.approx(expected)
        assert row.above_router is not None
        assert row.above_router.value == pytest.approx(arm.mean() - expected)


def test_a_good_router_is_above_the_chord() -> None:
    experts, _, _ = made_up(400, 1, sure=3.0)
    chord, router = reference(0.3, experts)
    assert (chord.name, router.name, chord.rate) == ("chord@30", "router@30", 0.3)
    assert router.accuracy.value > chord.accuracy.value + 0.1
    assert chord.accuracy.low < chord.accuracy.value < chord.accuracy.high
    share = chord.share_of_problems
    tokens = [costs.n_tokens.sum() for costs in (experts.base_costs, experts.assistant_costs)]
    assert share * tokens[1] / ((1 - share) * tokens[0] + share * tokens[1]) == pytest.approx(0.3)
    blind = dataclasses.replace(experts, confidence=None)
    assert [row.name for row in reference(0.3, blind)] == ["chord@30"]


def test_curves_go_from_base_to_assistant() -> None:
    experts, _, _ = made_up(40, 2)
    for measure in MEASURES:
        curves = curve(measure, experts)
        assert set(curves) == {"chord", "router"}
        costs, accuracy = curves["chord"]
        assert (accuracy[0], accuracy[-1]) == pytest.approx((experts.base.mean(), experts.assistant.mean()))
        assert np.all(np.diff(costs) > 0)
        assert curves["router"][1][[0, -1]].tolist() == pytest.approx([experts.base.mean(), experts.assistant.mean()])
    # Where the assistant costs no more than the base there is nothing to weigh.
    same = dataclasses.replace(experts, assistant_costs=experts.base_costs)
    assert curve("steps per token", same) == {}
    assert above("x@1", experts.base, experts.base_costs, same) == []


def test_the_interval_of_the_chord_covers_as_often_as_it_says() -> None:
    """Answers drawn with known probabilities, everything of equal length: the chord is that of the shares of tokens."""
    rng = np.random.default_rng(3)
    n, held, n_rounds = 25, 0, 200
    records = [[record(i, letter * 10) for i in range(n)] for letter in "ba"]
    arm_records = [record(i, "abbbabbbbb") for i in range(n)]
    costs = [answer_costs(rows, None) for rows in (*records, arm_records)]
    for _ in range(n_rounds):
        base, assistant, arm = (rng.random(n) < p for p in (0.2, 0.8, 0.5))
        experts = Experts(base.astype(float), assistant.astype(float), costs[0], costs[1], None)
        (row,) = [r for r in above("x@20", arm.astype(float), costs[2], experts) if r.measure == "assistant tokens"]
        assert row.share_of_problems == pytest.approx(0.2)
        held += row.above_chord.low <= 0.5 - (0.8 * 0.2 + 0.2 * 0.8) <= row.above_chord.high
    assert 0.92 <= held / n_rounds <= 0.99


@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_no_interval_has_zero_width(n: int) -> None:
    rows = [[record(i, sources) for i in range(n)] for sources in ("bbbb", "aaaa", "abbb")]
    costs = [answer_costs(answers, STEPS) for answers in rows]
    for base, assistant, arm in [(0.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 1.0, 0.0)]:
        experts = Experts(np.full(n, base), np.full(n, assistant), costs[0], costs[1], confidence(rows[0]))
        for row in above("x@25", np.full(n, arm), costs[2], experts):
            for estimate in (row.above_chord, row.above_router):
                assert estimate is not None
                assert estimate.high - estimate.low > 1 / (2 * n + 2)
        for reference_row in reference(0.25, experts):
            assert reference_row.accuracy.high > reference_row.accuracy.low


def test_heads_are_not_named_as_references(tmp_path: Path) -> None:
    for name in ("chord", "router"):
        with pytest.raises(OptionError, match="cannot be named"):
            make_arms([], {name: tmp_path / "head.gguf"}, [0.2])
