"""An independent, slow and simple implementation of what is under test, on llama_cpp's ctypes API alone.

It keeps no state between tokens: every step clears the memory and reads the whole text again with the model
that is needed. All mathematics are numpy float64, written down from the definitions. Nothing here imports the
package under test.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import llama_cpp
import numpy as np
import numpy.typing as npt
from oracle_model import F32, F64, OracleModel

Head: TypeAlias = "str | tuple[Any, ...]"

_MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class OracleStep:
    """One generated token."""

    token: int
    source: Literal["base", "assistant"]
    defer_logit: float | None  # None where the head was not asked
    threshold: float
    logprob: float
    # How far the step is from another outcome: the gap between the best two scores or between the deferral
    # logit and its threshold, whichever is smaller. Rounding in llama.cpp may decide a step with a small one.
    margin: float = math.inf
    # How far the id nearest to the cutoff of `contrastive` is from it: it may enter or leave the distribution.
    edge: float = math.inf


def logsumexp(x: F64) -> float:
    """log(sum(exp(x))); -inf for nothing."""
    if x.size == 0 or np.max(x) == -np.inf:
        return -math.inf
    top = float(np.max(x))
    return top + math.log(float(np.sum(np.exp(x - top))))


def log_softmax(logits: npt.ArrayLike) -> F64:
    """Log-probabilities in float64."""
    x = np.asarray(logits, dtype=np.float64)
    return x - logsumexp(x)


def log_odds(log_p: F64) -> float:
    """log p1 - log(1 - p1) of the largest probability."""
    # 1 - p1 is taken as the sum of the others, which loses no digits.
    top = int(np.argmax(log_p))
    rest = logsumexp(np.delete(log_p, top))
    return math.inf if rest == -math.inf else float(log_p[top]) - rest


def entropy(log_p: F64) -> float:
    """-sum p log p in nats."""
    finite = log_p[np.isfinite(log_p)]
    return max(0.0, -float(np.sum(np.exp(finite) * finite)))


def head_features(log_p: F64, names: Sequence[str], top_k: int = 0) -> F64:
    """The features of docs/head-format.md in the order of `names`."""
    ordered = np.sort(log_p)[::-1]
    values: list[float] = []
    for name in names:
        if name == "log_odds":
            values.append(float(np.clip(log_odds(log_p), -50.0, 50.0)))
        elif name == "entropy":
            values.append(entropy(log_p))
        elif name == "margin":
            values.append(float(ordered[0] - ordered[1]))
        elif name == "top_k_logprobs":
            if not 0 < top_k <= ordered.size:
                raise ValueError("top_k out of range")
            values.extend(float(v) for v in ordered[:top_k])
        else:
            raise ValueError(f"unknown feature {name!r}")
    return np.array(values, dtype=np.float64)


def _activate(x: F64, name: str) -> F64:
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "gelu":
        return np.array([0.5 * v * (1.0 + math.erf(v / math.sqrt(2.0))) for v in x], dtype=np.float64)
    if name == "silu":
        return np.array([v * sigmoid(v) for v in x], dtype=np.float64)
    raise ValueError(f"unknown activation {name!r}")


def sigmoid(z: float) -> float:
    """1 / (1 + exp(-z))."""
    if z >= 0:
        return 1.0 / (1.0 + math.exp(-z))
    return math.exp(z) / (1.0 + math.exp(z))


def splitmix64(x: int) -> int:
    """One step of the SplitMix64 generator."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def random_logit(seed: int, position: int) -> float:
    """The deferral logit of the random head."""
    bits = splitmix64((seed * 0x9E3779B97F4A7C15 + position) & _MASK64)
    u = ((bits >> 11) + 0.5) * 2.0**-53
    return math.log(u) - math.log(1.0 - u)


def defer_logit(head: Head, *, hidden: F32, logits: F32, log_p: F64, seed: int, position: int) -> float:
    """z_t. `logits` are the base's raw ones over its whole vocabulary, `log_p` its allowed distribution."""
    if head == "confidence":
        return -log_odds(log_p)
    if head == "entropy":
        h = entropy(log_p)
        if h == 0.0:
            return -math.inf
        # log(exp(h) - 1), which would overflow only far beyond any vocabulary.
        return math.log(math.expm1(h))
    if head == "random":
        return random_logit(seed, position)
    if isinstance(head, str):
        raise ValueError(f"unknown head {head!r}")
    if head[0] == "token":
        return float(logits[head[1]])
    if head[0] == "linear":
        _, theta, bias, features, top_k = head
        weights, biases, activation = [np.atleast_2d(theta)], [np.atleast_1d(bias)], "relu"
    elif head[0] == "mlp":
        _, weights, biases, activation, features, top_k = head
    else:
        raise ValueError(f"unknown head {head[0]!r}")
    x = np.concatenate([hidden.astype(np.float64), head_features(log_p, features, top_k)])
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        if i > 0:
            x = _activate(x, activation)
        x = np.asarray(w, dtype=np.float64) @ x + np.asarray(b, dtype=np.float64)
    if x.shape != (1,):
        raise ValueError("a head has one output")
    return float(x[0])


def threshold_at(eta: float, schedule: str, schedule_tokens: int, t: int) -> float:
    """The threshold in force at generated index `t`."""
    p = 1.0 if schedule_tokens <= 0 else min(1.0, t / schedule_tokens)
    if schedule == "constant":
        return eta
    if schedule == "linear":
        return 1.0 + (eta - 1.0) * p
    if schedule == "cosine":
        return eta + (1.0 - eta) * (1.0 + math.cos(math.pi * p)) / 2.0
    if schedule == "exponential":
        return eta if p >= 1.0 else max(eta, 1e-4) ** p
    raise ValueError(f"unknown schedule {schedule!r}")


def defers(z: float, eta: float) -> bool:
    """Whether the assistant is to give this token."""
    if eta <= 0.0:
        return True
    return eta < 1.0 and z > math.log(eta) - math.log1p(-eta)


def routed_scores(
    strategy: str, base_logits: F64, assistant_logits: F64, z: float, beta: float = 0.5, alpha: float = 0.1
) -> F64:
    """The scores that a deferred token is chosen by; both logits are those of the allowed ids."""
    if strategy == "defer":
        return assistant_logits
    log_b, log_a = log_softmax(base_logits), log_softmax(assistant_logits)
    if strategy == "compose":
        log_defer, log_keep = -np.logaddexp(0.0, -z), -np.logaddexp(0.0, z)
        return np.asarray(np.logaddexp(log_keep + log_b, log_defer + log_a), dtype=np.float64)
    if strategy == "add":
        return base_logits + assistant_logits
    if strategy == "contrastive":
        floor = -math.inf if alpha <= 0 else math.log(alpha) + float(np.max(log_a))
        return np.where(log_a >= floor, log_a - beta * log_b, -np.inf)
    raise ValueError(f"unknown strategy {strategy!r}")


def gumbel_max(ids: Sequence[int], scores: Sequence[float], seed: int, position: int) -> int:
    """The id with the largest score plus noise, which is a function of seed, position and id."""
    key = splitmix64((seed << 32) ^ position)

    def noisy(entry: tuple[int, float]) -> float:
        u = ((splitmix64(key ^ entry[0]) >> 11) + 0.5) * 2.0**-53
        return entry[1] - math.log(-math.log(u))

    return max(zip(ids, scores, strict=True), key=noisy)[0]


class _Chain:
    """llama.cpp's own samplers but the draw, in a chain that lives as long as one generation."""

    def __init__(self, seed: int, temperature: float, top_k: int, top_p: float, min_p: float, typical_p: float) -> None:
        self._chain = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for sampler in (
            llama_cpp.llama_sampler_init_top_k(top_k),
            llama_cpp.llama_sampler_init_typical(typical_p, 1),
            llama_cpp.llama_sampler_init_top_p(top_p, 1),
            llama_cpp.llama_sampler_init_min_p(min_p, 1),
            llama_cpp.llama_sampler_init_temp(temperature),
        ):
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)
        self._seed = seed

    def choose(self, ids: Sequence[int], scores: F64, position: int) -> int:
        """Draw one of `ids` for the token after `position` others."""
        kept = [(i, s) for i, s in zip(ids, scores.tolist(), strict=True) if math.isfinite(s)]
        data = (llama_cpp.llama_token_data * len(kept))()
        for entry, (i, score) in zip(data, kept, strict=True):
            entry.id, entry.logit, entry.p = i, score, 0.0
        array = llama_cpp.llama_token_data_array(data=data, size=len(kept), selected=-1, sorted=False)
        llama_cpp.llama_sampler_apply(self._chain, ctypes.byref(array))
        left = array.data[: array.size]
        return gumbel_max([entry.id for entry in left], [entry.logit for entry in left], self._seed, position)

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self._chain)


def oracle_generate(
    base: OracleModel,
    assistant: OracleModel,
    prompt_tokens: Sequence[int],
    *,
    head: Head,
    threshold: float,
    strategy: str = "defer",
    schedule: str = "constant",
    schedule_tokens: int = 0,
    hold: int = 1,
    leave_threshold: float | None = None,
    max_tokens: int = 16,
    blocked: Iterable[int] = (),
    n_shared: int | None = None,
    beta: float = 0.5,
    alpha: float = 0.1,
    seed: int = 0,
    temperature: float = 0.0,
    top_k: int = 40,
    top_p: float = 0.95,
    min_p: float = 0.05,
    typical_p: float = 1.0,
) -> tuple[list[OracleStep], Literal["eos", "length"]]:
    """Generate token by token. Returns the steps, with the one that ended the text, and what ended it.

    `head` is ("linear", theta, bias, features, top_k), ("mlp", weights, biases, activation, features, top_k),
    ("token", id), "confidence", "entropy" or "random". A token head's id is never chosen, as if it were in
    `blocked`. `seed` is that of the random head and of the sampler.
    """
    if n_shared is None:
        n_shared = min(base.n_vocab, assistant.n_vocab)
    forbidden = set(blocked)
    if head[0] == "token":
        forbidden.add(head[1])  # type: ignore[arg-type]
    allowed = [i for i in range(n_shared) if i not in forbidden]
    text = list(prompt_tokens)
    steps: list[OracleStep] = []
    chain = _Chain(seed, temperature, top_k, top_p, min_p, typical_p) if temperature > 0 else None
    leave = threshold if leave_threshold is None else min(leave_threshold, threshold)
    n_held = 0  # tokens that the assistant still writes without the head being asked
    try:
        for t in range(max_tokens):
            logits, hidden = base.logits_and_hidden(text)
            base_logits = logits[allowed].astype(np.float64)
            log_p = log_softmax(base_logits)
            z = defer_logit(head, hidden=hidden, logits=logits, log_p=log_p, seed=seed, position=len(text))
            in_run = bool(steps) and steps[-1].source == "assistant"
            eta = threshold_at(leave if in_run else threshold, schedule, schedule_tokens, t)
            held = n_held > 0
            scores, source, edge = base_logits, "base", math.inf
            n_held -= 1
            if held or defers(z, eta):
                n_held = n_held if held else hold - 1
                assistant_logits = assistant.logits_and_hidden(text)[0][allowed].astype(np.float64)
                scores = routed_scores(strategy, base_logits, assistant_logits, z, beta, alpha)
                source = "assistant"
                if strategy == "contrastive" and alpha > 0:
                    log_a = log_softmax(assistant_logits)
                    edge = float(np.min(np.abs(log_a - math.log(alpha) - np.max(log_a))))
            token = allowed[int(np.argmax(scores))] if chain is None else chain.choose(allowed, scores, len(text))
            logprob = float(log_softmax(scores)[allowed.index(token)])
            margin = float(np.diff(np.sort(scores)[-2:])[0]) if len(allowed) > 1 else math.inf
            if 0.0 < eta < 1.0 and not held:
                margin = min(margin, abs(z - math.log(eta) + math.log1p(-eta)))
            known = not held or strategy != "defer"  # a mixture hears the base anyway
            steps.append(OracleStep(token, source, z if known else None, eta, logprob, margin, edge))  # type: ignore[arg-type]
            text.append(token)
            if base.is_eog(token) or assistant.is_eog(token):
                return steps, "eos"
        return steps, "length"
    finally:
        if chain is not None:
            chain.close()
