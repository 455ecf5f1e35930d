"""colm_cpp.evaluate.statistics, against published numbers and brute force."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from colm_cpp.evaluate.statistics import paired_difference, roc_auc, wilson_interval

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


# --- paired_difference ---


def answers(wins: int, losses: int, n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Two ways of answering ``n`` problems: so many only the first got right, so many only the second."""
    both = np.arange(n) >= n - (n - wins - losses) // 2
    a, b = both.copy(), both.copy()
    a[:wins] = True
    b[wins : wins + losses] = True
    return a, b


@pytest.mark.parametrize(
    ("wins", "losses", "n", "confidence", "low", "high"),
    [
        (1, 7, 21, 0.95, -0.517, -0.026),  # Bentur et al. (2009) in Fagerland, Lydersen and Laake (2014)
        (6, 16, 161, 0.95, -0.1240, -0.0054),  # Cavo et al. (2012), likewise
        (28, 25, 618, 0.90, -0.0148, 0.0247),  # scoreci.mp(25, 28, 618, 0.9) of R's PropCIs
    ],
)
def test_interval_of_a_difference_published(
    wins: int, losses: int, n: int, confidence: float, low: float, high: float
) -> None:
    found = paired_difference(*answers(wins, losses, n), confidence)
    assert found.difference == pytest.approx((wins - losses) / n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4 if n == 21 else 5e-5)


@pytest.mark.parametrize(
    ("wins", "losses"), [(0, 0), (1, 0), (0, 2), (1, 7), (6, 16), (50, 50), (40, 61), (500, 440), (3, 300), (0, 1000)]
)
def test_p_value_is_the_sign_tests(wins: int, losses: int) -> None:
    n = wins + losses
    as_far = sum(math.comb(n, k) for k in range(n + 1) if abs(2 * k - n) >= abs(wins - losses))
    expected = as_far / 2**n  # of all ways to fall, in whole numbers
    assert paired_difference(*answers(wins, losses, wins + losses + 3)).p_value == pytest.approx(expected, rel=1e-9)


def likelihood_distance(wins: int, losses: int, n: int, delta: float) -> float:
    """The score test's statistic, the nuisance share found by going through the likelihood instead of its formula."""
    share = np.linspace(max(0.0, -delta), (1 - delta) / 2, 400_001)[1:-1]  # of losses; wins have delta more
    loglik = np.log(np.maximum(1 - 2 * share - delta, 1e-300)) * (n - wins - losses)
    loglik += wins * np.log(np.maximum(share + delta, 1e-300)) + losses * np.log(share)
    best = share[np.argmax(loglik)]
    return float((wins - losses - n * delta) / math.sqrt(n * (2 * best + delta * (1 - delta))))


@pytest.mark.parametrize(("wins", "losses", "n"), [(0, 0, 104), (3, 1, 9), (7, 5, 12), (20, 11, 150), (0, 4, 30)])
def test_interval_inverts_the_score_test(wins: int, losses: int, n: int) -> None:
    z = NormalDist().inv_cdf(0.975)
    found = paired_difference(*answers(wins, losses, n))
    assert likelihood_distance(wins, losses, n, found.low) == pytest.approx(z, rel=2e-3)
    assert likelihood_distance(wins, losses, n, found.high) == pytest.approx(-z, rel=2e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 104, 100_000])
def test_no_interval_has_zero_width(n: int) -> None:
    for wins, losses in {(0, 0), (n, 0), (0, n), (1, 0), (n // 2, n - n // 2)}:
        found = paired_difference(*answers(wins, losses, n))
        assert -1.0 <= found.low <= found.difference <= found.high <= 1.0
        assert found.high - found.low > 1 / (2 * n)
        turned = paired_difference(*answers(losses, wins, n))
        assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
        assert turned.p_value == pytest.approx(found.p_value)


def test_two_problems_say_next_to_nothing() -> None:
    found = paired_difference([0, 0], [1, 1])
    assert (found.difference, found.low, found.p_value) == (-1.0, -1.0, 0.5)
    assert found.high > 0


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of answers drawn with a known difference, 95 in 100 intervals hold it: also for few problems."""
    rng = np.random.default_rng(5)
    for n, p in [(10, [0.2, 0.1, 0.7]), (30, [0.3, 0.05, 0.65]), (100, [0.05, 0.05, 0.9])]:
        counts = rng.multinomial(n, p, size=2000)
        distinct, times = np.unique(counts, axis=0, return_counts=True)
        held = 0
        for (wins, losses, _), often in zip(distinct.tolist(), times.tolist(), strict=True):
            found = paired_difference(*answers(wins, losses, n))
            held += often * (found.low <= p[0] - p[1] <= found.high)
        assert 0.93 <= held / 2000 <= 0.985


def test_the_problems_are_paired() -> None:
    # The same accuracies: what is certain problem by problem is not so where the problems differ.
    a = np.arange(200) < 110
    b = np.arange(200) < 100
    assert paired_difference(a, b).p_value == pytest.approx(2 / 2**10)
    assert paired_difference(a, b[::-1]).p_value > 0.2


# --- roc_auc ---


def brute_auc(scores: Any, labels: Any) -> float:
    won = [
        1.0 if score > other else 0.5 if score == other else 0.0
        for score, label in zip(scores, labels, strict=True)
        for other, other_label in zip(scores, labels, strict=True)
        if label and not other_label
    ]
    return sum(won) / len(won)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("distinct", [2, 5, 1000])
def test_auc_against_every_pair(seed: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    scores = rng.integers(0, distinct, n) / 7
    labels = rng.random(n) < 0.4
    labels[:2] = True, False
    assert roc_auc(scores, labels) == pytest.approx(brute_auc(scores, labels), abs=1e-12)
    assert roc_auc(-scores, labels) == pytest.approx(1 - roc_auc(scores, labels), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "area"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([1, 1, 1], [0, 1, 1], 0.5),
        ([-INF, 0, INF], [False, True, True], 1.0),
        ([-INF, -INF], [0, 1], 0.5),
    ],
)
def test_auc_known(scores: Any, labels: Any, area: float) -> None:
    assert roc_auc(scores, labels) == pytest.approx(area)


@pytest.mark.parametrize("labels", [[1, 1], [0, 0], []])
def test_auc_of_one_class(labels: Any) -> None:
    assert math.isnan(roc_auc([1, 2][: len(labels)], labels))


def test_auc_of_many() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(1_000_000) < 0.3
    assert roc_auc(rng.normal(size=labels.size) + labels, labels) == pytest.approx(
        NormalDist().cdf(0.5**0.5), abs=0.003
    )
