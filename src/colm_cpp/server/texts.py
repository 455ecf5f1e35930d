"""Texts of requests while they are written."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from ..engine.aio import AsyncTokenStream
from ..engine.own_prompts import prompts_tokens
from ..engine.pair import Pair
from ..engine.stream import TokenStream
from ..errors import PairClosed
from ..options import GenerationOptions
from ..results import Completion, Stats, Token
from .admission import Turns
from .readers import Readers

__all__ = ["Text", "Texts"]


class Texts:
    """The texts that are being written, so that the end of the server can end them.

    Attributes:
        closing: whether no text begins any more.
        readers: of those that are sent as they are written.
    """

    def __init__(self) -> None:
        self._streams: set[TokenStream] = set()
        self.readers = Readers()
        self.closing = False

    def add(self, stream: TokenStream) -> None:
        """A text that has a turn."""
        if self.closing:
            raise PairClosed("the server is shutting down; ask another one, or later")
        self._streams.add(stream)

    def remove(self, stream: TokenStream) -> None:
        """A text that has ended."""
        self._streams.discard(stream)

    def refuse(self) -> None:
        """No text begins any more."""
        self.closing = True

    def cancel(self) -> None:
        """Ends all texts within one step."""
        self.refuse()
        for stream in list(self._streams):
            stream.cancel()

    def __len__(self) -> int:
        return len(self._streams)


class Text:
    """One text of a request. Invalid arguments raise when it is made, in whatever thread that is."""

    def __init__(
        self, pair: Pair, prompt: Sequence[int] | Mapping[str, Sequence[int]], options: GenerationOptions
    ) -> None:
        self.pair = pair
        tokens, own = prompts_tokens(pair, prompt)
        self._stream = pair.begin(tokens, options, own_prompts=own)
        self.n_prompt = len(tokens)

    @property
    def finish_reason(self) -> str | None:
        """See :class:`.TokenStream`."""
        return self._stream.finish_reason

    @property
    def stats(self) -> Stats:
        """Counts and times so far."""
        return self._stream.stats

    @property
    def end_token(self) -> Token | None:
        """The token that ended the text, if one did."""
        return self._stream.completion().end_token

    @property
    def n_cached(self) -> int:
        """Tokens of the prompt that the model which read it first had read before."""
        return next((at for _, at, *_ in self._stream.calls), 0)

    def progress(self) -> str:
        """What is being done for it, in words."""
        if not self._stream.begun:
            return "waiting for a slot"
        stats = self.stats
        if stats.generated_tokens:
            return f"written {stats.generated_tokens} tokens"
        return f"prefill {min(stats.base_tokens_read, self.n_prompt)}/{self.n_prompt} tokens"

    def close(self) -> None:
        """Ends it where it stands."""
        self._stream.close()

    async def completion(self, turns: Turns, texts: Texts) -> Completion:
        """The whole text, once it has a turn. If the task is cancelled, so is the text."""
        async with turns.turn():
            texts.add(self._stream)
            try:
                written = await AsyncTokenStream(self._stream).completion()
            finally:
                texts.remove(self._stream)
        self._refuse_cancelled()
        return written

    async def likeliest(self, texts: Texts) -> list[tuple[int, float]]:
        """The likeliest ids behind its prompt, where whoever asks has a turn. See :meth:`.TokenStream.likeliest`."""
        texts.add(self._stream)
        try:
            return await AsyncTokenStream(self._stream).likeliest()
        finally:
            texts.remove(self._stream)

    async def bunches(self, turns: Turns, texts: Texts) -> AsyncIterator[list[Token]]:
        """Its tokens as they are written, those that are there at the same time together.

        A thread writes it ahead. With a round through the event loop for each token, the text would miss steps that
        other texts make. Its turn ends when it is written, however slowly its client reads.
        """
        await turns.take()
        try:
            texts.add(self._stream)
        except BaseException:
            turns.give_back()
            raise

        def ended() -> None:
            texts.remove(self._stream)
            turns.give_back()

        reader = texts.readers.read(self._stream, ended)
        try:
            async for bunch in reader:
                yield bunch
        finally:
            self._stream.cancel()
            await reader.ended()
        self._refuse_cancelled()

    def _refuse_cancelled(self) -> None:
        if self.finish_reason == "cancelled":
            raise PairClosed("the text was cancelled, because the server is shutting down")
