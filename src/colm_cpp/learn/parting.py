"""How well a head finds the positions where the paths really part (:mod:`.forks`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..evaluate.statistics import roc_auc

__all__ = ["RATES", "Parting", "caught", "finite", "parting"]

RATES = (0.05, 0.1, 0.2, 0.4)


@dataclass(frozen=True, slots=True)
class Parting:
    """Metrics on tokens whose continuations were written.

    Attributes:
        neutral_rate: share of the tokens at which the likeliest tokens differ and the paths do not part.
        divergent_rate: share of the tokens at which the paths part.
        auc: area under the ROC curve of z for the parting tokens; None where all or none part.
        confidence_auc: that of plain confidence.
        found: deferral rate -> share of the parting tokens that are deferred, if the tokens with the largest z are.
        confidence_found: ``found`` of plain confidence.
        cost: mean cost of the base's token in nats, over what follows.
        saved: deferral rate -> share of the cost that is avoided, if the tokens with the largest z are deferred.
        confidence_saved: ``saved`` of plain confidence.
    """

    neutral_rate: float
    divergent_rate: float
    auc: float | None
    confidence_auc: float | None
    found: dict[str, float]
    confidence_found: dict[str, float]
    cost: float
    saved: dict[str, float]
    confidence_saved: dict[str, float]


def parting(
    z: npt.NDArray[np.float64],
    doubt: npt.NDArray[np.float64],
    differ: npt.NDArray[np.bool_],
    divergent: npt.NDArray[np.bool_],
    cost: npt.NDArray[np.float64],
) -> Parting:
    """The metrics of n tokens.

    Args:
        z: deferral logits, ``[n]``.
        doubt: what plain confidence gives, larger where the base is less sure, ``[n]``.
        differ: whether the likeliest tokens differ, ``[n]``.
        divergent: whether the paths part, ``[n]``.
        cost: of the base's token in nats, ``[n]``.
    """
    worth = divergent.astype(np.float64)
    return Parting(
        neutral_rate=float((differ & ~divergent).mean()),
        divergent_rate=float(divergent.mean()),
        auc=finite(roc_auc(z, divergent)),
        confidence_auc=finite(roc_auc(doubt, divergent)),
        found=caught(z, worth),
        confidence_found=caught(doubt, worth),
        cost=float(cost.mean()),
        saved=caught(z, cost),
        confidence_saved=caught(doubt, cost),
    )


def finite(value: float) -> float | None:
    """``value``; None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def caught(scores: npt.NDArray[np.float64], worth: npt.NDArray[np.float64]) -> dict[str, float]:
    """For each rate the share of ``worth`` that the tokens with the largest scores have."""
    order = np.argsort(-scores, kind="stable")
    total = float(worth.sum()) or 1.0
    return {f"{rate:g}": float(worth[order[: round(rate * len(order))]].sum()) / total for rate in RATES}
