"""A JSON-lines file that grows by whole rows behind a header, so that the work that makes them can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._shown import shortened
from ..errors import CorpusError
from .folder import refuse_other_facts
from .output_file import write_file
from .reading import lines, unfinished, whole_rows

__all__ = ["add_row", "begin_rows"]


def begin_rows(path: Path, header: Mapping[str, Any], parse: Callable[[bytes], object], rows: str) -> int:
    """Writes the header, or checks what there is and cuts off a row that was not finished. Rows there are.

    Args:
        path: the file.
        header: what its rows depend on, with the ``format``.
        parse: gives a row, or raises ValueError.
        rows: what the rows are, for the message of an error: "answers".

    Raises:
        CorpusError: the file has another header, or is damaged.
    """
    beginning = json.dumps(header).encode() + b"\n"
    known = None
    ends: list[int] = []
    if path.exists():
        with path.open("rb") as file:
            first = next(lines(file), b"")
            known = _header(path, b"\n" if first is None else first, beginning, header["format"])
            if known is not None:
                ends = [file.tell(), *(end for _, end in whole_rows(file, path, parse, first=2))]
    if len(ends) < 2:  # options that were refused before the first row bind nobody
        write_file(path, beginning)
        return 0
    refuse_other_facts(path, rows, known or {}, header)
    os.truncate(path, ends[-1])
    return len(ends) - 1


def add_row(path: Path, row: str) -> None:
    """Adds a row in one piece; it is on the disk when this returns. A last row that was not finished is dropped.

    Raises:
        CorpusError: the last line is neither a row nor the beginning of one.
    """
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(end - 1, 0))
        if file.read(1) not in (b"", b"\n"):
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if not unfinished(data[whole:]):
                raise CorpusError(f"{path} has a damaged last line; delete that line to make its row again")
            file.truncate(whole)
        file.seek(0, os.SEEK_END)
        file.write(row.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _header(path: Path, first: bytes, beginning: bytes, format_: str) -> dict[str, Any] | None:
    """What the first line says; None where it was being written when the process ended."""
    if not first.endswith(b"\n") and beginning.startswith(first):
        return None
    try:
        known = json.loads(first)
        if not isinstance(known, dict) or known.get("format") != format_ or not first.endswith(b"\n"):
            raise ValueError(f"it is not the header of a {format_} file")
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{path} has a damaged first line ({shortened(str(error))}); delete the file, or use another folder"
        ) from error
    return known
