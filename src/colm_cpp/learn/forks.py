"""Where the paths really part: what follows the base's token, against what follows the assistant's.

At a position where the two models' likeliest tokens differ, the assistant goes on greedily from either, for n tokens or
to the end of the text (:mod:`.continuation` writes both). R2R (Fu et al., arXiv 2505.21600) lets the large model go on
from both and asks a verifier whether the meaning changes: 89% of its tokens are identical, 6% differ and are neutral,
5% part the paths. Here the assistant's likelihood is the verifier. With A = a, a_1, ... its own path and B = b, b_1,
... the path behind the base's token, both up to where they agree again or else equally long,

    cost = max(0, log P_assistant(A | x_<t) - log P_assistant(B | x_<t))   in nats.

This is the cost-to-go of the base's token with the assistant as the expert (AggreVaTe, Ross and Bagnell,
arXiv 1406.5979). Likelihood of the path sees more than that of the token: a token may be unlikely because the same
words are mostly split or ordered otherwise, and one that is nearly as likely may lead to where every continuation is.
A position is neutral where both paths have the same characters, or where the cost is at most :data:`BOUND`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

import numpy as np
import numpy.typing as npt

from .._shown import shown
from ..errors import CorpusError
from ..files.reading import lines, whole_number, whole_rows
from .scores import Scores

__all__ = [
    "BOUND",
    "FILE",
    "FORMAT",
    "MAX_TOKENS",
    "VERSION",
    "Continuations",
    "Fork",
    "Path",
    "differing_rows",
    "parse_group",
]

FILE = "continuations.jsonl"
FORMAT = "colm-continuations"
VERSION = 1
MAX_TOKENS = 1024  # of a path
BOUND = 2.0  # nats: the assistant finds its own path seven times as likely
AGREED = 4  # tokens that must be the same again


@dataclass(frozen=True, slots=True)
class Path:
    """What follows one model's token: ids, that token first, and the assistant's log-probabilities of them, in nats."""

    ids: Sequence[int]
    logprobs: Sequence[float]


@dataclass(frozen=True, slots=True)
class Fork:
    """Both paths of a position.

    Attributes:
        row: of the scores.
        assistant: what follows the assistant's likeliest token.
        base: what follows the base's.
        same_text: whether both are the same characters.
    """

    row: int
    assistant: Path
    base: Path
    same_text: bool

    def ends(self) -> tuple[int, int]:
        """How many tokens of the assistant's and of the base's path are compared.

        Where the paths agree again: up to where one of them ends. Else equally many, since every token costs something.
        """
        own, other = self.assistant.ids, self.base.ids
        best = (0, 0, 0)
        for shift in range(1 - len(other), len(own)):
            # own[i + shift] beside other[i]: how many of the last pairs are the same?
            begin, end = max(0, -shift), min(len(other), len(own) - shift)
            n = 0
            while n < end - begin and own[end - 1 - n + shift] == other[end - 1 - n]:
                n += 1
            if n > best[2]:
                best = (end + shift, end, n)
        shorter = min(len(own), len(other))
        return best[:2] if best[2] >= AGREED else (shorter, shorter)

    @property
    def cost(self) -> float:
        """Nats of the assistant's likelihood that the base's token costs, 0 or more; 0 where the text is the same."""
        if self.same_text:
            return 0.0
        n_own, n_other = self.ends()
        return max(0.0, math.fsum(self.assistant.logprobs[:n_own]) - math.fsum(self.base.logprobs[:n_other]))

    def to_row(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "row": self.row,
            "assistant": [list(self.assistant.ids), list(self.assistant.logprobs)],
            "base": [list(self.base.ids), list(self.base.logprobs)],
            "same_text": self.same_text,
        }


def differing_rows(scores: Scores, rows: slice = slice(None)) -> npt.NDArray[np.int64]:
    """Where in ``rows`` the likeliest tokens differ, counted from their beginning."""
    return np.flatnonzero(scores["base_top"][rows] != scores["assistant_top"][rows])


def parse_group(line: bytes, first_text: int) -> tuple[int, list[Fork]]:
    """A row of the file: the number of the text behind its last, and its forks.

    Raises:
        ValueError: it is none, or does not begin with the text ``first_text``.
    """
    value = json.loads(line)
    if not isinstance(value, dict) or not isinstance(value.get("texts"), list) or len(value["texts"]) != 2:
        raise ValueError("it names no texts")
    begin, end = value["texts"]
    whole_number("the first text", begin, first_text, first_text)
    whole_number("the last text", end, begin + 1)
    if not isinstance(value.get("forks"), list):
        raise ValueError(f"forks is {shown(value.get('forks'))}; it must be a list")
    return end, [_fork(fork) for fork in value["forks"]]


def _fork(value: Any) -> Fork:
    if not isinstance(value, dict) or type(value.get("same_text")) is not bool:
        raise ValueError("a fork does not say whether its texts are the same")
    return Fork(
        whole_number("row", value.get("row")),
        _path(value.get("assistant")),
        _path(value.get("base")),
        value["same_text"],
    )


def _path(value: Any) -> Path:
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(part, list) for part in value):
        raise ValueError(f"a path is {shown(value)}; it must be a list of ids and one of log-probabilities")
    ids, logprobs = value
    if not 1 <= len(ids) == len(logprobs) <= MAX_TOKENS:
        raise ValueError(f"a path has {len(ids)} ids and {len(logprobs)} log-probabilities")
    for id_ in ids:
        whole_number("an id", id_, 0, 2**31 - 1)
    if not all(type(logprob) in (int, float) and -math.inf < logprob <= 1e-3 for logprob in logprobs):
        raise ValueError("a log-probability of a path is not a finite number of 0 or less")
    return Path(ids, logprobs)


class Continuations:
    """What the paths of a folder come to, for each of its rows.

    Attributes:
        cost: nats of the assistant's likelihood that the base's token costs, ``[n_tokens]``; 0 where both models would
            write the same token, or the same text.
        divergent: whether the paths part, ``[n_tokens]``: where ``cost`` is above :data:`BOUND`.
        forks: the paths, one entry for each position where the likeliest tokens differ.
        n_tokens: the most tokens of a path.
    """

    def __init__(self, scores: Scores) -> None:
        """Reads the folder's continuations.

        Raises:
            CorpusError: there are none, some texts have none yet, or the file is damaged.
        """
        path = scores.path / FILE
        if not path.exists():
            raise CorpusError(f"{scores.path} has no {FILE}; run colm paths {scores.path}, or use another label")
        self.n_tokens, n_texts, self.forks = _read(path)
        if n_texts < scores.progress.n_texts:
            raise CorpusError(
                f"{path} has the paths of {n_texts} of {scores.progress.n_texts} texts; run colm paths {scores.path} "
                "again, which goes on there"
            )
        rows = [fork.row for fork in self.forks]
        if not np.array_equal(rows, differing_rows(scores)):
            raise CorpusError(
                f"{path} does not belong to these scores: its positions are not those where the likeliest tokens "
                "differ; delete the file and run colm paths again"
            )
        self.cost = np.zeros(len(scores))
        self.cost[rows] = [fork.cost for fork in self.forks]
        self.divergent = self.cost > BOUND

    @classmethod
    def if_whole(cls, scores: Scores) -> Continuations | None:
        """The folder's continuations; None where it has none, or not of all texts."""
        path = scores.path / FILE
        return cls(scores) if path.exists() and _read(path)[1] >= scores.progress.n_texts else None


def _read(path: FilePath) -> tuple[int, int, list[Fork]]:
    """The most tokens of a path, how many texts are done, and their forks."""
    forks: list[Fork] = []
    n_texts = 0

    def group(line: bytes) -> None:
        nonlocal n_texts
        n_texts, more = parse_group(line, n_texts)
        forks.extend(more)

    with path.open("rb") as file:
        n_tokens = _n_tokens(path, next(lines(file), None))
        for _ in whole_rows(file, path, group, first=2):
            pass
    return n_tokens, n_texts, forks


def _n_tokens(path: FilePath, header: bytes | None) -> int:
    try:
        known = json.loads(header or b"")
        if not isinstance(known, dict) or known.get("format") != FORMAT or known.get("version") != VERSION:
            raise ValueError("it is not the header of continuations that this version reads")
        return whole_number("n_tokens", known.get("n_tokens"), 2, MAX_TOKENS)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path} is damaged ({error}); delete the file and run colm paths again") from error
