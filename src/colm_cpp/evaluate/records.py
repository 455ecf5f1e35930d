"""Records of an evaluation on disk: the tokens of each answer, and the model that wrote each token.

A folder holds ``meta.json`` (the task, the models, the options and the arms) and ``records/<arm>.jsonl`` for each arm,
with one line for each finished answer. A line is written in one piece and synced. If the process ends, at most the
answer in progress is lost. An incomplete line is dropped when the folder is opened again.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from .._shown import shortened, shown
from ..errors import CorpusError
from ..files.output_file import write_file
from ..files.reading import read_json, real, unfinished, whole_number, whole_rows, why
from ..results import Completion, FinishReason, Source, Token

__all__ = [
    "FOLDER_FILES",
    "FORMAT",
    "SINGLE_ARMS",
    "VERSION",
    "Record",
    "RecordFolder",
    "is_record",
    "source_letters",
    "sources_of",
]

FORMAT = "colm-evaluation"
VERSION = 2
SINGLE_ARMS = ("base", "assistant")  # the models alone
# Beside meta.json: what an evaluation's folder has.
FOLDER_FILES = ("records", "report.md", "report.json", "accuracy_by_rate.png", "accuracy_by_speed.png")
_LETTERS: dict[Source, str] = {"base": "b", "assistant": "a"}
_REASONS = get_args(FinishReason)


@dataclass(frozen=True, slots=True)
class Record:
    """One answer of one arm.

    Attributes:
        problem: the problem's row in the task.
        finish_reason: why the answer ended.
        ids: token ids, an end-of-generation token included.
        pieces: the text that each token added; joined, they are the answer.
        sources: the model that wrote each token, one letter each: ``b`` base, ``a`` assistant.
        defer_logits: z_t at each token; None where it is infinite, or where the head was not asked.
        prompt_tokens: tokens in the prompt.
        base_steps: positions at which the base gave a distribution.
        assistant_calls: positions at which the assistant was asked.
        prefill_s: seconds of the prefill.
        decode_s: seconds after the prefill.
        n_parallel: answers that were written at a time. If more than 1, ``decode_s`` includes the work for the others.
        logprobs: log-probability of each token under the model that wrote it, in nats; None where it is infinite. The
            column is None in records of an older version.
        held: the tokens where the head was not asked, because the assistant held its turn: their places, ascending.
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
    logprobs: tuple[float | None, ...] | None = None
    held: tuple[int, ...] = ()

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
            sources=source_letters(tokens),
            defer_logits=tuple(
                None if (z := token.defer_logit) is None or not math.isfinite(z) else round(z, 4) for token in tokens
            ),
            prompt_tokens=stats.prompt_tokens,
            base_steps=stats.base_steps,
            assistant_calls=stats.assistant_calls,
            prefill_s=round(stats.prefill_s, 4),
            decode_s=round(stats.decode_s, 4),
            n_parallel=n_parallel,
            logprobs=tuple(round(p, 4) if math.isfinite(p := token.logprob) else None for token in tokens),
            held=tuple(place for place, token in enumerate(tokens) if token.defer_logit is None),
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
        """Tokens deferred."""
        return self.sources.count("a")

    @property
    def n_runs(self) -> int:
        """Times that the turn went from the base to the assistant."""
        return f"b{self.sources}".count("ba")

    def to_json(self) -> str:
        """One line."""
        value = asdict(self)
        if not self.held:  # as in every record of an older version
            del value["held"]
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Reads a line.

        Raises:
            ValueError: the line is not a complete record.
        """
        value = json.loads(line)
        if not isinstance(value, dict) or not is_record(value):
            raise ValueError("not a record")
        value.setdefault("held", [])
        for name in ("ids", "pieces", "defer_logits", "logprobs", "held"):
            if name == "logprobs" and value.get(name) is None:
                continue
            if not isinstance(value[name], list):
                raise ValueError(f"{name} is {shown(value[name])}; it must be a list")
            value[name] = tuple(value[name])
        for name in ("problem", "prompt_tokens", "base_steps", "assistant_calls"):
            whole_number(name, value[name])
        whole_number("n_parallel", value["n_parallel"], 1)
        real("prefill_s", value["prefill_s"])
        real("decode_s", value["decode_s"])
        for id_ in value["ids"]:
            whole_number("an id", id_, 0, 2**31 - 1)
        for place in value["held"]:
            whole_number("a place of held", place, 0, len(value["ids"]) - 1)
        if value["finish_reason"] not in _REASONS:
            raise ValueError(f"finish_reason is {shown(value['finish_reason'])}; it must be one of {_REASONS}")
        if not isinstance(value["sources"], str) or set(value["sources"]) - set(_LETTERS.values()):
            raise ValueError(f"sources is {shown(value['sources'])}; it must consist of the letters b and a")
        if not all(isinstance(piece, str) for piece in value["pieces"]):
            raise ValueError("an entry of pieces is not a text")
        for name in ("defer_logits", "logprobs"):
            if not all(z is None or (type(z) in (int, float) and abs(z) < math.inf) for z in value.get(name) or ()):
                raise ValueError(f"an entry of {name} is not a finite number")
        record = cls(**value)
        columns = [record.ids, record.pieces, record.sources, record.defer_logits]
        if len({len(column) for column in (*columns, record.logprobs or record.ids)}) > 1:
            raise ValueError("columns of different lengths")
        return record


class RecordFolder:
    """The folder of an evaluation, for continuing or reading it."""

    def __init__(self, path: str | os.PathLike[str], meta: dict[str, Any]) -> None:
        self.path = Path(path)
        self.meta = meta

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RecordFolder:
        """Opens an existing folder.

        Raises:
            CorpusError: the folder holds no evaluation, or one of another format version.
        """
        file = Path(path) / "meta.json"
        meta = read_json(file, "evaluation", "evaluate into a new folder")
        if not isinstance(meta, dict) or meta.get("format") != FORMAT:
            raise CorpusError(f"{file} does not describe an evaluation; name a folder made by colm evaluate")
        if meta.get("version") != VERSION:
            raise CorpusError(
                f"{file} has format version {shown(meta.get('version'))} and this colm-cpp reads {VERSION}; evaluate "
                "into a new folder"
            )
        arms = meta.get("arms")
        # An arm's name is a file's.
        if not isinstance(arms, dict) or not all(
            isinstance(facts, dict)
            and 0 < len(name) <= 200
            and not set(name) & set("/\\\0")
            and (facts.get("rate") is None or (type(facts["rate"]) in (int, float) and 0 <= facts["rate"] <= 1))
            for name, facts in arms.items()
        ):
            raise CorpusError(f"{file} is damaged (it lists no arms, or no usable ones); evaluate into a new folder")
        return cls(path, meta)

    @classmethod
    def create_or_open(cls, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> RecordFolder:
        """Opens the folder to continue its evaluation, or begins a new one.

        Args:
            path: the folder.
            facts: the facts that every answer depends on. A folder with other facts is refused.

        Raises:
            CorpusError: the folder holds another evaluation.
        """
        folder = Path(path)
        if (folder / "meta.json").exists():
            opened = cls.open(folder)
            for name, value in facts.items():
                if opened.meta.get(name) != value:
                    raise CorpusError(
                        f"{os.fspath(path)} holds an evaluation with {name} "
                        f"{shortened(json.dumps(opened.meta.get(name), sort_keys=True))}, not "
                        f"{shortened(json.dumps(value, sort_keys=True))}; give the same, or use another folder"
                    )
            return opened
        for name in FOLDER_FILES:
            other = folder / name
            if other.exists() and not (name == "records" and other.is_dir() and not any(other.iterdir())):
                raise CorpusError(f"{folder} is no evaluation, and one would overwrite its {name}; use another folder")
        (folder / "records").mkdir(parents=True, exist_ok=True)
        made = cls(folder, {"format": FORMAT, "version": VERSION, **facts, "arms": {}})
        made._write_meta()
        return made

    def set_arm(self, name: str, facts: Mapping[str, Any]) -> None:
        """Records the facts of an arm.

        Raises:
            CorpusError: the folder has answers of that name that were made with other facts.
        """
        known = self.meta["arms"].get(name)
        if known == facts:
            return
        if known is not None and self._file(name).exists():
            changed = [key for key in facts if known.get(key) != facts[key]]
            raise CorpusError(
                f"{self.path} has answers of arm {name} made with another {' and '.join(changed)}; delete "
                f"{self._file(name)} to make them again, or give the head another name"
            )
        self.meta["arms"][name] = dict(facts)
        self._write_meta()

    def set_steps(self, steps: Mapping[str, Any], expert: str | None = None) -> None:
        """Records step times, see :class:`.costs.StepTimes`, of the pair or of another model by name."""
        if expert is None:
            self.meta["steps"] = dict(steps)
        else:
            self.meta.setdefault("expert_steps", {})[expert] = dict(steps)
        self._write_meta()

    def _write_meta(self) -> None:
        write_file(self.path / "meta.json", (json.dumps(self.meta, indent=2, sort_keys=True) + "\n").encode())

    def _file(self, arm: str) -> Path:
        return self.path / "records" / f"{arm}.jsonl"

    def arms(self) -> list[str]:
        """Arms with at least one answer, in the order in which they were added."""
        return [name for name in self.meta["arms"] if self._file(name).exists()]

    def read(self, arm: str) -> dict[int, Record]:
        """The answers of an arm by problem. An incomplete last line is left out.

        Raises:
            CorpusError: a line is damaged.
        """
        file = self._file(arm)
        if not file.exists():
            return {}
        # What no newline ends was being written when the process ended; append() writes over it.
        try:
            with file.open("rb") as stream:
                rows = whole_rows(stream, file, lambda line: Record.from_json(line.decode()) if line.strip() else None)
                records = [record for record, _ in rows if record is not None]
        except OSError as error:
            raise CorpusError(f"{file} cannot be read ({why(error)})") from error
        return {record.problem: record for record in records}

    def append(self, arm: str, record: Record) -> None:
        """Adds an answer; it is on the disk when this returns.

        Raises:
            CorpusError: the last line of the file is damaged.
        """
        file = self._file(arm)
        with file.open("ab+") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end and (stream.seek(end - 1) or True) and stream.read(1) != b"\n":
                data = file.read_bytes()
                whole = data.rfind(b"\n") + 1
                if not unfinished(data[whole:]):
                    raise CorpusError(f"{file} has a damaged last line; delete that line to make its answer again")
                stream.truncate(whole)
                stream.seek(0, os.SEEK_END)
            stream.write(record.to_json().encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


def source_letters(tokens: Sequence[Token]) -> str:
    """Who wrote each token, one letter each: ``b`` base, ``a`` assistant."""
    return "".join(_LETTERS[token.source] for token in tokens)


def is_record(value: Mapping[str, Any]) -> bool:
    """Whether the object has the names of a record. The newest columns may be missing."""
    return value.keys() | {"logprobs", "held"} == Record.__dataclass_fields__.keys()


def sources_of(record: Record) -> Sequence[Source]:
    """``sources`` as the values of :attr:`colm_cpp.Token.source`."""
    return ["assistant" if letter == "a" else "base" for letter in record.sources]
