"""Making a corpus of answers by the assistant or the pair: texts like those that the pair will write."""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._numbers import integer
from .._shown import shown
from ..answers.answering import texts
from ..corpus.documents import BadRow, Corpus, Document
from ..corpus.texts import prompt_messages, unusable, uses_chat
from ..engine.own_prompts import chat_prompt
from ..errors import ChatTemplateError, ColmError, ContextFull, CorpusError, GenerationError, TokenizeError
from ..files.folder import lock_folder
from ..files.reading import lines, whole_number, whole_rows, why
from ..files.rows import add_row, begin_rows
from ..options import ANSWER_OPTIONS, BASE, MAX_SEED, GenerationOptions, seed_of
from ..sources.identity import head_identity, loaded_adapters, loaded_identity, model_identity
from ..traces.record import expert_digits

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..results import Completion

__all__ = ["FILE", "Numbered", "Progress", "Row", "answered", "extent", "respond"]

FILE = "responses.jsonl"
FORMAT = "colm-responses"
VERSION = 1
ALWAYS = "always"
_OWN = ("own_prompts", "template")  # fields of a Document that few have
# A document with its number, which its seed depends on; and what is kept of its answer.
Numbered = tuple[int, Document | BadRow]
Row = dict[str, Any] | BadRow


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent after every answer.

    Attributes:
        done: documents finished, by earlier runs too.
        total: documents in all.
        n_tokens: tokens written in this run.
        bad_row: the last document, if it could not be answered.
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
    head: str | os.PathLike[str] = ALWAYS,
    chat: bool | None = None,
    system: str | None = None,
    strict: bool = False,
    n_parallel: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
    compute: Callable[..., Generator[Row, None, None]] | None = None,
) -> Corpus:
    """Has the assistant or the pair answer every prompt of a corpus. An interrupted run is continued.

    Args:
        pair: the loaded pair.
        corpus: prompts. Completions in it are ignored.
        out: the folder. Its ``responses.jsonl`` keeps the answers with their tokens, and for a pair who wrote each
            (``experts``: 0 base, 1 assistant).
        options: generation options; the defaults are :data:`colm_cpp.options.ANSWER_OPTIONS`. ``seed`` is the seed of
            the first prompt; each later prompt adds 1.
        head: the head that decides who writes. With ``always`` the assistant writes alone. A learned head gives texts
            with tokens of both models, as in real use. The head's next version can learn from them, as in DAgger (Ross
            et al., 2011).
        chat: apply the base's chat template. None: if it has one.
        system: a system message before each prompt.
        strict: stop at the first prompt that cannot be answered.
        n_parallel: answers that are written at a time, see :meth:`colm_cpp.Pair.stream_batch`. Answers are saved in the
            order of the prompts. If the process ends, finished answers that wait for an earlier one are lost.
        on_progress: called after every answer.
        compute: gives the row of each document, in their order. It is called with all arguments of :func:`answered` but
            the pair, which answers by default.

    Returns:
        The answered corpus.

    Raises:
        FolderInUse: another process is writing to the folder.
        CorpusError: the folder holds other answers; or, with ``strict``, a prompt cannot be answered.
        ChatTemplateError: ``chat`` is True and the base's file has no chat template.
        OptionError: ``n_parallel`` or an option of generation outside its range.
        HeadError: ``head`` cannot be used as a head, or has no calibration table for ``defer_rate``.
        OSError: the disk is full. Answers that were saved before stay.
    """
    if chat and not pair.base["chat_template"]:
        raise ChatTemplateError(f"{pair.base['path']} has no chat template; answer the texts without chat")
    use_chat = uses_chat(pair.base, chat)
    options = GenerationOptions.checked({**ANSWER_OPTIONS, **options})
    integer("seed", options["seed"], 0, MAX_SEED)  # not None
    writers: dict[str, Any] = {}
    if head != ALWAYS:
        writers = {**head_identity(head), "base": model_identity(pair.base["path"])}
    adapters = {
        "base_adapters": loaded_adapters(pair.base) if writers else None,
        "assistant_adapters": loaded_adapters(pair.assistant),
    }
    facts = {
        **corpus.facts,
        "options": dict(options),
        "chat": use_chat,
        "system": system,
        "assistant": loaded_identity(pair.assistant),
        **writers,
        **{name: used for name, used in adapters.items() if used},
    }
    path = Path(out) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    written = {**options, "head": head}

    def rows(documents: Iterable[Numbered]) -> Generator[Row, None, None]:
        if compute is not None:
            return compute(documents, written, use_chat, system, n_parallel)
        return answered(pair, documents, written, use_chat, system, n_parallel)

    with lock_folder(path.parent):
        _write(corpus, path, facts, rows, strict, on_progress)
    kept = {**corpus.facts, "respond": {**facts["options"], **(head_identity(head) if writers else {})}}
    n = corpus.n_documents
    return replace(corpus, documents=lambda: _read(path, n), facts=kept)


def _write(
    corpus: Corpus,
    path: Path,
    facts: dict[str, Any],
    compute: Callable[[Iterable[Numbered]], Generator[Row, None, None]],
    strict: bool,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    header = {"format": FORMAT, "version": VERSION, **facts}
    n_done = begin_rows(path, header, _parse, "answers")
    n_tokens = 0
    documents = itertools.islice(enumerate(corpus.documents(), corpus.first), n_done, None)
    with closing(compute(documents)) as rows:
        for done, row in enumerate(rows, n_done + 1):
            bad = row if isinstance(row, BadRow) else None
            if bad is not None and strict:
                raise CorpusError(f"{bad}; without --strict such rows are skipped")
            n_tokens += 0 if isinstance(row, BadRow) else len(row["ids"])
            kept = {"bad": row.reason, "file": row.path, "line": row.line} if isinstance(row, BadRow) else row
            add_row(path, json.dumps(kept))
            if on_progress is not None:
                on_progress(Progress(done, corpus.n_documents, n_tokens, bad))


def _parse(line: bytes) -> Document | BadRow:
    """An answer, or a prompt that could not be answered. Raises ValueError where the line is neither."""
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("it is no object")

    def text(name: str) -> str:
        if not isinstance(value.get(name), str):
            raise ValueError(f"{name} is {shown(value.get(name))}; it must be a text")
        return str(value[name])

    def object_of(name: str) -> dict[str, Any]:
        found = value.get(name, {})
        if not isinstance(found, dict):
            raise ValueError(f"{name} is {shown(found)}; it must be an object")
        return found

    number = whole_number("line", value.get("line"))
    if "bad" in value:
        return BadRow(text("file"), number, text("bad"))
    messages, ids = value.get("messages"), value.get("ids")
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in messages
    ):
        raise ValueError(f"messages is {shown(messages)}; it must be a list of messages")
    if not isinstance(ids, list) or not ids:
        raise ValueError(f"ids is {shown(ids)}; it must be a list of token ids")
    tokens = tuple(whole_number("an id", id_, 0, 2**31 - 1) for id_ in ids)
    document = Document(
        text("file"),
        number,
        tuple(messages),
        text("prompt"),
        text("completion"),
        tokens,
        ended=value.get("finish_reason", "eos") == "eos",
        **{key: object_of(key) for key in _OWN},
    )
    if messages:
        reply = {"role": "assistant", "content": document.completion}
        document = replace(document, messages=(*document.messages, reply))
    return document


def answered(
    pair: Pair,
    documents: Iterable[Numbered],
    options: Mapping[str, Any],
    chat: bool,
    system: str | None,
    n_parallel: int,
) -> Generator[Row, None, None]:
    """The row of each document, in their order."""
    asked: list[Numbered] = []  # in the order in which the batch counts them
    ready: dict[int, Row] = {}
    waiting: deque[int] = deque()  # all numbers that were read and not given

    def prompts() -> Iterator[tuple[Any, dict[str, Any]]]:
        for number, document in documents:
            waiting.append(number)
            tokens = document if isinstance(document, BadRow) else _tokens(pair, document, chat, system)
            if isinstance(document, BadRow) or isinstance(tokens, BadRow):
                assert isinstance(tokens, BadRow)
                ready[number] = tokens
                continue
            asked.append((number, document))
            # Without look-ahead, so that it does not depend on the machine.
            yield tokens, {"lookahead": 0, **options, "seed": seed_of(options["seed"], number)}

    for count, result in texts(pair, prompts(), n_parallel):
        number, document = asked[count]
        assert isinstance(document, Document)
        ready[number] = _row(document, result)
        while waiting and waiting[0] in ready:
            yield ready.pop(waiting.popleft())
    yield from (ready[number] for number in waiting)


def _tokens(pair: Pair, document: Document, chat: bool, system: str | None) -> Any:
    """The prompt as :meth:`colm_cpp.Pair.generate` takes it, or a BadRow."""
    bad = unusable(document, pair.experts, chat=chat)
    if bad is not None:
        return bad
    prompts = document.own_prompts
    try:
        if document.messages or chat:
            own = {name: prompt_messages(replace(document, prompt=text), system) for name, text in prompts.items()}
            return chat_prompt(pair, prompt_messages(document, system), own=own, **document.template)
        return {BASE: document.prompt, **prompts} if prompts else pair.tokenize(document.prompt)
    except (ChatTemplateError, TokenizeError) as error:
        return BadRow(document.path, document.line, str(error))


def _row(document: Document, result: Completion | ColmError) -> Row:
    if isinstance(result, (ContextFull, GenerationError, TokenizeError)):
        return BadRow(document.path, document.line, str(result))
    if isinstance(result, ColmError):
        raise result
    tokens = [*result.tokens, *([] if result.end_token is None else [result.end_token])]
    if not tokens:
        return BadRow(document.path, document.line, "its answer is empty")
    return {
        "file": document.path,
        "line": document.line,
        "messages": list(document.messages),
        "prompt": document.prompt,
        "completion": result.text,
        "ids": [token.id for token in tokens],
        "experts": expert_digits(tokens),
        "finish_reason": result.finish_reason,
        **{key: dict(own) for key in _OWN if (own := getattr(document, key))},
    }


def _read(path: Path, n_documents: int) -> Iterator[Document | BadRow]:
    with path.open("rb") as file:
        next(lines(file), None)  # the header
        for row, _ in itertools.islice(whole_rows(file, path, _parse, first=2), n_documents):
            yield row


def extent(path: Path) -> tuple[dict[str, Any], int, list[int]]:
    """The header of a file of answers, where its rows begin, and where each ends.

    Raises:
        CorpusError: the file cannot be read, or is damaged.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(next(lines(file), None) or b"null")
            begin = file.tell()
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise ValueError(f"it does not begin with the header of a {FORMAT} file")
            return header, begin, [end for _, end in whole_rows(file, path, _parse, first=2)]
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, CorpusError):
            raise
        reason = why(error) if isinstance(error, (OSError, ValueError)) else str(error)
        raise CorpusError(f"{path} cannot be read ({reason}); make the answers again in another folder") from error
