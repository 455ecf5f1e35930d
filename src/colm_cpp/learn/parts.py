"""The texts of the folders in two parts: those that a head is fitted to, and those held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import CorpusError
from ..options.training import TrainingOptions
from .choice import ChoiceLoss, MultinomialLoss, make_choice
from .forks import Continuations
from .inputs import Inputs
from .objective import Loss, MarginalLoss, WeakLoss, make_label
from .scores import Scores

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
    """Training or held-out tokens of all folders.

    Attributes:
        inputs: of the head.
        columns: of the scores, for each token. Of several experts those of :data:`OF_EXPERTS` are ``[n, n_experts]``.
            Of unlike vocabularies each row is a segment; its token is 1, and a model's likeliest one 1 where the model
            would write the whole segment, else 0.
        folder: the number of each token's folder.
        n_texts: texts of all folders.
        n_experts: K.
    """

    inputs: Inputs
    columns: dict[str, npt.NDArray[Any]]
    folder: npt.NDArray[np.int32]
    n_texts: int
    n_experts: int = 1

    def who(self, label: str) -> npt.NDArray[np.int64]:
        """Who should write each token by a weak label, ``[n]``: 0 the base, 1 to K the experts."""
        if self.n_experts == 1:
            return self.label(label).astype(np.int64)
        return make_choice(
            label,
            self.columns["token"],
            self.columns["base_top"],
            self.columns["base_logprob"].astype(np.float64),
            self.columns["expert_top"],
            self.columns["expert_logprob"].astype(np.float64),
        )

    def weak(self, label: str) -> Loss:
        """The loss of a weak label."""
        if self.n_experts == 1:
            return WeakLoss(self.label(label))
        return ChoiceLoss(self.who(label), self.n_experts)

    def label(self, name: str) -> npt.NDArray[np.bool_]:
        """A weak label of one assistant."""
        if name == "continuation":
            return self.columns["divergent"]
        if name == "differ" and "assistant_differs" in self.columns:
            return self.columns["assistant_differs"].astype(bool)
        return make_label(name, self.columns["token"], self.columns["base_top"], self.columns["assistant_top"])

    def regret_by(self, label: str) -> npt.NDArray[np.float64]:
        """What staying costs at each token in nats; with label continuation, over what follows."""
        return np.minimum(self.columns["path_cost"], MAX_REGRET) if label == "continuation" else self.regret

    @property
    def regret(self) -> npt.NDArray[np.float64]:
        """What staying with the base costs at each token, in nats of the one assistant's likelihood."""
        lost = self.columns["assistant_top_logprob"] - self.columns["assistant_logprob_of_base_top"]
        regret: npt.NDArray[np.float64] = np.clip(lost.astype(np.float64), 0.0, MAX_REGRET)
        return regret

    def marginal(self, costs: Sequence[float]) -> Loss:
        """The marginal loss with a price for each expert."""
        if self.n_experts > 1:
            return MultinomialLoss(self.logprobs, np.array(costs))
        return MarginalLoss(
            self.columns["base_logprob"].astype(np.float64),
            self.columns["assistant_logprob"].astype(np.float64),
            costs[0],
        )

    @property
    def logprobs(self) -> npt.NDArray[np.float64]:
        """log P(x_t) of the base and of each of several experts, ``[n, n_experts + 1]``."""
        base = self.columns["base_logprob"][:, None]
        return np.concatenate([base, self.columns["expert_logprob"]], axis=1).astype(np.float64)

    def asked(self, expert: npt.NDArray[np.int64], at: slice | npt.NDArray[np.int64]) -> Part:
        """The tokens ``at`` as of a pair whose assistant is, at each token, one of the experts (``expert``, from 0)."""
        columns = {name: values[at] for name, values in self.columns.items()}
        for name in (*OF_EXPERTS, *(["differs"] if "expert_differs" in columns else [])):
            chosen = np.take_along_axis(columns.pop(f"expert_{name}"), expert[:, None], axis=1)
            columns[f"assistant_{name}"] = chosen[:, 0]
        return Part(self.inputs, columns, self.folder[at], self.n_texts)


OF_EXPERTS = ("top", "logprob", "top_logprob", "logprob_of_base_top")
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
COLUMNS_OF_SEVERAL = ("token", "base_top", "base_logprob", "base_log_odds", *(f"expert_{name}" for name in OF_EXPERTS))


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
    n_experts = len(folders[0].experts)

    def column(name: str) -> npt.NDArray[Any]:
        return np.concatenate([folder[name][r] for folder, r in zip(folders, rows, strict=True)])

    columns = {name: column(name) for name in (COLUMNS if n_experts == 1 else COLUMNS_OF_SEVERAL)}
    if folders[0].unlike:
        # Ids of unlike vocabularies do not compare. What labels ask is whether a model would write the segment.
        who = "assistant" if n_experts == 1 else "expert"
        columns["token"] = np.ones(len(columns["token"]), np.int32)
        for model in ("base", who):
            columns[f"{model}_top"] = column(f"{model}_right").astype(np.int32)
        columns |= {name: column(name) for name in ("n_bytes", f"{who}_differs")}
    if continued is not None:
        for name, values in (
            ("divergent", [c.divergent for c in continued]),
            ("path_cost", [c.cost for c in continued]),
        ):
            columns[name] = np.concatenate([value[r] for value, r in zip(values, rows, strict=True)])
    of_folder = np.repeat(np.arange(len(folders), dtype=np.int32), [len(r) for r in rows])
    return Part(inputs, columns, of_folder, sum(len(chosen) for chosen in texts), n_experts)
