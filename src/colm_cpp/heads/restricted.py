"""A head for several experts that may ask only one of them."""

from __future__ import annotations

from ..errors import HeadError
from .head import Head

__all__ = ["for_one"]


def for_one(head: Head, expert: str) -> Head:
    """The head without the scores of the other experts: P(Z = k) among the base and this expert alone.

    It is sigmoid(z_k), which is the softmax over [0, z_1, ..., z_K] given that no other expert writes. Thresholds were
    measured with all experts, so the result has no calibration table.

    Raises:
        HeadError: the head names no such expert.
    """
    if expert not in head.expert_names:
        raise HeadError(
            f"the head {head.name or '(unnamed)'} has no expert {expert}; it has "
            f"{' and '.join(head.expert_names) or 'no names of experts'}"
        )
    row = slice(place := head.expert_names.index(expert), place + 1)
    return head.replace(
        weights=(*head.weights[:-1], head.weights[-1][row]),
        biases=(*head.biases[:-1], head.biases[-1][row]),
        expert_names=(expert,),
        rates=(),
        thresholds=(),
        calibration=None,
    )
