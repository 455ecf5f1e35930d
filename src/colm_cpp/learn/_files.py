"""Reading files that this package wrote before, whatever has happened to them since."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from .._shown import shortened, shown
from ..errors import CorpusError

__all__ = ["digest_of", "lines", "read_json", "real", "unfinished", "whole_number", "whole_rows", "why"]

# A line holds one text or one answer. A longer one would have to be held in memory to learn that it is damaged.
MAX_LINE = 2**26
_MAX_JSON = 2**26
_T = TypeVar("_T")


def why(error: OSError | ValueError) -> str:
    """What kept a file from being read, in the system's words where it has any."""
    return getattr(error, "strerror", None) or shortened(str(error))


def read_json(path: Path, what: str, remedy: str) -> Any:
    """The value of a JSON file.

    Args:
        path: the file.
        what: what its folder would be, were the file readable: "folder of scores".
        remedy: what to do where the file is damaged.

    Raises:
        CorpusError: it cannot be read, or is no JSON.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_JSON + 1) if os.fstat(file.fileno()).st_size <= _MAX_JSON else None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise CorpusError(
            f"{path.parent} is no {what}: {path.name} cannot be read ({why(error)}); check the folder's name"
        ) from error
    if data is None:
        raise CorpusError(f"{path} is damaged (it has more than {_MAX_JSON} bytes); {remedy}")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: also a whole number of thousands of digits
        raise CorpusError(f"{path} is damaged ({shortened(str(error))}); {remedy}") from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises OSError, or ValueError for a name that no file can have."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file with their ends; None for one of more than 64 MiB, which is not held in memory."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        yield None


def whole_rows(file: BinaryIO, path: Path, parse: Callable[[bytes], _T], first: int = 1) -> Iterator[tuple[_T, int]]:
    """The rows of a file that grows by JSON lines, each with where it ends.

    The last line may lack its end: it was being written when the process ended, and is left out. Anything else that is
    no row is damage, behind which nothing may be cut off.

    Args:
        file: the file, opened for reading bytes, at a row's beginning.
        path: its name.
        parse: gives a row, or raises ValueError.
        first: the number of the line at which the file stands.

    Raises:
        CorpusError: a line is damaged.
    """
    for number, line in enumerate(lines(file), start=first):
        try:
            if line is None:
                raise ValueError(f"it has more than {MAX_LINE} bytes")
            if line.endswith(b"\n"):
                row = parse(line)
            elif unfinished(line):
                return
            else:
                raise ValueError("it is no row, and no beginning of one")
        except (ValueError, TypeError, RecursionError) as error:
            raise CorpusError(
                f"{path}:{number} is damaged ({shortened(str(error))}); delete the line and those behind it, or use "
                "another folder"
            ) from error
        yield row, file.tell()


def unfinished(line: bytes) -> bool:
    """Whether ``line`` can be a row whose end was not written: a JSON object, whole or not, and nothing behind it."""
    text = line.decode("utf-8", "replace")
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        end = len(text)
    return text.startswith("{") and end == len(text)


def whole_number(name: str, value: object, low: int = 0, high: int = 2**48) -> int:
    """A whole number from a file.

    Raises:
        ValueError: it is none, or lies outside ``low`` to ``high``.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number from {low} to {high}")
    return value


def real(name: str, value: object) -> float:
    """A number from 0 to 2**53 from a file, such as seconds.

    Raises:
        ValueError: it is none.
    """
    if type(value) not in (int, float) or not 0 <= value <= 2**53:  # type: ignore[operator]
        raise ValueError(f"{name} is {shown(value)}; it must be a number from 0 to 2**53")
    return float(value)  # type: ignore[arg-type]
