"""Answers that last: a stream of events, or one body, while the client may leave."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import api_error, to_json

__all__ = ["ClientGone", "EventStream", "event", "unless_gone"]

_Result = TypeVar("_Result")
SEND_TIMEOUT = 60.0  # seconds that a client may leave a stream unread
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class ClientGone(Exception):
    """Nobody is there any more to answer."""


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event; ``data`` as JSON, or as it is if it is a str."""
    text = data if isinstance(data, str) else to_json(data)
    line = f"data: {text}\n\n" if name is None else f"event: {name}\ndata: {text}\n\n"
    return line.encode("utf-8", "backslashreplace")


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Awaitable[_Result]) -> _Result:
    """What ``work`` returns. If the client leaves, the work is cancelled and ClientGone is raised."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request.receive))
    try:
        await asyncio.wait({task, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        leaving.cancel()
        if not task.done():
            task.cancel()
        await asyncio.wait({task, leaving})


class EventStream(Response):
    """Server-sent events until ``events`` ends, with comments where it is silent.

    An error in the middle is sent as an event and ends the stream. If the client leaves, ``events`` is closed.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        resources: contextlib.AsyncExitStack,
        *,
        progress: Callable[[], str],
        keep_alive: float,
        error_name: str | None = None,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self._events = events
        self._resources = resources
        self._progress = progress
        self._keep_alive = keep_alive
        self._error_name = error_name
        self._last = time.monotonic()
        self._sending = False
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends everything."""
        async with self._resources:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            sending = asyncio.ensure_future(self._send_events(send))
            others = [asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(self._send_comments(send))]
            try:
                await asyncio.wait({sending, *others}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, *others):
                    task.cancel()
                await asyncio.wait({sending, *others})
            if not sending.cancelled() and (error := sending.exception()) is not None:
                raise error
            if not sending.cancelled():
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, send: Send) -> None:
        async with contextlib.aclosing(self._events) as events:  # type: ignore[type-var]
            try:
                async for data in events:
                    await self._send(send, data)
            except Exception as error:
                await self._send(send, event(api_error(error).body(), self._error_name))

    async def _send_comments(self, send: Send) -> None:
        while True:
            await asyncio.sleep(max(0.01, self._last + self._keep_alive - time.monotonic()))
            silent = time.monotonic() - self._last
            if self._sending:  # the client does not read
                if silent >= SEND_TIMEOUT:
                    return
                await asyncio.sleep(self._keep_alive)
            elif silent >= self._keep_alive:
                await self._send(send, f": {self._progress()}\n\n".encode())

    async def _send(self, send: Send, data: bytes) -> None:
        async with self._lock:
            self._last = time.monotonic()
            self._sending = True
            await send({"type": "http.response.body", "body": data, "more_body": True})
            self._sending = False
