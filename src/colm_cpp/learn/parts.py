"""The texts of the folders in two parts: those that a head is fitted to, and those held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CorpusError
from .forks import Continuations
from .inputs import Inputs
from .objective import Loss, MarginalLoss, make_label
from .scores import Scores
from .training_options import TrainingOptions

__all__ = ["COLUMNS", "MAX_REGRET", "Part", "Split", "input_bytes", "part_of", "some", "text_split"]

MAX_REGRET = 10.0  # nats: beyond it a token is as wrong as can be


@dataclass(frozen=True)
class Split:
    """The texts of a folder, shuffled.

    Attributes:
        training: those that a head is fitted to.
        held_out: the others.
    """

    training: npt.NDArray[np.int64]
    held_out: npt.NDArray[np.int64]


def text_split(scores: Scores, share: float, seed: int) -> Split:
    """Chooses the held-out texts of a folder: ``share`` of them, at least one. A ``seed`` always gives the same.

    Raises:
        CorpusError: the folder holds a single text.
    """
    n_texts = scores.progress.n_texts
    if n_texts < 2:
        raise CorpusError(
            f"{scores.path} holds {n_texts} text; give at least 2, because one is held out to stop the fit"
        )
    n_held_out = min(max(1, round(share * n_texts)), n_texts - 1)
    texts = np.random.default_rng([seed, n_texts]).permutation(n_texts)
    return Split(texts[n_held_out:], texts[:n_held_out])


@dataclass(frozen=True)
class Part:
    """Training or held-out tokens of all folders."""

    inputs: Inputs
    columns: dict[str, npt.NDArray[Any]]
    folder: npt.NDArray[np.int32]
    n_texts: int

    def label(self, name: str) -> npt.NDArray[np.bool_]:
        """A weak label."""
        if name == "continuation":
            return self.columns["divergent"]
        return make_label(name, self.columns["token"], self.columns["base_top"], self.columns["assistant_top"])

    def regret_by(self, label: str) -> npt.NDArray[np.float64]:
        """What staying costs at each token in nats; with label continuation, over what follows."""
        return np.minimum(self.columns["path_cost"], MAX_REGRET) if label == "continuation" else self.regret

    @property
    def regret(self) -> npt.NDArray[np.float64]:
        """What staying costs at each token, in nats."""
        lost = self.columns["assistant_top_logprob"] - self.columns["assistant_logprob_of_base_top"]
        regret: npt.NDArray[np.float64] = np.clip(lost.astype(np.float64), 0.0, MAX_REGRET)
        return regret

    def marginal(self, cost: float) -> Loss:
        """The marginal loss."""
        return MarginalLoss(
            self.columns["base_logprob"].astype(np.float64),
            self.columns["assistant_logprob"].astype(np.float64),
            cost,
        )


COLUMNS = (
    "token",
    "base_top",
    "assistant_top",
    "base_logprob",
    "assistant_logprob",
    "base_log_odds",
    "assistant_top_logprob",
    "assistant_logprob_of_base_top",
)


def input_bytes(folders: Sequence[Scores], options: TrainingOptions) -> int:
    """Bytes of all inputs as float32."""
    width = sum(options.top_k if name == "top_k_logprobs" else 1 for name in options.feature_names())
    width += folders[0].n_embd if options.use_hidden else 0
    return 4 * width * sum(map(len, folders))


def some(texts: npt.NDArray[np.int64], share: float, split: Split) -> npt.NDArray[np.int64]:
    """So many of ``texts``, which stand in random order, that they are ``share`` of the whole folder; one at least."""
    n_all = len(split.training) + len(split.held_out)
    return texts[: max(1, int(share * n_all))]


def part_of(
    folders: Sequence[Scores],
    texts: Sequence[npt.NDArray[np.int64]],
    options: TrainingOptions,
    continued: Sequence[Continuations] | None = None,
    *,
    in_memory: bool = True,
) -> Part:
    """The tokens of the chosen texts of each folder; with what follows where all folders have continuations."""
    rows = []
    for folder, chosen in zip(folders, texts, strict=True):
        taken = np.zeros(folder.progress.n_texts, bool)
        taken[chosen] = True
        rows.append(np.flatnonzero(taken[folder["text"]]))
    inputs = Inputs(
        folders,
        rows,
        options.feature_names(),
        options.top_k,
        use_hidden=options.use_hidden,
        in_memory=in_memory,
    )
    columns = {
        name: np.concatenate([folder[name][r] for folder, r in zip(folders, rows, strict=True)]) for name in COLUMNS
    }
    if continued is not None:
        for name, values in (
            ("divergent", [c.divergent for c in continued]),
            ("path_cost", [c.cost for c in continued]),
        ):
            columns[name] = np.concatenate([value[r] for value, r in zip(values, rows, strict=True)])
    of_folder = np.repeat(np.arange(len(folders), dtype=np.int32), [len(r) for r in rows])
    return Part(inputs, columns, of_folder, sum(len(chosen) for chosen in texts))
