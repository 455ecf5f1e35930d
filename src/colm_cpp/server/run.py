"""Running the application: sockets, signals, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..errors import ColmError, PairClosed
from .errors import ApiError
from .service import Service

__all__ = ["listen", "make_server", "run"]

_MANY_FILES = 65536
_TICK = 0.1  # seconds after which a signal is seen at the latest
BACKLOG = 2048


class ListenError(ColmError, OSError):
    """The address cannot be listened to."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Port 0: a free one. Raises ListenError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        # socket adds the address to the system's words.
        why = str(getattr(error, "strerror", None) or error).partition(" (while attempting")[0]
        raise ListenError(
            f"the server cannot listen to {host}:{port} ({why}); give another --host or --port (0 is a free one)"
        ) from error


class _Server(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C: loads are broken off, texts are finished, up to ``grace`` seconds."""

    def __init__(self, config: uvicorn.Config, service: Service, grace: float) -> None:
        super().__init__(config)
        self._service = service
        self._grace = grace
        self.stopped_by: int | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, it leaves the signal at that: the process ends by itself, with 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            numbers.append(signal.SIGBREAK)  # Ctrl-Break, which programs send in place of SIGTERM
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped_by is not None:  # a second time: at once
            self._service.texts.cancel()
            self.force_exit = number == signal.SIGINT
        self.stopped_by = number
        self.should_exit = True
        self._service.registry.stop_loading()

    async def load_first(self) -> bool:
        """Loads the first pair. False: a signal came before it was loaded."""
        registry = self._service.registry

        async def load() -> None:
            async with registry.use(registry.default.name):
                pass

        loading = asyncio.ensure_future(load())
        while not loading.done():
            await asyncio.wait({loading}, timeout=_TICK)
            if self.should_exit:
                registry.refuse()
        try:
            await loading
        except PairClosed:
            if not self.should_exit:
                raise
        return not self.should_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Lets texts end, then ends them."""
        self._service.texts.refuse()
        self._service.registry.refuse()
        late = asyncio.get_running_loop().call_later(self._grace, self._service.texts.cancel)
        try:
            await super().shutdown(sockets)
        finally:
            late.cancel()


def run(
    app: FastAPI,
    listening: socket.socket,
    *,
    grace: float = 10.0,
    ready: Callable[[], None] | None = None,
    load_now: bool = False,
) -> int:
    """Serves until a signal comes. Returns the number of the signal; 0 if somebody else stopped the server.

    ``load_now``: the first pair is loaded before the server answers. ``ready`` is called then. Errors are those of
    loading.
    """
    _allow_many_files()
    server = make_server(app, grace=grace)

    async def serve() -> None:
        with server.capture_signals():
            if load_now and not await server.load_first():
                return
            if ready is not None:
                ready()
            await server.serve([listening])

    asyncio.run(serve())
    return server.stopped_by or 0


class _Protocol(H11Protocol):
    """HTTP/1.1 that gives up connections on which no request comes, and says what is wrong as all routes do."""

    header_timeout = 10.0
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client."""
        super().connection_made(transport)
        self._late = self.loop.call_later(self.header_timeout, transport.close)

    def data_received(self, data: bytes) -> None:
        """A part of a request."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._wait_no_longer()
        elif self._late is None:  # another request begins
            self._late = self.loop.call_later(self.header_timeout, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""
        self._wait_no_longer()
        super().connection_lost(exc)

    def _wait_no_longer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def send_400_response(self, msg: str) -> None:
        """For what is no HTTP. Behind it nothing is read."""
        answer = ApiError(400, "this is no valid HTTP/1.1 request, so nothing behind it is read").response()
        headers = [*answer.raw_headers, (b"connection", b"close")]
        body = bytes(answer.body)
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer has begun
            for part in (h11.Response(status_code=400, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()


def make_server(app: FastAPI, *, grace: float = 10.0) -> _Server:
    """A server that is not yet running; ``should_exit`` ends it."""
    # h11 refuses what is not exactly HTTP/1.1.
    settings = app.state.service.settings
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_Protocol,), {"header_timeout": settings.header_timeout}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(grace) + 5,
    )
    return _Server(config, app.state.service, grace)


def _allow_many_files() -> None:
    """Each connection is a descriptor, and systems allow 1024 unless they are asked."""
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, _MANY_FILES)
    if soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
