"""A conversation in a file, and beside it what the models have read of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .._shown import shown
from ..errors import CorpusError, OptionError, SessionError
from ..files.json_text import dump_json
from ..files.output_file import check_output
from ._conversation import Conversation, Exchange, Piece
from ._files import write_result
from ._inputs import read_text

__all__ = ["load", "save", "session_of"]

FORMAT = "colm-chat"
VERSION = 1


def session_of(file: Path) -> Path:
    """Where the session of a conversation's file lies."""
    return file.with_name(file.name + ".session")


def save(conversation: Conversation, file: Path, *, force: bool) -> int:
    """Writes the conversation to ``file``, and what all models have read to the session beside it.

    Args:
        conversation: what to write.
        file: where to.
        force: whether files that exist may be replaced.

    Returns:
        The size of the session in bytes. 0: there is none, because a model is on another machine.

    Raises:
        OptionError: one of the files cannot be written, or exists.
    """
    session = session_of(file)
    check_output(file, force=force)
    check_output(session, force=force)
    value = {
        "format": FORMAT,
        "version": VERSION,
        "models": {name: facts["name"] for name, facts in _models(conversation).items()},
        "system": conversation.system,
        "way": conversation.way.name,
        "messages": list(_messages(conversation)),
    }
    write_result("/save", file, dump_json(value, indent=1).encode() + b"\n")
    if conversation.pair.remote:
        return 0
    try:
        conversation.pair.save_session(session)
    except OSError as error:
        raise OptionError(
            f"{file} is saved, but the session {session} cannot be written ({error.strerror or error}); the models "
            "will read the conversation again when it is loaded"
        ) from error
    return session.stat().st_size


def _models(conversation: Conversation) -> dict[str, dict[str, Any]]:
    return {"base": conversation.pair.base, **conversation.pair.experts}


def _messages(conversation: Conversation) -> Iterator[dict[str, Any]]:
    for exchange in conversation.exchanges:
        yield {"role": "user", "content": exchange.question}
        yield {"role": "assistant", "content": exchange.answer, "written": exchange.pieces}


def load(conversation: Conversation, file: Path) -> str:
    """Replaces the conversation by that of a file. The models know again what they had read of it, where they can.

    Returns:
        Why they will read it again; "" where they need not.

    Raises:
        OptionError: the file cannot be read.
        CorpusError: it holds no conversation. The conversation stays as it was.
        ChatTemplateError: the template allows no system message.
    """
    try:
        value = json.loads(read_text(file, "conversation"))
    except (ValueError, RecursionError) as error:
        if file == session_of(file.with_suffix("")):
            raise CorpusError(f"{file} is the session of a conversation; load {file.with_suffix('')}") from None
        if isinstance(error, OptionError):
            raise
        raise CorpusError(f"{file} is not JSON ({error}); give a file that /save wrote") from None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CorpusError(f"{file} holds no conversation; give a file that /save wrote")
    if value.get("version") != VERSION:
        raise CorpusError(f"{file} is of version {shown(value.get('version'))}; this colm-cpp reads version {VERSION}")
    system = value.get("system")
    if system is not None and not isinstance(system, str):
        _wrong(file, "system", system, "a text or null")
    exchanges = _exchanges(file, value.get("messages"), conversation.pair.names)
    name = value.get("way", "pair")
    try:
        way = conversation.way_named(str(name))
    except OptionError:
        _wrong(file, "way", name, f"pair, {', '.join(conversation.pair.names)}, or a rate such as 20%")
    conversation.check(system)
    conversation.exchanges, conversation.system, conversation.way = exchanges, system, way
    session = session_of(file)
    if not session.exists():
        return f"there is no {session}"
    try:
        conversation.pair.load_session(session)
    except (OptionError, SessionError) as error:
        return str(error)
    return ""


def _exchanges(file: Path, messages: object, writers: Sequence[str]) -> list[Exchange]:
    if not isinstance(messages, list):
        _wrong(file, "messages", messages, "a list")
    if len(messages) % 2:
        raise CorpusError(f"{file} has {len(messages)} messages; each message of the user needs an answer after it")
    found = []
    for i in range(0, len(messages), 2):
        for number, role in ((i, "user"), (i + 1, "assistant")):
            message = messages[number]
            if (
                not isinstance(message, Mapping)
                or message.get("role") != role
                or not isinstance(message.get("content"), str)
            ):
                _wrong(file, f"message {number}", message, f'a message with role "{role}" and a text as content')
        found.append(Exchange(messages[i]["content"], _pieces(file, i + 1, messages[i + 1], writers)))
    return found


def _pieces(file: Path, number: int, message: Mapping[str, Any], writers: Sequence[str]) -> tuple[Piece, ...]:
    """Who wrote what of an answer. Where a file does not say, such as one written by hand, the base did."""
    content = message["content"]
    written = message.get("written", [["base", content]])
    pieces: list[Piece] = []
    for piece in written if isinstance(written, list) else [None]:
        if not (isinstance(piece, list) and len(piece) == 2 and piece[0] in writers and isinstance(piece[1], str)):
            _wrong(file, f"written of message {number}", piece, f"[{' or '.join(map(repr, writers))}, text]")
        pieces.append((piece[0], piece[1]))
    if "".join(text for _, text in pieces) != content:
        raise CorpusError(f"{file}: written of message {number} is another text than its content; make them equal")
    return tuple(pieces)


def _wrong(file: Path, what: str, value: object, wanted: str) -> NoReturn:
    raise CorpusError(f"{file}: {what} is {shown(value)}; it must be {wanted}")
