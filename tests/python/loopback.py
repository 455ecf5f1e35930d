"""HTTP servers on 127.0.0.1, each on a thread of its own."""

from __future__ import annotations

import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

_Server = TypeVar("_Server", bound="Server")


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Handler(BaseHTTPRequestHandler):
    """Answers requests for :attr:`owner`."""

    owner: Any
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body waits for the client's delayed acknowledgement

    def log_message(self, format: str, *args: object) -> None:
        """Keeps the test's stderr free for what the test looks at."""


class Server:
    """A server; use it as a context manager, or call :meth:`open` and :meth:`close`.

    Attributes:
        handler: what answers its requests.
        tls: its certificate, for https; None: http.
    """

    handler: type[Handler]
    tls: ssl.SSLContext | None = None

    def open(self, port: int = 0) -> None:
        """``port`` 0: a free one."""
        self._http = ThreadingHTTPServer(("127.0.0.1", port), type("Bound", (self.handler,), {"owner": self}))
        if self.tls is not None:
            self._http.socket = self.tls.wrap_socket(self._http.socket, server_side=True)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients leave in the middle
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it; the port is free then."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def __enter__(self: _Server) -> _Server:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"
