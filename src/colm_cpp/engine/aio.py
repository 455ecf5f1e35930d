"""The same calls for asyncio. Each text is read by a thread of its own, so the event loop never waits for a model."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ..errors import ColmError
from ..results import Completion, FinishReason, Stats, Token
from .batch import in_order

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from ..chat.messages import Message
    from ..options import GenerationOptionsDict
    from .batch import BatchStream
    from .pair import BatchOptionsDict, ChatOptionsDict
    from .prompts import Prompt
    from .stream import TokenStream

__all__ = ["AsyncBatchStream", "AsyncForms", "AsyncTokenStream"]

_T = TypeVar("_T")
_Item = TypeVar("_Item")


class _Worker:
    """A thread that does one thing after another, as long as somebody asks it to."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def do(self, work: Callable[[], _T], stop: Callable[[], None]) -> _T:
        """What ``work`` returns. If the task is cancelled, ``stop`` makes ``work`` end soon, and it is waited for."""
        import asyncio  # whoever calls this has imported it, and others start sooner without

        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def give(result: _T | None, error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(cast(_T, result))
            else:
                done.set_exception(error)

        def run() -> None:
            result: _T | None = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(give, result, error)

        if self._thread is None:
            # A daemon: the end of the interpreter ends texts, and does not wait for them.
            self._thread = threading.Thread(target=_serve, args=(self._work,), name="colm-reader", daemon=True)
            self._thread.start()
        self._work.put(run)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            stop()
            await asyncio.wait([done])
            if not done.cancelled():
                done.exception()  # nobody else looks at it
            raise

    async def do_last(self, work: Callable[[], _T], stop: Callable[[], None]) -> _T:
        """:meth:`do`, and then :meth:`close`."""
        try:
            return await self.do(work, stop)
        finally:
            self.close()

    def close(self) -> None:
        """Ends the thread after what it was asked. Later work gets another one."""
        if self._thread is not None:
            self._work.put(None)
            self._work, self._thread = queue.SimpleQueue(), None


def _serve(given: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (work := given.get()) is not None:
        work()


class _AsyncStream(Generic[_Item]):
    """An async iterator over a stream. Cancelling the task that waits for it cancels its texts."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._worker = _Worker()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Item:
        item = await self._worker.do(lambda: next(self._stream, None), self._stream.cancel)
        if item is None:
            self._worker.close()
            raise StopAsyncIteration
        return cast(_Item, item)

    def cancel(self) -> None:
        """Asks the texts to end as ``cancelled`` within one step."""
        self._stream.cancel()

    async def aclose(self) -> None:
        """Ends the texts where they stand; further iteration stops at once."""
        self._stream.close()
        self._worker.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._worker.close()


class AsyncTokenStream(_AsyncStream[Token]):
    """An async iterator over the tokens of one text, made by ``pair.astream()``; see :class:`TokenStream`."""

    _stream: TokenStream

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the text ended. None while it is being written, and if it was left early."""
        return self._stream.finish_reason

    @property
    def seed(self) -> int:
        """The seed in use."""
        return self._stream.seed

    @property
    def stats(self) -> Stats:
        """Counts and times so far. Errors are those of :attr:`TokenStream.stats`."""
        return self._stream.stats

    async def completion(self) -> Completion:
        """Runs the stream to its end and returns the whole text. Errors are those of :meth:`TokenStream.completion`."""
        return await self._worker.do_last(self._stream.completion, self._stream.cancel)

    async def likeliest(self) -> list[tuple[int, float]]:
        """The likeliest ids at its first position. Errors are those of :meth:`TokenStream.likeliest`."""
        return await self._worker.do_last(self._stream.likeliest, self._stream.cancel)


class AsyncBatchStream(_AsyncStream[tuple[int, Completion | ColmError]]):
    """An async iterator over texts that are written together, made by ``pair.astream_batch()``.

    See :class:`BatchStream`. An iterable of prompts is read in another thread.
    """

    _stream: BatchStream


class AsyncForms:
    """The async methods of :class:`Pair`. Arguments and errors are those of the method without the ``a``."""

    async def agenerate(
        self,
        prompt: Prompt,
        *,
        queue_timeout: float | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> Completion:
        """:meth:`Pair.generate`. Cancelling the task cancels the text."""
        return await self.astream(prompt, queue_timeout=queue_timeout, **options).completion()

    def astream(
        self,
        prompt: Prompt,
        *,
        queue_timeout: float | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> AsyncTokenStream:
        """:meth:`Pair.stream`, for ``async for``."""
        return AsyncTokenStream(self._pair.stream(prompt, queue_timeout=queue_timeout, **options))

    async def achat(self, messages: Sequence[Message], **options: Unpack[ChatOptionsDict]) -> Completion:
        """:meth:`Pair.chat`. Cancelling the task cancels the text."""
        return await self.astream_chat(messages, **options).completion()

    def astream_chat(self, messages: Sequence[Message], **options: Unpack[ChatOptionsDict]) -> AsyncTokenStream:
        """:meth:`Pair.stream_chat`, for ``async for``."""
        return AsyncTokenStream(self._pair.stream_chat(messages, **options))

    async def agenerate_batch(
        self, prompts: Iterable[Prompt], *, return_exceptions: bool = False, **options: Unpack[BatchOptionsDict]
    ) -> list[Completion] | list[Completion | ColmError]:
        """:meth:`Pair.generate_batch`. Cancelling the task cancels all texts."""
        async with self.astream_batch(prompts, **options) as stream:
            finished = {number: result async for number, result in stream}
        return in_order(finished, return_exceptions)

    def astream_batch(self, prompts: Iterable[Prompt], **options: Unpack[BatchOptionsDict]) -> AsyncBatchStream:
        """:meth:`Pair.stream_batch`, for ``async for``."""
        return AsyncBatchStream(self._pair.stream_batch(prompts, **options))

    async def asave_session(self, path: str | os.PathLike[str]) -> None:
        """:meth:`Pair.save_session`. A task that is cancelled waits until the file is written."""
        await _Worker().do_last(lambda: self._pair.save_session(path), lambda: None)

    async def aload_session(self, path: str | os.PathLike[str]) -> None:
        """:meth:`Pair.load_session`. A task that is cancelled waits until the session is loaded."""
        await _Worker().do_last(lambda: self._pair.load_session(path), lambda: None)

    @property
    def _pair(self) -> Any:
        return self
