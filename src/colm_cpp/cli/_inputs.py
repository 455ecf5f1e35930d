"""What a command reads: the prompt, grammars, templates."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from ..errors import GrammarError, OptionError, TokenizeError
from ._output import byte_stream, is_terminal

__all__ = ["read_grammar", "read_prompt", "read_text", "user_messages"]

_HOW_TO_PROMPT = "give PROMPT, --file FILE, or text on standard input"


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """The text of a UTF-8 file; ``-`` is standard input.

    Raises:
        OptionError: it cannot be read, or is not UTF-8.
    """
    place = "standard input" if path == "-" else os.fspath(path)
    try:
        data = byte_stream("stdin").read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise OptionError(
            f"the {what} {place} cannot be read ({error.strerror}); check its name and permissions"
        ) from error
    try:
        return data.decode("utf-8-sig" if path != "-" else "utf-8")
    except UnicodeDecodeError as error:
        raise OptionError(
            f"the {what} {place} is not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start}); convert it to "
            "UTF-8"
        ) from None


def read_prompt(argument: str | None, file: str | None, *, may_be_empty: bool) -> str:
    """The prompt from wherever it was given. One newline at the end of a file or of standard input is dropped.

    Raises:
        click.UsageError: no prompt, or two.
        TokenizeError: an empty one.
        OptionError: a file that cannot be read.
    """
    if argument is not None and file is not None:
        raise click.UsageError("both PROMPT and --file were given; give only one of them")
    if argument is not None:
        prompt = argument
    elif file is not None:
        prompt = _without_last_newline(read_text(file, "prompt"))
    elif is_terminal("stdin"):
        raise click.UsageError(f"no prompt; {_HOW_TO_PROMPT}")
    else:
        prompt = _without_last_newline(read_text("-", "prompt"))
        if not prompt:
            raise click.UsageError(f"no prompt, and standard input is empty; {_HOW_TO_PROMPT}")
    if not prompt and not may_be_empty:
        raise TokenizeError("the prompt is empty; give at least one character")
    return prompt


def user_messages(text: str, system: str | None) -> list[dict[str, str]]:
    """A user's message, behind a system message where there is one."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": text}]


def _without_last_newline(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def read_grammar(text: str | None, file: str | None, schema: str | None) -> Any:
    """What the API takes as ``grammar``, from whichever of the three options was given.

    Raises:
        click.UsageError: more than one of them.
        OptionError: a file that cannot be read; GrammarError where a schema is no JSON object.
    """
    options = {"--grammar": text, "--grammar-file": file, "--json-schema": schema}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(given)} were given; give only one of them")
    if schema is None:
        return read_text(file, "grammar") if file is not None else text
    try:
        value = json.loads(read_text(schema, "JSON schema"))
    except json.JSONDecodeError as error:
        raise GrammarError(
            f"the JSON schema {schema} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "correct the file"
        ) from None
    if not isinstance(value, dict):
        raise GrammarError(f"the JSON schema {schema} is of type {type(value).__name__}; it must be a JSON object")
    return value
