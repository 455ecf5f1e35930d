"""Where a conversation's messages come from: a terminal, with editing and a history, or lines of standard input."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..extras import require
from ._output import byte_stream

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

__all__ = ["default_history", "messages_of_stdin", "open_history", "open_prompt"]

GOES_ON = "\\"  # at the end of a line: the message has another


def messages_of_stdin() -> Iterator[str]:
    """The lines of standard input, one message each. A line that ends in a backslash goes on in the next one.

    Raises:
        OptionError: standard input is closed, or is not UTF-8.
    """
    message = ""
    for number, line in enumerate(byte_stream("stdin"), start=1):
        try:
            text = line.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise OptionError(
                f"line {number} of standard input is not UTF-8 (byte 0x{line[error.start]:02x}); convert it to UTF-8"
            ) from None
        if text.endswith(GOES_ON):
            message += text.removesuffix(GOES_ON) + "\n"
            continue
        yield message + text
        message = ""
    if message:
        yield message.removesuffix("\n")


def default_history() -> Path:
    """Where messages are kept: ``chat-history`` in colm-cpp's configuration folder."""
    import click  # it knows where this platform keeps configuration

    return Path(click.get_app_dir("colm-cpp"), "chat-history")


def open_history(file: Path) -> Any:
    """The messages of earlier conversations, which only the user may read.

    Raises:
        OSError: the file cannot be used.
    """
    history = require("prompt_toolkit.history", "the history of colm chat")
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    file.read_bytes()
    return history.FileHistory(os.fspath(file))


def open_prompt(history: Any, commands: Mapping[str, str], **streams: Any) -> Callable[[str], str]:
    """What asks for a message on the terminal: ``ask(prompt)`` gives it.

    Enter sends the message. Alt-Enter, and Enter behind a backslash, begin a new line; text that is pasted keeps its
    lines.

    Args:
        history: None, or what :func:`open_history` gave.
        commands: the commands and what they do, for completion with Tab.
        **streams: prompt_toolkit's ``input`` and ``output``, for tests.

    Raises:
        MissingDependency: prompt_toolkit is not installed.
    """
    require("prompt_toolkit", "colm chat on a terminal")
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyBindings

    class Commands(Completer):
        """The commands behind a slash, and files behind those that take one."""

        def get_completions(self, document: Document, event: CompleteEvent) -> Iterator[Completion]:
            name, space, rest = document.text_before_cursor.partition(" ")
            if not name.startswith("/"):
                return
            if not space:
                for command, about in commands.items():
                    if command.startswith(name):
                        yield Completion(command, -len(name), display_meta=about)
            elif name in ("/save", "/load"):
                yield from PathCompleter(expanduser=True).get_completions(Document(rest.lstrip()), event)

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: Any) -> None:
        buffer = event.current_buffer
        if buffer.document.text_before_cursor.endswith(GOES_ON):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=history,
        multiline=True,
        key_bindings=keys,
        completer=Commands(),
        complete_while_typing=False,
        prompt_continuation=lambda width, line, wrapped: "" if wrapped else ".".rjust(width - 1) + " ",
        **streams,
    )
    return lambda prompt: session.prompt(prompt)
