"""Texts for models of unlike vocabularies: each has its own tokens, and all share the places where a token ends.

Where a token of every model ends, and no character is cut, is a shared boundary. There the text could be handed over
(docs/decisions/0023: the text that follows says that a token ends there). What lies between two of them is a segment:
a few tokens of each model with the same bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import ChatTemplateError, TokenizeError
from .documents import BadRow, Document
from .texts import TextMaker, runs, unusable

__all__ = ["Reader", "Segment", "SharedText", "SharedTextMaker", "shared_ends"]


@dataclass(frozen=True, slots=True)
class Segment:
    """What lies between two shared boundaries.

    Attributes:
        spans: for each model, in order, its tokens: the first, and the one behind the last.
        n_bytes: of its text; 0 for the token that ends a text.
    """

    spans: tuple[tuple[int, int], ...]
    n_bytes: int

    def moved(self, by: Sequence[int]) -> Segment:
        """The same segment where so many more tokens of each model stand before it."""
        return replace(self, spans=tuple((a + n, b + n) for (a, b), n in zip(self.spans, by, strict=True)))


@dataclass(frozen=True, slots=True)
class SharedText:
    """One text in the tokens of each model. It has a :class:`.texts.Text`'s place.

    Attributes:
        path: the file of its document.
        line: the document's line; 0 for a plain text file.
        tokens_of: ids by the names of the models, the base first.
        segments: what is scored, in order.
        truncated: whether the document was longer than a context.
    """

    path: str
    line: int
    tokens_of: Mapping[str, tuple[int, ...]]
    segments: tuple[Segment, ...]
    truncated: bool = False

    @property
    def tokens(self) -> tuple[int, ...]:
        """The base's ids."""
        return next(iter(self.tokens_of.values()))

    @property
    def n_scored(self) -> int:
        """Segments to score."""
        return len(self.segments)

    @property
    def size(self) -> int:
        """Tokens of the model with the most of them."""
        return max(map(len, self.tokens_of.values()))

    def scored(self, model: int) -> list[bool]:
        """For each token of a model, by its number, whether it is scored."""
        marks = [False] * len(list(self.tokens_of.values())[model])
        for segment in self.segments:
            first, last = segment.spans[model]
            marks[first:last] = [True] * (last - first)
        return marks


@dataclass(frozen=True)
class Reader:
    """A model that reads texts.

    Attributes:
        maker: makes its tokens.
        pieces: the bytes of tokens, control tokens as they are written.
        eog: the tokens that end a text.
    """

    maker: TextMaker
    pieces: Callable[[Sequence[int]], list[bytes]]
    eog: frozenset[int]


def shared_ends(pieces: Sequence[Sequence[bytes]]) -> tuple[bytes, npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]:
    """The shared boundaries of a text.

    Args:
        pieces: for each model the bytes of its tokens of the text. The space that SPM puts before a text may be there.

    Returns:
        The text; the bytes before each boundary behind its begin, ``[n]``, ascending; and for each model the tokens
        before each boundary, ``[n]``.

    Raises:
        TokenizeError: the tokens of two models are different texts.
    """
    data = [b"".join(of_model) for of_model in pieces]
    text = min(data, key=len)
    ends: list[npt.NDArray[np.int64]] = []
    for own, of_model in zip(data, pieces, strict=True):
        added = len(own) - len(text)
        if own not in (text, b" " + text):
            at = next((i for i, (a, b) in enumerate(zip(text, own, strict=False)) if a != b), len(text))
            raise TokenizeError(
                f"its models do not read the same text: {text[at : at + 20]!r} and {own[at : at + 20]!r} stand behind "
                f"{at} bytes; a tokenizer or a chat template changes it"
            )
        ends.append(np.cumsum([len(piece) for piece in of_model], dtype=np.int64) - added)
    shared = ends[0]
    for own_ends in ends[1:]:
        shared = np.intersect1d(shared, own_ends)
    bytes_ = np.frombuffer(text + b" ", np.uint8)
    shared = shared[(shared > 0) & ((bytes_[np.maximum(shared, 0)] & 0xC0) != 0x80)]
    return text, shared, [np.searchsorted(own, shared, side="right").astype(np.int64) for own in ends]


class SharedTextMaker:
    """Turns documents into texts of models with unlike vocabularies."""

    def __init__(self, readers: Mapping[str, Reader], *, n_ctx: int) -> None:
        """Args:
        readers: by the names of the models, the base first.
        n_ctx: tokens that a text may have at most, for each model.
        """
        self._readers = dict(readers)
        self.n_ctx = n_ctx
        base = next(iter(self._readers.values())).maker
        self.chat = base.chat
        self.bos = base.bos

    def __call__(self, document: Document) -> Iterator[SharedText | BadRow]:
        """The texts of a document: one, or for a long plain text several, which end at shared boundaries."""
        bad = unusable(document, tuple(self._readers)[1:], chat=self.chat)
        if bad is not None:
            yield bad
            return
        try:
            tokens, segments = self._read(document)
        except (ChatTemplateError, TokenizeError) as error:
            yield BadRow(document.path, document.line, str(error))
            return
        if document.messages or document.prompt:
            yield self._whole(document, tokens, segments)
        else:
            yield from self._parts(document, tokens, segments)

    def _read(self, document: Document) -> tuple[list[list[int]], list[Segment]]:
        """The tokens of each model, and all segments. Those of a plain text begin behind BOS, which is left out."""
        plain = not document.messages and not document.prompt
        tokens: list[list[int]] = []
        scored: list[list[tuple[int, int]]] = []
        for reader in self._readers.values():
            # Tokens of a reply that are known are of one vocabulary; the text is of all.
            ids, marks = reader.maker.read(replace(document, completion_ids=()))
            if plain:
                n_bos = len(reader.maker.bos)
                ids, marks = ids[n_bos:], marks[n_bos:]
            tokens.append(ids)
            scored.append(runs(marks))
        if len({len(of_model) for of_model in scored}) > 1:
            raise ChatTemplateError("the chat templates of its models make different numbers of turns of it")
        segments: list[Segment] = []
        last = len(scored[0]) - 1
        for number, spans in enumerate(zip(*scored, strict=True)):
            segments += self._segments(tokens, spans, ended=document.ended or number < last)
        return tokens, segments

    def _segments(
        self, tokens: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]], *, ended: bool
    ) -> Iterator[Segment]:
        """Those of one run of each model's tokens. The token that ends a turn is a segment of its own."""
        readers = list(self._readers.values())
        firsts, lasts = zip(*spans, strict=True)
        ends = [ids[last - 1] in reader.eog for ids, last, reader in zip(tokens, lasts, readers, strict=True)]
        behind = [last - end for last, end in zip(lasts, ends, strict=True)]
        own = zip(tokens, firsts, behind, readers, strict=True)
        _, at, counts = shared_ends([reader.pieces(ids[first:last]) for ids, first, last, reader in own])
        before, at_before = firsts, 0
        for i, end in enumerate(at.tolist()):
            now = tuple(first + int(count[i]) for first, count in zip(firsts, counts, strict=True))
            yield Segment(tuple(zip(before, now, strict=True)), end - at_before)
            before, at_before = now, end
        if ended and all(ends):
            yield Segment(tuple((n, n + 1) for n in behind), 0)

    def _whole(self, document: Document, tokens: list[list[int]], segments: list[Segment]) -> SharedText | BadRow:
        kept = list(itertools.takewhile(lambda segment: all(last <= self.n_ctx for _, last in segment.spans), segments))
        if not kept:
            reason = f"its prompt alone fills the context of {self.n_ctx} tokens" if segments else "too short"
            return BadRow(document.path, document.line, reason)
        lasts = [last for _, last in kept[-1].spans]
        read = {name: tuple(ids[:n]) for name, ids, n in zip(self._readers, tokens, lasts, strict=True)}
        return SharedText(document.path, document.line, read, tuple(kept), len(kept) < len(segments))

    def _parts(
        self, document: Document, tokens: list[list[int]], segments: list[Segment]
    ) -> Iterator[SharedText | BadRow]:
        every_bos = [reader.maker.bos for reader in self._readers.values()]
        room = [self.n_ctx - len(bos) for bos in every_bos]
        begin = n_made = 0
        while begin < len(segments):
            firsts = [first for first, _ in segments[begin].spans]
            end = begin
            while end < len(segments) and all(
                last - first <= n for (_, last), first, n in zip(segments[end].spans, firsts, room, strict=True)
            ):
                end += 1
            if end == begin:
                yield BadRow(
                    document.path,
                    document.line,
                    f"{segments[begin].n_bytes} bytes of it have no boundary that the models share, and fill the "
                    f"context of {self.n_ctx} tokens",
                )
                begin, n_made = begin + 1, n_made + 1
                continue
            lasts = [last for _, last in segments[end - 1].spans]
            moved = [len(bos) - first for bos, first in zip(every_bos, firsts, strict=True)]
            # Without BOS nothing stands before the first token.
            unread = 0 if all(every_bos) else 1
            chosen = tuple(segment.moved(moved) for segment in segments[begin + unread : end])
            read = {
                name: (*bos, *ids[first:last])
                for name, bos, ids, first, last in zip(self._readers, every_bos, tokens, firsts, lasts, strict=True)
            }
            if chosen:
                yield SharedText(document.path, document.line, read, chosen)
                n_made += 1
            begin = end
        if not n_made:
            yield BadRow(document.path, document.line, "too short")
