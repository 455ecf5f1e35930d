"""From thresholds to deferral rates: the table, and what it gives when texts are written anew."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import calibrated_pairs
import numpy as np
import pytest
from calibrated_pairs import HEADS, OPTIONS, PROBLEMS, PROMPTS, TOO_LONG, afresh, experts, linear
from conftest import Asked, token_ids

from colm_cpp import Head, Pair
from colm_cpp.errors import ContextFull, CorpusError, HeadMismatch, OptionError
from colm_cpp.learn import Calibrated, calibrate
from colm_cpp.learn.calibration import CHECKED_RATES, RATES, TOLERANCE, threshold_table

wide = calibrated_pairs.wide
calibrated = calibrated_pairs.calibrated


# --- the table --------------------------------------------------------------------------------------------------------


def test_the_table_counts() -> None:
    z = np.random.default_rng(1).normal(-1.0, 3.0, 1001)
    rates = [0.0, 0.05, 0.2, 0.5, 0.95, 1.0]
    thresholds = threshold_table(z, rates)
    assert (thresholds[0], thresholds[-1]) == (1.0, 0.0)
    for rate, threshold in list(zip(rates, thresholds, strict=True))[1:-1]:
        above = sum(1 / (1 + math.exp(-value)) > threshold for value in z)
        assert abs(above - rate * len(z)) <= 1
    assert threshold_table(np.array([]), [0.0, 1.0]) == [1.0, 0.0]
    assert threshold_table(np.array([-1e6, 1e6]), [0.5]) == [0.5]
    assert threshold_table(np.array([1e6, 1e6]), [0.5])[0] == pytest.approx(1.0)


@pytest.mark.parametrize("name", list(HEADS))
def test_a_calibrated_head_has_a_monotone_table(name: str, calibrated: dict[str, Calibrated]) -> None:
    result = calibrated[name]
    head = result.head
    np.testing.assert_allclose(head.rates, RATES, atol=1e-7)
    assert (head.thresholds[0], head.thresholds[-1]) == (1.0, 0.0)
    assert all(left >= right for left, right in pairwise(head.thresholds))
    assert len(set(head.thresholds)) == len(RATES)
    assert head.default_threshold == pytest.approx(head.threshold_for_rate(0.3), abs=1e-6)
    facts = json.loads(head.calibration or "")
    assert facts["n_prompts"] == len(PROMPTS)
    assert facts["options"] == OPTIONS
    assert facts["measurements"] == [m.facts() for m in result.measurements]
    assert "experts" not in facts["measurements"][0]  # which only several have
    assert {m.wanted for m in result.measurements} == set(CHECKED_RATES)


@pytest.mark.parametrize("name", list(HEADS))
def test_the_first_table_is_that_of_what_the_base_writes(
    name: str, wide: Pair, calibrated: dict[str, Calibrated]
) -> None:
    result = calibrated[name]
    z: list[float] = []
    for problem in PROBLEMS:
        wide.forget()
        own = {**OPTIONS, "seed": OPTIONS["seed"] + problem.index}
        written = wide.generate(problem.prompt, head=HEADS[name](wide.n_embd), threshold=1.0, **own)
        z += [token.defer_logit for token in written.tokens if token.defer_logit is not None]
    assert len(z) >= len(PROBLEMS)
    for rate in CHECKED_RATES:
        logit = math.log(result.first[rate] / (1 - result.first[rate]))
        assert sum(value > logit for value in z) / len(z) == pytest.approx(rate, abs=2 / len(z))


@pytest.mark.parametrize("name", ["linear", pytest.param("confidence", marks=pytest.mark.slow)])
def test_rates_are_as_asked_when_texts_are_written_afresh(
    name: str, wide: Pair, calibrated: dict[str, Calibrated]
) -> None:
    result = calibrated[name]
    for rate in CHECKED_RATES:
        written = afresh(wide, head=result.head, defer_rate=rate)
        assert len(written) > 100
        wanted, tolerance = (result.off[rate], 0.01) if rate in result.off else (rate, TOLERANCE + 0.005)
        assert written.count("1") / len(written) == pytest.approx(wanted, abs=tolerance)
    # Between what was measured as well, with more room.
    written = afresh(wide, head=result.head, defer_rate=0.3)
    assert written.count("1") / len(written) == pytest.approx(0.3, abs=0.08)
    assert set(afresh(wide, head=result.head, defer_rate=0.0)) == {"0"}
    assert set(afresh(wide, head=result.head, defer_rate=1.0)) == {"1"}


def test_what_cannot_be_reached_is_said(wide: Pair) -> None:
    # One z for every token: all are deferred, or none.
    constant = Head.linear(np.zeros(wide.n_embd), 0.3)
    result = calibrate(wide, constant, PROBLEMS[:2], {**OPTIONS, "max_tokens": 8}, chat=False)
    assert set(result.off) == set(CHECKED_RATES)
    assert set(result.off.values()) <= {0.0, 1.0}
    assert all(left >= right for left, right in pairwise(result.head.thresholds))
    assert result.head.default_threshold is None


def test_nothing_is_written_twice(wide: Pair) -> None:
    """One z for every token: whatever the rate, the texts are the base's or the assistant's."""
    constant = Head.linear(np.zeros(wide.n_embd), 0.3)
    phases: list[str] = []
    result = calibrate(
        wide,
        constant,
        PROBLEMS[:2],
        {**OPTIONS, "max_tokens": 8},
        chat=False,
        on_text=lambda what, done, total, record: phases.append(what),
    )
    assert phases == ["base alone"] * 2 + ["10%"] * 2
    assert [(m.wanted, m.written) for m in result.measurements] == [
        (0.1, True),
        (0.2, False),
        (0.4, False),
        (0.6, False),
    ]
    assert result.stuck == CHECKED_RATES
    assert len({(m.measured, m.n_tokens, m.n_deferred) for m in result.measurements}) == 1


def test_only_the_rates_that_are_asked_for_are_measured(wide: Pair) -> None:
    result = calibrate(wide, linear(wide.n_embd), PROBLEMS, OPTIONS, chat=False, rates=[0.33], default_rate=0.33)
    assert {m.wanted for m in result.measurements} == {0.33}
    best = min(result.measurements, key=lambda m: abs(m.measured - 0.33))
    assert result.head.default_threshold == pytest.approx(best.threshold, abs=1e-6)
    assert result.table.keys() == {*RATES, 0.33}
    assert all(left >= right for left, right in pairwise(result.head.thresholds))


@pytest.mark.parametrize("name", list(HEADS))
def test_what_is_not_written_again_would_be_the_same(name: str, wide: Pair) -> None:
    """A threshold that leaves every decision as it was gives the very texts, and one that does not is tried."""
    head = HEADS[name](wide.n_embd)
    written: dict[str, list[str]] = {}
    result = calibrate(
        wide,
        head,
        PROBLEMS[:1],
        {**OPTIONS, "max_tokens": 6},
        chat=False,
        on_text=lambda what, done, total, record: written.setdefault(what, []).append(record.experts),
    )
    known = [m for m in result.measurements if not m.written]
    assert known
    for measurement in known:
        wide.forget()
        again = wide.generate(
            PROBLEMS[0].prompt, **{**OPTIONS, "max_tokens": 6}, head=head, threshold=measurement.threshold, lookahead=0
        )
        assert experts(again) in {text for texts in written.values() for text in texts}
        assert experts(again).count("1") == measurement.n_deferred


@pytest.mark.parametrize("n_parallel", [1, 3])
def test_every_text_is_reported(n_parallel: int, wide: Pair) -> None:
    seen: list[tuple[str, int, int, str]] = []
    result = calibrate(
        wide,
        Head.confidence(wide.n_embd),
        PROBLEMS[:3],
        {**OPTIONS, "max_tokens": 4},
        chat=False,
        n_parallel=n_parallel,
        on_text=lambda what, done, total, record: seen.append((what, done, total, record.experts)),
    )
    assert [entry[:3] for entry in seen[:3]] == [("base alone", i, 3) for i in (1, 2, 3)]
    assert set("".join(entry[3] for entry in seen[:3])) == {"0"}
    written_anew = [measurement for measurement in result.measurements if measurement.written]
    assert len(seen) == 3 * (1 + len(written_anew))
    for i, measurement in enumerate(written_anew):
        written = "".join(entry[3] for entry in seen[3 * (i + 1) : 3 * (i + 2)])
        assert (measurement.n_tokens, measurement.n_deferred) == (len(written), written.count("1"))


@pytest.mark.parametrize("name", ["confidence", pytest.param("linear", marks=pytest.mark.slow)])
def test_many_at_once(name: str, wide: Pair, calibrated: dict[str, Calibrated], asked: Asked) -> None:
    """The same table, whatever ends first."""
    alone = calibrated[name]
    head = HEADS[name](wide.n_embd)
    together = calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, default_rate=0.3, n_parallel=3)
    assert asked.n_parallel == [3] * (1 + sum(measurement.written for measurement in together.measurements))
    assert asked.ended != [*range(8)] * len(asked.n_parallel)
    for ours, theirs in zip(together.measurements, alone.measurements, strict=True):
        assert (ours.wanted, ours.n_tokens, ours.n_deferred) == (theirs.wanted, theirs.n_tokens, theirs.n_deferred)
    assert together.first == pytest.approx(alone.first, abs=1e-3)
    assert together.head.thresholds == pytest.approx(alone.head.thresholds, abs=1e-3)
    assert together.head.default_threshold == pytest.approx(alone.head.default_threshold, abs=1e-3)
    assert together.off == pytest.approx(alone.off)


def test_calibration_refuses(wide: Pair) -> None:
    head = Head.confidence(wide.n_embd)
    with pytest.raises(CorpusError, match="no prompts"):
        calibrate(wide, head, [], OPTIONS, chat=False)
    with pytest.raises(OptionError, match=r"default_rate is 1\.5"):
        calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, default_rate=1.5)
    with pytest.raises(OptionError, match=r"no rate"):
        calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, rates=[])
    for rate in (0.0, 1.0, 20.0, float("nan")):
        with pytest.raises(OptionError, match=r"a rate to measure is"):
            calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, rates=[0.2, rate])
    with pytest.raises(OptionError, match=r"n_parallel is 257.* 1 .*256"):
        calibrate(wide, head, PROBLEMS, OPTIONS, chat=False, n_parallel=257)
    with pytest.raises(ContextFull):
        calibrate(wide, head, [*PROBLEMS, TOO_LONG], OPTIONS, chat=False, n_parallel=3)
    with pytest.raises(CorpusError, match="max_tokens"):
        calibrate(wide, head, PROBLEMS[:1], {"max_tokens": 0}, chat=False)
    with pytest.raises(HeadMismatch):
        calibrate(wide, Head.confidence(wide.n_embd + 1), PROBLEMS, OPTIONS, chat=False)


# --- plain confidence as a file ---------------------------------------------------------------------------------------


def test_confidence_from_a_file_is_confidence(wide: Pair, tmp_path: Path) -> None:
    Head.confidence(wide.n_embd, vocab_fingerprint=wide.vocab_fingerprint).save(tmp_path / "confidence.gguf")
    loaded = Head.load(tmp_path / "confidence.gguf")
    assert loaded.name == "confidence"
    written = []
    for head in ("confidence", loaded, str(tmp_path / "confidence.gguf")):
        wide.forget()
        written.append(wide.generate("Once more", head=head, threshold=0.7, max_tokens=100, temperature=1.0, seed=2))
    for other in written[1:]:
        assert token_ids(other) == token_ids(written[0])
        assert experts(other) == experts(written[0])
        for ours, theirs in zip(other.tokens, written[0].tokens, strict=True):
            assert ours.defer_logit == pytest.approx(theirs.defer_logit, abs=1e-4)
    assert set(experts(written[0])) == {"0", "1"}
