"""What a base is tuned on: scored texts with all their tokens, and how they are put into passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import CorpusError
from ..learn.forks import Continuations
from ..learn.parts import Split, text_split
from ..learn.scored import scored_texts
from ..learn.scores import Scores

__all__ = ["TuneText", "Unseen", "passes", "read_texts", "steps", "texts_of"]

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


@dataclass(frozen=True, eq=False)
class Unseen:
    """The texts of a folder that the adapter is not trained on.

    A head that is fitted to the adapter's own texts takes the base for better than it is: it has seen them.

    Attributes:
        texts: numbers in the folder, ascending.
        scored: these texts, as they were scored.
        split: which of ``texts`` a head is fitted to, and which are held out, as indices into ``texts``.
    """

    texts: npt.NDArray[np.int64]
    scored: list[TuneText]
    split: Split


def read_texts(
    folders: Sequence[Scores], *, held_out: float, seed: int, head_share: float = 0.0, label: str = "a"
) -> tuple[list[TuneText], list[TuneText], list[Unseen]]:
    """Training texts, held-out texts, and what of each folder the adapter does not see.

    The held-out texts are those of ``colm train`` with the same share and seed. A share of ``head_share`` is neither
    trained on nor held out. It has at least one text, if another one is left to train on.

    With label ``continuation`` the base's likeliest token is as unlikely as its whole path: regret is then the cost of
    the path.

    Raises:
        CorpusError: a folder was scored with an adapter, lacks its texts' tokens or their continuations, or holds a
            single text.
    """
    training: list[TuneText] = []
    rest: list[TuneText] = []
    unseen: list[Unseen] = []
    for folder in folders:
        if folder.meta.get("base_lora"):
            raise CorpusError(
                f"{folder.path} was scored with an adapter on the base; tune on scores of the plain base file"
            )
        texts = texts_of(folder, label)
        split = text_split(folder, held_out, seed)
        n_head = min(max(1, round(head_share * len(texts))), len(split.training) - 1) if head_share else 0
        of_head, of_adapter = split.training[:n_head], split.training[n_head:]
        training += [texts[i] for i in of_adapter]
        rest += [texts[i] for i in split.held_out]
        chosen = np.sort(np.concatenate([of_head, split.held_out]))
        places = Split(np.searchsorted(chosen, of_head), np.searchsorted(chosen, split.held_out))
        scored = texts if label != "continuation" else texts_of(folder)
        unseen.append(Unseen(chosen, [scored[i] for i in chosen], places))
    return training, rest, unseen


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
