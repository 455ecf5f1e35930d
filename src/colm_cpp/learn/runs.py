"""How much a threshold defers where the assistant holds its turn, reckoned from deferral logits that were seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..heads.tables import Runs

__all__ = ["deferred_share", "eta_of", "logit_of", "runs_table"]

Floats = npt.NDArray[np.float64]


def eta_of(z: float) -> float:
    """The threshold whose logit is ``z``."""
    return 1.0 / (1.0 + math.exp(-min(max(z, -80.0), 80.0)))


def logit_of(eta: float) -> float:
    """The logit of a threshold, finite at both ends."""
    eta = min(max(eta, 1e-12), 1.0 - 1e-12)
    return math.log(eta) - math.log1p(-eta)


def deferred_share(texts: Sequence[Floats], logit: float, runs: Runs, *, every_token: bool) -> float:
    """The share of the tokens that the assistant would write, if z were the same.

    Args:
        texts: z of each text, in order.
        logit: the threshold's logit.
        runs: how long the assistant keeps its turn.
        every_token: z is that of every token. A hold then passes over the z of the tokens in it. False: z is that of
            the tokens where the head was asked.
    """
    stay = logit if runs.leave_threshold is None else min(logit, logit_of(runs.leave_threshold))
    n_tokens = n_deferred = 0
    for text in texts:
        z = text.tolist()
        at, deferred = 0, False
        while at < len(z):
            deferred = z[at] > (stay if deferred else logit)
            n = runs.hold if deferred else 1
            if every_token:
                n = min(n, len(z) - at)
            n_tokens += n
            n_deferred += n if deferred else 0
            at += n if every_token else 1
    return n_deferred / max(n_tokens, 1)


def runs_table(texts: Sequence[Floats], rates: Sequence[float], runs: Runs, *, every_token: bool) -> list[float]:
    """The threshold in [0, 1] at which each share of the tokens would be deferred, see :func:`deferred_share`.

    Rate 0 always has threshold 1, and rate 1 has threshold 0. Requires at least one z.
    """
    z = np.unique(np.concatenate(texts))
    thresholds = []
    for rate in rates:
        if rate in (0.0, 1.0):
            thresholds.append(1.0 - rate)
            continue
        # The share falls as the threshold passes one z after the other.
        low, high = 0, len(z) - 1
        while low < high:
            middle = (low + high) // 2
            if deferred_share(texts, float(z[middle]), runs, every_token=every_token) > rate:
                low = middle + 1
            else:
                high = middle
        # Between two z, so that rounding decides nothing. Of both, the share that is nearer.
        between = [float(z[low] + z[min(low + 1, len(z) - 1)]) / 2, float(z[low] + z[max(low - 1, 0)]) / 2]
        nearest = min(between, key=lambda x: abs(deferred_share(texts, x, runs, every_token=every_token) - rate))
        thresholds.append(eta_of(nearest))
    return thresholds
