"""Records of an evaluation on disk: the tokens of each answer, and the model that wrote each token.

A folder holds ``meta.json`` (the task, the models, the options and the arms) and ``records/<arm>.jsonl`` for each arm,
with one line for each finished answer. A line is written in one piece and synced. If the process ends, at most the
answer in progress is lost. An incomplete line is dropped when the folder is opened again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._shown import shown
from ..errors import CorpusError
from ..files.folder import FolderKind, write_json
from ..files.reading import whole_rows, why
from ..files.rows import add_row
from ..traces.record import Record

__all__ = ["KIND", "OWN", "PAIRS", "SINGLE_ARMS", "RecordFolder", "models_alone"]

KIND = FolderKind(
    format="colm-evaluation",
    version=2,
    what="an evaluation",
    command="colm evaluate",
    remedy="evaluate into a new folder",
    files=("records", "report.md", "report.json", "accuracy_by_rate.png", "accuracy_by_speed.png"),
)
SINGLE_ARMS = ("base", "assistant")  # the models alone
PAIRS = "pairs"  # stands for the arms of the base and each one of several experts
OWN = ("arms", "steps", "expert_steps")  # in meta.json, and no facts that every answer depends on


def models_alone(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the models alone, the base first, as ``meta.json`` says it."""
    return (SINGLE_ARMS[0], *(meta.get("experts") or SINGLE_ARMS[1:]))


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
        return cls._checked(Path(path), KIND.read(Path(path)))

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
        meta = KIND.go_on(folder, facts, OWN)
        if meta is None:
            meta = KIND.begin(folder, {**facts, "arms": {}}, lambda file: file.is_dir() and not any(file.iterdir()))
        (folder / "records").mkdir(exist_ok=True)
        return cls._checked(folder, meta)

    @classmethod
    def _checked(cls, folder: Path, meta: dict[str, Any]) -> RecordFolder:
        arms, experts = meta.get("arms"), meta.get("experts", [])
        if not isinstance(experts, list) or not all(isinstance(name, str) for name in experts):
            raise CorpusError(f"{folder / 'meta.json'} is damaged (experts is {shown(experts)}); {KIND.remedy}")
        # An arm's name is a file's.
        if not isinstance(arms, dict) or not all(
            isinstance(facts, dict)
            and 0 < len(name) <= 200
            and not set(name) & set("/\\\0")
            and (facts.get("rate") is None or (type(facts["rate"]) in (int, float) and 0 <= facts["rate"] <= 1))
            for name, facts in arms.items()
        ):
            raise CorpusError(f"{folder / 'meta.json'} is damaged (it lists no arms, or no usable ones); {KIND.remedy}")
        return cls(folder, meta)

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
        write_json(self.path / "meta.json", self.meta)

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
        add_row(self._file(arm), record.to_json())
