"""The texts behind a folder of scores: their tokens, and which of them the rows of the scores stand for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import CorpusError
from .scores import Scores

__all__ = ["ScoredText", "scored_texts"]


@dataclass(frozen=True, eq=False)
class ScoredText:
    """One text of a folder, with n scored tokens.

    Attributes:
        number: of the text in the folder, from 0.
        tokens: all ids, prompt included, ``[n_tokens]``.
        positions: where the scored tokens stand, ``[n]``, ascending, never 0.
        rows: their rows in the folder's columns; n of them.
    """

    number: int
    tokens: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    rows: slice


def scored_texts(folder: Scores) -> Iterator[ScoredText]:
    """The texts of a folder in its order.

    Raises:
        CorpusError: the folder is of a version that kept no tokens, or the tokens are not those that were scored.
    """
    begin = 0
    with (folder.path / "texts.jsonl").open(encoding="utf-8") as lines:
        for number, line in zip(range(folder.progress.n_texts), lines, strict=False):
            described = json.loads(line)
            tokens, n = described.get("tokens"), described["n_scored"]
            if tokens is None:
                raise CorpusError(
                    f"{folder.path} was made by an earlier version, which kept no tokens of the texts; score them "
                    "again into a new folder"
                )
            positions = np.concatenate([np.arange(first, last) for first, last in described["scored"]])
            rows = slice(begin, begin + n)
            ids = np.asarray(tokens, np.int64)
            if len(positions) != n or not np.array_equal(ids[positions], folder["token"][rows]):
                raise CorpusError(f"{folder.path}: the tokens of text {number} are not those that were scored")
            begin += n
            yield ScoredText(number, ids, positions, rows)
