"""What reaches the terminal: text token by token, the legend, JSON, the log."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from ..files.json_text import dump_json
from ..llama.log import logger
from ..report.visible import visible

if TYPE_CHECKING:
    from ..results import Stats, Token

__all__ = [
    "OneLine",
    "TextWriter",
    "byte_stream",
    "echo",
    "is_terminal",
    "leave_stdout",
    "log_to_stderr",
    "one_line",
    "open_console",
    "open_writer",
    "print_json",
    "print_legend",
    "printable",
    "sized",
    "wants_color",
    "warn",
]

# Of the experts in turn: the assistant has the first.
EXPERT_STYLES = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta", "bright_yellow")


def printable(text: str, encoding: str | None = None) -> str:
    """``text`` with all that could drive a terminal or hide in it escaped, and what ``encoding`` lacks too.

    A model's text, a file's name or its metadata may hold anything; see :mod:`colm_cpp.report.visible`.
    """
    encoding = encoding or "utf-8"
    return visible(text).encode(encoding, "backslashreplace").decode(encoding)


def one_line(text: str) -> str:
    """``text`` on one line, safe for a terminal."""
    return printable(" ".join(text.split("\n")), getattr(sys.stderr, "encoding", None))


def sized(n: int) -> str:
    """A number of bytes in words."""
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB" if n >= 1e5 else f"{n} bytes"


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Prints lines, safe for a terminal, on stdout or on stderr."""
    click.echo(printable(text, getattr(sys.stderr if err else sys.stdout, "encoding", None)), err=err, nl=nl)


def warn(text: str) -> None:
    """A warning on stderr."""
    echo(one_line(f"colm: warning: {text}"), err=True)


def is_terminal(name: str) -> bool:
    """Whether ``"stdin"``, ``"stdout"`` or ``"stderr"`` is a terminal."""
    stream = getattr(sys, name)
    return stream is not None and stream.isatty()


def byte_stream(name: str) -> Any:
    """The bytes below ``"stdin"`` or ``"stdout"``.

    Raises:
        OptionError: it is closed.
    """
    stream = getattr(sys, name)
    if stream is None:
        raise OptionError(f"{name} is closed; connect it to a terminal, a file or a pipe")
    return stream.buffer


def leave_stdout() -> None:
    """Drops what standard output still holds, for a pipe whose reader has left: Python would complain at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def wants_color(choice: str, stream: str) -> bool:
    """Whether to colour what goes to ``stream``; ``choice`` is always, never or auto."""
    if choice != "auto":
        return choice == "always"
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class TextWriter:
    """Where a text goes while it is written. This one shows nothing, for ``--json``."""

    def write(self, token: Token) -> None:
        """Shows one token."""
        self.piece(token.text, token.expert)

    def piece(self, text: str, expert: int) -> None:
        """Shows a piece of text in the colour of the expert that wrote it; 0: the base."""

    def finish(self) -> None:
        """Ends the last line."""

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()


class _PlainWriter(TextWriter):
    """The text's own bytes, for pipes and files."""

    def __init__(self) -> None:
        self._stream = byte_stream("stdout")
        self._last = ""

    def piece(self, text: str, expert: int) -> None:
        if text:
            self._stream.write(text.encode("utf-8", "replace"))
            self._stream.flush()
            self._last = text

    def finish(self) -> None:
        if not self._last.endswith("\n"):
            self._stream.write(b"\n")
        self._last = "\n"
        self._stream.flush()


class _TerminalWriter(TextWriter):
    """The text with controls escaped and, where wanted, the tokens of experts in colour."""

    def __init__(self, color: bool) -> None:
        from rich.style import Style

        self._console = open_console("stdout", color)
        self._styles = [None, *map(Style.parse, EXPERT_STYLES)] if color else [None]
        self._last = ""

    def piece(self, text: str, expert: int) -> None:
        if text:
            self._last = printable(text, self._console.encoding)
            self._print(self._last, expert)

    def finish(self) -> None:
        if not self._last.endswith("\n"):
            self._print("\n", 0)
        self._last = "\n"

    def _print(self, text: str, expert: int) -> None:
        from rich.segment import Segment, Segments

        # As a segment: rich would expand tabs, wrap lines and trim spaces of a str.
        style = self._styles[expert % len(self._styles)]
        self._console.print(Segments([Segment(text, style)]), soft_wrap=True)


def open_console(stream: str, color: bool, width: int | None = None) -> Any:
    """A rich console on ``"stdout"`` or ``"stderr"`` that takes text as it is. ``width``: None is the terminal's."""
    from rich.console import Console

    class Shown(Console):
        def on_broken_pipe(self) -> None:
            """The reader has left: the command decides what that means, not rich."""
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    return Shown(
        file=getattr(sys, stream),
        force_terminal=True if color else None,
        no_color=not color,
        color_system="auto" if color and is_terminal(stream) else "standard" if color else None,
        highlight=False,
        markup=False,
        emoji=False,
        width=width,
    )


def open_writer(color: str, *, silent: bool = False) -> TextWriter:
    """The writer that suits stdout."""
    if silent:
        return TextWriter()
    colored = wants_color(color, "stdout")
    return _TerminalWriter(colored) if colored or is_terminal("stdout") else _PlainWriter()


def print_legend(stats: Stats, finish_reason: str, color: str) -> None:
    """One line on stderr: who wrote how much, how fast, and why the text ended."""
    from rich.text import Text

    colored = wants_color(color, "stderr")
    line = Text("[")
    experts = [(name, work.tokens) for name, work in stats.experts.items() if name != "base"]
    for (name, n_tokens), style in zip(experts, EXPERT_STYLES, strict=False):
        line.append(name, style if colored else "")
        line.append(f" {n_tokens}, " if len(experts) > 1 else f" {n_tokens} ")
    line.append(
        f"of {stats.generated_tokens} tokens, {stats.deferral_rate:.1%}; "
        f"{stats.tokens_per_s:.1f} tokens/s; finish: {finish_reason}; seed {stats.seed}]"
    )
    open_console("stderr", colored).print(line, soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON value on stdout, in UTF-8."""
    stream = byte_stream("stdout")
    stream.write(dump_json(value, indent=2 if is_terminal("stdout") else None).encode() + b"\n")
    stream.flush()


class OneLine(logging.Formatter):
    """Lines of a log that may repeat what model files or requests say."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


@contextlib.contextmanager
def log_to_stderr(wanted: bool) -> Iterator[None]:
    """Shows llama.cpp's log while it lasts, where ``wanted``."""
    if not wanted:
        yield
        return
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(OneLine("llama.cpp: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
