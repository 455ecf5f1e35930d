"""Intervals and p-values for accuracies and their differences, and ROC statistics of scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["FEW", "PairedDifference", "paired_difference", "roc_auc", "wilson_interval"]

FEW = 30
"""With fewer problems than this, a report warns beside every p-value."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A difference of two accuracies on the same problems, in [-1, 1].

    Attributes:
        difference: the measured difference.
        low: lower end of the confidence interval.
        high: its upper end.
        p_value: two-sided, 0 to 1: the probability of a difference this large if neither is better.
    """

    difference: float
    low: float
    high: float
    p_value: float


def wilson_interval(n_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion. Unlike the normal interval, it works near 0 and 1 and for small n.

    Args:
        n_correct: successes, 0 to ``n``.
        n: trials, at least 1.
        confidence: in (0, 1).

    Returns:
        (low, high), within [0, 1].
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = n_correct / n
    centre = share + z * z / (2 * n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    # At the ends the bounds are exact; computed, they would miss by a rounding error.
    low = 0.0 if n_correct == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if n_correct == n else min(1.0, (centre + half) / scale)
    return low, high


def paired_difference(a: npt.ArrayLike, b: npt.ArrayLike, confidence: float = 0.95) -> PairedDifference:
    """Compares two ways of answering the same problems.

    The interval is Tango's (1998), which inverts the score test for paired proportions. It works for few problems and
    never has zero width. The p-value is that of the exact McNemar test. It looks at the problems that only one of the
    two answered correctly: how likely is a split this uneven if both are equally good?

    Args:
        a: whether each problem was answered correctly, booleans or 0 and 1, ``[n]``.
        b: the same for the other way of answering, in the same order, ``[n]``.
        confidence: in (0, 1).

    Returns:
        mean(a) - mean(b), with its uncertainty.
    """
    of_a, of_b = np.asarray(a, bool), np.asarray(b, bool)
    n = of_a.size
    wins, losses = int(np.sum(of_a & ~of_b)), int(np.sum(~of_a & of_b))
    low, high = _tango_interval(wins, losses, n, confidence)
    return PairedDifference((wins - losses) / n, low, high, _mcnemar(wins, losses))


def _mcnemar(wins: int, losses: int) -> float:
    """The two-sided exact p-value: twice the binomial tail of the fewer."""
    n, fewer = wins + losses, min(wins, losses)
    i = np.arange(fewer)
    log_terms = np.concatenate([[0.0], np.cumsum(np.log((n - i) / (i + 1)))])  # of the binomial coefficients
    largest = float(log_terms.max())
    log_tail = largest + math.log(float(np.sum(np.exp(log_terms - largest)))) - n * math.log(2)
    return min(1.0, 2 * math.exp(log_tail))


def _tango_interval(wins: int, losses: int, n: int, confidence: float) -> tuple[float, float]:
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    measured = (wins - losses) / n

    def distance(delta: float) -> float:
        """How many standard errors the measured difference lies from ``delta``."""
        # The likeliest share of losses, were delta the difference: the larger root of a quadratic equation.
        b = (2 * n - wins + losses) * delta - wins - losses
        c = -losses * delta * (1 - delta)
        share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * share + delta * (1 - delta))
        off = wins - losses - n * delta
        return off / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, off) if off else 0.0

    def bound(outer: float) -> float:
        inner = measured
        for _ in range(100):  # halving: as close as floats get
            middle = (inner + outer) / 2
            if abs(distance(middle)) > z:
                outer = middle
            else:
                inner = middle
        return inner

    # At the ends the bounds are exact; computed, they would miss by a rounding error.
    return (-1.0 if losses == n else bound(-1.0)), (1.0 if wins == n else bound(1.0))


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The area under the ROC curve: how often a positive has a higher score than a negative, ties counted half.

    Args:
        scores: ``[n]``; infinite ones are allowed, NaN is not.
        labels: booleans or 0 and 1, ``[n]``.

    Returns:
        The area, in [0, 1]; NaN if a class is missing.
    """
    positive = np.asarray(labels, bool)
    distinct, group = np.unique(scores, return_inverse=True)
    up = np.bincount(group[positive], minlength=distinct.size)
    down = np.bincount(group[~positive], minlength=distinct.size)
    if not up.any() or not down.any():
        return float("nan")
    below = np.cumsum(down) - down / 2
    return float(np.sum(up * below) / (up.sum() * down.sum()))
