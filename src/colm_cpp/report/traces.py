"""Generated texts read back from disk, whichever command wrote them.

Three things can be read: the folder of an evaluation, one of its records files, and a trace (:mod:`..traces`). All
become :class:`TracedText`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from ..evaluate.records import RecordFolder, models_alone
from ..results import Token
from ..traces.record import Record, is_record
from ..traces.trace import json_lines, parse_traces

__all__ = ["TracedText", "read_arms", "read_texts", "traced"]

_RANDOM = ("random@", "random+")
_WHAT_TO_GIVE = "give the folder of an evaluation, one of its records files, or a file made by colm generate --trace"


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
    tokens: tuple[Token, ...]
    ended: bool = False

    @property
    def text(self) -> str:
        """The text of all tokens."""
        return "".join(token.text for token in self.tokens)

    @property
    def n_deferred(self) -> int:
        """Tokens that were not on the base's turn."""
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
    there = folder.arms()
    listed = f"it has answers of {', '.join(there)}" if there else "it has no answers yet"
    if arm is not None:
        if arm not in there:
            raise CorpusError(f"{path} has no answers of arm {arm}; {listed}")
        chosen = [arm]
    else:
        alone = {
            *models_alone(folder.meta),
            *(name for name, facts in folder.meta["arms"].items() if "expert" in facts),
        }
        chosen = [name for name in there if name not in alone and not name.startswith(_RANDOM)]
        if not chosen and there:
            raise CorpusError(f"{path} has no arm with a head; {listed}; choose one with --arm")
    name = path.resolve().name
    found: dict[str, list[TracedText]] = {}
    experts = folder.meta.get("experts")
    names = experts if isinstance(experts, list) and all(isinstance(expert, str) for expert in experts) else []
    for chosen_arm in chosen:
        found |= _read_file(path / "records" / f"{chosen_arm}.jsonl", f"{name}, {chosen_arm}", names)
    return found


def _read_file(path: Path, title: str, experts: Sequence[str] = ()) -> dict[str, list[TracedText]]:
    lines = list(json_lines(path, _WHAT_TO_GIVE))
    if not lines:
        return {}
    first = lines[0][1]
    if isinstance(first, dict) and "format" in first:
        return {"": _traces(path, lines, title)}
    if isinstance(first, dict) and is_record(first):
        return {path.stem: _records(path, lines, title, experts)}
    raise CorpusError(f"{path}:{lines[0][0]} is neither a record nor a trace; {_WHAT_TO_GIVE}")


def _records(path: Path, lines: Sequence[tuple[int, Any]], title: str, experts: Sequence[str]) -> list[TracedText]:
    records: dict[int, Record] = {}
    for number, value in lines:
        try:
            record = Record.of_value(value)
        except (ValueError, TypeError) as error:
            raise CorpusError(
                f"{path}:{number} is not a valid record ({error}); delete the line, so that colm evaluate writes it "
                "again"
            ) from error
        records[record.problem] = record  # as in RecordFolder.read, the last answer to a problem counts
    ordered = [record for _, record in sorted(records.items())]
    return [traced(record, f"{title}, problem {record.problem}", experts) for record in ordered]


def traced(record: Record, title: str, experts: Sequence[str] = ()) -> TracedText:
    """The text of a record, with the names of the experts. What it continues is not in it."""
    return TracedText(title, None, record.tokens_by(experts), record.finish_reason == "eos" and bool(record.ids))


def _traces(path: Path, lines: Sequence[tuple[int, Any]], title: str) -> list[TracedText]:
    """The traces of a file: one, or several put one behind the other."""
    traces = parse_traces(path, lines)
    found = []
    for number, trace in enumerate(traces, start=1):
        # Whatever text the vocabulary has for the end, it is no part of what was generated.
        end = () if trace.end_token is None else (replace(trace.end_token, text=""),)
        name = f"{title}, text {number}" if len(traces) > 1 else title
        found.append(TracedText(name, trace.prompt, (*trace.tokens, *end), bool(end)))
    return found
