"""colm_cpp.learn.statistics, against brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from colm_cpp.errors import OptionError
from colm_cpp.learn.statistics import PairedDifference, paired_bootstrap, roc_auc, wilson_interval, youden_threshold

INF = math.inf


# --- wilson_interval ---


@pytest.mark.parametrize(
    ("n_correct", "n", "low", "high"),
    [  # to four places, as Newcombe (1998) has them
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_published(n_correct: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(n_correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 100, 10**9])
@pytest.mark.parametrize("confidence", [0.01, 0.8, 0.95, 0.999])
def test_wilson_inverts_the_score_test(n: int, confidence: float) -> None:
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    for n_correct in {0, 1, n // 2, n - 1, n}:
        low, high = wilson_interval(n_correct, n, confidence)
        share = n_correct / n
        assert 0.0 <= low <= share <= high <= 1.0
        for bound in {low, high} - {0.0, 1.0}:
            assert abs(share - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / n), rel=1e-4)
        assert wilson_interval(n - n_correct, n, confidence) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    assert wilson_interval(0, n, confidence)[0] == 0.0
    assert wilson_interval(n, n, confidence)[1] == 1.0


@pytest.mark.parametrize(
    "arguments", [(0, 0), (1, 0), (-1, 5), (6, 5), (1, -1), (1, 5, 0.0), (1, 5, 1.0), (1, 5, math.nan)]
)
def test_wilson_out_of_range(arguments: Any) -> None:
    with pytest.raises(OptionError):
        wilson_interval(*arguments)


# --- paired_bootstrap ---


def exact_resamples(a: list[int], b: list[int]) -> list[float]:
    """The difference of every possible resample, all equally likely."""
    n = len(a)
    differences = [x - y for x, y in zip(a, b, strict=True)]
    return sorted(sum(drawn) / n for drawn in itertools.product(differences, repeat=n))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1]),
        ([1, 1, 1, 1, 1], [0, 0, 0, 1, 1]),
        ([0, 0, 1, 0, 0], [1, 1, 0, 1, 0]),
        ([1, 0, 1, 0], [0, 1, 0, 1]),
    ],
)
def test_bootstrap_against_every_resample(a: list[int], b: list[int]) -> None:
    every = np.array(exact_resamples(a, b))
    found = paired_bootstrap(a, b, n_resamples=200_000, confidence=0.8)
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))
    share = min(np.mean(every <= 1e-12), np.mean(every >= -1e-12))
    assert found.p_value == pytest.approx(min(1.0, 2 * share), abs=0.01)
    # A percentile may fall on either side of a step of the distribution.
    for bound, level in ((found.low, 0.1), (found.high, 0.9)):
        assert np.quantile(every, level - 0.01) - 1e-9 <= bound <= np.quantile(every, level + 0.01) + 1e-9


def test_bootstrap_of_equal_answers() -> None:
    assert paired_bootstrap([True, False, True], [True, False, True]) == PairedDifference(0.0, 0.0, 0.0, 1.0)


def test_bootstrap_of_a_certain_difference() -> None:
    found = paired_bootstrap([1] * 50, [0] * 50, n_resamples=999)
    assert found == PairedDifference(1.0, 1.0, 1.0, 2 / 1000)


def test_bootstrap_is_deterministic_and_antisymmetric() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(300) < 0.6, rng.random(300) < 0.5
    first = paired_bootstrap(a, b, seed=3)
    assert first == paired_bootstrap(a.tolist(), b.astype(int), seed=3)
    assert first != paired_bootstrap(a, b, seed=4)
    assert first.low < first.difference < first.high
    turned = paired_bootstrap(b, a, seed=3)
    assert turned.difference == pytest.approx(-first.difference)
    assert (turned.low, turned.high) == pytest.approx((-first.high, -first.low), abs=0.01)
    wide = paired_bootstrap(a, b, seed=3, confidence=0.99)
    assert wide.low < first.low
    assert wide.high > first.high


def test_bootstrap_pairs_the_problems() -> None:
    # The same accuracies: what is certain problem by problem is not so where the problems differ.
    a = np.arange(200) < 110
    b = np.arange(200) < 100
    assert paired_bootstrap(a, b).p_value < 0.01
    assert paired_bootstrap(a, b[::-1]).p_value > 0.2


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        ([1, 0], [1], {}),
        ([], [], {}),
        ([2, 0], [1, 0], {}),
        ([0.5, 0], [1, 0], {}),
        ([math.nan, 0], [1, 0], {}),
        ([[1, 0]], [[1, 0]], {}),
        (["x"], [1], {}),
        ([1], [1], {"n_resamples": 0}),
        ([1], [1], {"confidence": 1.0}),
        ([1], [1], {"confidence": 0.0}),
        ([1], [1], {"seed": -1}),
    ],
)
def test_bootstrap_refuses(a: Any, b: Any, options: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        paired_bootstrap(a, b, **options)


# --- roc_auc ---


def brute_auc(scores: Any, labels: Any, weights: Any) -> float:
    won = total = 0.0
    for score, label, weight in zip(scores, labels, weights, strict=True):
        for other, other_label, other_weight in zip(scores, labels, weights, strict=True):
            if label and not other_label:
                total += weight * other_weight
                won += weight * other_weight * (1.0 if score > other else 0.5 if score == other else 0.0)
    return won / total


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_auc_against_every_pair(seed: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    scores = rng.integers(0, distinct, n) / 7
    labels = rng.random(n) < 0.4
    labels[:2] = True, False
    weights = rng.random(n) * (rng.random(n) < 0.8)
    weights[:2] += 0.1
    assert roc_auc(scores, labels) == pytest.approx(brute_auc(scores, labels, np.ones(n)), abs=1e-12)
    assert roc_auc(scores, labels, weights) == pytest.approx(brute_auc(scores, labels, weights), abs=1e-12)
    counts = rng.integers(0, 4, n)
    counts[:2] = 1
    repeated = roc_auc(np.repeat(scores, counts), np.repeat(labels, counts))
    assert roc_auc(scores, labels, counts) == pytest.approx(repeated, abs=1e-12)
    assert roc_auc(-scores, labels) == pytest.approx(1 - roc_auc(scores, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "weights", "area"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], None, 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], None, 0.0),
        ([1, 1, 1], [0, 1, 1], None, 0.5),
        ([-INF, 0, INF], [False, True, True], None, 1.0),
        ([-INF, -INF], [0, 1], None, 0.5),
        ([1, 2, 3], [0, 1, 0], [1, 1, 3], 0.25),
        ([1, 2], [0, 1], [1e308, 1e308], 1.0),
        ([1, 2, 3], [0, 0, 1], [1e308, 1e308, 1e308], 1.0),
    ],
)
def test_auc_known(scores: Any, labels: Any, weights: Any, area: float) -> None:
    assert roc_auc(scores, labels, weights) == pytest.approx(area)


@pytest.mark.parametrize(
    ("labels", "weights"), [([1, 1], None), ([0, 0], None), ([0, 1], [0, 1]), ([0, 1], [1, 0]), ([0, 1], [0, 0])]
)
def test_auc_of_one_class(labels: Any, weights: Any) -> None:
    assert math.isnan(roc_auc([1, 2], labels, weights))


def test_auc_of_many() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(1_000_000) < 0.3
    assert roc_auc(rng.normal(size=labels.size) + labels, labels) == pytest.approx(
        NormalDist().cdf(0.5**0.5), abs=0.003
    )


# --- youden_threshold ---


def merit(scores: Any, labels: Any, threshold: float) -> float:
    above = np.asarray(scores) > threshold
    labels = np.asarray(labels, dtype=bool)
    return float(above[labels].mean() - above[~labels].mean())


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("distinct", [1, 2, 6, 1000])
def test_youden_against_every_threshold(seed: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 50))
    scores = rng.integers(0, distinct, n) - 3.0
    labels = rng.random(n) < 0.5
    labels[:2] = True, False
    threshold, j = youden_threshold(scores, labels)
    candidates = sorted({*scores, scores.min() - 1.0})
    merits = [merit(scores, labels, candidate) for candidate in candidates]
    assert j == pytest.approx(max(merits), abs=1e-12)
    assert merit(scores, labels, threshold) == pytest.approx(j, abs=1e-12)
    fewest = max(c for c, m in zip(candidates, merits, strict=True) if m == pytest.approx(max(merits), abs=1e-12))
    assert np.array_equal(scores > threshold, scores > fewest)
    higher = scores[scores > threshold]
    lower = scores[scores <= threshold]
    assert threshold == (pytest.approx((lower.max() + higher.min()) / 2) if higher.size else scores.max())


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], (2.5, 1.0)),
        ([4, 3, 2, 1], [0, 0, 1, 1], (4.0, 0.0)),
        ([5, 5], [0, 1], (5.0, 0.0)),
        ([1, 2, 3, 4], [0, 1, 0, 1], (3.5, 0.5)),  # 1.5 is as good, but calls more positive
        ([-INF, 0], [0, 1], (-INF, 1.0)),
        ([0, INF], [0, 1], (0.0, 1.0)),
        ([-INF, INF], [0, 1], (-INF, 1.0)),
        ([1.0, math.nextafter(1.0, 2.0)], [0, 1], (1.0, 1.0)),
        ([-1.7e308, 1.7e308], [0, 1], (0.0, 1.0)),
        ([0.0, 5e-324], [0, 1], (0.0, 1.0)),
    ],
)
def test_youden_known(scores: Any, labels: Any, expected: tuple[float, float]) -> None:
    assert youden_threshold(scores, labels) == expected


@pytest.mark.parametrize("labels", [[1, 1], [0, 0]])
def test_youden_needs_both_classes(labels: Any) -> None:
    with pytest.raises(ValueError, match="only one class"):
        youden_threshold([1, 2], labels)


@pytest.mark.parametrize("function", [roc_auc, youden_threshold])
@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([], []),
        ([1], [1, 0]),
        ([1, 2, 3], [1, 0]),
        ([1, math.nan], [1, 0]),
        ([1, 2], [1, 2]),
        ([1, 2], [1, -1]),
        ([[1, 2]], [[1, 0]]),
        (["x", "y"], [1, 0]),
    ],
)
def test_scores_refused(function: Callable[..., object], scores: Any, labels: Any) -> None:
    with pytest.raises(OptionError):
        function(scores, labels)


@pytest.mark.parametrize("weights", [[1], [1, -1], [1, INF], [1, math.nan], []])
def test_weights_refused(weights: Any) -> None:
    with pytest.raises(OptionError, match="weights"):
        roc_auc([1, 2], [0, 1], weights)
