"""Paths as the extension takes them, the parts of split models, and digests of files."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path

from .._shown import shown
from ..errors import LoadError

__all__ = ["PART", "digest_of", "parts_of", "to_native"]

PART = re.compile(r"(.*)-[0-9]{5}-of-([0-9]{5})\.gguf", re.DOTALL)  # the name of a part of a split model
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


def parts_of(path: Path) -> list[Path]:
    """The parts of a split model that are there, by the path of one of them; else the file itself."""
    part = PART.fullmatch(path.name)
    names = [] if part is None else [f"{part[1]}-{i:05d}-of-{part[2]}.gguf" for i in range(1, int(part[2]) + 1)]
    return [there for name in names if (there := path.with_name(name)).exists()] or [path]


def digest_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes. Raises OSError, or ValueError for a name that no file can have."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
