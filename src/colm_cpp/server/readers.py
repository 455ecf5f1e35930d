"""Reading texts that are sent as they are written, at a small price for a token."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

from ..engine.stream import TokenStream
from ..results import Token

__all__ = ["TAKE_EVERY", "Reader", "Readers"]

TAKE_EVERY = 0.01  # seconds; tokens that come faster are sent together
TAKE_AT_LEAST_EVERY = 0.04  # where tokens come slower, each look in vain costs as much as one that finds some


class Reader:
    """Writes one text in a thread of its own, to its end. The thread stays in the extension, without the GIL."""

    def __init__(self, stream: TokenStream, at_end: Callable[[], None]) -> None:
        self._stream = stream
        self._at_end = at_end
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._tokens: list[Token] = []
        self._error: BaseException | None = None
        self._done = self._loop.create_future()
        threading.Thread(target=self._write, name="colm-text", daemon=True).start()

    def _write(self) -> None:
        try:
            self._stream.write()
        except BaseException as error:
            self._error = error
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        self.take()
        self._at_end()
        self._done.set_result(None)
        self._changed.set()

    def take(self) -> bool:
        """Takes what was written since the last time, if there is something. Only in the event loop."""
        tokens = self._stream.take()
        if tokens:
            self._tokens += tokens
            self._changed.set()
        return bool(tokens)

    async def __aiter__(self) -> AsyncIterator[list[Token]]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            done = self._done.done()
            bunch, self._tokens = self._tokens, []
            if bunch:
                yield bunch
            if done:
                break
        if self._error is not None:
            raise self._error

    async def ended(self) -> None:
        """Waits for the thread, whose text was cancelled."""
        await asyncio.shield(self._done)


class Readers:
    """All readers of an event loop. One timer takes what they have: a wake-up for every token would cost more than it.

    The timer has ``TAKE_EVERY`` seconds after it found tokens, and up to ``TAKE_AT_LEAST_EVERY`` where it found none.
    Models that need longer than that for a token lose half of it until its client sees it. Of fast ones several tokens
    are sent together.
    """

    def __init__(self) -> None:
        self._reading: set[Reader] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._every = TAKE_EVERY

    def read(self, stream: TokenStream, at_end: Callable[[], None]) -> Reader:
        """Begins to write a text. ``at_end`` is called when it has ended, in the event loop."""

        def ended() -> None:
            self._reading.discard(reader)
            at_end()

        reader = Reader(stream, ended)
        self._reading.add(reader)
        self._every = TAKE_EVERY
        if self._timer is None:
            self._later()
        return reader

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._every, self._take)

    def _take(self) -> None:
        self._timer = None
        found = [reader.take() for reader in self._reading]
        self._every = TAKE_EVERY if any(found) else min(2 * self._every, TAKE_AT_LEAST_EVERY)
        if self._reading:
            self._later()
