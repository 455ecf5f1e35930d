"""Reading texts: JSON lines with prompts and completions or with conversations, and plain text files.

A :class:`Document` says which of its tokens are learned from. A row that cannot be used becomes a :class:`BadRow` with
its file and line, and reading goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from .._shown import shortened, shown
from ..chat.messages import is_message
from ..chat.own import row_template
from ..errors import CorpusError
from ..files.reading import MAX_LINE, lines, why
from ..files.shards import Shard
from ..options import BASE

__all__ = ["BadRow", "Corpus", "Document", "Row", "blocks", "json_rows", "read_documents", "unreadable"]

PathLike = str | os.PathLike[str]

MAX_TEXT = 2**31 - 3
# A block ends with the document that reaches one of these. Its texts are never read together with those of another.
BLOCK_DOCUMENTS = 32
BLOCK_CHARACTERS = 2**16


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        path: its file.
        line: its line, counted from 1; 0 means the whole file.
        reason: why it cannot be used.
    """

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        place = f"{self.path}:{self.line}" if self.line else self.path
        return f"{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Row:
    """A JSON object with its place."""

    path: str
    line: int
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the corpus.

    Attributes:
        path: its file.
        line: its line, counted from 1; 0 for a plain text file.
        messages: the conversation; empty for a text without turns.
        prompt: without messages, the text that is read but not learned from.
        completion: without messages, the text that is learned from.
        completion_ids: the token ids of the last reply, if known. A text can be tokenized in several ways, and
            scoring needs the tokens that the model wrote.
        own_prompts: for some experts, by name, the prompt that they read instead of ``prompt``, which is the base's.
        template: ``system`` and ``chat_template`` of its own, each for all models or by their names.
        ended: whether the last reply ended, so that a token says so behind it. Known tokens have it themselves.
    """

    path: str
    line: int
    messages: tuple[dict[str, str], ...] = ()
    prompt: str = ""
    completion: str = ""
    completion_ids: tuple[int, ...] = ()
    own_prompts: Mapping[str, str] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)
    ended: bool = True

    @property
    def n_characters(self) -> int:
        """Characters of its texts."""
        turns = sum(len(message.get("content") or "") for message in self.messages)
        return len(self.prompt) + len(self.completion) + turns


@dataclass(frozen=True)
class Corpus:
    """The same texts in the same order, each time they are read.

    Attributes:
        documents: returns an iterator over documents and bad rows.
        n_documents: the number of both together.
        facts: the files and options that the texts depend on, for ``meta.json``.
        starts: numbers of the documents with which a block begins, ascending from 0, see :func:`blocks`. Without any
            the corpus is one block.
        first: the number of its first document in the corpus that it is a shard of.
    """

    documents: Callable[[], Iterator[Document | BadRow]]
    n_documents: int
    facts: Mapping[str, Any]
    starts: Sequence[int] = ()
    first: int = 0

    def shard(self, shard: Shard) -> Corpus:
        """The part of one of several machines: whole blocks, so that it reads the same texts together as one would.

        Raises:
            OptionError: there are fewer blocks than shards.
        """
        taken = shard.part(len(self.starts), f"blocks of up to {BLOCK_DOCUMENTS} texts")
        ends = (*self.starts, self.n_documents)
        part = range(ends[taken.start], ends[taken.stop])
        return Corpus(
            lambda: islice(self.documents(), part.start, part.stop),
            len(part),
            {**self.facts, **shard.facts(part, {"documents": self.n_documents})},
            tuple(start - part.start for start in self.starts[taken.start : taken.stop]),
            self.first + part.start,
        )


def blocks(documents: Iterator[Document | BadRow]) -> tuple[tuple[int, ...], int]:
    """Where blocks begin: the numbers of their first documents, and how many documents there are in all.

    A block has up to 32 documents, and ends with the one that brings it to 65,536 characters. So blocks depend on the
    documents alone, and those of a part that begins with a block are the same.
    """
    starts: list[int] = []
    number = -1
    size = 0
    for number, document in enumerate(documents):
        if not starts or number - starts[-1] == BLOCK_DOCUMENTS or size >= BLOCK_CHARACTERS:
            starts.append(number)
            size = 0
        size += 0 if isinstance(document, BadRow) else document.n_characters
    return tuple(starts), number + 1


def json_rows(path: PathLike, stream: BinaryIO | None = None) -> Iterator[Row | BadRow]:
    """The objects of a JSON-lines file; blank lines are skipped.

    Args:
        path: the file.
        stream: what to read instead of opening ``path``, which then only names it. It stays open.

    Raises:
        CorpusError: the file cannot be read.
    """
    name = os.fspath(path)
    with _opened(name) if stream is None else nullcontext(stream) as file:
        try:
            for number, line in enumerate(lines(file), start=1):
                if line is None:
                    yield BadRow(name, number, f"a line of more than {MAX_LINE} bytes")
                elif line.strip():
                    yield _row(name, number, line)
        except OSError as error:
            raise unreadable(name, error) from error


def _opened(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise unreadable(name, error) from error


def unreadable(name: str, error: OSError | ValueError) -> CorpusError:
    """What is said of a file that cannot be read."""
    return CorpusError(f"{shortened(name)} cannot be read ({why(error)}); check its name and permissions")


def _row(name: str, number: int, line: bytes) -> Row | BadRow:
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return BadRow(name, number, f"not UTF-8 (byte 0x{line[error.start]:02x})")
    except json.JSONDecodeError as error:
        return BadRow(name, number, f"not JSON ({error.msg} at column {error.colno})")
    except ValueError as error:  # a whole number of thousands of digits
        return BadRow(name, number, f"no JSON that can be read ({shortened(str(error))})")
    except RecursionError:
        return BadRow(name, number, "JSON nested too deeply")
    if isinstance(value, dict):
        return Row(name, number, value)
    return BadRow(name, number, f"a JSON {type(value).__name__}, not an object")


def read_documents(paths: Sequence[PathLike], *, needs_completion: bool = True) -> Iterator[Document | BadRow]:
    """The texts of the files, in order. ``*.jsonl`` and ``*.json`` are JSON lines; anything else is one plain text.

    Args:
        paths: the files.
        needs_completion: True: a prompt without a completion is a bad row. False: keep only the prompts, because the
            assistant will write the completions.

    Raises:
        CorpusError: a file cannot be read.
    """
    for path in paths:
        name = os.fspath(path)
        if not name.lower().endswith((".jsonl", ".json")):
            yield _plain(name, needs_completion)
            continue
        for row in json_rows(name):
            yield row if isinstance(row, BadRow) else _document(row, needs_completion)


def _plain(name: str, needs_completion: bool) -> Document | BadRow:
    with _opened(name) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_TEXT:
                return BadRow(name, 0, f"a text of {size} bytes; at most {MAX_TEXT} can be tokenized, so split it")
            data = file.read(MAX_TEXT)
        except OSError as error:
            raise unreadable(name, error) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return BadRow(name, 0, f"not UTF-8 (byte 0x{data[error.start]:02x} at offset {error.start})")
    if not text.strip():
        return BadRow(name, 0, "an empty file")
    if not needs_completion:
        return BadRow(name, 0, "a plain text has no prompt to answer")
    return Document(name, 0, completion=text)


def _document(row: Row, needs_completion: bool) -> Document | BadRow:
    def bad(reason: str) -> BadRow:
        return BadRow(row.path, row.line, reason)

    template = row_template(row.value)
    if isinstance(template, str):
        return bad(template)
    if any(map(_has_surrogate, _texts_in(template))):
        return bad("a lone surrogate, which is not Unicode text")
    if "messages" in row.value:
        messages = row.value["messages"]
        if not isinstance(messages, list) or not messages:
            return bad("messages is no list of messages")
        for message in messages:
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                return bad("a message has no role")
            text = message.get("content")
            if not is_message(message) or not isinstance(text, (str, type(None))):
                return bad(f"a message of role {shown(message['role'])} has no text")
            if _has_surrogate(text or ""):
                return bad("a message holds a lone surrogate, which is not Unicode text")
        if not needs_completion:
            while messages and messages[-1]["role"] == "assistant":
                messages = messages[:-1]
            if not messages:
                return bad("there is nothing but the assistant's turns")
        elif not any(message["role"] == "assistant" and message.get("content") for message in messages):
            return bad("no turn of the assistant to learn from")
        return Document(row.path, row.line, messages=tuple(messages), template=template)

    prompt, completion = row.value.get("prompt", ""), row.value.get("completion", row.value.get("text"))
    own: dict[str, str] = {}
    if isinstance(prompt, dict):
        if BASE not in prompt:
            return bad("prompt has none for the base; give 'base', too")
        own = {name: text for name, text in prompt.items() if name != BASE}
        prompt = prompt[BASE]
    for text in (prompt, *own.values()):
        if not isinstance(text, str):
            return bad(f"prompt is a JSON {type(text).__name__}, not a text")
        if own and not text:
            return bad("one of its prompts is empty")
    if not needs_completion:
        completion = ""
    elif completion is None:
        return bad("neither completion nor messages")
    elif not isinstance(completion, str):
        return bad(f"completion is a JSON {type(completion).__name__}, not a text")
    elif not completion:
        return bad("the completion is empty")
    if not needs_completion and not prompt:
        return bad("there is no prompt to answer")
    if any(map(_has_surrogate, (prompt, completion, *own, *own.values()))):
        return bad("a lone surrogate, which is not Unicode text")
    return Document(row.path, row.line, prompt=prompt, completion=completion, own_prompts=own, template=template)


def _texts_in(template: Mapping[str, Any]) -> Iterator[str]:
    """The texts of a row's ``system`` and ``chat_template``, and the names of the models there."""
    for value in template.values():
        for text in [value] if isinstance(value, str) else [*value, *value.values()]:
            yield text or ""


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
