"""``colm generate --batch``: the prompts of a file, many at once. docs/batch-format.md describes the files."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..chat.own import ROW_KEYS, by_model, row_template
from ..errors import ColmError, CorpusError, GenerationError
from ..files.json_text import dump_json
from ._files import Sink, StandardOutput, open_sink
from ._inputs import user_messages
from ._output import byte_stream
from ._own_prompts import OwnPrompts
from ._progress import meter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..engine.pair import Pair
    from ..engine.prompts import Prompt
    from ..results import Completion

__all__ = ["BatchRow", "read_batch", "write_batch"]

_Write = Callable[[int, dict[str, Any]], None]
_ROW_KEYS = ("id", "prompt", "messages", "options")


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A text to be written.

    Attributes:
        line: its line in the file, counted from 1.
        name: its ``id``, if it has one.
        prompt: the text to continue, or one for each model by its name; None where there are messages.
        messages: the conversation to answer.
        template: ``system`` and ``chat_template`` of its own, each for all models or by their names.
        options: its own options of generation.
        error: what is wrong with it, and keeps it from being written.
    """

    line: int
    name: Any = None
    prompt: str | Mapping[str, str] | None = None
    messages: tuple[dict[str, str], ...] = ()
    template: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] | None = None
    error: str | None = None


def read_batch(path: str, options: Mapping[str, Any]) -> list[BatchRow]:
    """The rows of a JSON-lines file: ``prompt`` or ``messages``, and if wanted ``id`` and options of generation.

    Args:
        path: the file; ``-`` is standard input.
        options: those of all texts, which a row's own go before.

    Raises:
        CorpusError: the file cannot be read, or has no rows.
    """
    from ..corpus.documents import BadRow, json_rows

    rows = [
        BatchRow(row.line, error=row.reason) if isinstance(row, BadRow) else _row(row.line, row.value, options)
        for row in json_rows(path, byte_stream("stdin") if path == "-" else None)
    ]
    if not rows:
        raise CorpusError(f"{path} has no prompts; write one JSON object per line, with 'prompt' or 'messages'")
    return rows


def _row(line: int, value: dict[str, Any], options: Mapping[str, Any]) -> BatchRow:
    from ..options import GenerationOptions

    name, prompt, messages, inner = (value.get(key) for key in _ROW_KEYS)
    if (prompt is None) == (messages is None):
        return BatchRow(line, name, error="give either prompt or messages, one of the two")
    if prompt is not None and not isinstance(prompt, str) and not by_model(prompt):
        what = f"prompt is of type {type(prompt).__name__}" if not isinstance(prompt, dict) else "prompt holds no text"
        return BatchRow(line, name, error=f"{what}; it must be a string, or an object of them by the names of models")
    if messages is not None and not _are_messages(messages):
        return BatchRow(line, name, error="messages must be a list of objects with role and content")
    if inner is not None and not isinstance(inner, dict):
        return BatchRow(line, name, error=f"options is of type {type(inner).__name__}; it must be a JSON object")
    template = row_template(value)
    if isinstance(template, str):
        return BatchRow(line, name, error=template)
    known = [field.name for field in fields(GenerationOptions)]
    outer = {key: entry for key, entry in value.items() if key not in (*_ROW_KEYS, *ROW_KEYS)}
    for given, allowed in ((outer, [*_ROW_KEYS, *ROW_KEYS, *known]), (inner or {}, known)):
        for key in given:
            if key not in known:
                return BatchRow(line, name, error=_unknown(key, allowed))
    twice = sorted(outer.keys() & (inner or {}).keys())
    if twice:
        return BatchRow(line, name, error=f"{twice[0]} is given twice, in the row and in its options; remove one")
    own = {**outer, **(inner or {})}
    try:
        GenerationOptions.of(options).replaced(own)
    except (ColmError, TypeError) as error:
        return BatchRow(line, name, error=str(error))
    return BatchRow(line, name, prompt, tuple(messages or ()), template, own)


def _unknown(key: str, allowed: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = (
        f"did you mean {close[0]!r}?"
        if close
        else f"the known keys are {', '.join(allowed)}; put data of your own under id"
    )
    return f"{key!a} is not a key of a row; {hint}"


def _are_messages(value: object) -> bool:
    from ..chat.messages import is_message

    return isinstance(value, list) and bool(value) and all(is_message(message) for message in value)


def write_batch(
    pair: Pair,
    rows: Sequence[BatchRow],
    options: dict[str, Any],
    *,
    chat: bool,
    system: str | None,
    template: str | None,
    own_prompts: OwnPrompts,
    n_parallel: int,
    out: Path | None,
    every_token: bool,
    show_progress: bool,
) -> None:
    """Writes the texts, a JSON line each: as they end on stdout, or in the order of the rows to ``out``.

    Args:
        pair: writes them.
        rows: the texts.
        options: of all of them.
        chat: a prompt is a user's message.
        system: a system message before such a prompt.
        template: Jinja source instead of the base's template.
        own_prompts: templates and system messages of one model each, in all conversations.
        n_parallel: texts at a time.
        out: the file, written in one piece: after Ctrl-C it has the texts that had ended. None: stdout.
        every_token: put the tokens into the lines.
        show_progress: on stderr.

    Raises:
        OptionError: the file cannot be written.
        GenerationError: some texts failed; their lines say why.
    """
    n_failed = n_done = 0
    with ExitStack() as stack:
        if out is None:
            write = _at_once(StandardOutput())
        else:
            write = stack.enter_context(_in_order(stack.enter_context(open_sink("--out", out))))
        bar = stack.enter_context(meter("writing", shown=show_progress))

        def end(number: int, result: Completion | str) -> None:
            nonlocal n_failed, n_done
            row = rows[number]
            facts = {"number": number, "line": row.line, **({} if row.name is None else {"id": row.name})}
            if isinstance(result, str):
                n_failed += 1
                write(number, {**facts, "error": result})
            else:
                written = result.to_dict()
                if not every_token:
                    del written["tokens"], written["end_token"]
                write(number, {**facts, **written})
            n_done += 1
            bar.update(n_done / len(rows), f"{n_done} of {len(rows)} texts")

        asked: list[int] = []
        prompts: list[Any] = []
        each: list[Any] = []
        of_chats = own_prompts.template(template)
        for number, row in enumerate(rows):
            try:
                prompts.append(_prompt(pair, row, {**of_chats, **row.template}, chat, system))
            except ColmError as error:
                end(number, str(error))
                continue
            asked.append(number)
            is_chat = isinstance(prompts[-1], list)
            each.append({**_options(row, number, options), **({**of_chats, **row.template} if is_chat else {})})
        with closing(pair.stream_batch(prompts, n_parallel=n_parallel, each=each)) as stream:
            for place, result in stream:
                end(asked[place], str(result) if isinstance(result, ColmError) else result)
    if n_failed:
        raise GenerationError(f"{n_failed} of {len(rows)} texts failed; see the 'error' field of their lines")


def _options(row: BatchRow, number: int, options: dict[str, Any]) -> dict[str, Any]:
    """Those of one text. The first row has the given seed, each later one the next."""
    from ..options import CHAT_TEMPERATURE, seed_of

    own = {**({"temperature": CHAT_TEMPERATURE} if row.messages else {}), **options}
    if own.get("seed") is not None:
        own["seed"] = seed_of(own["seed"], number)
    return {**own, **(row.options or {})}


def _prompt(pair: Pair, row: BatchRow, template: Mapping[str, Any], chat: bool, system: str | None) -> Prompt:
    """What the pair is given. Raises GenerationError where the row cannot be written."""
    from ..engine.own_prompts import chat_prompt
    from ..options import BASE

    if row.error is not None:
        raise GenerationError(row.error)
    if row.prompt is None:
        return list(row.messages)
    if not chat and row.template:
        raise GenerationError(f"{next(iter(row.template))} is for messages; give messages, or --chat")
    if not chat:
        return row.prompt
    if isinstance(row.prompt, str):
        return user_messages(row.prompt, system)
    if BASE not in row.prompt:
        raise GenerationError("prompt has none for the base; give 'base', too")
    own = {name: user_messages(text, system) for name, text in row.prompt.items()}
    return chat_prompt(pair, own.pop(BASE), own=own, **template)


@contextmanager
def _in_order(file: Sink) -> Iterator[_Write]:
    """Writes the lines in the order of the rows. Where it all ends early, those that ended out of turn come last."""
    waiting: dict[int, dict[str, Any]] = {}
    n_written = 0

    write_one = _at_once(file)

    def put(number: int) -> None:
        write_one(number, waiting.pop(number))
        file.keep()

    def write(number: int, line: dict[str, Any]) -> None:
        nonlocal n_written
        waiting[number] = line
        while n_written in waiting:
            put(n_written)
            n_written += 1

    try:
        yield write
    finally:
        for number in sorted(waiting):
            put(number)


def _at_once(file: Sink) -> _Write:
    return lambda _, line: file.write(dump_json(line).encode() + b"\n")
