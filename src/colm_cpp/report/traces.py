"""Generated texts read back from disk, whichever command wrote them.

Three things can be read: the folder of an evaluation, one of its records files, and a trace of ``colm generate
--trace``. All become :class:`TracedText`, which is all that the rest of the package knows.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, get_args

from ..errors import CorpusError
from ..evaluate.records import SINGLE_ARMS, Record, RecordFolder, is_record, sources_of
from ..results import Source, defer_prob

__all__ = ["TRACE_FORMAT", "TRACE_VERSION", "TracedText", "TracedToken", "read_arms", "read_texts", "traced"]

TRACE_FORMAT = "colm-trace"
TRACE_VERSION = 1

_RANDOM = "random@"
_WHAT_TO_GIVE = "give the folder of an evaluation, one of its records files, or a file made by colm generate --trace"


@dataclass(frozen=True, slots=True)
class TracedToken:
    """One token of a text.

    Attributes:
        text: the text that became certain with it; empty for the end of the text, and where a character spread over
            several tokens is not whole yet.
        id: token id.
        source: whose turn it was.
        defer_prob: probability of deferral, 0 to 1; None where it was not recorded, or where the head was not asked.
        other: other likely tokens at this position with their probabilities (None: zero or not recorded), likeliest
            first. They come from the distribution that chose the token. Empty where none were recorded.
    """

    text: str
    id: int
    source: Source
    defer_prob: float | None
    other: tuple[tuple[str, float | None], ...] = ()

    @property
    def deferred(self) -> bool:
        """Whether it was the assistant's turn."""
        return self.source == "assistant"


@dataclass(frozen=True, slots=True)
class TracedText:
    """One text.

    Attributes:
        title: what tells it from the others, for people.
        prompt: what it continues; None where that was not recorded.
        tokens: in order; an end-of-generation token is the last.
        ended: whether the last token is an end-of-generation token.
    """

    title: str
    prompt: str | None
    tokens: tuple[TracedToken, ...]
    ended: bool = False

    @property
    def text(self) -> str:
        """The text of all tokens."""
        return "".join(token.text for token in self.tokens)

    @property
    def n_deferred(self) -> int:
        """Tokens on the assistant's turn."""
        return sum(token.deferred for token in self.tokens)


def read_texts(paths: Iterable[str | os.PathLike[str]], arm: str | None = None) -> list[TracedText]:
    """Reads texts, in the order of ``paths``; those of an evaluation by arm and problem.

    Args:
        paths: evaluation folders, records files and traces.
        arm: the arm to read of every folder. None: the arms that have a head, which leaves out models alone and
            ``random@...``.

    Raises:
        CorpusError: something cannot be read, is damaged, or is of another format or version.
    """
    return [text for path in paths for texts in _read(Path(path), arm).values() for text in texts]


def read_arms(paths: Iterable[str | os.PathLike[str]], arm: str | None = None) -> dict[str, list[TracedText]]:
    """The same by who wrote them: arms as they are first met, and traces, which name none, as ``""``.

    Texts of one arm's name are put together, whichever paths they come from.

    Raises:
        CorpusError: as of :func:`read_texts`.
    """
    found: dict[str, list[TracedText]] = {}
    for path in paths:
        for name, texts in _read(Path(path), arm).items():
            found.setdefault(name, []).extend(texts)
    return found


def _read(path: Path, arm: str | None) -> dict[str, list[TracedText]]:
    return _read_folder(path, arm) if path.is_dir() else _read_file(path, path.stem)


def _read_folder(path: Path, arm: str | None) -> dict[str, list[TracedText]]:
    folder = RecordFolder.open(path)
    if not isinstance(folder.meta.get("arms"), dict):
        raise CorpusError(
            f"{path / 'meta.json'} is damaged (it lists no arms); run the evaluation again in a new folder"
        )
    there = folder.arms()
    listed = f"it has answers of {', '.join(there)}" if there else "it has no answers yet"
    if arm is not None:
        if arm not in there:
            raise CorpusError(f"{path} has no answers of arm {arm}; {listed}")
        chosen = [arm]
    else:
        alone = {*SINGLE_ARMS, *(name for name, facts in folder.meta["arms"].items() if "expert" in facts)}
        chosen = [name for name in there if name not in alone and not name.startswith(_RANDOM)]
        if not chosen and there:
            raise CorpusError(f"{path} has no arm with a head; {listed}; choose one with --arm")
    name = path.resolve().name
    found: dict[str, list[TracedText]] = {}
    for chosen_arm in chosen:
        found |= _read_file(path / "records" / f"{chosen_arm}.jsonl", f"{name}, {chosen_arm}")
    return found


def _read_file(path: Path, title: str) -> dict[str, list[TracedText]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); check its name and permissions") from error
    lines = list(_json_lines(path, data))
    if not lines:
        return {}
    first = lines[0][1]
    if isinstance(first, dict) and "format" in first:
        return {"": _traces(path, lines, title)}
    if isinstance(first, dict) and is_record(first):
        return {path.stem: _records(path, lines, title)}
    raise CorpusError(f"{path}:{lines[0][0]} is neither a record nor a trace; {_WHAT_TO_GIVE}")


def _json_lines(path: Path, data: bytes) -> Iterator[tuple[int, Any]]:
    """The values of the lines that are not empty, with their line numbers."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if not found:
                raise CorpusError(f"{path}:{number} is not JSON; {_WHAT_TO_GIVE}") from error
            if number == len(lines):  # no newline behind it: the process ended while writing
                return
            raise CorpusError(
                f"{path}:{number} is damaged ({error}); delete the line, or write the file again"
            ) from error
        found = True
        yield number, value


def _records(path: Path, lines: Sequence[tuple[int, Any]], title: str) -> list[TracedText]:
    records: dict[int, Record] = {}
    for number, value in lines:
        try:
            record = _record(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise CorpusError(
                f"{path}:{number} is not a valid record ({error}); delete the line, so that colm evaluate writes it "
                "again"
            ) from error
        records[record.problem] = record  # as in RecordFolder.read, the last answer to a problem counts
    return [traced(record, f"{title}, problem {record.problem}") for _, record in sorted(records.items())]


def _record(value: Any) -> Record:
    record = Record.from_json(json.dumps(value))
    if not (all(map(_is_int, record.ids)) and all(map(_is_text, record.pieces))):
        raise ValueError("ids must hold integers, and pieces must hold strings")
    if not _is_int(record.problem) or not isinstance(record.sources, str):
        raise ValueError("problem must be an integer, and sources a string")
    if set(record.sources) - set("ab"):
        raise ValueError("sources has letters other than a and b")
    if not all(z is None or (_is_number(z) and not math.isnan(z)) for z in record.defer_logits):
        raise ValueError("defer_logits has an entry that is not a number")
    return record


def traced(record: Record, title: str) -> TracedText:
    """The text of a record. What it continues is not in it."""
    held = set(record.held)
    columns = zip(record.pieces, record.ids, sources_of(record), record.defer_logits, strict=True)
    tokens = tuple(
        TracedToken(piece, id_, source, None if i in held else _probability(z, source))
        for i, (piece, id_, source, z) in enumerate(columns)
    )
    return TracedText(title, None, tokens, record.finish_reason == "eos" and bool(tokens))


def _probability(logit: float | None, source: Source) -> float:
    if logit is None:
        # A record has no sign for an infinite logit, and needs none: no threshold leaves the turn in doubt.
        return 1.0 if source == "assistant" else 0.0
    return defer_prob(float(logit))


@dataclass(slots=True)
class _Open:
    """A trace of which the end has not been read."""

    prompt: str | None
    tokens: list[TracedToken]
    ended: bool = False
    closed: bool = False


def _traces(path: Path, lines: Sequence[tuple[int, Any]], title: str) -> list[TracedText]:
    """The traces of a file: one, or several put one behind the other."""
    opened: list[_Open] = []
    for number, value in lines:
        try:
            if isinstance(value, dict) and "format" in value:
                opened.append(_header(value))
            elif opened[-1].closed:
                raise ValueError("it comes after the end of the trace")
            else:
                _add(opened[-1], value)
        except (ValueError, OverflowError) as error:
            raise CorpusError(
                f"{path}:{number} is not a valid line of a trace ({error}); write the trace again"
            ) from error
    many = len(opened) > 1
    return [
        TracedText(f"{title}, text {i}" if many else title, trace.prompt, tuple(trace.tokens), trace.ended)
        for i, trace in enumerate(opened, start=1)
    ]


def _header(value: dict[str, Any]) -> _Open:
    if value["format"] != TRACE_FORMAT:
        raise ValueError(f"its format is {value['format']!r}, not {TRACE_FORMAT!r}")
    if value.get("version") != TRACE_VERSION:
        raise ValueError(f"its version is {value.get('version')!r}, and this colm-cpp reads version {TRACE_VERSION}")
    prompt = value.get("prompt")
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError("its prompt is not a string")
    return _Open(prompt, [])


def _add(trace: _Open, value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    if "stats" not in value:
        trace.tokens.append(_token(value))
        return
    trace.closed = True
    if value.get("end_token") is not None:
        # Whatever text the vocabulary has for it, it is no part of what was generated.
        end = _token(value["end_token"])
        trace.tokens.append(TracedToken("", end.id, end.source, end.defer_prob, end.other))
        trace.ended = True


def _token(value: Any) -> TracedToken:
    if not isinstance(value, dict) or not {"id", "text", "source"} <= value.keys():
        raise ValueError("a token needs id, text and source")
    text, id_, source, p = value["text"], value["id"], value["source"], value.get("defer_prob")
    if not _is_text(text) or not _is_int(id_):
        raise ValueError("its id must be an integer, and its text a string")
    if source not in get_args(Source):
        raise ValueError(f"its source is {source!r}, not 'base' or 'assistant'")
    if p is not None and not (_is_number(p) and 0.0 <= p <= 1.0):
        raise ValueError(f"its defer_prob is {p!r}, not 0 to 1")
    likely = value.get("top_logprobs") or []
    if not isinstance(likely, list):
        raise ValueError("its top_logprobs is not a list")
    other = tuple(_alternative(entry) for entry in likely if not (isinstance(entry, dict) and entry.get("id") == id_))
    return TracedToken(text, id_, source, None if p is None else float(p), other)


def _alternative(value: Any) -> tuple[str, float | None]:
    if not isinstance(value, dict) or not _is_text(value.get("text")):
        raise ValueError("an entry of its top_logprobs has no text")
    logprob = value.get("logprob")
    if logprob is None:  # minus infinity: JSON has none
        return value["text"], None
    if not _is_number(logprob) or not logprob <= 1e-3:  # rounding may leave it a little above 0
        raise ValueError(f"an entry of its top_logprobs has logprob {logprob!r}, which is not a log-probability")
    return value["text"], min(1.0, math.exp(logprob))


def _is_text(value: Any) -> TypeGuard[str]:
    return isinstance(value, str)


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
