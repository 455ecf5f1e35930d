"""What models think of the next byte of a text, exactly: the reference for pairs of unlike vocabularies.

A model writes tokens, and many rows of tokens write the same bytes. Those that count here are all whose bytes begin
with the text and whose last token reaches its end or goes beyond it: P(text) is the sum of their probabilities
(the covering of Phan et al., arXiv 2410.09303; ByteSampler, arXiv 2506.14123, keeps those rows alone that the
tokenizer itself would write). The next byte's distribution is a quotient of two such sums. Each row is a context that
the model reads, so this is slow. Rows that hardly count are dropped (``tolerance``).

A pair mixes these distributions. Its head is asked where the token that the base is most probably writing began, and
says with which probability each model writes what follows. What was written since then says who it probably is:

    P(byte) = sum_k w_k P_k(byte),   log w_k = log P(Z = k) + log P_k(bytes since then) + constant

with P(Z) the softmax over [0, z_1, .., z_K]. There is no threshold. Where both have one vocabulary and a text has one
row of tokens, this is the marginal likelihood that heads are trained with (Co-LLM, arXiv 2403.03870, equation 3).
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import _core
from .._numbers import share
from .._shown import shown
from ..errors import HeadError, OptionError, TokenizeError
from ..llama.busy import busy
from ..options import BASE

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..heads.head import Head

__all__ = ["END", "ByTokens", "ByteMixture", "ByteReader", "by_tokens", "byte_logprobs"]

F64: TypeAlias = npt.NDArray[np.float64]
Prompt: TypeAlias = str | Mapping[str, str | Sequence[int]]

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
        pair: Pair,
        prompt: Prompt,
        model: str = BASE,
        *,
        head: _core.Head | None = None,
        seed: int = 0,
        tolerance: float = TOLERANCE,
    ) -> None:
        """The text begins behind ``prompt``, which stays the tokens that it is.

        Args:
            pair: its weights are used, with a context of its own.
            prompt: as for :meth:`colm_cpp.Pair.generate`. Token ids only in a dict by the names of models.
            model: whose.
            head: the extension's head, of the base.
            seed: of the random head.
            tolerance: rows with less than this share of the text's probability are dropped. 0: none. The likeliest one
                that ends where the text does always stays.

        Raises:
            OptionError: there is no such model, or ``tolerance`` is not from 0 to 1.
            TokenizeError: the prompt is none.
        """
        self._tolerance = share("tolerance", tolerance)
        if not isinstance(prompt, str) and model not in prompt:
            raise TokenizeError(f"prompt has none for {shown(model)}; give text, or a dict with one for each model")
        self._prompt = pair.prompt_tokens(prompt if isinstance(prompt, str) else prompt[model], model=model)
        with busy():
            self._reader = _core.TextReader(pair.open_core(), pair.names.index(model))
            self._vocabulary = _Vocabulary(self._reader.pieces())
        self._model, self._head, self._seed = model, head, seed
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
            low, high, following = self._vocabulary.beyond(row.written)
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
            for place in self._vocabulary.exactly(written):
                if (p := row.p[place]) > 0.0:
                    tokens = (*row.tokens, int(self._vocabulary.order[place]))
                    following.append(_Row(tokens, self.n_bytes + 1, row.weight + math.log(p)))
            low, high, _ = self._vocabulary.beyond(written)
            if (p := float(row.p[low:high].sum())) > 0.0:
                row.written, row.mass = written, math.log(p)
                following.append(row)
        if not following:
            raise TokenizeError(f"no token of {self._model} writes the byte {byte:#04x} at {self.n_bytes} of the text")
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
            logprobs, row.scores = after(self._reader, [*self._prompt, *row.tokens], self._head, self._seed)
            p = np.exp(logprobs)
            row.p, row.silent = p[self._vocabulary.order], float(p[self._vocabulary.silent].sum())
        return row


def after(
    reader: _core.TextReader, tokens: Sequence[int], head: _core.Head | None, seed: int
) -> tuple[F64, tuple[float, ...]]:
    """Log-probabilities behind tokens, whose exponentials sum to 1, and the head's z."""
    with busy():
        raw, scores = reader.after(tokens, head, seed)
    logprobs = raw.astype(np.float64)
    return logprobs - np.logaddexp.reduce(logprobs), tuple(scores)


def log_priors(scores: Sequence[float]) -> F64:
    """log P(Z = k) of the base and each expert, from the head's z."""
    z = np.array([0.0, *scores])
    if math.isinf(z.max()):
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(np.isposinf(z) / np.isposinf(z).sum()))
    return np.asarray(z - np.logaddexp.reduce(z))


class ByteMixture:
    """A pair that reads a text byte by byte: see the top of this module.

    Attributes:
        readers: of the models by their names, the base first.
    """

    def __init__(
        self,
        pair: Pair,
        prompt: Prompt,
        *,
        head: Head | str | None = None,
        seed: int = 0,
        tolerance: float = TOLERANCE,
    ) -> None:
        """Arguments and errors are those of :class:`ByteReader`; ``head``: as for :meth:`colm_cpp.Pair.generate`."""
        core = core_head(pair, head)
        self.readers = {
            name: ByteReader(pair, prompt, name, head=core if name == BASE else None, seed=seed, tolerance=tolerance)
            for name in pair.names
        }
        self._read = np.zeros((1, len(self.readers)))  # log P_k of the bytes so far, [n_bytes + 1, K + 1]
        self._next: F64 | None = None  # of each, [K + 1, 257]

    def weights(self) -> F64:
        """log P(who writes the next byte), the base first, [K + 1]."""
        begin, scores = self.readers[BASE].likeliest()
        weights = log_priors(scores) + self._read[-1] - self._read[begin]
        return np.asarray(weights - np.logaddexp.reduce(weights))

    def sums(self) -> F64:
        """log P_k of all bytes that were read, by each model alone, the base first, [K + 1]."""
        return np.asarray(self._read[-1])

    def next(self) -> F64:
        """As :meth:`ByteReader.next`, of the pair."""
        return np.asarray(np.logaddexp.reduce(self._each() + self.weights()[:, None], axis=0))

    def read(self, byte: int) -> None:
        """The text goes on with ``byte``. Errors are those of :meth:`ByteReader.read`."""
        self._read = np.vstack([self._read, self._read[-1] + self._each()[:, byte]])
        self._next = None
        for reader in self.readers.values():
            reader.read(byte)

    def _each(self) -> F64:
        if self._next is None:
            self._next = np.stack([reader.next() for reader in self.readers.values()])
        return self._next


def core_head(pair: Pair, head: Head | str | None) -> _core.Head:
    """The head of a call, or the pair's own, as the extension takes it."""
    chosen = pair.head if head is None else head
    if chosen is None:
        raise HeadError("this pair has no deferral head; give head=")
    return pair.prepared_head(chosen).core


def byte_logprobs(reader: ByteReader | ByteMixture, text: bytes) -> F64:
    """Log-probabilities of the bytes of ``text``, each behind those before, natural. The reader has read them then."""
    found = []
    for byte in text:
        found.append(reader.next()[byte])
        reader.read(byte)
    return np.array(found)


@dataclass(frozen=True)
class ByTokens:
    """Log-probabilities of a text by tokens, as each model's tokenizer makes them.

    Attributes:
        models: of each model alone, by its name.
        pair: of the pair: between two places where a token of each model ends, one of them writes. The head is asked
            at each such place.
        n_spans: how many such places there are.
    """

    models: dict[str, float]
    pair: float
    n_spans: int


def by_tokens(pair: Pair, prompt: str, text: str, *, head: Head | str | None = None, seed: int = 0) -> ByTokens:
    """The probability of ``text`` as a pair of unlike vocabularies reads and writes it: nothing is summed.

    Raises:
        OptionError: a token of a model spans the end of ``prompt``.
    """
    head_core = core_head(pair, head)
    n_bytes = len(text.encode())
    sums: list[dict[int, float]] = []  # of each model, by places in the text
    z: dict[int, tuple[float, ...]] = {}
    for number, name in enumerate(pair.names):
        before = pair.prompt_tokens(prompt, model=name)
        tokens = pair.tokenize(prompt + text, model=name)
        with busy():
            reader = _core.TextReader(pair.open_core(), number)
            pieces = reader.pieces()
        ends = np.cumsum([len(pieces[token]) for token in tokens[len(before) :]])
        if tokens[: len(before)] != before or (ends[-1] if len(ends) else 0) != n_bytes:
            raise OptionError(f"a token of {name} spans the end of the prompt; end the prompt where a word ends")
        total, of_model = 0.0, {0: 0.0}
        for i, end in enumerate(ends, start=len(before)):
            logprobs, scores = after(reader, tokens[:i], head_core if name == BASE else None, seed)
            if name == BASE:
                z[max(of_model)] = scores
            total += float(logprobs[tokens[i]])
            of_model[int(end)] = total
        sums.append(of_model)
    places = sorted(set.intersection(*map(set, sums)))
    places = [at for at in places if at == n_bytes or text.encode()[at] & 0xC0 != 0x80]
    found = 0.0
    for begin, end in itertools.pairwise(places):
        spans = np.array([of_model[end] - of_model[begin] for of_model in sums])
        found += float(np.logaddexp.reduce(log_priors(z[begin]) + spans))
    return ByTokens({name: of[n_bytes] for name, of in zip(pair.names, sums, strict=True)}, found, len(places) - 1)
