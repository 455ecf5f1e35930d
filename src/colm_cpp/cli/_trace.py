"""A record of one text in JSON lines: a header, every token as it comes, the counts at the end.

The file gets its name when the text ends, however it ends: with Ctrl-C or an error the tokens so far are in it. Where
the text ends before its first token, or the disk is full, the file that was there before stays.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._files import open_sink
from ._output import dump_json

if TYPE_CHECKING:
    from ..results import Stats, Token

__all__ = ["FORMAT", "VERSION", "Trace"]

FORMAT = "colm-trace"
VERSION = 1


class Trace:
    """Writes a trace file, or a trace to standard output, each line at once."""

    def __init__(self, path: Path) -> None:
        """Opens the file.

        Raises:
            OptionError: it cannot be written.
        """
        self._file = open_sink("--trace", path)

    def header(self, facts: dict[str, Any]) -> None:
        """The first line."""
        self._line({"format": FORMAT, "version": VERSION, **facts})

    def token(self, token: Token) -> None:
        """One line for a token."""
        self._line(token.to_dict())
        self._file.keep()

    def end(self, stats: Stats, finish_reason: str, end_token: Token | None) -> None:
        """The last line."""
        ended_by = None if end_token is None else end_token.to_dict()
        self._line({"stats": stats.to_dict(), "finish_reason": finish_reason, "end_token": ended_by})

    def _line(self, value: dict[str, Any]) -> None:
        self._file.write(dump_json(value).encode() + b"\n")

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.__exit__(kind, error, trace)
