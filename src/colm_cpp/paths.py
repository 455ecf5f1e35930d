"""Paths as the extension takes them."""

from __future__ import annotations

import os

from .errors import LoadError

__all__ = ["to_native"]


def to_native(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a path: UTF-8 on Windows and macOS, the file system's own elsewhere.

    Raises:
        LoadError: the path holds a NUL character or a lone surrogate that stands for no byte, so that no file can
            have it.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise LoadError(f"{name!r} holds a NUL character; no file has such a name")
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        raise LoadError(f"{name!a} holds a lone surrogate; no file has such a name") from None
