"""How far a measured accuracy, or a difference of two, can be trusted, and how well scores tell two classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ..errors import OptionError

__all__ = ["PairedDifference", "paired_bootstrap", "roc_auc", "wilson_interval", "youden_threshold"]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A difference of two accuracies on the same problems, in [-1, 1].

    Attributes:
        difference: what was measured.
        low: lower end of the confidence interval.
        high: its upper end.
        p_value: two-sided, in (0, 1]: how easily the difference would have come about by the choice of problems.
    """

    difference: float
    low: float
    high: float
    p_value: float


def wilson_interval(n_correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion; unlike the normal one it is sensible near 0 and 1 and for small n.

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
        raise OptionError(f"n is {n}, but there must be at least one trial")
    if not 0 <= n_correct <= n:
        raise OptionError(f"n_correct is {n_correct}, but it lies between 0 and n, {n}")
    z = NormalDist().inv_cdf(0.5 + _confidence(confidence) / 2)
    share = n_correct / n
    centre = share + z * z / (2 * n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    # At the ends the bounds are exact; computed, they would miss by a rounding error.
    low = 0.0 if n_correct == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if n_correct == n else min(1.0, (centre + half) / scale)
    return low, high


def paired_bootstrap(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compares two ways of answering the same problems, by resampling the problems.

    The interval is that of the percentiles. The p-value is twice the smaller of the shares of resamples whose
    difference is at most 0 and at least 0, each with one resample added (so that it is never 0), and at most 1.

    Args:
        a: whether each problem was answered correctly, booleans or 0 and 1, ``[n]``.
        b: the same of the other way, in the same order, ``[n]``.
        n_resamples: at least 1.
        confidence: in (0, 1).
        seed: at least 0; the same seed gives the same result.

    Returns:
        mean(a) - mean(b), with its uncertainty.

    Raises:
        OptionError: the lengths differ, there are no problems, or a value is outside its range.
    """
    of_a, of_b = _classes("a", a), _classes("b", b)
    _same_length("a", of_a.size, "b", of_b.size)
    if n_resamples < 1:
        raise OptionError(f"n_resamples is {n_resamples}, but there must be at least one resample")
    if seed < 0:
        raise OptionError(f"seed is {seed}, but a seed is not negative")
    tail = (1 - _confidence(confidence)) / 2
    n = of_a.size
    wins, losses = int(np.sum(of_a & ~of_b)), int(np.sum(~of_a & of_b))
    # A problem's difference is 1, -1 or 0, so how often each is drawn says all about a resample.
    shares = [wins / n, losses / n, (n - wins - losses) / n]
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=n_resamples)
    net = drawn[:, 0] - drawn[:, 1]
    low, high = np.quantile(net / n, [tail, 1 - tail])
    fewer = min(int(np.sum(net <= 0)), int(np.sum(net >= 0)))
    p_value = min(1.0, 2 * (fewer + 1) / (n_resamples + 1))
    return PairedDifference((wins - losses) / n, float(low), float(high), p_value)


def roc_auc(scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """The area under the ROC curve: how often a positive has a higher score than a negative, ties counted half.

    Args:
        scores: ``[n]``; infinite ones are allowed, NaN is not.
        labels: booleans or 0 and 1, ``[n]``.
        weights: how much each counts, ``[n]``, finite and not negative. None: all alike.

    Returns:
        The area, in [0, 1]; NaN where a class is missing or weighs nothing.

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
            raise OptionError("weights has a value that is negative or not finite; a weight is at least 0")
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
        raise OptionError("labels has only one class, but a threshold needs positives and negatives")
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
        raise OptionError(f"confidence is {value}, but it lies between 0 and 1")
    return value


def _numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{name} is not made of numbers ({error})") from error
    if array.ndim != 1:
        raise OptionError(f"{name} has shape {array.shape}, but needs [n]")
    if array.size == 0:
        raise OptionError(f"{name} is empty")
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
        raise OptionError(f"{name} has {size} values and {other} has {other_size}, but they need as many")
