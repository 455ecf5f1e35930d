"""Keeps the right answers of ``colm score --respond``: texts to tune a base on, and others for its head.

    python benchmarks/right_answers.py DIR/responses.jsonl task.jsonl --out texts.jsonl --out-head head.jsonl

Answers that were cut off at max_tokens are left out. The first ``--head-texts`` right answers go to ``--out-head``.
"""

import argparse
import json
from pathlib import Path

from colm_cpp.answers.checkers import make_checker
from colm_cpp.answers.problems import load_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("responses", type=Path, help="responses.jsonl in a folder of colm score --respond")
    parser.add_argument("task", type=Path, help="the file that was answered, with prompt and answer in each row")
    parser.add_argument("--checker", default="boxed", help="checker of colm evaluate")
    parser.add_argument("--head-texts", type=int, default=48, help="number of texts for the head")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--out-head", type=Path, required=True)
    given = parser.parse_args()
    checker = make_checker(given.checker)
    answer_of = {problem.prompt: problem.answer for problem in load_task(given.task).problems}
    written = [json.loads(line) for line in given.responses.read_text().splitlines()][
        1:
    ]  # the first line is the header
    right = []
    for row in written:
        answer = answer_of[row["prompt"]]
        verdict = checker.check(row["completion"], answer, row["prompt"])
        if row["finish_reason"] == "eos" and verdict.correct:
            right.append({"prompt": row["prompt"], "completion": row["completion"], "answer": answer})
    for file, rows in ((given.out_head, right[: given.head_texts]), (given.out, right[given.head_texts :])):
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(right)} of {len(written)} answers are right; {min(len(right), given.head_texts)} of them for the head")


if __name__ == "__main__":
    main()
