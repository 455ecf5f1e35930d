"""Who may write now: each pair has slots, and a queue before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from .errors import ApiError

__all__ = ["Turns"]

RETRY_AFTER = 1  # seconds


class Turns:
    """The turns of one pair: as many texts write as it has slots, others wait in the order of asking.

    As many texts again wait in the pair itself. So when several texts end in one step, the next step begins as many
    others, and reads their prompts in one batch.

    Attributes:
        slots: texts that write at a time.
        most_waiting: texts that may wait.
    """

    def __init__(self, slots: int, most_waiting: int) -> None:
        self.slots = slots
        self.most_waiting = most_waiting
        self._open = 0  # texts of requests that were admitted
        self._given = 0  # those that were given to the pair
        self._free = asyncio.Semaphore(2 * slots)

    @property
    def writing(self) -> int:
        """Texts that write now."""
        return min(self._given, self.slots)

    @property
    def waiting(self) -> int:
        """Texts that wait now."""
        return self._open - self.writing

    @contextlib.contextmanager
    def admitted(self, n_texts: int) -> Iterator[None]:
        """A request with so many texts. A request that finds room may bring more texts than there is room for.

        Raises:
            ApiError: 503, the queue is full.
        """
        if self._open >= self.slots + self.most_waiting:
            raise ApiError(
                503,
                f"{self.writing} texts are being written and {self.waiting} wait (at most {self.most_waiting}); try "
                "again later",
                code="queue_full",
                retry_after=RETRY_AFTER,
            )
        self._open += n_texts
        try:
            yield
        finally:
            self._open -= n_texts

    async def take(self) -> None:
        """Waits until one text of an admitted request may go to the pair. :meth:`give_back` ends its turn."""
        await self._free.acquire()
        self._given += 1

    def give_back(self) -> None:
        """The text has ended."""
        self._given -= 1
        self._free.release()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn for the length of a block."""
        await self.take()
        try:
            yield
        finally:
            self.give_back()
