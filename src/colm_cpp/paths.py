"""Paths as the extension takes them."""

from __future__ import annotations

import os
import sys

from ._shown import shown
from .errors import LoadError

__all__ = ["to_native"]

_MAX_PATH = 32767 if sys.platform == "win32" else 4096


def to_native(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a path: UTF-8 on Windows and macOS, the file system's own elsewhere.

    Raises:
        LoadError: the path holds a NUL character or a lone surrogate that stands for no byte, or is longer than any
            system allows, so that no file can have it.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise LoadError(f"{shown(name)} holds a NUL character; no file has such a name")
    if len(name) > _MAX_PATH:
        raise LoadError(f"{shown(name)} has {len(name)} characters; a path has at most {_MAX_PATH}")
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:
        raise LoadError(f"{shown(name)} holds a lone surrogate; no file has such a name") from None
