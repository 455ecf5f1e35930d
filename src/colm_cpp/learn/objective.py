"""Objectives of fitting a head, as functions of its deferral logits z_t, with their gradients.

``marginal`` is the objective of the paper (Shen et al., arXiv 2403.03870, section 2.2, equation 3): who wrote a token
is unknown and summed out, and the likelihood of the texts is maximised,

    -1/n sum_t log[(1 - sigmoid(z_t)) P_base(x_t) + sigmoid(z_t) P_assistant(x_t)] + c/n sum_t sigmoid(z_t),

with a price c on deferring. ``weak`` is its initialisation and baseline (section 2.3): logistic regression on a label
that says where the assistant should write, each class with half of the weight.

``regret`` is ours. It compares the models' likeliest tokens and ignores the token of the text. If they differ and the
base writes, r_t = log P_assistant(assistant's token) - log P_assistant(base's token) nats of the assistant's likelihood
are lost; otherwise r_t is 0. With the label ``continuation``, r_t is the loss over what follows (:mod:`.forks`).
Minimising 1/n sum_t [r_t log(1 + exp(-z_t)) + c log(1 + exp(z_t))] gives
sigmoid(z_t) = E r_t / (E r_t + c). The threshold 0.5 then defers where the expected loss exceeds the price c, and every
threshold defers the tokens with the largest expected loss.

Where the models have unlike vocabularies, x_t is not a token but a segment (:mod:`.segments`), and P(x_t) the product
over a model's own tokens of it. r_t is 0 where the models' likeliest tokens are beginnings of one text. Otherwise "the
base's token" is the assistant's token that its text begins with, so that r_t is at most what is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Loss", "MarginalLoss", "RegretLoss", "WeakLoss", "log_sigmoid", "make_label", "sigmoid"]

Floats = npt.NDArray[np.float64]


def sigmoid(z: Floats) -> Floats:
    """1 / (1 + exp(-z)), without overflow."""
    return np.exp(log_sigmoid(z))


def log_sigmoid(z: Floats) -> Floats:
    """log sigmoid(z)."""
    return -np.logaddexp(0.0, -z)


def make_label(
    name: str, token: npt.NDArray[np.int32], base_top: npt.NDArray[np.int32], assistant_top: npt.NDArray[np.int32]
) -> npt.NDArray[np.bool_]:
    """Where the assistant should write, ``[n]``.

    Args:
        name: ``"a"``: its likeliest token is the text's and the base's is not; ``"b"``: the base's is not;
            ``"differ"``: their likeliest tokens differ, whatever the text says.
        token: the texts' tokens, ``[n]``.
        base_top: the base's likeliest tokens, ``[n]``.
        assistant_top: the assistant's, ``[n]``.
    """
    label: npt.NDArray[np.bool_] = base_top != (assistant_top if name == "differ" else token)
    return label & (assistant_top == token) if name == "a" else label


class Loss(Protocol):
    """A mean over tokens, as a function of their deferral logits; of several experts (:mod:`.choice`) of all scores."""

    def __call__(self, z: Floats, rows: slice) -> tuple[float, Floats]:
        """The sum over ``rows`` divided by the number of all tokens, and its gradient to ``z``.

        Args:
            z: deferral logits of ``rows``, ``[n]``; of K experts ``[n, K]``.
            rows: which tokens these are.
        """


@dataclass(frozen=True)
class MarginalLoss:
    """The negative marginal log-likelihood per token, in nats, plus the price of deferring.

    Attributes:
        base_logprob: log P_base(x_t), ``[n]``.
        assistant_logprob: log P_assistant(x_t), ``[n]``.
        cost: c, nats for each deferred token, 0 or more.
    """

    base_logprob: Floats
    assistant_logprob: Floats
    cost: float = 0.0

    def __call__(self, z: Floats, rows: slice) -> tuple[float, Floats]:
        n = len(self.base_logprob)
        stay = log_sigmoid(-z) + self.base_logprob[rows]
        defer = log_sigmoid(z) + self.assistant_logprob[rows]
        joint = np.logaddexp(stay, defer)
        p = sigmoid(z)
        posterior = np.exp(defer - joint)  # that the assistant wrote the token
        value = self.cost * p.sum() - joint.sum()
        gradient = p - posterior + self.cost * p * (1.0 - p)
        return float(value) / n, gradient / n


@dataclass(frozen=True)
class WeakLoss:
    """Logistic regression on a label, both classes with the same total weight.

    Attributes:
        label: whether the assistant should write the token, ``[n]``; both kinds occur.
    """

    label: npt.NDArray[np.bool_]

    def __call__(self, z: Floats, rows: slice) -> tuple[float, Floats]:
        n, n_positive = len(self.label), int(self.label.sum())
        label = self.label[rows]
        weight = np.where(label, 0.5 / n_positive, 0.5 / (n - n_positive))
        value = -(weight * log_sigmoid(np.where(label, z, -z))).sum()
        return float(value), weight * (sigmoid(z) - label)


@dataclass(frozen=True)
class RegretLoss:
    """The assistant's likelihood lost where the base writes, plus the price of deferring; see the module's docstring.

    Attributes:
        regret: r_t in nats, ``[n]``, 0 where both models would write the same token.
        cost: c, nats for each deferred token, above 0.
    """

    regret: Floats
    cost: float

    def __call__(self, z: Floats, rows: slice) -> tuple[float, Floats]:
        n, regret, p = len(self.regret), self.regret[rows], sigmoid(z)
        value = -(regret * log_sigmoid(z)).sum() - self.cost * log_sigmoid(-z).sum()
        return float(value) / n, (self.cost * p - regret * (1.0 - p)) / n
