"""Models on other machines: a URL -> next-token distributions. ``docs/remote.md`` has a table of the protocols."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from ..errors import OptionError
from ._http import KEY_VARIABLE, shown_url
from .protocol import MOST_POSITIONS, Likeliest, RemoteModel

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = [
    "KEY_VARIABLE",
    "MOST_POSITIONS",
    "SCHEMES",
    "Likeliest",
    "RemoteModel",
    "is_remote",
    "not_remote",
    "open_remote",
    "shown_url",
]

# Of each protocol before "http://" or "https://": its module in this room, and the class there.
_PROTOCOLS = {
    "": ("llama_server", "LlamaServer"),
    "openai": ("openai", "OpenAi"),
    "sglang": ("sglang", "SgLang"),
    "colm": ("colm", "Colm"),
}
SCHEMES = tuple(f"{name}{'+' if name else ''}{http}://" for name in _PROTOCOLS for http in ("http", "https"))


def is_remote(value: object) -> TypeGuard[str]:
    """Whether a value for a model is the URL of a server: a str with ``://`` in it. A path object is always a file."""
    return isinstance(value, str) and "://" in value and not os.path.exists(value)


def not_remote(name: str, url: str, what: str = "this") -> OptionError:
    """Says that ``what`` needs the file of the model ``name``, which is on another machine."""
    return OptionError(
        f"{name} is {shown_url(url)}, a model on another machine, and {what} needs the model's own file; give the path "
        "of a GGUF file"
    )


def open_remote(url: str, *, key: str | None, timeout: float, retries: int, top_k: int) -> RemoteModel:
    """Connects to a model on another machine. Nothing is sent yet.

    Args:
        url: ``http://host:port`` or ``https://host:port`` of a llama-server; see :data:`SCHEMES`.
        key: a bearer token; None: that of the environment variable ``COLM_REMOTE_KEY``, if there is one.
        timeout: seconds for each answer.
        retries: how often a request is repeated.
        top_k: how many of the likeliest tokens an answer names.

    Raises:
        OptionError: the URL is of no known scheme, or has no host.
        MissingDependency: httpx is not installed.
    """
    scheme, _, _ = url.partition("://")
    protocol, _, http = scheme.lower().rpartition("+")
    if protocol not in _PROTOCOLS or http not in ("http", "https"):
        raise OptionError(f"{shown_url(url)} is of no known scheme; there are {', '.join(SCHEMES)}")
    module, name = _PROTOCOLS[protocol]
    opened: type[RemoteModel] = getattr(importlib.import_module(f".{module}", __name__), name)
    return opened(f"{http}{url[len(scheme) :]}", key=key, timeout=timeout, retries=retries, top_k=top_k)
