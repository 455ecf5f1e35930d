"""What stands before all routes: keys, hosts, sizes of bodies, and requests that are framed in two ways."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._shown import shown
from .errors import ApiError
from .settings import Settings

__all__ = ["Guard"]

# What is left of a body that was not read would be taken for the next request.
_CLOSE = {"Connection": "close"}
_LOCAL = {"localhost", "127.0.0.1", "[::1]", "::1"}


class Guard:
    """Refuses requests before their bodies are read; and bodies that are too long or too slow."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(receive, self._settings)
        try:
            self._check(scope["path"], headers)
            await self._app(scope, body.receive, body.watched(send))
        except ApiError as error:
            if body.answered:
                raise
            error.headers |= _CLOSE
            await body.discard()
            await error.response()(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        if "content-length" in headers and "transfer-encoding" in headers:
            raise ApiError(400, "the request has both Content-Length and Transfer-Encoding; send one of them")
        coding = headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise ApiError(415, f"Content-Encoding is {shown(coding)}; send the body as it is, not compressed")
        lengths = headers.getlist("content-length")
        if len(lengths) > 1 or any(not length.isascii() or not length.isdigit() for length in lengths):
            raise ApiError(400, "the request's Content-Length is no number")
        if lengths and int(lengths[0]) > self._settings.max_body:
            raise _too_long(self._settings.max_body)
        if self._settings.local_only and not _is_local(headers.get("host", "")):
            raise ApiError(403, "this server answers requests for this machine only; name it as 127.0.0.1 or localhost")
        key = self._settings.api_key
        if key is not None and path != "/health" and not _has_key(headers.get("authorization", ""), key):
            given = "is wrong" if "authorization" in headers else "is missing"
            # A browser asks for a password where it may send one by itself.
            scheme = "Bearer" if path.startswith("/v1/") else 'Basic realm="colm"'
            raise ApiError(
                401,
                f"the API key {given}; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": scheme},
            )


class _Body:
    """The body of a request, counted while it is read."""

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive = receive
        self._settings = settings
        self._size = 0
        self._complete = False
        self.answered = False

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()  # that the client has left
        try:
            message = await asyncio.wait_for(self._receive(), self._settings.body_timeout)
        except asyncio.TimeoutError:
            raise ApiError(
                408,
                f"no part of the body came for {self._settings.body_timeout:g} seconds; send it faster",
                headers=_CLOSE,
            ) from None
        self._size += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        if self._size > self._settings.max_body:
            await self.discard()
            raise _too_long(self._settings.max_body)
        return message

    async def discard(self) -> None:
        """Reads some of a body that nobody wants. A client that is still sending would else not see the answer."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._discard(), 1.0)

    async def _discard(self) -> None:
        while not self._complete and self._size < 4 * self._settings.max_body:
            message = await self._receive()
            self._size += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)

    def watched(self, send: Send) -> Send:
        async def watching(message: Any) -> None:
            self.answered = True
            await send(message)

        return watching


def _too_long(limit: int) -> ApiError:
    return ApiError(
        413,
        f"the body has more than {limit} bytes, which is the limit; send less",
        code="body_too_long",
        headers=_CLOSE,
    )


def _is_local(host: str) -> bool:
    name = host if host in _LOCAL else host.rpartition(":")[0] or host
    return name.lower() in _LOCAL


def _has_key(given: str, key: str) -> bool:
    scheme, _, value = given.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode("utf-8", "replace").partition(":")[2]
        except (binascii.Error, ValueError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(value.strip().encode("utf-8", "replace"), key.encode("utf-8", "replace"))
