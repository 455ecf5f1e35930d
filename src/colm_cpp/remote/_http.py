"""Requests to a server: bounded in time and bytes, repeated where that may help, never to another host."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

from .._shown import shortened, shown
from ..errors import (
    OptionError,
    RemoteAnswerInvalid,
    RemoteError,
    RemoteRefused,
    RemoteTimeout,
    RemoteUnreachable,
)
from ..extras import require

__all__ = ["KEY_VARIABLE", "MOST_BYTES", "OTHER_KIND", "Http", "invalid", "shown_url"]

KEY_VARIABLE = "COLM_REMOTE_KEY"
# An answer with thousands of tokens in each of 16 distributions has some megabytes.
MOST_BYTES = 64 * 2**20
OTHER_KIND = (
    "is it the kind of server that the URL says? http:// is a llama-server, colm+http:// a colm serve, openai+http:// "
    "a vLLM, sglang+http:// an SGLang"
)
_MOST_OF_ERROR = 4096
_WRITTEN = 2**14  # bytes at a time
_AGAIN = (429, 502, 503, 504)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds
_LOOKS = 0.1  # seconds after which a read looks whether its answer is still wanted

_Error = TypeVar("_Error", bound=RemoteError)


class Http:
    """Connections to one server. Its methods may be called from several threads.

    Args:
        url: ``http://`` or ``https://``, a host, and perhaps a port and a path that stands before all others. The
            ``/v1`` of OpenAI's clients may stand at its end.
        key: sent as a bearer token; None: the environment variable ``COLM_REMOTE_KEY``, if it is set.
        timeout: seconds for an answer, from the request on.
        retries: how often a request is repeated that found no connection, or was answered with 429, 502, 503 or 504.

    Raises:
        OptionError: the URL has no host, or another scheme.
        MissingDependency: httpx is not installed.
    """

    def __init__(self, url: str, *, key: str | None, timeout: float, retries: int) -> None:
        self._httpx = require("httpx", "a model on another machine")
        self.url = shown_url(url)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise OptionError(f"{self.url} is no URL ({error}); give http://host:port") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"{self.url} is no URL of a server; give http://host:port or https://host:port")
        if parts.username is not None or parts.query:
            raise OptionError(
                f"{self.url} has a user's name, a password or a query; give the key in {KEY_VARIABLE} instead"
            )
        path = parts.path.rstrip("/").removesuffix("/v1")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        self._root = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{path}"
        try:
            self._httpx.URL(self._root).raw_host.decode().encode("idna")  # as sockets will write it
        except (self._httpx.InvalidURL, UnicodeError) as error:
            raise OptionError(f"{self.url} is no URL ({error}); give http://host:port") from error
        key = os.environ.get(KEY_VARIABLE) if key is None else key
        if key and not (key.isascii() and key.isprintable()):
            raise OptionError("the key of a model on another machine holds characters that no HTTP header can have")
        self._timeout, self._retries = timeout, retries
        # Redirects are not followed: a text would go to who was not asked for.
        self._client = self._httpx.Client(
            timeout=timeout,
            follow_redirects=False,
            verify=parts.scheme == "https",  # reading all certificates takes 40 ms
            # A few bytes that unpack to gigabytes are refused.
            headers={"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})},
            limits=self._httpx.Limits(max_connections=None, max_keepalive_connections=256),
        )
        # A pair that nobody closed leaves no open connections behind. At the end of the process close() is called:
        # a socket that is closed first cannot be shut any more, and who reads it would wait for its timeout.
        weakref.finalize(self, self._client.close).atexit = False
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()  # of connections; a WeakSet may not grow while listed
        self._of_thread = threading.local()  # until when its request has to be answered

    def get(self, path: str) -> Any:
        """The JSON that the server answers. Errors are those of :meth:`post`."""
        return self._json(*self._request("GET", path, None))

    def post(self, path: str, body: Any) -> Any:
        """Sends JSON, and returns the JSON that the server answers.

        Raises:
            RemoteUnreachable: there is no connection, or :meth:`close` was called.
            RemoteTimeout: there is no whole answer in time.
            RemoteRefused: the server answered with an error, or with a redirect.
            RemoteAnswerInvalid: the answer is cut off, too long, or no JSON.
        """
        return self._json(*self._request("POST", path, json.dumps(body, separators=(",", ":")).encode()))

    def post_bytes(self, path: str, body: bytes, content_type: str) -> bytes:
        """Sends and returns bytes. Errors are those of :meth:`post`."""
        return self._request("POST", path, body, content_type)[0]

    @contextlib.contextmanager
    def while_wanted(self, wanted: Callable[[], bool]) -> Iterator[None]:
        """Requests of this thread raise RemoteUnreachable soon after ``wanted`` returns False.

        The connection is closed then, so that the server can stop, too.
        """
        self._of_thread.wanted = wanted
        try:
            yield
        finally:
            del self._of_thread.wanted

    def close(self) -> None:
        """Ends calls in progress at once, and closes the connections."""
        self._closed.set()
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            with contextlib.suppress(OSError, AttributeError):  # it is closed already
                stream.get_extra_info("socket").shutdown(2)
        self._client.close()

    def _over(self) -> bool:
        """Whether :meth:`close` was called, or nobody wants this thread's answer."""
        wanted: Callable[[], bool] | None = getattr(self._of_thread, "wanted", None)
        return self._closed.is_set() or (wanted is not None and not wanted())

    def _request(
        self, method: str, path: str, body: bytes | None, content_type: str = "application/json"
    ) -> tuple[bytes, str]:
        for attempt in range(self._retries + 1):
            try:
                return self._once(method, path, body, content_type)
            except (RemoteUnreachable, RemoteRefused) as error:
                again = isinstance(error, RemoteUnreachable) or error.status in _AGAIN
                if not again or attempt == self._retries or self._over():
                    raise
            pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
            # Those who failed together need not come back together.
            self._closed.wait(pause * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    def _once(self, method: str, path: str, body: bytes | None, content_type: str) -> tuple[bytes, str]:
        if self._over():
            raise self._error(RemoteUnreachable, "the connection was closed")
        httpx, self._of_thread.deadline = self._httpx, time.monotonic() + self._timeout
        headers = {} if body is None else {"Content-Type": content_type}
        url = self._root + path
        begun = False
        try:
            with self._client.stream(
                method, url, content=body, headers=headers, extensions={"trace": self._trace}
            ) as answer:
                begun = answer.is_success
                data = self._read(answer)
                if begun:
                    return data, answer.headers.get("content-type", "")
                raise self._refused(answer, data)
        except httpx.TimeoutException as error:
            connects = isinstance(error, (httpx.ConnectTimeout, httpx.PoolTimeout))
            reason = f"there was no {'connection' if connects else 'whole answer'} within {self._timeout:g} s"
            raise self._error(RemoteTimeout, reason, "remote_timeout allows more") from error
        except httpx.HTTPError as error:
            reason = shortened(str(error)) or type(error).__name__
            if self._over():
                raise self._error(RemoteUnreachable, "the connection was closed") from error
            if begun:
                raise invalid(self.url, f"it was cut off ({reason})") from error
            raise self._error(RemoteUnreachable, reason, "is the server running, and the address right?") from error

    def _read(self, answer: Any) -> bytes:
        """The body. A server may send without end."""
        most = MOST_BYTES if answer.is_success else _MOST_OF_ERROR
        declared = answer.headers.get("content-length", "")
        if answer.is_success and declared.isdecimal() and int(declared) > most:
            raise invalid(self.url, f"it would have {declared} bytes; {most} are read at most")
        encoding = answer.headers.get("content-encoding", "identity")
        if answer.is_success and encoding != "identity":
            raise invalid(self.url, f"its bytes are encoded as {shown(encoding)}, which was not asked for")
        parts, size = [], 0
        for part in answer.iter_raw():
            parts.append(part)
            size += len(part)
            if size > most:
                if not answer.is_success:
                    break
                raise invalid(self.url, f"it has more than {most} bytes, which is the most that is read")
        return b"".join(parts)[:most]

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Keeps the connections, so that :meth:`close` can end what waits for them, and bounds their reads and writes.

        httpx bounds each. A server that sends or takes a byte now and then, of headers, too, would go on for ever.
        """
        if event not in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            return
        import httpcore  # httpx is made of it

        stream = info["return_value"]
        read, write = stream.read, stream.write

        def left(kind: type[Exception]) -> float:
            if self._over():  # also a connection that was being made when close() shut the others
                raise self._httpx.ReadError("the connection was closed")
            seconds: float = self._of_thread.deadline - time.monotonic()
            if seconds <= 0:
                raise kind("the time is over")
            return min(seconds, self._timeout)

        def read_in_time(max_bytes: int, timeout: float | None = None) -> bytes:
            while True:
                seconds = left(self._httpx.ReadTimeout)
                with contextlib.suppress(httpcore.ReadTimeout):  # nothing was read; left() looks again
                    return bytes(read(max_bytes, min(seconds, _LOOKS)))

        def write_in_time(data: bytes, timeout: float | None = None) -> None:
            for begin in range(0, len(data), _WRITTEN):
                write(data[begin : begin + _WRITTEN], left(self._httpx.WriteTimeout))

        stream.read, stream.write = read_in_time, write_in_time
        with self._lock:
            self._streams.add(stream)

    def _json(self, data: bytes, content_type: str) -> Any:
        try:
            # NaN and Infinity are no JSON; Python reads them all the same.
            return json.loads(data, parse_constant=float)
        except (ValueError, RecursionError) as error:
            raise invalid(self.url, f"it is no JSON ({shortened(str(error))}; {shown(content_type)})") from error

    def _refused(self, answer: Any, data: bytes) -> RemoteRefused:
        status = int(answer.status_code)
        if answer.is_redirect:
            reason = f"it redirects to {shown(answer.headers.get('location', ''))}, and redirects are not followed"
            advice = "give that address, if you trust it"
        else:
            reason = f"status {status}, {shown(data.decode('utf-8', 'replace').strip())}"
            advice = "look at the server's log"
            if status in (401, 403):
                advice = f"the key is missing, wrong or expired; set {KEY_VARIABLE}"
            elif status == 404:
                advice = OTHER_KIND
        error = self._error(RemoteRefused, reason, advice)
        error.status = status
        return error

    def _error(self, kind: type[_Error], reason: str, advice: str = "") -> _Error:
        error = kind(f"{self.url}: {reason}{f'; {advice}' if advice else ''}")
        error.url, error.reason = self.url, reason
        return error


def invalid(url: str, reason: str) -> RemoteAnswerInvalid:
    """The error for an answer that cannot be used."""
    error = RemoteAnswerInvalid(f"the answer of {url} cannot be used: {reason}")
    error.url, error.reason = url, reason
    return error


def shown_url(url: str) -> str:
    """A URL as it may be shown: without a user's name, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return shown(url)
    return repr(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))[1:-1]
