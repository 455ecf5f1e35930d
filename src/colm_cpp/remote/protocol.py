"""What the engine needs of a model on another machine, whatever its server speaks."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .._shown import shown
from ..errors import RemoteVocabularyMismatch
from ._http import OTHER_KIND, Http, invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "MOST_POSITIONS",
    "PROBES",
    "Likeliest",
    "RemoteModel",
    "Vocabulary",
    "check_vocabulary",
    "count_of",
    "likeliest_of",
]

MOST_POSITIONS = 16  # of one text in one call
# Of all positions of an answer in JSON, where each takes some 100 bytes: so many stay below _http.MOST_BYTES.
_MOST_IDS = 2**19
# Texts on which tokenizers differ: spaces, digits, capitals, accents, other scripts, code, an emoji.
PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    "  two spaces,\tone tab\n\nand a blank line",
    "3.14159 and 1234567890 and 007",
    "CamelCase snake_case kebab-case",
    "naïve café, Zürich",
    "для примера 你好 こんにちは",
    "for (int i = 0; i < n; ++i) { x[i] += y[i]; }",
    "🙂",
)
# Rounding of float32 probabilities that a server adds up.
_ROUNDING = 1e-3
# Tokens that fine-tuning adds at the end of one of two vocabularies, and padding.
_MOST_TAIL = 256
# Of float32 probabilities none but 0 is that small; some servers write its logarithm as the least number there is.
_NEVER = -1e4


@dataclass(frozen=True, slots=True)
class Likeliest:
    """A next-token distribution of which only the likeliest tokens are known.

    Attributes:
        ids: their ids, in order of probability, the likeliest first.
        logprobs: the natural logarithm of each one's probability among all tokens of the vocabulary.
        tail: the probability of all other ids together, 0 to 1.
    """

    ids: Sequence[int]
    logprobs: Sequence[float]
    tail: float


class Vocabulary(Protocol):
    """The base's vocabulary, as far as a server can be compared with it."""

    @property
    def n_ids(self) -> int:
        """How many ids, from 0, may be generated."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names the ids and their texts, as ``colm serve`` does."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """A text's ids, without BOS, special tokens as plain text."""
        ...


class RemoteModel(abc.ABC):
    """A pool of connections to one model. Its methods are called from several threads.

    Attributes:
        protocol: what its server speaks, such as ``"llama-server"``.
        name: as shown in messages.
        top_k: the most ids that an answer names; 0: all.
        n_ctx: the most tokens of a text. Known after :meth:`check`.
        n_vocab: ids of the server's model, known after :meth:`check`; None: the server does not say.
        most_ids: the most ids of all positions of an answer.
    """

    protocol: str
    n_ctx: int = 0
    n_vocab: int | None = None
    most_ids: int = _MOST_IDS

    def __init__(self, url: str, *, key: str | None, timeout: float, retries: int, top_k: int) -> None:
        """Connects to nothing yet.

        Args:
            url: ``http(s)://host:port``; see each protocol.
            key, timeout, retries: see :class:`._http.Http`.
            top_k: how many of the likeliest ids to ask for; 0: all, or as many as the protocol usually gives.

        Raises:
            OptionError: the URL cannot be used.
        """
        self._http = Http(url, key=key, timeout=timeout, retries=retries)
        self.name, self.top_k = self._http.url, top_k

    @abc.abstractmethod
    def check(self, vocabulary: Vocabulary) -> None:
        """Asks the server what it is. Called once, before any other method.

        Raises:
            RemoteVocabularyMismatch: its model has fewer ids than the base, or tokenizes a text otherwise.
            RemoteError: see there.
        """

    @abc.abstractmethod
    def likeliest(self, slot: int, tokens: Sequence[int], counts: Sequence[int]) -> list[Likeliest]:
        """The next-token distribution after ``tokens[:count]``, for each of ``counts``. Blocks.

        Args:
            slot: a number of the text, from 0. The next text with this number takes its place.
            tokens: the text's ids.
            counts: ascending, 1 to ``len(tokens)`` each, at most :attr:`n_positions`.

        Raises:
            RemoteError: see there.
        """

    def likeliest_while(
        self, slot: int, tokens: Sequence[int], counts: Sequence[int], wanted: Callable[[], bool]
    ) -> list[Likeliest]:
        """:meth:`likeliest`, whose request is broken off soon after ``wanted`` returns False.

        Raises:
            RemoteUnreachable: nobody wants the answer.
            RemoteError: see there.
        """
        with self._http.while_wanted(wanted):
            return self.likeliest(slot, tokens, counts)

    @property
    def n_positions(self) -> int:
        """The most positions of a call, 1 to :data:`MOST_POSITIONS`: fewer where each names a large part of the
        vocabulary. Known after :meth:`check`."""
        n_ids = self.n_vocab or _MOST_IDS
        return max(1, min(MOST_POSITIONS, self.most_ids // min(self.top_k or n_ids, n_ids)))

    def close(self) -> None:
        """Ends calls in progress, which raise RemoteUnreachable, and closes the connections."""
        self._http.close()


def likeliest_of(url: str, ids: Iterable[Any], logprobs: Iterable[Any], tail: float | None = None) -> Likeliest:
    """Checks what a server said of one distribution, and puts it in order.

    Args:
        url: the server, for messages.
        ids: ids of tokens, in any order.
        logprobs: of each the natural logarithm of its probability.
        tail: the probability of all others; None: what is left of 1.

    Raises:
        RemoteAnswerInvalid: there are none, an id is no whole number or comes twice, or they are no probabilities.
    """
    found: dict[int, float] = {}
    for token, logprob in zip(ids, logprobs, strict=True):
        if type(token) is not int or not 0 <= token < 2**31:
            raise invalid(url, f"a token's id is {shown(token)}")
        if token in found:
            raise invalid(url, f"token {token} comes twice in one distribution")
        if type(logprob) not in (int, float) or not logprob <= _ROUNDING:
            raise invalid(url, f"the log-probability of token {token} is {shown(logprob)}, which is no number up to 0")
        if logprob > _NEVER:
            found[token] = min(float(logprob), 0.0)
    if not found:
        raise invalid(url, "a distribution names no token")
    ordered = sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))  # of equals the first, as a local model
    total = math.fsum(math.exp(logprob) for logprob in found.values())
    if tail is not None and not 0.0 <= tail <= 1.0 + _ROUNDING:
        raise invalid(url, f"the probability of all other tokens is {shown(tail)}; it must be from 0 to 1")
    if not total + (tail or 0.0) <= 1.0 + _ROUNDING:
        raise invalid(url, f"the probabilities of a distribution add up to {total + (tail or 0.0):.6g}")
    return Likeliest(
        tuple(token for token, _ in ordered),
        tuple(logprob for _, logprob in ordered),
        max(0.0, 1.0 - total) if tail is None else min(float(tail), 1.0),
    )


def count_of(url: str, value: Any, what: str) -> int:
    """A number of tokens or slots in an answer. Raises RemoteAnswerInvalid where it is none from 1 to 2^31 - 1."""
    if type(value) is not int or not 1 <= value < 2**31:
        raise invalid(url, f"{what} is {shown(value)}; it must be a whole number from 1 to 2147483647")
    return value


def check_vocabulary(url: str, vocabulary: Vocabulary, n_vocab: int | None, tokenize: Any) -> None:
    """Compares a server's vocabulary with the base's.

    Args:
        url: the server, for messages.
        vocabulary: the base's.
        n_vocab: how many ids the server's model has; None: it does not say.
        tokenize: takes a text of :data:`PROBES`, returns the server's ids for it, without BOS.

    Raises:
        RemoteVocabularyMismatch: they are not one vocabulary.
        RemoteAnswerInvalid: the server has no tokens at all for a text.
    """
    if n_vocab is not None and n_vocab + _MOST_TAIL < vocabulary.n_ids:
        raise _mismatch(url, f"it has {n_vocab} token ids and the base has {vocabulary.n_ids}")
    for text in PROBES:
        theirs, own = list(tokenize(text)), vocabulary.tokenize(text)
        if not theirs and own:  # so a llama-server answers what vLLM is asked
            raise invalid(url, f"it has no tokens for {text!a}; {OTHER_KIND}")
        if theirs != own:
            raise _mismatch(url, f"it reads {text!a} as the tokens {shown(theirs)}, and the base as {shown(own)}")


def _mismatch(url: str, reason: str) -> RemoteVocabularyMismatch:
    error = RemoteVocabularyMismatch(
        f"the model at {url} has another vocabulary than the base: {reason}. A model on another machine must be of the "
        "base's family"
    )
    error.url, error.reason = url, reason
    return error
