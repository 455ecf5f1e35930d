"""Tasks, heads and pairs for the tests of evaluations."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from colm_cpp import Head
from colm_cpp.learn import Record, RecordFolder, Task, load_task

OPTIONS: dict[str, Any] = {"max_tokens": 12, "temperature": 1.0, "seed": 7}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def make_task(path: Path, n: int = 4) -> Task:
    rows = [{"prompt": f"There are {i} pears and", "answer": str(i)} for i in range(n)]
    return load_task(write_lines(path, rows))


def make_record(problem: int = 0, sources: str = "bab", **changes: Any) -> Record:
    n = len(sources)
    record = Record(
        problem=problem,
        finish_reason="eos",
        ids=tuple(range(n)),
        pieces=tuple(f"p{i} " for i in range(n)),
        experts=sources.translate(str.maketrans("ba", "01")),
        defer_logits=(0.5,) * n,
        prompt_tokens=3,
        base_steps=n,
        assistant_calls=sources.count("a"),
        prefill_s=0.25,
        decode_s=0.5,
    )
    return dataclasses.replace(record, **changes)


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> RecordFolder:
    made = RecordFolder.create_or_open(tmp_path / "e", {"task": "t", "options": {"seed": 1}})
    made.set_arm("base", {"head": "never"})
    return made


# --- answering --------------------------------------------------------------------------------------------------------


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    Head.confidence(32, rates=(0.0, 0.5, 1.0), thresholds=(1.0, 0.6, 0.0)).save(tmp_path / "head.gguf")
    return tmp_path / "head.gguf"


def begin(path: Path, task: Task) -> RecordFolder:
    facts = {"task": Path(task.path).name, "task_sha256": task.digest, "chat": False, "options": OPTIONS}
    return RecordFolder.create_or_open(path, {**facts, "base": "b", "assistant": "a"})
