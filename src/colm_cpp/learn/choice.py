"""Objectives of fitting a head for K experts, as functions of its scores z_1 to z_K, with their gradients.

P(Z_t = k) is the softmax over [0, z_1, ..., z_K]: who writes the token, 0 for the base. As with one assistant
(:mod:`.objective`), ``marginal`` sums over who wrote it, now over more than two (Shen et al., arXiv 2403.03870, section
2.2, equation 3),

    -1/n sum_t log sum_k P(Z_t = k) P_k(x_t) + 1/n sum_t sum_k c_k P(Z_t = k),

with a price c_k on each expert. Nobody says which expert a text needs. ``weak`` is the softmax regression on a label
that says who should write. Each model that the label names has the same weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["LABELS_OF_SEVERAL", "ChoiceLoss", "MultinomialLoss", "any_of", "log_shares", "make_choice"]

Floats = npt.NDArray[np.float64]

LABELS_OF_SEVERAL = ("a", "b")


def log_shares(z: Floats) -> Floats:
    """log P(Z = k) for the base and each expert, ``[n, K + 1]``, of scores ``[n, K]``."""
    logits = np.concatenate([np.zeros((len(z), 1)), z], axis=1)
    return logits - _log_sum(logits)[:, None]


def any_of(z: Floats) -> Floats:
    """log(e^z_1 + ... + e^z_K), ``[n]``: the log-odds that the base does not write."""
    return _log_sum(z)


def _log_sum(values: Floats) -> Floats:
    """log sum exp over the columns, without overflow. A value may be minus infinity where others are not."""
    most = values.max(axis=1)
    total: Floats = most + np.log(np.exp(values - most[:, None]).sum(axis=1))
    return total


def make_choice(
    name: str,
    token: npt.NDArray[np.int32],
    base_top: npt.NDArray[np.int32],
    base_logprob: Floats,
    expert_top: npt.NDArray[np.int32],
    expert_logprob: Floats,
) -> npt.NDArray[np.int64]:
    """Who should write, ``[n]``: 0 the base, 1 to K the experts. Where the base's likeliest token is the text's, it.

    Args:
        name: ``"a"``: of the experts whose likeliest token is the text's, the one that finds it likeliest; ``"b"``: of
            all experts that one, if it finds the token likelier than the base does.
        token: the texts' tokens, ``[n]``.
        base_top: the base's likeliest tokens, ``[n]``.
        base_logprob: log P_base(x_t), ``[n]``.
        expert_top: the experts' likeliest tokens, ``[n, K]``.
        expert_logprob: log P_k(x_t), ``[n, K]``.
    """
    allowed = expert_top == token[:, None] if name == "a" else expert_logprob > base_logprob[:, None]
    allowed = allowed & (base_top != token)[:, None]
    best = np.where(allowed, expert_logprob, -np.inf).argmax(axis=1) + 1
    return np.where(allowed.any(axis=1), best, 0)


@dataclass(frozen=True)
class MultinomialLoss:
    """The negative marginal log-likelihood per token, in nats, plus the price of deferring.

    Attributes:
        logprob: log P_k(x_t) of the base and each expert, ``[n, K + 1]``.
        costs: c_k, nats for each token of an expert, ``[K]``, each 0 or more.
    """

    logprob: Floats
    costs: Floats

    def __call__(self, z: Floats, rows: slice) -> tuple[float, Floats]:
        """See :class:`.objective.Loss`; ``z`` and its gradient are ``[n, K]``."""
        n = len(self.logprob)
        shares = log_shares(z)
        each = shares + self.logprob[rows]
        joint = _log_sum(each)
        p = np.exp(shares[:, 1:])
        posterior = np.exp(each[:, 1:] - joint[:, None])  # that this expert wrote the token
        price = p @ self.costs
        gradient = p - posterior + p * (self.costs - price[:, None])
        return float(price.sum() - joint.sum()) / n, gradient / n


@dataclass(frozen=True)
class ChoiceLoss:
    """Softmax regression on a label, all models that it names with the same total weight.

    Attributes:
        who: who should write the token, ``[n]``, 0 for the base; two models at least occur.
        n_experts: K.
    """

    who: npt.NDArray[np.int64]
    n_experts: int

    def __call__(self, z: Floats, rows: slice) -> tuple[float, Floats]:
        """See :class:`.objective.Loss`; ``z`` and its gradient are ``[n, K]``."""
        counts = np.bincount(self.who, minlength=self.n_experts + 1)
        who = self.who[rows]
        weight = 1.0 / (np.count_nonzero(counts) * counts[who])
        shares = log_shares(z)
        chosen = np.zeros_like(shares)
        chosen[np.arange(len(who)), who] = 1.0
        value = -(weight * shares[np.arange(len(who)), who]).sum()
        gradient: Floats = weight[:, None] * (np.exp(shares) - chosen)[:, 1:]
        return float(value), gradient
