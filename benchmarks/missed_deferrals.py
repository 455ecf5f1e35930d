"""Where a pair's wrong answers went wrong: what the base wrote in them that the assistant would hardly have written.

    python benchmarks/missed_deferrals.py EVALUATION TASK --arm regret@20 --checker boxed $B

Takes the problems that the assistant answered rightly and the arm wrongly, and as many that both answered rightly, lets
the assistant read the arm's answers, and prints every token of the base that has less than 5% under the assistant, with
the head's defer probability; then the means of each group.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import colm_cpp as colm
from colm_cpp.answers.checkers import make_checker
from colm_cpp.answers.problems import load_task
from colm_cpp.corpus.texts import Text
from colm_cpp.evaluate.records import RecordFolder
from colm_cpp.learn import Scorer
from colm_cpp.traces.record import Record

UNLIKELY = 0.05
CONTEXT = 12  # tokens shown before an unlikely one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("task", type=Path)
    parser.add_argument("--arm", required=True)
    parser.add_argument("--checker", required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--assistant", type=Path, required=True)
    parser.add_argument("--n-ctx", type=int, default=1024)
    arguments = parser.parse_args()
    folder = RecordFolder.open(arguments.evaluation)
    alone, pair_answers = folder.read("assistant"), folder.read(arguments.arm)
    checker = make_checker(arguments.checker)
    problems = {problem.index: problem for problem in load_task(arguments.task).problems}

    def right(record: Record) -> bool:
        problem = problems[record.problem]
        return checker.check("".join(record.pieces), problem.answer, problem.prompt).correct

    both = sorted(set(alone) & set(pair_answers))
    groups = {"wrong": [i for i in both if right(alone[i]) and not right(pair_answers[i])]}
    groups["right"] = [i for i in both if right(alone[i]) and right(pair_answers[i])][: len(groups["wrong"])]
    with colm.load(arguments.base, arguments.assistant, "never", n_ctx=256) as pair:
        prompts = {i: pair.tokenize_chat(problems[i].messages) for group in groups.values() for i in group}
    with Scorer(arguments.base, arguments.assistant, n_ctx=arguments.n_ctx) as scorer:
        for name, group in groups.items():
            means = np.array([_read(scorer, name, prompts[i], pair_answers[i]) for i in group]).mean(axis=0)
            columns = ("tokens", "not the assistant's likeliest", "unlikely", "nats lost", "nats lost at the worst")
            shown = ", ".join(f"{column} {mean:.2f}" for column, mean in zip(columns, means, strict=True))
            print(f"{name}, mean of {len(group)}: {shown}", flush=True)


def _read(scorer: Scorer, name: str, prompt: list[int], record: Record) -> tuple[float, ...]:
    """Prints one answer's unlikely tokens; tokens, those of the base of each kind, and what they cost."""
    scored = (*[False] * len(prompt), *[True] * len(record.ids))
    columns, _ = scorer.score([Text("", 0, (*prompt, *record.ids), scored)], top_k=1)
    by_base = np.array([source == "b" for source in record.sources])
    logprob = columns["assistant_logprob"]
    other = by_base & (columns["assistant_top"] != np.array(record.ids))
    unlikely = by_base & (logprob < np.log(UNLIKELY))
    lost = np.where(by_base, columns["assistant_top_logprob"] - logprob, 0.0)
    for i in np.flatnonzero(unlikely):
        z = record.defer_logits[i]
        p_defer = float("nan") if z is None else 1.0 / (1.0 + np.exp(-z))
        before = json.dumps("".join(record.pieces[max(0, i - CONTEXT) : i]))
        print(
            f"{name} {record.problem}: p_defer {p_defer:.3f}, assistant {np.exp(logprob[i]):.3f}, "
            f"{before} -> {json.dumps(record.pieces[i])}",
            flush=True,
        )
    return float(len(record.ids)), float(other.sum()), float(unlikely.sum()), float(lost.sum()), float(lost.max())


if __name__ == "__main__":
    main()
