"""Intervals and p-values for accuracies and their differences, and ROC statistics of scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ..errors import OptionError

__all__ = ["FEW", "PairedDifference", "paired_difference", "roc_auc", "wilson_interval", "youden_threshold"]

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

    Raises:
        OptionError: a value outside its range.
    """
    if n < 1:
        raise OptionError(f"n is {n}; it must be 1 or more")
    if not 0 <= n_correct <= n:
        raise OptionError(f"n_correct is {n_correct}; it must be from 0 to n, which is {n}")
    z = NormalDist().inv_cdf(0.5 + _confidence(confidence) / 2)
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

    Raises:
        OptionError: the lengths differ, there are no problems, or a value is outside its range.
    """
    of_a, of_b = _classes("a", a), _classes("b", b)
    _same_length("a", of_a.size, "b", of_b.size)
    n = int(of_a.size)
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
    z = NormalDist().inv_cdf(0.5 + _confidence(confidence) / 2)
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


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """The area under the ROC curve: how often a positive has a higher score than a negative, ties counted half.

    Args:
        scores: ``[n]``; infinite ones are allowed, NaN is not.
        labels: booleans or 0 and 1, ``[n]``.
        weights: the weight of each score, ``[n]``, finite and not negative. None: equal weights.

    Returns:
        The area, in [0, 1]; NaN if a class is missing or has weight 0.

    Raises:
        OptionError: the lengths differ, there are no scores, or a value is outside its range.
    """
    values, positive = _scores(scores), _classes("labels", labels)
    _same_length("scores", values.size, "labels", positive.size)
    if weights is None:
        weight = np.ones(values.size)
    else:
        weight = _numbers("weights", weights)
        _same_length("scores", values.size, "weights", weight.size)
        if not np.all(np.isfinite(weight)) or np.any(weight < 0):
            raise OptionError("weights holds a value that is negative or not finite; each must be 0 or more")
        weight = weight / max(float(weight.max()), np.finfo(np.float64).tiny)  # their sum must not overflow
    distinct, group = np.unique(values, return_inverse=True)
    group = group.reshape(-1)
    up = np.bincount(group, weights=weight * positive, minlength=distinct.size)
    down = np.bincount(group, weights=weight * ~positive, minlength=distinct.size)
    total_up, total_down = float(up.sum()), float(down.sum())
    if total_up == 0.0 or total_down == 0.0:
        return float("nan")
    below = np.cumsum(down) - down / 2
    return min(1.0, max(0.0, float(np.sum((up / total_up) * (below / total_down)))))


def youden_threshold(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """The threshold t at which ``score > t`` best tells the classes apart, by J = sensitivity + specificity - 1.

    Args:
        scores: ``[n]``; infinite ones are allowed, NaN is not.
        labels: booleans or 0 and 1, ``[n]``.

    Returns:
        (t, J), J in [0, 1]. t lies midway between two neighbouring scores; of equally good thresholds it is the
        highest, which calls the fewest positive. Where nothing is better than calling none positive, J is 0 and t
        the highest score.

    Raises:
        OptionError: the lengths differ, there are no scores, only one class is there, or a value is outside its range.
    """
    values, positive = _scores(scores), _classes("labels", labels)
    _same_length("scores", values.size, "labels", positive.size)
    n_up = int(positive.sum())
    n_down = int(positive.size) - n_up
    if n_up == 0 or n_down == 0:
        raise OptionError("labels holds only one class; a threshold needs both classes")
    distinct, group = np.unique(values, return_inverse=True)
    group = group.reshape(-1)
    up = np.bincount(group[positive], minlength=distinct.size)
    down = np.bincount(group[~positive], minlength=distinct.size)
    above_up = n_up - np.cumsum(up)  # [k]: positives with a score above the k-th
    above_down = n_down - np.cumsum(down)
    # In whole numbers, so that equally good thresholds compare equal.
    merit = above_up.astype(np.int64) * n_down - above_down.astype(np.int64) * n_up
    best = int(distinct.size - 1 - np.argmax(merit[::-1]))
    j = float(merit[best]) / (n_up * n_down)
    lower = float(distinct[best])
    if best == distinct.size - 1:
        return lower, j
    upper = float(distinct[best + 1])
    middle = lower / 2 + upper / 2
    # Between neighbouring floats, or beside an infinite one, there is nothing midway.
    return (middle if lower <= middle < upper else lower), j


def _confidence(value: float) -> float:
    if not 0.0 < value < 1.0:  # also refuses NaN
        raise OptionError(f"confidence is {value}; it must be between 0 and 1")
    return value


def _numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name} is not made of numbers ({error})") from error
    if array.ndim != 1:
        raise OptionError(f"{name} has shape {array.shape}; it must be [n]")
    if array.size == 0:
        raise OptionError(f"{name} is empty; give at least one value")
    return array


def _scores(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = _numbers("scores", values)
    if np.any(np.isnan(array)):
        raise OptionError("scores has a NaN, which has no rank")
    return array


def _classes(name: str, values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    array = _numbers(name, values)
    if not np.all((array == 0) | (array == 1)):
        raise OptionError(f"{name} has a value that is neither 0 nor 1")
    classes: npt.NDArray[np.bool_] = array == 1
    return classes


def _same_length(name: str, size: int, other: str, other_size: int) -> None:
    if size != other_size:
        raise OptionError(f"{name} has {size} values and {other} has {other_size}; give equally many")
