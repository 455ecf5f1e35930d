"""What a model thinks of the next byte of a text, exactly.

A model writes tokens, and many rows of tokens write the same bytes. Those that count here are all whose bytes begin
with the text and whose last token reaches its end or goes beyond it: P(text) is the sum of their probabilities
(the covering of Phan et al., arXiv 2410.09303; ByteSampler, arXiv 2506.14123, keeps those rows alone that the
tokenizer itself would write). The next byte's distribution is a quotient of two such sums. Each row is a context that
the model reads, so this is slow. Rows that hardly count are dropped (``tolerance``).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._numbers import share
from ..errors import TokenizeError
from ..llama.busy import busy

__all__ = ["END", "TOLERANCE", "ByteModel", "ByteReader"]

F64: TypeAlias = npt.NDArray[np.float64]

END = 256
"""Behind the 256 bytes: the text ends here, by a token that writes nothing."""

TOLERANCE = 1e-4


class _Vocabulary:
    """The bytes of a model's tokens, in the order of these bytes."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.order = np.array(sorted((i for i, piece in enumerate(pieces) if piece), key=pieces.__getitem__))
        self.pieces = [pieces[i] for i in self.order]
        self.silent = np.array([i for i, piece in enumerate(pieces) if not piece], dtype=np.int64)
        self.beyond = cache(self._beyond)
        self._above = b"\xff" * (1 + max(map(len, pieces), default=0))

    def exactly(self, written: bytes) -> range:
        """Places of the tokens that write these bytes."""
        return range(bisect_left(self.pieces, written), bisect_right(self.pieces, written))

    def _beyond(self, written: bytes) -> tuple[int, int, npt.NDArray[np.intp]]:
        """Places of the tokens that write these bytes and more, first and last + 1, and their next bytes."""
        low = bisect_right(self.pieces, written)
        high = bisect_left(self.pieces, written + self._above)
        n = len(written)
        return low, high, np.array([piece[n] for piece in self.pieces[low:high]], dtype=np.intp)


@dataclass
class _Row:
    """Tokens that write the text up to ``end``, and what the model says of the token behind them."""

    tokens: tuple[int, ...]
    end: int
    weight: float  # log P(tokens)
    written: bytes = b""  # of the text, by the token behind them
    mass: float = 0.0  # log P(this token begins so and writes more)
    asked: bool = False
    silent: float = 0.0  # probability of tokens that write nothing
    p: F64 = field(default_factory=lambda: np.empty(0))  # of the others, in the order of their bytes
    scores: tuple[float, ...] = ()


class ByteModel:
    """A model of a pair by itself, with a context of its own, and the bytes of its tokens.

    Attributes:
        name: the model's.
        pieces: what each token writes, by its id; empty for a control token.
    """

    def __init__(self, pair: _core.Pair | _core.ScoringPair, number: int, name: str) -> None:
        """Args:
        pair: its weights are used.
        number: of the model; the base's is 0.
        name: the model's, for messages.
        """
        with busy():
            self._reader = _core.TextReader(pair, number)
            self.pieces = self._reader.pieces()
        self.vocabulary = _Vocabulary(self.pieces)
        self.name = name

    def after(
        self, tokens: Sequence[int], head: _core.Head | None = None, seed: int = 0
    ) -> tuple[F64, tuple[float, ...]]:
        """Log-probabilities behind tokens, whose exponentials sum to 1, and the head's z of each expert.

        Raises:
            ContextFull: there are more tokens than the context holds.
            GenerationError: llama.cpp reported a failure.
        """
        with busy():
            raw, scores = self._reader.after(tokens, head, seed)
        logprobs = raw.astype(np.float64)
        return logprobs - np.logaddexp.reduce(logprobs), tuple(scores)


class ByteReader:
    """A model that reads a text byte by byte.

    Attributes:
        n_bytes: how many it has read.
        n_asked: contexts that the model was asked about.
        dropped: nats by which dropping rows shortened the sum for the text so far, each at its place. A text that goes
            on as only dropped rows expected loses more.
    """

    def __init__(
        self,
        model: ByteModel,
        prompt: Sequence[int],
        *,
        head: _core.Head | None = None,
        seed: int = 0,
        tolerance: float = TOLERANCE,
    ) -> None:
        """The text begins behind ``prompt``, which stays the tokens that it is.

        Args:
            model: whose distributions.
            prompt: its tokens.
            head: the extension's head, if the model is the base.
            seed: of the random head.
            tolerance: rows with less than this share of the text's probability are dropped. 0: none. The likeliest one
                that ends where the text does always stays.

        Raises:
            OptionError: ``tolerance`` is not from 0 to 1.
        """
        self._tolerance = share("tolerance", tolerance)
        self._model, self._prompt = model, tuple(prompt)
        self._head, self._seed = head, seed
        self._rows = [_Row((), 0, 0.0)]
        self.n_bytes = self.n_asked = 0
        self.dropped = 0.0

    def next(self) -> F64:
        """Log-probabilities of the 256 bytes and of the text's end (``END``), [257], natural.

        Raises:
            ContextFull: the text is longer than the context.
            GenerationError: llama.cpp reported a failure.
        """
        rows = [self._asked(row) for row in self._rows]
        top = max(row.weight for row in rows)
        masses = np.zeros(END + 1)
        for row in rows:
            low, high, following = self._model.vocabulary.beyond(row.written)
            factor = math.exp(row.weight - top)
            masses[:END] += factor * np.bincount(following, row.p[low:high], END)
            if not row.written:
                masses[END] += factor * row.silent
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(masses) - math.log(masses.sum()))

    def read(self, byte: int) -> None:
        """The text goes on with ``byte``.

        Raises:
            TokenizeError: no token can write it here.
        """
        following: list[_Row] = []
        for row in map(self._asked, self._rows):
            written = row.written + bytes([byte])
            for place in self._model.vocabulary.exactly(written):
                if (p := row.p[place]) > 0.0:
                    tokens = (*row.tokens, int(self._model.vocabulary.order[place]))
                    following.append(_Row(tokens, self.n_bytes + 1, row.weight + math.log(p)))
            low, high, _ = self._model.vocabulary.beyond(written)
            if (p := float(row.p[low:high].sum())) > 0.0:
                row.written, row.mass = written, math.log(p)
                following.append(row)
        if not following:
            raise TokenizeError(
                f"no token of {self._model.name} writes the byte {byte:#04x} at {self.n_bytes} of the text"
            )
        masses = np.array([row.weight + row.mass for row in following])
        shares = np.exp(masses - np.logaddexp.reduce(masses))
        kept = shares >= self._tolerance
        # The likeliest whose last token ends here: any byte may follow on it.
        whole = [row.weight if row.end > self.n_bytes else -math.inf for row in following]
        kept[int(np.argmax(whole if max(whole) > -math.inf else masses))] = True
        self.dropped -= math.log(shares[kept].sum() / shares.sum())
        self._rows = [row for row, keep in zip(following, kept, strict=True) if keep]
        self.n_bytes += 1

    def likeliest(self) -> tuple[int, tuple[float, ...]]:
        """Where the token began that is most probably being written, and the head's z of each expert there."""
        row = max(map(self._asked, self._rows), key=lambda row: row.weight + row.mass)
        return row.end, row.scores

    def _asked(self, row: _Row) -> _Row:
        if not row.asked:
            row.asked = True
            self.n_asked += 1
            logprobs, row.scores = self._model.after([*self._prompt, *row.tokens], self._head, self._seed)
            p = np.exp(logprobs)
            row.p, row.silent = p[self._model.vocabulary.order], float(p[self._model.vocabulary.silent].sum())
        return row
