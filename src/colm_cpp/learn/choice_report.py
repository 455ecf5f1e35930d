"""How well a head for several experts names them on held-out texts, and what each of them is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..engine.pair import DEFAULT_THRESHOLD
from ..options import BASE
from .choice import MultinomialLoss, any_of, log_shares
from .parts import Part

__all__ = ["ChoiceReport", "ModelReport", "choice_report", "freed_bytes"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What one model does on the held-out tokens.

    Attributes:
        nll: its NLL alone, in nats per token.
        best: share of the tokens that no other model finds likelier.
        share: mean P(Z = k) of the head.
        named: share of the tokens that it writes at the threshold.
        regret: nats per token of its own that the likeliest model would have had more; None where it writes none.
        without: NLL of the others with this head, less that of all: what it costs to drop this expert without fitting
            the head again. None for the base.
        freed: bytes of the file and the adapters that no other model uses; None for the base, and where the scores do
            not say.
    """

    nll: float
    best: float
    share: float
    named: float
    regret: float | None
    without: float | None = None
    freed: int | None = None


@dataclass(frozen=True, slots=True)
class ChoiceReport:
    """Whom a head names, beside who would have been best. The text is the judge: best is who finds its token likeliest.

    Attributes:
        threshold: eta: the likeliest expert writes where 1 - P(base) exceeds it, else the base.
        models: of each model by its name, the base first.
        confusion: who is best -> whom the head names -> number of tokens.
        right: of the tokens that the head defers, the share at which no other expert finds the token likelier than the
            one that it names; None where it defers none.
    """

    threshold: float
    models: dict[str, ModelReport]
    confusion: dict[str, dict[str, int]]
    right: float | None


def choice_report(z: Floats, part: Part, experts: Sequence[str], freed: Mapping[str, int]) -> ChoiceReport:
    """The report on all tokens of a part.

    Args:
        z: scores, ``[n, K]``.
        part: the tokens.
        experts: their names.
        freed: see :class:`ModelReport`.
    """
    names = (BASE, *experts)
    logprobs = part.logprobs
    n_models = logprobs.shape[1]
    free = np.zeros(n_models - 1)
    threshold = DEFAULT_THRESHOLD
    deferred = any_of(z) > np.log(threshold) - np.log1p(-threshold)
    named = np.where(deferred, z.argmax(axis=1) + 1, 0)
    best = logprobs.argmax(axis=1)
    counts = np.zeros((n_models, n_models), np.int64)
    np.add.at(counts, (best, named), 1)
    lost = logprobs.max(axis=1) - np.take_along_axis(logprobs, named[:, None], axis=1)[:, 0]
    shares = np.exp(log_shares(z)).mean(axis=0)
    joint, _ = MultinomialLoss(logprobs, free)(z, slice(None))
    models = {}
    for k, name in enumerate(names):
        own = named == k
        without = None
        if k > 0:
            others = z.copy()
            others[:, k - 1] = -np.inf
            without = MultinomialLoss(logprobs, free)(others, slice(None))[0] - joint
        models[name] = ModelReport(
            nll=-float(logprobs[:, k].mean()),
            best=float((best == k).mean()),
            share=float(shares[k]),
            named=float(own.mean()),
            regret=float(lost[own].mean()) if own.any() else None,
            without=without,
            freed=freed.get(name),
        )
    right = None
    if deferred.any():
        of_experts = logprobs[deferred, 1:]
        chosen = of_experts[np.arange(len(of_experts)), named[deferred] - 1]
        right = float((chosen >= of_experts.max(axis=1)).mean())
    confusion = {of_best: {name: int(counts[i, k]) for k, name in enumerate(names)} for i, of_best in enumerate(names)}
    return ChoiceReport(threshold, models, confusion, right)


def freed_bytes(meta: Mapping[str, Any]) -> dict[str, int]:
    """Bytes on the disk that dropping each expert frees: its adapters, and its file if no other model has the same."""
    models = meta.get("expert_models") or {}
    files = [meta["base_model"], *(model["model"] for model in models.values())] if models else []
    return {
        name: model["adapter_bytes"] + (model["model"]["bytes"] if files.count(model["model"]) == 1 else 0)
        for name, model in models.items()
    }
