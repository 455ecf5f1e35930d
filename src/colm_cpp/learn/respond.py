"""The assistant's own answers as a corpus: texts of the kind that the pair will write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ChatTemplateError, ContextFull, CorpusError, GenerationError, TokenizeError
from ._lock import lock_folder
from .corpus import BadRow, Document, json_rows
from .identity import model_identity
from .selection import Corpus
from .texts import prompt_messages, uses_chat

if TYPE_CHECKING:
    from ..pair import Pair

__all__ = ["FILE", "Progress", "respond"]

FILE = "responses.jsonl"
FORMAT = "colm-responses"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent after every answer.

    Attributes:
        done: documents done with, those of earlier runs included.
        total: documents there are.
        n_tokens: tokens written in this run.
        bad_row: the document, where it is none that can be answered.
    """

    done: int
    total: int
    n_tokens: int
    bad_row: BadRow | None


def respond(
    pair: Pair,
    corpus: Corpus,
    out: str | os.PathLike[str],
    options: Mapping[str, Any],
    *,
    chat: bool | None = None,
    system: str | None = None,
    strict: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Corpus:
    """Lets the assistant answer every prompt of a corpus, or goes on with that.

    Args:
        pair: the loaded pair; only its assistant writes.
        corpus: prompts; completions in it are not looked at.
        out: the folder; answers are kept in ``responses.jsonl``, each with its tokens.
        options: of generation; ``seed`` is that of the first prompt, each later one has the next.
        chat: through the base's chat template. None: where it has one.
        system: a system message before prompts.
        strict: stop at the first prompt that cannot be answered.
        on_progress: called after every answer.

    Returns:
        The answered corpus.

    Raises:
        CorpusError: the folder holds other answers, or a prompt cannot be answered, with ``strict``.
        ChatTemplateError: ``chat`` is asked for and the base's file has no template.
        OptionError: an option of generation outside its range.
        OSError: the disk is full. Answers written before stay.
    """
    if chat and not pair.base["chat_template"]:
        raise ChatTemplateError(f"{pair.base['path']} carries no chat template; have the texts answered without chat")
    use_chat = uses_chat(pair.base, chat)
    facts = {
        **corpus.facts,
        "options": dict(options),
        "chat": use_chat,
        "system": system,
        "assistant": model_identity(pair.assistant["path"]),
    }
    path = Path(out) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock_folder(path.parent):
        _write(pair, corpus, path, facts, options, use_chat, system, strict, on_progress)
    kept = {**corpus.facts, "respond": facts["options"]}
    return Corpus(lambda: _read(path, corpus.n_documents), corpus.n_documents, kept)


def _write(
    pair: Pair,
    corpus: Corpus,
    path: Path,
    facts: dict[str, Any],
    options: Mapping[str, Any],
    chat: bool,
    system: str | None,
    strict: bool,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    n_done = _begin(path, json.loads(json.dumps(facts)))
    n_tokens = 0
    with path.open("ab") as file:
        for number, document in enumerate(corpus.documents()):
            if number < n_done:
                continue
            own = {**options, "seed": int(options.get("seed", 0)) + number}
            answer = document if isinstance(document, BadRow) else _answer(pair, document, own, chat, system)
            if isinstance(answer, BadRow):
                if strict:
                    raise CorpusError(f"{answer}; without --strict such rows are left out")
                row: dict[str, Any] = {"bad": answer.reason, "file": answer.path, "line": answer.line}
            else:
                row = answer
                n_tokens += len(row["ids"])
            file.write(json.dumps(row).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            if on_progress is not None:
                bad = answer if isinstance(answer, BadRow) else None
                on_progress(Progress(number + 1, corpus.n_documents, n_tokens, bad))


def _begin(path: Path, facts: dict[str, Any]) -> int:
    """Writes the header, or checks the one there is and cuts off a line that was not finished. Answers there are."""
    header = {"format": FORMAT, "version": VERSION, **facts}
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    n_done = max(whole.count(b"\n") - 1, 0)
    try:
        known = json.loads(whole[: whole.index(b"\n")]) if whole else None
    except ValueError as error:
        raise CorpusError(f"{path} is damaged in its first line ({error}); delete it or use another folder") from error
    ours = isinstance(known, dict) and known.get("format") == FORMAT
    if not whole or (ours and not n_done):  # options that were refused before the first answer bind nobody
        path.write_bytes(json.dumps(header).encode() + b"\n")
        return 0
    if known != header:
        raise CorpusError(f"{path} holds answers made from another corpus or with other options; use another folder")
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return n_done


def _answer(
    pair: Pair, document: Document, options: Mapping[str, Any], chat: bool, system: str | None
) -> dict[str, Any] | BadRow:
    pair.forget()
    own = {**options, "head": "always"}
    try:
        if document.messages or chat:
            completion = pair.chat(prompt_messages(document, system), **own)
        else:
            completion = pair.generate(document.prompt, **own)
    except (ChatTemplateError, ContextFull, GenerationError, TokenizeError) as error:
        return BadRow(document.path, document.line, str(error))
    ids = [token.id for token in completion.tokens]
    if completion.end_token is not None:
        ids.append(completion.end_token.id)
    if not ids:
        return BadRow(document.path, document.line, "its answer is empty")
    return {
        "file": document.path,
        "line": document.line,
        "messages": list(document.messages),
        "prompt": document.prompt,
        "completion": completion.text,
        "ids": ids,
        "finish_reason": completion.finish_reason,
    }


def _read(path: Path, n_documents: int) -> Iterator[Document | BadRow]:
    for number, row in enumerate(json_rows(path)):
        if number == 0:
            continue
        if number > n_documents:
            return
        if isinstance(row, BadRow):
            raise CorpusError(f"{row}; delete this line and those behind it to have the answers written again")
        value = row.value
        if "bad" in value:
            yield BadRow(value["file"], value["line"], value["bad"])
            continue
        document = Document(
            value["file"], value["line"], tuple(value["messages"]), value["prompt"], value["completion"]
        )
        if document.messages:
            reply = {"role": "assistant", "content": document.completion}
            document = replace(document, messages=(*document.messages, reply))
        yield replace(document, completion_ids=tuple(value["ids"]))
