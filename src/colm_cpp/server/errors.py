"""Errors as OpenAI's API has them: an object with message, type, param and code, and the right status."""

from __future__ import annotations

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .._shown import shown
from ..errors import (
    ColmError,
    ContextFull,
    DownloadError,
    ForkError,
    GenerationError,
    LoadError,
    OutOfMemory,
    PairClosed,
    QueueTimeout,
    RemoteError,
)
from .refused import KNOWN_OPTIONS, why_refused

__all__ = ["ApiError", "Json", "api_error", "install", "to_json"]

log = logging.getLogger("colm_cpp.server")
to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""What answers and events are made with; json.dumps would make an encoder for each of them."""

_TYPES = {401: "authentication_error", 403: "permission_error", 503: "service_unavailable"}


class Json(Response):
    """JSON that a text of any kind can be part of."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """UTF-8. What is no Unicode text (a lone surrogate that a client sent) is escaped."""
        return to_json(content).encode("utf-8", "backslashreplace")


class ApiError(ColmError):
    """What a request is refused with.

    Attributes:
        status: of HTTP.
        param: the field that is to blame; None where there is none.
        code: a word for programs; None where there is none.
        retry_after: seconds after which another try may succeed; None where it will not.
        headers: more headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """The error object."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Json:
        """The whole answer."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return Json(self.body(), self.status, headers)


def api_error(error: BaseException) -> ApiError:
    """What a client is told of an error of the house, or of one that nobody foresaw."""
    if isinstance(error, ApiError):
        return error
    message = str(error)
    if isinstance(error, ContextFull):
        return ApiError(400, message, param="messages", code="context_length_exceeded")
    if isinstance(error, (QueueTimeout, PairClosed, OutOfMemory)):
        return ApiError(503, message, code="unavailable", retry_after=5)
    if isinstance(error, RemoteError):
        return ApiError(502, message, code="model_unavailable", retry_after=5)
    if isinstance(error, (LoadError, DownloadError, ForkError)):
        return ApiError(500, message, code="model_unavailable")
    if isinstance(error, GenerationError):
        # The options of the request allow no token; or llama.cpp failed, which the message says.
        failed = "llama_decode" in message or "gave no output" in message
        return ApiError(500 if failed else 400, message, code="generation_failed")
    if isinstance(error, ColmError):
        # A message of the house names the option that it is about at its beginning.
        words = message.partition(";")[0].split()[:4]
        named = next((word for word in words if word.removeprefix("colm.") in KNOWN_OPTIONS), None)
        return ApiError(400, message, param=named)
    log.error("a request failed", exc_info=error)
    return ApiError(500, "the server failed on this request; its log says how")


def install(app: FastAPI) -> None:
    """Has the application answer errors so."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid(request, error).response()

    @app.exception_handler(ColmError)
    async def failed(request: Request, error: ColmError) -> Response:
        return api_error(error).response()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, ApiError):  # while the body was read
            return error.__cause__.response()
        if error.status_code == 400 and error.__cause__ is not None:  # FastAPI's own words do not say what is wrong
            reason = f"the body cannot be read as JSON: {error.__cause__}"
            return ApiError(400, reason, code="invalid_json").response()
        message = {
            404: f"there is no {shown(request.url.path)} here; docs/server.md lists what there is",
            405: f"{request.method} is not allowed for {shown(request.url.path)}",
        }.get(error.status_code, f"the request cannot be read: {error.detail}")
        return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        return api_error(error).response()


def _invalid(request: Request, error: RequestValidationError) -> ApiError:
    """The first thing that is wrong with a request."""
    first: dict[str, Any] = dict(error.errors()[0])
    place = [part for part in first["loc"] if part not in ("body", "query", "path")]
    # Names of pydantic's own alternatives of a union say nothing to a client.
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place if _is_field(part))
    field = name.removeprefix(".") or None
    kind = first["type"]
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "it is cut off")
        return ApiError(400, f"the body is not JSON: {reason}", code="invalid_json")
    if kind == "extra_forbidden":
        return ApiError(
            400, why_refused(request.url.path, str(place[-1]), field or ""), param=field, code="unknown_field"
        )
    if kind == "missing":
        if field is None:
            return ApiError(400, "the body is empty or no JSON; send a JSON object, with Content-Type application/json")
        return ApiError(400, f"{field} is missing; it is required", param=field, code="missing_field")
    text = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    if isinstance(given, bytes):  # FastAPI reads no JSON of another type
        sent = shown(request.headers.get("content-type", ""))
        return ApiError(400, f"Content-Type is {sent}; send JSON as application/json", code="invalid_json")
    text = text if kind == "value_error" else f"{field or 'the body'} is {shown(given)}: {text[:1].lower()}{text[1:]}"
    return ApiError(400, text, param=field)


def _is_field(part: object) -> bool:
    return isinstance(part, int) or (isinstance(part, str) and part.isidentifier() and part not in _PYTHON_NAMES)


_PYTHON_NAMES = {"str", "int", "float", "bool"}
