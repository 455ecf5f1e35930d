"""How good a head is on held-out tokens, and what speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..evaluate.statistics import roc_auc
from .choice import MultinomialLoss, any_of
from .objective import MarginalLoss, sigmoid
from .parting import Parting, caught, finite, parting
from .parts import Part

__all__ = ["Metrics", "doubts", "measure"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of a head on tokens. NLL is in nats per token. Where vocabularies are unlike, all is of segments.

    With several experts the assistant is, at each token, the expert that the head names there, and z the log-odds that
    the base does not write. :class:`.choice_report.ChoiceReport` says how well it names them.

    Attributes:
        n_texts: number of texts.
        n_tokens: number of their scored tokens.
        base_nll: NLL of the base alone.
        assistant_nll: NLL of the assistant alone.
        joint_nll: NLL of the head's mixture of both, or of all models.
        oracle_nll: NLL of the better model at each token, or of the best of all.
        mean_defer_prob: mean of sigmoid(z).
        auc_a: area under the ROC curve of z for label a; None if the label is the same everywhere.
        auc_differ: area under the ROC curve for "the models' likeliest tokens differ"; None in the same case.
        confidence_auc_a: ``auc_a`` of plain confidence, which defers where the base's top probability is low.
        confidence_auc_differ: ``auc_differ`` of plain confidence.
        differ_rate: share of the tokens at which the likeliest tokens differ.
        caught: deferral rate -> share of these differing tokens that defer, if the tokens with the largest z do.
        confidence_caught: ``caught`` of plain confidence.
        regret: mean loss of the assistant's likelihood if the base writes; see :class:`.objective.RegretLoss`.
        saved: deferral rate -> share of the regret that is avoided, if the tokens with the largest z are deferred.
        confidence_saved: ``saved`` of plain confidence.
        parting: the metrics of what follows; None where a folder has no continuations of all its texts.
    """

    n_texts: int
    n_tokens: int
    base_nll: float
    assistant_nll: float
    joint_nll: float
    oracle_nll: float
    mean_defer_prob: float
    auc_a: float | None
    auc_differ: float | None
    confidence_auc_a: float | None
    confidence_auc_differ: float | None
    differ_rate: float
    caught: dict[str, float]
    confidence_caught: dict[str, float]
    regret: float
    saved: dict[str, float]
    confidence_saved: dict[str, float]
    parting: Parting | None = None


def measure(z: npt.NDArray[np.float64], part: Part, at: slice | npt.NDArray[np.int64], n_texts: int) -> Metrics:
    """The metrics of a head on the rows ``at`` of a part, with z of these rows, ``[n]``, or ``[n, K]``."""
    if z.ndim == 2:
        logprobs = part.logprobs[at]
        joint, _ = MultinomialLoss(logprobs, np.zeros(part.n_experts))(z, slice(None))
        named = part.asked(z.argmax(axis=1), at)
        return _measured(any_of(z), named, slice(None), n_texts, joint, -float(logprobs.max(axis=1).mean()))
    base = part.columns["base_logprob"][at].astype(np.float64)
    assistant = part.columns["assistant_logprob"][at].astype(np.float64)
    joint, _ = MarginalLoss(base, assistant)(z, slice(None))
    return _measured(z, part, at, n_texts, joint, -float(np.maximum(base, assistant).mean()))


def _measured(
    z: npt.NDArray[np.float64],
    part: Part,
    at: slice | npt.NDArray[np.int64],
    n_texts: int,
    joint_nll: float,
    oracle_nll: float,
) -> Metrics:
    base = part.columns["base_logprob"][at].astype(np.float64)
    assistant = part.columns["assistant_logprob"][at].astype(np.float64)
    label_a, differ = part.label("a")[at], part.label("differ")[at]
    regret = part.regret[at]
    doubt = -part.columns["base_log_odds"][at].astype(np.float64)
    return Metrics(
        n_texts=n_texts,
        n_tokens=len(z),
        base_nll=-float(base.mean()),
        assistant_nll=-float(assistant.mean()),
        joint_nll=joint_nll,
        oracle_nll=oracle_nll,
        mean_defer_prob=float(sigmoid(z).mean()),
        auc_a=finite(roc_auc(z, label_a)),
        auc_differ=finite(roc_auc(z, differ)),
        confidence_auc_a=finite(roc_auc(doubt, label_a)),
        confidence_auc_differ=finite(roc_auc(doubt, differ)),
        differ_rate=float(differ.mean()),
        caught=caught(z, differ.astype(np.float64)),
        confidence_caught=caught(doubt, differ.astype(np.float64)),
        regret=float(regret.mean()),
        saved=caught(z, regret),
        confidence_saved=caught(doubt, regret),
        parting=None
        if "divergent" not in part.columns
        else parting(z, doubt, differ, part.columns["divergent"][at], part.columns["path_cost"][at]),
    )


def doubts(
    objective: str, metrics: Metrics, label: str = "differ", alone: Mapping[str, float] | None = None
) -> list[str]:
    """What speaks against a head, measured by what it was fitted for.

    ``marginal`` takes the text as the truth: the head should find label a better than plain confidence does, and make
    the text likelier than either model alone. Whether the likeliest tokens differ says nothing there: where they do,
    the base may be right. The other objectives are judged by the differing tokens, or with label continuation by those
    where the paths part.

    ``alone``: the NLL of each of more than two models. Their texts are the truth for every objective.
    """
    found = []
    if objective == "marginal" or alone is not None:
        what, ours, plain = "the tokens of label a", metrics.auc_a, metrics.confidence_auc_a
        known = alone or {"base": metrics.base_nll, "assistant": metrics.assistant_nll}
        name = min(known, key=lambda name: known[name])
        if objective == "marginal" and metrics.joint_nll >= known[name]:
            found.append(
                f"on the held-out texts {'both' if alone is None else 'all'} models with this head (NLL "
                f"{metrics.joint_nll:.3f}) are no better than the {name} alone ({known[name]:.3f})"
            )
    elif label == "continuation" and metrics.parting is not None:
        what, ours, plain = "parting tokens", metrics.parting.auc, metrics.parting.confidence_auc
    else:
        what, ours, plain = "differing tokens", metrics.auc_differ, metrics.confidence_auc_differ
    if ours is not None and plain is not None and ours <= plain:
        found.append(
            f"on the held-out texts this head finds {what} no better (AUC {ours:.3f}) than plain confidence "
            f"({plain:.3f})"
        )
    return found
