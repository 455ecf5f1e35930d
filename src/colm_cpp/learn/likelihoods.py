"""How likely texts are that are already written: of the base, of an expert, and of all models as the head routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ContextFull, OptionError
from ..llama.log import computing
from .choice import log_shares

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
        deferred: whether the position is an expert's.
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

    A position is deferred where z exceeds logit(threshold): 1 is the base alone, 0 the experts alone. A position that
    stays has the base's distribution. A deferred one has that of the expert with the largest z_k (``defer``), or the
    mixture sum_k P(Z = k) P_k of all models (``compose``), where P(Z = k) is the softmax over [0, z_1, .., z_K]; with a
    threshold of 0 that is the mixture everywhere.

    Args:
        scorer: all models.
        texts: token ids of each, at most ``scorer.n_ctx``.
        head: the extension's head, with a score for each expert of ``scorer``.
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
        with computing():
            models = scorer.open_core().likelihoods(given, head, seed, n_likeliest, strategy == "compose")
        begin = 0
        for text in group:
            rows = slice(begin, begin + max(len(text) - 1, 0))
            found.append(_of_text(models, rows, threshold, strategy, top))
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


def _of_text(models: list[dict[str, Any]], rows: slice, threshold: float, strategy: str, top: int) -> Likelihoods:
    deferred = _defers(models[0]["defer_logit"][rows], threshold)
    z: npt.NDArray[np.float64] = models[0]["expert_logits"][rows]
    own = np.stack([model["logprob"][rows] for model in models], axis=1).astype(np.float64)  # [n, models]
    writer = np.where(deferred, 1 + np.argmax(z, axis=1), 0)
    logprobs = np.take_along_axis(own, writer[:, None], axis=1)[:, 0]
    mixed = deferred if strategy == "compose" else np.zeros_like(deferred)
    logprobs = np.where(mixed, _mixed(z, own), logprobs)
    tops = []
    for row in range(rows.start, rows.stop if top else rows.start):
        at = row - rows.start
        one = models[writer[at]]
        listed = _listed(one["likeliest"][row], one["likeliest_logprob"][row])
        tops.append((_top(models, row, z[at]) if mixed[at] else listed)[:top])
    return Likelihoods(logprobs.tolist(), tops or [[] for _ in logprobs], deferred.tolist())


def _defers(z: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.bool_]:
    """As the engine has it (csrc/colm/policy.cpp): both ends hold for every z."""
    if threshold in (0.0, 1.0):
        return np.full(z.shape, threshold == 0.0)
    return np.asarray(z > np.log(threshold) - np.log1p(-threshold))


def _mixed(z: npt.NDArray[np.float64], logprobs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log sum_k P(Z = k) exp(logprobs_k). z: [n, K]; logprobs: [n, 1 + K]."""
    shares = log_shares(np.clip(z, -1e300, 1e300))  # a head such as "always" is infinitely sure
    return np.asarray(np.logaddexp.reduce(shares + logprobs, axis=1))


def _top(models: list[dict[str, Any]], row: int, z: npt.NDArray[np.float64]) -> list[tuple[int, float]]:
    """The likeliest of the mixture, among those of each model, of which all models' log-probabilities are known."""
    ids = np.concatenate([model["likeliest"][row] for model in models])
    n = models[0]["likeliest"].shape[1]
    of_models = [
        # Those of the others stand in their order, without the model's own.
        np.insert(model["probe_logprob"][row], number * n, model["likeliest_logprob"][row])
        for number, model in enumerate(models)
    ]
    logprobs = np.stack(of_models, axis=1).astype(np.float64)
    mixed = _mixed(np.tile(z, (len(ids), 1)), logprobs)
    known = dict(zip(ids.tolist(), mixed.tolist(), strict=True))
    known.pop(-1, None)
    return sorted(known.items(), key=lambda item: (-item[1], item[0]))


def _listed(ids: Any, logprobs: Any) -> list[tuple[int, float]]:
    return [
        (token, p) for token, p in zip(ids.tolist(), logprobs.astype(np.float64).tolist(), strict=True) if token >= 0
    ]
