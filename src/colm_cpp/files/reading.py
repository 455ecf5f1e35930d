"""Reading back files that this package wrote; they may be damaged since."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from .._shown import shortened, shown
from ..errors import CorpusError

__all__ = ["lines", "read_json", "real", "unfinished", "whole_number", "whole_rows", "why"]

# A line holds one text or one answer. A longer one would have to be held in memory to learn that it is damaged.
MAX_LINE = 2**26
_MAX_JSON = 2**26
_T = TypeVar("_T")


def why(error: OSError | ValueError) -> str:
    """Why a file could not be read, in the system's words if there are any."""
    return getattr(error, "strerror", None) or shortened(str(error))


def read_json(path: Path, what: str, remedy: str) -> Any:
    """The value of a JSON file.

    Args:
        path: the file.
        what: the kind of folder that holds such a file, for the message: "folder of scores".
        remedy: what to do about a damaged file, for the message.

    Raises:
        CorpusError: the file cannot be read, or is not JSON.
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


def lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file with their line ends. None stands for a line above 64 MiB, which is not kept in memory."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) <= MAX_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE)
        yield None


def whole_rows(file: BinaryIO, path: Path, parse: Callable[[bytes], _T], first: int = 1) -> Iterator[tuple[_T, int]]:
    """The rows of a JSON-lines file that grows, each with the offset of its end.

    The last line may be incomplete, because the process ended while writing it; it is left out. Any other line that is
    not a row is damage, and an error.

    Args:
        file: the file, opened for reading bytes, at a row's beginning.
        path: its name.
        parse: gives a row, or raises ValueError.
        first: the number of the next line of the file.

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
                raise ValueError("it is neither a row nor the beginning of one")
        except (ValueError, TypeError, RecursionError) as error:
            raise CorpusError(
                f"{path}:{number} is damaged ({shortened(str(error))}); delete this line and all after it, or use "
                "another folder"
            ) from error
        yield row, file.tell()


def unfinished(line: bytes) -> bool:
    """Whether ``line`` can be a row whose end was not written: a JSON object, whole or cut short, and nothing more."""
    text = line.decode("utf-8", "replace")
    try:
        end = json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        end = len(text)
    return text.startswith("{") and end == len(text)


def whole_number(name: str, value: object, low: int = 0, high: int = 2**48) -> int:
    """A whole number from a file.

    Raises:
        ValueError: ``value`` is not a whole number from ``low`` to ``high``.
    """
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}; it must be a whole number from {low} to {high}")
    return value


def real(name: str, value: object) -> float:
    """A number from 0 to 2**53 from a file, such as seconds.

    Raises:
        ValueError: ``value`` is not such a number.
    """
    if type(value) not in (int, float) or not 0 <= value <= 2**53:  # type: ignore[operator]
        raise ValueError(f"{name} is {shown(value)}; it must be a number from 0 to 2**53")
    return float(value)  # type: ignore[arg-type]
