"""What a base is tuned on: scored texts with all their tokens, and how they are put into passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import CorpusError
from ..learn.forks import Continuations
from ..learn.scored import scored_texts
from ..learn.scores import Scores
from ..learn.training import text_split

__all__ = ["TuneText", "passes", "read_texts", "steps", "texts_of"]

POOL = 16  # steps whose texts are sorted by length together


@dataclass(frozen=True, eq=False)
class TuneText:
    """One text, with what scoring found out about its scored tokens (n of them).

    Attributes:
        tokens: all ids, prompt included, ``[n_tokens]``.
        positions: where the scored tokens stand, ``[n]``, ascending, never 0.
        assistant_logprob: log P_assistant of them, ``[n]``.
        assistant_top: the assistant's likeliest tokens, ``[n]``.
        assistant_top_logprob: their log-probabilities, ``[n]``.
        base_top: the likeliest tokens of the base as it was, ``[n]``.
        assistant_logprob_of_base_top: the assistant's log-probabilities of these, ``[n]``; see :func:`read_texts`.
        base_logprob: log P_base of the scored tokens, by llama.cpp, ``[n]``.
        base_hidden: the base's hidden states, by llama.cpp, ``[n, n_embd]``.
    """

    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    assistant_logprob: npt.NDArray[np.float32]
    assistant_top: npt.NDArray[np.int64]
    assistant_top_logprob: npt.NDArray[np.float32]
    base_top: npt.NDArray[np.int64]
    assistant_logprob_of_base_top: npt.NDArray[np.float32]
    base_logprob: npt.NDArray[np.float32]
    base_hidden: npt.NDArray[np.float16]


def read_texts(
    folders: Sequence[Scores], *, held_out: float, seed: int, label: str = "a"
) -> tuple[list[TuneText], list[TuneText]]:
    """Training and held-out texts; the split is that of ``colm train`` with the same share and seed.

    With label ``continuation`` the base's likeliest token is as unlikely as its whole path: regret is then the cost of
    the path.

    Raises:
        CorpusError: a folder was scored with an adapter, lacks its texts' tokens or their continuations, or holds a
            single text.
    """
    training: list[TuneText] = []
    rest: list[TuneText] = []
    for folder in folders:
        if folder.meta.get("base_lora"):
            raise CorpusError(
                f"{folder.path} was scored with an adapter on the base; tune on scores of the plain base file"
            )
        texts = texts_of(folder, label)
        split = text_split(folder, held_out, seed)
        training += [texts[i] for i in split.training]
        rest += [texts[i] for i in split.held_out]
    return training, rest


def texts_of(folder: Scores, label: str = "a") -> list[TuneText]:
    """All texts of a folder, in its order; see :func:`read_texts`."""
    return list(_texts(folder, label))


def _texts(folder: Scores, label: str) -> Iterator[TuneText]:
    of_base_top = folder["assistant_logprob_of_base_top"]
    if label == "continuation":
        of_base_top = (folder["assistant_top_logprob"] - Continuations(folder).cost).astype(np.float32)
    for text in scored_texts(folder):
        rows = text.rows
        yield TuneText(
            tokens=text.tokens,
            positions=text.positions,
            assistant_logprob=folder["assistant_logprob"][rows],
            assistant_top=folder["assistant_top"][rows].astype(np.int64),
            assistant_top_logprob=folder["assistant_top_logprob"][rows],
            base_top=folder["base_top"][rows].astype(np.int64),
            assistant_logprob_of_base_top=of_base_top[rows],
            base_logprob=folder["base_logprob"][rows],
            base_hidden=folder["base_hidden"][rows],
        )


def passes(texts: Sequence[TuneText], pass_tokens: int) -> list[list[TuneText]]:
    """Groups of texts of like length, each of at most ``pass_tokens`` tokens with its padding."""
    groups: list[list[TuneText]] = []
    for text in sorted(texts, key=lambda text: len(text.tokens)):
        # Sorted: the new text is the longest of its group.
        if groups and (len(groups[-1]) + 1) * len(text.tokens) <= pass_tokens:
            groups[-1].append(text)
        else:
            groups.append([text])
    return groups


def steps(texts: Sequence[TuneText], batch_texts: int, seed: int, epoch: int) -> list[list[TuneText]]:
    """The texts of each step of an epoch. Texts of one step are of like length; steps come in random order."""
    generator = np.random.default_rng([seed, epoch])
    shuffled = [texts[i] for i in generator.permutation(len(texts))]
    batches: list[list[TuneText]] = []
    for begin in range(0, len(shuffled), POOL * batch_texts):
        pool = sorted(shuffled[begin : begin + POOL * batch_texts], key=lambda text: len(text.tokens))
        batches += [pool[i : i + batch_texts] for i in range(0, len(pool), batch_texts)]
    return [batches[i] for i in generator.permutation(len(batches))]
