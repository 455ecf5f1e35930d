"""What an evaluation leaves on disk: who wrote each token of each answer.

A folder holds ``meta.json`` (the task, the models, the options and the arms) and for each arm ``records/<arm>.jsonl``,
one line a finished answer. A line is written in one piece and synced, so that whatever ends the process costs at most
the answer being written; a line cut short is dropped when the folder is opened again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from ..output_file import write_file
from ..results import Completion, FinishReason, Source, Token

__all__ = ["FOLDER_FILES", "FORMAT", "SINGLE_ARMS", "VERSION", "Record", "RecordFolder", "sources_of"]

FORMAT = "colm-evaluation"
VERSION = 2
SINGLE_ARMS = ("base", "assistant")  # the models alone
# Beside meta.json: what an evaluation's folder has.
FOLDER_FILES = ("records", "report.md", "report.json", "accuracy_by_rate.png", "accuracy_by_speed.png")
_LETTERS: dict[Source, str] = {"base": "b", "assistant": "a"}


@dataclass(frozen=True, slots=True)
class Record:
    """One answer of one arm.

    Attributes:
        problem: the problem's row in the task.
        finish_reason: why it ended.
        ids: token ids, an end-of-generation token included.
        pieces: the text that each token made certain; joined they are the answer.
        sources: who wrote each, a letter a token: ``b`` base, ``a`` assistant.
        defer_logits: z_t at each; None where it is infinite.
        prompt_tokens: tokens in the prompt.
        base_steps: positions at which the base gave a distribution.
        assistant_calls: positions at which the assistant was asked.
        prefill_s: seconds of reading the prompt.
        decode_s: seconds of everything after.
        n_parallel: answers that were written at once; with more than one, ``decode_s`` goes by what all of them took.
    """

    problem: int
    finish_reason: FinishReason
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    sources: str
    defer_logits: tuple[float | None, ...]
    prompt_tokens: int
    base_steps: int
    assistant_calls: int
    prefill_s: float
    decode_s: float
    n_parallel: int = 1

    @classmethod
    def of(cls, problem: int, completion: Completion, n_parallel: int = 1) -> Record:
        """The record of a finished text."""
        tokens: list[Token] = list(completion.tokens)
        if completion.end_token is not None:
            tokens.append(completion.end_token)
        stats = completion.stats
        return cls(
            problem=problem,
            finish_reason=completion.finish_reason,
            ids=tuple(token.id for token in tokens),
            pieces=tuple(token.text for token in tokens),
            sources="".join(_LETTERS[token.source] for token in tokens),
            defer_logits=tuple(round(z, 4) if math.isfinite(z := token.defer_logit) else None for token in tokens),
            prompt_tokens=stats.prompt_tokens,
            base_steps=stats.base_steps,
            assistant_calls=stats.assistant_calls,
            prefill_s=round(stats.prefill_s, 4),
            decode_s=round(stats.decode_s, 4),
            n_parallel=n_parallel,
        )

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self.pieces)

    @property
    def n_tokens(self) -> int:
        """Tokens generated."""
        return len(self.ids)

    @property
    def n_deferred(self) -> int:
        """Tokens on the assistant's turn."""
        return self.sources.count("a")

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Reads a line.

        Raises:
            ValueError: it is not a whole record.
        """
        value = json.loads(line)
        if not isinstance(value, dict) or set(value) != set(cls.__dataclass_fields__):
            raise ValueError("not a record")
        for name in ("ids", "pieces", "defer_logits"):
            value[name] = tuple(value[name])
        record = cls(**value)
        if not len(record.ids) == len(record.pieces) == len(record.sources) == len(record.defer_logits):
            raise ValueError("columns of different lengths")
        return record


class RecordFolder:
    """An evaluation's folder, opened for going on with it or for reading it."""

    def __init__(self, path: str | os.PathLike[str], meta: dict[str, Any]) -> None:
        self.path = Path(path)
        self.meta = meta

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RecordFolder:
        """Opens an existing folder.

        Raises:
            CorpusError: it is no evaluation, or one of another format version.
        """
        file = Path(path) / "meta.json"
        try:
            meta = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise CorpusError(
                f"{os.fspath(path)} is no evaluation: {file} cannot be read ({error.strerror}); make it with colm "
                "evaluate"
            ) from error
        except ValueError as error:
            raise CorpusError(f"{file} is damaged ({error}); evaluate into a new folder") from error
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise CorpusError(f"{file} does not describe an evaluation; name a folder made by colm evaluate")
        if meta.get("version") != VERSION:
            raise CorpusError(
                f"{file} has format version {meta.get('version')!r} and this colm-cpp reads {VERSION}; evaluate "
                "into a new folder"
            )
        return cls(path, meta)

    @classmethod
    def create_or_open(cls, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> RecordFolder:
        """Opens the folder to go on with it, or begins it.

        Args:
            path: the folder.
            facts: what every answer depends on. A folder with other facts is refused.

        Raises:
            CorpusError: the folder holds another evaluation.
        """
        folder = Path(path)
        if (folder / "meta.json").exists():
            opened = cls.open(folder)
            for name, value in facts.items():
                if opened.meta.get(name) != value:
                    raise CorpusError(
                        f"{os.fspath(path)} holds an evaluation with {name} {_shown(opened.meta.get(name))}, not "
                        f"{_shown(value)}; give the same, or another folder"
                    )
            return opened
        for name in FOLDER_FILES:
            other = folder / name
            if other.exists() and not (name == "records" and other.is_dir() and not any(other.iterdir())):
                raise CorpusError(f"{folder} is no evaluation, but has {name}, which one would write over; use another")
        (folder / "records").mkdir(parents=True, exist_ok=True)
        made = cls(folder, {"format": FORMAT, "version": VERSION, **facts, "arms": {}})
        made._write_meta()
        return made

    def set_arm(self, name: str, facts: Mapping[str, Any]) -> None:
        """Notes what an arm is.

        Raises:
            CorpusError: answers of that name were made by something else.
        """
        known = self.meta["arms"].get(name)
        if known == facts:
            return
        if known is not None and self._file(name).exists():
            changed = [key for key in facts if known.get(key) != facts[key]]
            raise CorpusError(
                f"{self.path} has answers of arm {name} made with another {' and '.join(changed)}; delete "
                f"{self._file(name)} to make them anew, or give the head another name"
            )
        self.meta["arms"][name] = dict(facts)
        self._write_meta()

    def _write_meta(self) -> None:
        write_file(self.path / "meta.json", (json.dumps(self.meta, indent=2, sort_keys=True) + "\n").encode())

    def _file(self, arm: str) -> Path:
        return self.path / "records" / f"{arm}.jsonl"

    def arms(self) -> list[str]:
        """Arms with at least one answer, in the order in which they were added."""
        return [name for name in self.meta["arms"] if self._file(name).exists()]

    def read(self, arm: str) -> dict[int, Record]:
        """The answers of an arm by problem. A last line cut short is left out.

        Raises:
            CorpusError: a line is damaged.
        """
        file = self._file(arm)
        if not file.exists():
            return {}
        # What no newline ends was being written when the process ended; append() writes over it.
        lines = file.read_text(encoding="utf-8").split("\n")[:-1]
        records: dict[int, Record] = {}
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            try:
                record = Record.from_json(line)
            except (ValueError, TypeError) as error:
                raise CorpusError(f"{file}:{number} is damaged ({error}); delete the line to make it anew") from error
            records[record.problem] = record
        return records

    def append(self, arm: str, record: Record) -> None:
        """Adds an answer; it is on the disk when this returns."""
        file = self._file(arm)
        with file.open("ab+") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end and (stream.seek(end - 1) or True) and stream.read(1) != b"\n":
                stream.truncate(_last_line_end(file))
                stream.seek(0, os.SEEK_END)
            stream.write(record.to_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def _last_line_end(file: Path) -> int:
    return file.read_bytes().rfind(b"\n") + 1


def _shown(value: object) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else text[:77] + "..."


def sources_of(record: Record) -> Sequence[Source]:
    """``sources`` in the words of :class:`colm_cpp.Token`."""
    return ["assistant" if letter == "a" else "base" for letter in record.sources]
