"""What a pair thinks of the next byte of a text, exactly: the reference for pairs of unlike vocabularies.

A pair mixes the distributions of its models (:mod:`.byte_reader`). Its head is asked where the token that the base is
most probably writing began, and says with which probability each model writes what follows. What was written since
then says who it probably is:

    P(byte) = sum_k w_k P_k(byte),   log w_k = log P(Z = k) + log P_k(bytes since then) + constant

with P(Z) the softmax over [0, z_1, .., z_K]. There is no threshold. Where both have one vocabulary and a text has one
row of tokens, this is the marginal likelihood that heads are trained with (Co-LLM, arXiv 2403.03870, equation 3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .. import _core
from .._shown import shown
from ..errors import HeadError, OptionError, TokenizeError
from ..options import BASE
from .byte_reader import END, F64, TOLERANCE, ByteModel, ByteReader

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..heads.head import Head

__all__ = ["END", "ByTokens", "ByteMixture", "ByteReader", "by_tokens", "byte_logprobs", "byte_reader"]

Prompt: TypeAlias = str | Mapping[str, str | Sequence[int]]


def byte_reader(
    pair: Pair,
    prompt: Prompt,
    model: str = BASE,
    *,
    head: _core.Head | None = None,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> ByteReader:
    """A model of a pair that reads a text byte by byte, with a context of its own.

    Args:
        pair: its weights are used.
        prompt: as for :meth:`colm_cpp.Pair.generate`. Token ids only in a dict by the names of models.
        model: whose.
        head: see :class:`ByteReader`, as are the others.
        seed: likewise.
        tolerance: likewise.

    Raises:
        OptionError: there is no such model, or ``tolerance`` is not from 0 to 1.
        TokenizeError: the prompt is none.
    """
    if not isinstance(prompt, str) and model not in prompt:
        raise TokenizeError(f"prompt has none for {shown(model)}; give text, or a dict with one for each model")
    tokens = pair.prompt_tokens(prompt if isinstance(prompt, str) else prompt[model], model=model)
    of_model = ByteModel(pair.open_core(), pair.names.index(model), model)
    return ByteReader(of_model, tokens, head=head, seed=seed, tolerance=tolerance)


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
        """Arguments and errors are those of :func:`byte_reader`; ``head``: as for :meth:`colm_cpp.Pair.generate`."""
        core = core_head(pair, head)
        self.readers = {
            name: byte_reader(pair, prompt, name, head=core if name == BASE else None, seed=seed, tolerance=tolerance)
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
        model = ByteModel(pair.open_core(), number, name)
        ends = np.cumsum([len(model.pieces[token]) for token in tokens[len(before) :]])
        if tokens[: len(before)] != before or (ends[-1] if len(ends) else 0) != n_bytes:
            raise OptionError(f"a token of {name} spans the end of the prompt; end the prompt where a word ends")
        total, of_model = 0.0, {0: 0.0}
        for i, end in enumerate(ends, start=len(before)):
            logprobs, scores = model.after(tokens[:i], head_core if name == BASE else None, seed)
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
