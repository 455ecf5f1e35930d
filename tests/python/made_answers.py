"""Made-up answers and the times of steps, for the tests of costs and references."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from colm_cpp.evaluate.costs import StepTimes
from colm_cpp.learn import Record, RecordFolder, load_task

STEPS = StepTimes(
    {1: 0.010, 2: 0.014, 4: 0.020, 32: 0.080}, {"assistant": {1: 0.030, 2: 0.040, 4: 0.060, 32: 0.160}}, 0.011
)


def record(problem: int = 0, sources: str = "bab", **changes: Any) -> Record:
    n = len(sources)
    made = Record(
        problem=problem,
        finish_reason="eos",
        ids=(1,) * n,
        pieces=("x",) * n,
        experts=sources.translate(str.maketrans("ba", "01")),
        defer_logits=(0.5,) * n,
        prompt_tokens=8,
        base_steps=0 if set(sources) == {"a"} else n,
        assistant_calls=sources.count("a"),
        prefill_s=0.5,
        decode_s=1.0,
        logprobs=(-0.25,) * n,
    )
    return dataclasses.replace(made, **changes)


def evaluation(path: Path, n: int, **changes: Any) -> tuple[RecordFolder, Any]:
    """Answers to n problems: the base right on every fourth, the assistant on all, an arm on every second."""
    path.with_suffix(".jsonl").write_text(
        "".join(json.dumps({"prompt": f"{i} pears and", "answer": str(i)}) + "\n" for i in range(n))
    )
    task = load_task(path.with_suffix(".jsonl"))
    facts = {"task": "t", "task_sha256": task.digest, "options": {"max_tokens": 9, "temperature": 0.0}}
    folder = RecordFolder.create_or_open(path, {**facts, "base": "b", "assistant": "a"})
    for name, sources, every, facts in (
        ("base", "bbbb", 4, {"head": "never", "rate": None}),
        ("assistant", "aaaa", 1, {"head": "always", "rate": None}),
        ("mine@25", "abbb", 2, {"head": "h.gguf", "rate": 0.25}),
    ):
        folder.set_arm(name, facts)
        for i in range(n):
            text = str(i) if i % every == 0 else "9999"
            own = {"decode_s": 2.0, **changes} if name == "assistant" else changes
            folder.append(name, record(i, sources, pieces=(text, "", "", ""), **own))
    return folder, task


def rows_of(text: str, name: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith(f"| {name} |")]
