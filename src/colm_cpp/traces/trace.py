"""Traces: texts with every token, as JSON lines. docs/trace-format.md describes the file.

Everybody who writes or reads one does it here: ``colm generate --trace``, :func:`write_trace`, ``colm patterns``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import CorpusError
from ..files.json_text import dump_json
from ..files.output_file import OutputFile
from ..results import BASE, Completion, Stats, Token, Tokens, TopLogprob, expert_of, source_of

__all__ = ["FORMAT", "VERSION", "Trace", "TraceWriter", "json_lines", "parse_traces", "read_trace", "write_trace"]

UNKNOWN = -1  # the id of a likely token that a trace does not know

FORMAT = "colm-trace"
VERSION = 1
_Default = TypeVar("_Default", float, None)


@dataclass(frozen=True, slots=True)
class Trace:
    """One text of a trace.

    Attributes:
        facts: what its first line says, such as ``prompt``, ``seed`` and the models.
        tokens: the generated tokens, without the end-of-generation token. What a trace does not say of a token is NaN.
        finish_reason: why the text ended; None where the trace was cut short before its end.
        stats: counts and times, see :meth:`Stats.to_dict`; None likewise.
        end_token: the end-of-generation token; None where no model ended the text.
    """

    facts: Mapping[str, Any]
    tokens: Tokens
    finish_reason: str | None = None
    stats: Mapping[str, Any] | None = None
    end_token: Token | None = None

    @property
    def text(self) -> str:
        """The generated text."""
        return "".join(token.text for token in self.tokens)

    @property
    def prompt(self) -> str | None:
        """What the text continues; None where the trace does not say it."""
        return self.facts.get("prompt")


class TraceWriter:
    """Writes the lines of traces, each at once."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        """``write`` gets each line as bytes."""
        self._write = write

    def begin(self, facts: Mapping[str, Any]) -> None:
        """The first line of a text."""
        self._line({"format": FORMAT, "version": VERSION, **facts})

    def token(self, token: Token) -> None:
        """One line for a token."""
        self._line(token.to_dict())

    def end(self, finish_reason: str | None, stats: Stats | Mapping[str, Any], end_token: Token | None) -> None:
        """The last line of a text."""
        counts = stats.to_dict() if isinstance(stats, Stats) else stats
        ended_by = None if end_token is None else end_token.to_dict()
        self._line({"stats": counts, "finish_reason": finish_reason, "end_token": ended_by})

    def _line(self, value: Mapping[str, Any]) -> None:
        self._write(dump_json(value).encode() + b"\n")


def write_trace(
    path: str | os.PathLike[str], texts: Completion | Trace | Iterable[Completion | Trace], **facts: Any
) -> None:
    """Writes texts with every token into a file that :func:`read_trace` and ``colm patterns`` read.

    The file appears in one step. docs/trace-format.md describes it.

    Args:
        path: the file. One that exists is replaced.
        texts: a text, or several.
        **facts: what the first line of each text says beside its own facts, such as ``prompt=``: JSON values.

    Raises:
        OptionError: ``path`` is a link.
        OSError: the file cannot be written; what was there before stays.
    """
    with OutputFile(path) as file:
        writer = TraceWriter(file.write)
        for text in [texts] if isinstance(texts, (Completion, Trace)) else texts:
            known = text.facts if isinstance(text, Trace) else {"seed": text.stats.seed}
            writer.begin({**known, **facts})
            for token in text.tokens:
                writer.token(token)
            if text.stats is not None:
                writer.end(text.finish_reason, text.stats, text.end_token)


def read_trace(path: str | os.PathLike[str]) -> list[Trace]:
    """The texts of a trace made by :func:`write_trace` or ``colm generate --trace``, one or several.

    A last line that was cut short is left out.

    Raises:
        CorpusError: the file cannot be read, is damaged, or is no trace that this version reads.
    """
    path = Path(path)
    return parse_traces(path, json_lines(path, "give a file made by colm generate --trace or write_trace()"))


def json_lines(path: Path, what_to_give: str) -> Iterator[tuple[int, Any]]:
    """The values of the lines that are not empty, with their line numbers. A last line that was cut short is left out.

    Raises:
        CorpusError: the file cannot be read, or has a line that is not JSON.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({error.strerror}); check its name and permissions") from error
    found = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if not found:
                raise CorpusError(f"{path}:{number} is not JSON; {what_to_give}") from error
            if number == len(lines):  # no newline behind it: the process ended while writing
                return
            raise CorpusError(
                f"{path}:{number} is damaged ({error}); delete the line, or write the file again"
            ) from error
        found = True
        yield number, value


def parse_traces(path: Path, lines: Iterable[tuple[int, Any]]) -> list[Trace]:
    """The texts in the lines of a file, see :func:`json_lines`.

    Raises:
        CorpusError: a line is none of a trace.
    """
    found: list[Trace] = []
    tokens: list[Token] = []
    for number, value in lines:
        try:
            if not isinstance(value, dict):
                raise ValueError("it is not a JSON object")
            if "format" in value or not found:
                _close(found, tokens)
                found.append(Trace(_facts(value), Tokens()))
            elif found[-1].stats is not None:
                raise ValueError("it comes after the end of the trace")
            elif "stats" in value:
                _close(found, tokens, value)
            else:
                tokens.append(_token(value))
        except (ValueError, OverflowError) as error:
            raise CorpusError(
                f"{path}:{number} is not a valid line of a trace ({error}); write the trace again"
            ) from error
    _close(found, tokens)
    return found


def _facts(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("format") != FORMAT:
        raise ValueError(f"its format is {value.get('format')!r}, not {FORMAT!r}")
    if value.get("version") != VERSION:
        raise ValueError(f"its version is {value.get('version')!r}, and this colm-cpp reads version {VERSION}")
    if not isinstance(value.get("prompt"), (str, type(None))):
        raise ValueError("its prompt is not a string")
    return {name: entry for name, entry in value.items() if name not in ("format", "version")}


def _close(found: list[Trace], tokens: list[Token], last: Mapping[str, Any] | None = None) -> None:
    """Gives the text that was begun its tokens, and its end if it has one."""
    if not tokens and last is None:
        return
    ending: dict[str, Any] = {}
    if last is not None:
        end, stats = last.get("end_token"), last["stats"]
        if not isinstance(stats, dict):
            raise ValueError("its stats are not a JSON object")
        ended_by = None if end is None else _token(end)
        ending = {"finish_reason": last.get("finish_reason"), "stats": stats, "end_token": ended_by}
    found[-1] = dataclasses.replace(found[-1], tokens=Tokens(tokens), **ending)
    tokens.clear()


def _token(value: Any) -> Token:
    if not isinstance(value, dict) or not {"id", "text", "source"} <= value.keys():
        raise ValueError("a token needs id, text and source")
    text, id_, source = value["text"], value["id"], value["source"]
    if type(text) is not str or type(id_) is not int:
        raise ValueError("its id must be an integer, and its text a string")
    expert = value.get("expert")
    if expert is None:  # of an older version, or from colm serve
        if source not in (source_of(BASE), source_of(BASE + 1)):
            raise ValueError(f"its source is {source!r}, not 'base' or 'assistant', and it has no expert")
        expert = expert_of(source)
    if type(expert) is not int or expert < BASE or not _is_source(source, expert):
        raise ValueError(f"its expert is {expert!r}, and its source {source!r}")
    likely = value.get("top_logprobs") or []
    if not isinstance(likely, list):
        raise ValueError("its top_logprobs is not a list")
    return Token(
        id_,
        text,
        expert,
        _defer_logit(value),
        _real(value, "threshold", math.nan),
        _logprob(value, "its logprob"),
        tuple(map(_alternative, likely)),
        source,
    )


def _is_source(source: Any, expert: int) -> bool:
    """Whether an expert may be called so."""
    return isinstance(source, str) and bool(source) and (source == source_of(BASE)) == (expert == BASE)


def _defer_logit(value: dict[str, Any]) -> float | None:
    """z of a token. JSON has no infinity: null with the probability 0 or 1. Without a probability nobody was asked."""
    p = value.get("defer_prob")
    if p is not None and (type(p) not in (int, float) or not 0.0 <= p <= 1.0):
        raise ValueError(f"its defer_prob is {p!r}, not 0 to 1")
    if p is None or value.get("defer_logit") is not None:
        return _real(value, "defer_logit", None)
    return math.log(p) - math.log1p(-p) if 0.0 < p < 1.0 else math.copysign(math.inf, p - 0.5)


def _alternative(value: Any) -> TopLogprob:
    if not isinstance(value, dict) or type(value.get("text")) is not str:
        raise ValueError("an entry of its top_logprobs has no text")
    logprob = _logprob(value, "an entry of its top_logprobs has logprob")
    number = value.get("id", "")
    if number is None:  # a client of `colm serve` knows these tokens by their text alone
        number = UNKNOWN
    if type(number) is not int:
        raise ValueError("an entry of its top_logprobs has no id")
    return TopLogprob(number, value["text"], logprob)


def _logprob(value: dict[str, Any], what: str) -> float:
    if "logprob" in value and value["logprob"] is None:
        return -math.inf
    logprob = _real(value, "logprob", math.nan)
    if logprob > 1e-3:  # rounding may leave it a little above 0
        raise ValueError(f"{what} {logprob!r}, which is not a log-probability")
    return logprob


def _real(value: dict[str, Any], name: str, default: _Default) -> float | _Default:
    number = value.get(name)
    if number is None:
        return default
    if type(number) not in (int, float) or not math.isfinite(number):
        raise ValueError(f"its {name} is {number!r}, which is not a finite number")
    return float(number)
