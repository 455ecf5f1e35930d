"""How likely texts are that are already written: of the base, of the assistant, and of the pair as it routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ContextFull, OptionError
from ..llama.busy import busy
from ..llama.log import forward_log

if TYPE_CHECKING:
    from .. import _core
    from .scoring import Scorer

__all__ = ["Likelihoods", "likelihoods"]

# Of fewer tokens of each model, the likeliest of the mixture is more often one that neither list has.
_LEAST_LIKELIEST = 8


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """One text. Each list has an entry for every token but the first, which nothing stands before.

    Attributes:
        logprobs: natural log-probability of each token.
        top: the likeliest tokens at each position and their log-probabilities, descending.
        deferred: whether the position is the assistant's.
    """

    logprobs: list[float]
    top: list[list[tuple[int, float]]]
    deferred: list[bool]


def likelihoods(
    scorer: Scorer,
    texts: Sequence[Sequence[int]],
    head: _core.Head,
    *,
    threshold: float,
    strategy: str = "defer",
    seed: int = 0,
    top: int = 0,
) -> list[Likelihoods]:
    """The log-probability of each token, as the pair would choose it with these options (Co-LLM, section 2).

    A position is deferred where z exceeds logit(threshold): 1 is the base alone, 0 the assistant alone. A position that
    stays has the base's distribution. A deferred one has the assistant's (``defer``) or the mixture (1 - p) base + p
    assistant with p = sigmoid(z) (``compose``); with a threshold of 0 that is the mixture everywhere.

    Args:
        scorer: both models.
        texts: token ids of each, at most ``scorer.n_ctx``.
        head: the extension's head.
        threshold: eta, 0 to 1.
        strategy: ``defer`` or ``compose``.
        seed: of the head ``random``.
        top: how many of the likeliest tokens to report. Of a mixture they are the likeliest among the 8 (or ``top``, if
            that is more) likeliest of each model.

    Raises:
        OptionError: another strategy, or the models have unlike vocabularies.
        ContextFull: a text is too long.
        TokenizeError: a token that the models do not share.
        GenerationError: llama.cpp failed.
    """
    if strategy not in ("defer", "compose"):
        raise OptionError(f"strategy is {strategy}; likelihoods are known for defer and compose")
    if not scorer.one_vocabulary:
        raise OptionError(
            "likelihoods of tokens are known for models of one vocabulary, and these have unlike ones; colm score "
            "gives those of segments"
        )
    found: list[Likelihoods] = []
    n_likeliest = max(top, _LEAST_LIKELIEST) if top else 0
    for group in _groups(scorer, texts):
        # The first token of a text has nothing before it.
        given = [(list(text), [0] + [1] * (len(text) - 1)) for text in group]
        with busy():
            try:
                base, assistant = scorer.open_core().likelihoods(given, head, seed, n_likeliest)
            finally:
                forward_log()
        begin = 0
        for text in group:
            rows = slice(begin, begin + max(len(text) - 1, 0))
            found.append(_of_text(base, assistant, rows, threshold, strategy, top))
            begin = rows.stop
    return found


def _groups(scorer: Scorer, texts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    group: list[Sequence[int]] = []
    for text in texts:
        if len(text) > scorer.n_ctx:
            error = ContextFull(f"a text has {len(text)} tokens, and the context holds {scorer.n_ctx}; give less")
            error.n_prompt, error.n_ctx = len(text), scorer.n_ctx
            raise error
        if group and (len(group) == scorer.n_texts or sum(map(len, group)) + len(text) > scorer.n_ctx):
            yield group
            group = []
        group.append(text)
    if group:
        yield group


def _of_text(
    base: dict[str, Any], assistant: dict[str, Any], rows: slice, threshold: float, strategy: str, top: int
) -> Likelihoods:
    z: npt.NDArray[np.float64] = base["defer_logit"][rows]
    deferred = _defers(z, threshold)
    one, other = base["logprob"][rows].astype(np.float64), assistant["logprob"][rows].astype(np.float64)
    chosen = _mixed(z, one, other) if strategy == "compose" else other
    tops = [
        _top(base, assistant, row, z[row - rows.start], bool(deferred[row - rows.start]), strategy)[:top]
        for row in range(rows.start, rows.stop)
    ]
    return Likelihoods(np.where(deferred, chosen, one).tolist(), tops, deferred.tolist())


def _defers(z: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.bool_]:
    """As the engine has it (csrc/colm/policy.cpp): both ends hold for every z."""
    if threshold in (0.0, 1.0):
        return np.full(z.shape, threshold == 0.0)
    return np.asarray(z > np.log(threshold) - np.log1p(-threshold))


def _mixed(z: Any, one: Any, other: Any) -> Any:
    """log((1 - p) exp(one) + p exp(other)) with p = sigmoid(z)."""
    return np.logaddexp(one - np.logaddexp(0.0, z), other - np.logaddexp(0.0, -z))


def _top(
    base: dict[str, Any], assistant: dict[str, Any], row: int, z: float, deferred: bool, strategy: str
) -> list[tuple[int, float]]:
    if not deferred or strategy == "defer":
        model = assistant if deferred else base
        return _listed(model["likeliest"][row], model["likeliest_logprob"][row])
    # Both models' log-probabilities are known of the likeliest tokens of each.
    ids = np.concatenate([base["likeliest"][row], assistant["likeliest"][row]])
    one = np.concatenate([base["likeliest_logprob"][row], base["probe_logprob"][row]]).astype(np.float64)
    other = np.concatenate([assistant["probe_logprob"][row], assistant["likeliest_logprob"][row]]).astype(np.float64)
    mixed = _mixed(z, one, other)
    known = dict(zip(ids.tolist(), mixed.tolist(), strict=True))
    known.pop(-1, None)
    return sorted(known.items(), key=lambda item: (-item[1], item[0]))


def _listed(ids: Any, logprobs: Any) -> list[tuple[int, float]]:
    return [
        (token, p) for token, p in zip(ids.tolist(), logprobs.astype(np.float64).tolist(), strict=True) if token >= 0
    ]
