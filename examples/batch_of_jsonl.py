"""Answers every row of a JSONL file, many at once, and writes each as it ends.

python examples/batch_of_jsonl.py questions.jsonl answers.jsonl --pair demo

A row is {"id": ..., "question": ...}. A row that fails has an error in its place and stops no other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import colm_cpp as colm

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--pair", default="demo")
    parser.add_argument("--parallel", type=int, default=8)
    arguments = parser.parse_args()

    rows = [json.loads(line) for line in arguments.questions.read_text(encoding="utf-8").splitlines() if line.strip()]
    prompts = ([{"role": "user", "content": row["question"]}] for row in rows)
    with (
        colm.load(arguments.pair, n_parallel=arguments.parallel) as pair,
        arguments.answers.open("w", encoding="utf-8") as file,
    ):
        for number, result in pair.stream_batch(prompts, n_parallel=arguments.parallel, temperature=0):
            answer: dict[str, object] = {"id": rows[number]["id"]}
            if isinstance(result, colm.Completion):
                answer |= {"answer": result.text, "deferred": result.stats.deferral_rate}
            else:
                answer["error"] = str(result)
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
            file.flush()
            print(f"{answer['id']}: {answer.get('answer', answer.get('error'))}")
