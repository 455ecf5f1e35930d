"""``colm generate --batch``: the prompts of a file, many at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import ColmError, CorpusError, GenerationError
from ._inputs import user_messages
from ._output import byte_stream, dump_json, open_output
from ._progress import meter

if TYPE_CHECKING:
    from ..pair import Pair
    from ..results import Completion

__all__ = ["BatchRow", "read_batch", "write_batch"]

_Write = Callable[[int, dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class BatchRow:
    """A text to be written.

    Attributes:
        line: its line in the file, counted from 1.
        name: its ``id``, if it has one.
        prompt: the text to continue; None where there are messages.
        messages: the conversation to answer.
        options: its own options of generation.
        error: what is wrong with it, and keeps it from being written.
    """

    line: int
    name: Any = None
    prompt: str | None = None
    messages: tuple[dict[str, str], ...] = ()
    options: Mapping[str, Any] | None = None
    error: str | None = None


def read_batch(path: str, options: Mapping[str, Any]) -> list[BatchRow]:
    """The rows of a JSON-lines file: ``prompt`` or ``messages``, and if wanted ``id`` and ``options``.

    Args:
        path: the file.
        options: those of all texts, which a row's own go before.

    Raises:
        CorpusError: the file cannot be read, or has no rows.
    """
    from ..learn.corpus import BadRow, json_rows

    rows = [
        BatchRow(row.line, error=row.reason) if isinstance(row, BadRow) else _row(row.line, row.value, options)
        for row in json_rows(path)
    ]
    if not rows:
        raise CorpusError(f"{path} holds no prompt; each line is a JSON object with prompt or messages")
    return rows


def _row(line: int, value: dict[str, Any], options: Mapping[str, Any]) -> BatchRow:
    from ..options import GenerationOptions
    from ..pair import DEFAULT_THRESHOLD

    name, prompt, messages, own = (value.get(key) for key in ("id", "prompt", "messages", "options"))
    if (prompt is None) == (messages is None):
        return BatchRow(line, name, error="give prompt or messages, one of them")
    if prompt is not None and not isinstance(prompt, str):
        return BatchRow(line, name, error=f"prompt is a JSON {type(prompt).__name__}, not a text")
    if messages is not None and not _are_messages(messages):
        return BatchRow(line, name, error="messages is no list of objects with role and content")
    if own is not None and not isinstance(own, dict):
        return BatchRow(line, name, error=f"options is a JSON {type(own).__name__}, not an object")
    try:
        GenerationOptions.of({**options, **(own or {})}).to_core(DEFAULT_THRESHOLD)
    except (ColmError, TypeError) as error:
        return BatchRow(line, name, error=str(error))
    return BatchRow(line, name, prompt, tuple(messages or ()), own or {})


def _are_messages(value: object) -> bool:
    from ..chat import is_message

    return isinstance(value, list) and bool(value) and all(is_message(message) for message in value)


def write_batch(
    pair: Pair,
    rows: Sequence[BatchRow],
    options: dict[str, Any],
    *,
    chat: bool,
    system: str | None,
    template: str | None,
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
        n_parallel: texts at a time.
        out: the file; None: stdout.
        every_token: put the tokens into the lines.
        show_progress: on stderr.

    Raises:
        OptionError: the file cannot be written.
        GenerationError: some texts failed; their lines say why.
    """
    n_failed = n_done = 0
    with ExitStack() as stack:
        write = _in_order(stack.enter_context(open_output(out, "--out"))) if out is not None else _at_once()
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
        prompts: list[str | list[int]] = []
        for number, row in enumerate(rows):
            try:
                prompts.append(_prompt(pair, row, chat, system, template))
                asked.append(number)
            except ColmError as error:
                end(number, str(error))
        each = [_options(rows[number], number, options) for number in asked]
        with closing(pair.stream_batch(prompts, n_parallel=n_parallel, each=each)) as stream:  # type: ignore[arg-type]
            for place, result in stream:
                end(asked[place], str(result) if isinstance(result, ColmError) else result)
    if n_failed:
        raise GenerationError(
            f"{n_failed} of {len(rows)} texts could not be written; their lines have an error, the others are whole"
        )


def _options(row: BatchRow, number: int, options: dict[str, Any]) -> dict[str, Any]:
    """Those of one text. The first row has the given seed, each later one the next."""
    from ..options import MAX_SEED
    from ..pair import CHAT_TEMPERATURE

    own = {**({"temperature": CHAT_TEMPERATURE} if row.messages else {}), **options}
    if own.get("seed") is not None:
        own["seed"] = (own["seed"] + number) % (MAX_SEED + 1)
    return {**own, **(row.options or {})}


def _prompt(pair: Pair, row: BatchRow, chat: bool, system: str | None, template: str | None) -> str | list[int]:
    if row.error is not None:
        raise GenerationError(row.error)
    if row.prompt is not None and not chat:
        return row.prompt
    messages = list(row.messages) if row.prompt is None else user_messages(row.prompt, system)
    return pair.tokenize_chat(messages, chat_template=template)


def _in_order(file: IO[str]) -> _Write:
    waiting: dict[int, dict[str, Any]] = {}
    n_written = 0

    def write(number: int, line: dict[str, Any]) -> None:
        nonlocal n_written
        waiting[number] = line
        while n_written in waiting:
            file.write(dump_json(waiting.pop(n_written)) + "\n")
            n_written += 1
        file.flush()

    return write


def _at_once() -> _Write:
    stream = byte_stream("stdout")

    def write(_: int, line: dict[str, Any]) -> None:
        stream.write(dump_json(line).encode() + b"\n")
        stream.flush()

    return write
