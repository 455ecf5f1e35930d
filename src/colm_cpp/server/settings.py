"""What whoever starts a server decides about it, beside the pairs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .._shown import shown
from ..errors import OptionError

__all__ = ["Settings"]

_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\sA-Z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits and rights of a server.

    Attributes:
        api_key: the key that every route but ``/health`` asks for; None: no key.
        cors_origins: origins whose pages may use the server from a browser.
        max_tokens: the most tokens of an answer, whatever a request asks for; None: the context.
        max_body: the most bytes of a request's body.
        body_timeout: the longest wait for the next piece of a body, in seconds.
        header_timeout: the longest wait for the head of a request on an open connection, in seconds.
        keep_alive: seconds without a token after which a stream gets a comment.
        local_only: answer only requests that name this machine as their host, so that no page can reach the server
            through a name of its own (DNS rebinding).

    Raises:
        OptionError: no client can send the key, or no browser sends such an origin.
    """

    api_key: str | None = None
    cors_origins: tuple[str, ...] = ()
    max_tokens: int | None = None
    max_body: int = 16 * 2**20
    body_timeout: float = 30.0
    header_timeout: float = 10.0
    keep_alive: float = 5.0
    local_only: bool = False

    def __post_init__(self) -> None:
        """Refuses what would let nobody in, and an empty key, which would let everybody in."""
        key = self.api_key
        if key is not None and not re.fullmatch(r"[!-~]+", key):
            wrong = "is empty" if not key else "has a character that clients cannot send"
            raise OptionError(f"api_key {wrong}; choose one of ASCII letters, digits and signs, without spaces")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise OptionError(
                    f"cors_origin is {shown(origin)}; write it as browsers do: scheme, host in lower case and perhaps "
                    "a port, without a slash at the end, such as https://example.org; or * for all"
                )
