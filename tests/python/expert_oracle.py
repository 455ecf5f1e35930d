"""What a base and K experts write, by the plainest code: every model reads its own whole prompt and text at each step.

It stands on `oracle.py` and, like it, imports nothing of the package under test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import oracle as o

# ("to", k, head of one score): the head says when, and expert k writes. Or ("scores", weights, biases, activation,
# features, top_k): layers with an output for each expert.
Head: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Step:
    """One token. `expert` counts from 0, the base. `margin`: how near another outcome was."""

    token: int
    expert: int
    defer_logit: float | None
    threshold: float
    logprob: float
    margin: float


def scores_of(head: Head, n_experts: int, **seen: Any) -> list[float]:
    """z_1 to z_K."""
    if head[0] == "to":
        scores = [-math.inf] * n_experts
        scores[head[1] - 1] = o.defer_logit(head[2], **seen)
        return scores
    _, weights, biases, activation, features, top_k = head
    x = np.concatenate([seen["hidden"].astype(np.float64), o.head_features(seen["log_p"], features, top_k)])
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if i > 0:
            x = o._activate(x, activation)
        x = w.astype(np.float64) @ x + b.astype(np.float64)
    return [float(z) for z in x]


def softmax_with_base(scores: Sequence[float]) -> o.F64:
    """P(Z = 0), P(Z = 1), ..: the softmax over [0, z_1, .., z_K]."""
    return np.asarray(np.exp(o.log_softmax([0.0, *scores])), dtype=np.float64)


def gap(values: Sequence[float]) -> float:
    """Between the largest two."""
    first, second = sorted(values)[-1:-3:-1] if len(values) > 1 else (values[0], -math.inf)
    return first - second


def write(
    models: Sequence[o.OracleModel],
    prompts: Sequence[Sequence[int]],
    *,
    head: Head,
    threshold: float,
    n_shared: int,
    strategy: str = "defer",
    beta: float = 0.5,
    alpha: float = 0.1,
    proxy: tuple[int, int, float] | None = None,
    hold: int = 1,
    leave_threshold: float | None = None,
    max_tokens: int = 12,
    seed: int = 0,
    temperature: float = 0.0,
) -> list[Step]:
    """A text by `models`, the base first, each behind its own of `prompts`. The step that ended it is the last.

    `proxy`: the tuned expert, the untuned one, and the weight of their difference.

    A temperature draws from the whole distribution (top_k 0, top_p 1, min_p 0).
    """
    written: list[int] = []
    steps: list[Step] = []
    leave = threshold if leave_threshold is None else min(leave_threshold, threshold)
    holder, n_held = 0, 0
    for _ in range(max_tokens):

        def logits_of(expert: int) -> o.F64:
            tokens = [*prompts[expert], *written]
            return np.asarray(models[expert].logits_and_hidden(tokens)[0][:n_shared], dtype=np.float64)

        raw, hidden = models[0].logits_and_hidden([*prompts[0], *written])
        base = raw[:n_shared].astype(np.float64)
        position = len(prompts[0]) + len(written)
        seen = {"hidden": hidden, "logits": raw, "log_p": o.log_softmax(base), "seed": seed, "position": position}
        z = scores_of(head, len(models) - 1, **seen)
        p = softmax_with_base(z)
        any_z = o.logsumexp(np.array(z))
        eta = leave if steps and steps[-1].expert != 0 else threshold
        margin = math.inf
        held = n_held > 0
        if held:
            expert, n_held = holder, n_held - 1
        else:
            # Written with the probabilities: defer when 1 - P(Z = 0) > eta.
            defers = eta <= 0.0 or (eta < 1.0 and 1.0 - float(p[0]) > eta)
            expert = 1 + int(np.argmax(z)) if defers else 0
            if 0.0 < eta < 1.0:
                margin = abs(any_z - math.log(eta) + math.log1p(-eta))
            if defers and len(z) > 1:
                margin = min(margin, gap(z))
            if defers and strategy == "proxy" and proxy is not None:
                expert = proxy[0]
            holder, n_held = (expert, hold - 1) if expert else (0, 0)
        if expert == 0:
            scores = base
        elif strategy == "compose":
            parts = [math.log(max(float(p[0]), 1e-300)) + o.log_softmax(base)]
            parts += [math.log(float(p[k])) + o.log_softmax(logits_of(k)) for k in range(1, len(models)) if p[k] > 0.0]
            scores = np.logaddexp.reduce(np.stack(parts), axis=0)
        elif strategy == "proxy" and proxy is not None:
            scores = base + proxy[2] * (logits_of(proxy[0]) - logits_of(proxy[1]))
        else:
            scores = o.routed_scores(strategy, base, logits_of(expert), any_z, beta, alpha)
            if strategy == "contrastive":
                log_a = o.log_softmax(logits_of(expert))
                margin = min(margin, float(np.min(np.abs(log_a - math.log(alpha) - np.max(log_a)))))
        if temperature == 0.0:
            token = int(np.argmax(scores))
            margin = min(margin, gap(list(scores)))
        else:
            key = o.splitmix64((seed << 32) ^ position)
            drawn = [
                s / temperature - math.log(-math.log(_uniform(key, i))) if s > -math.inf else -math.inf
                for i, s in enumerate(scores.tolist())
            ]
            token = int(np.argmax(drawn))
            margin = min(margin, gap(drawn))
        known = not held or strategy != "defer"
        logprob = float(o.log_softmax(scores)[token])
        steps.append(Step(token, expert, any_z if known else None, eta, logprob, margin))
        written.append(token)
        if any(model.is_eog(token) for model in models):
            break
    return steps


def _uniform(key: int, token: int) -> float:
    """As in `oracle.gumbel_max`."""
    return ((o.splitmix64(key ^ token) >> 11) + 0.5) * 2.0**-53
