"""The third model of `colm demo --three`: an almanac, and an adapter with which the base tells of its facts."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from almanac import Almanac
from errands import ASKED, draw_errand
from fit import fit, rows
from model import Llama, Shape, adapt, read_gguf, write_adapter, write_gguf
from situations import Problem, draw_problem
from torch import Tensor
from vocabulary import Vocabulary

__all__ = ["make_trio", "write_texts"]

N_STORIES = 10_000
N_PROBLEMS = 300
N_SCORED = 1_400
N_CALIBRATED = 48
RANK = 16


def story_texts(seed: int) -> Iterator[str]:
    """What the adapter is trained on: errands with made-up facts, and one in six a problem that the base knows."""
    rng = random.Random(seed)
    corpus = [
        (draw_problem(rng, "models") if i % 6 == 0 else draw_errand(rng, "models", None)).story
        for i in range(N_STORIES)
    ]
    while True:
        rng.shuffle(corpus)
        yield from corpus


def draws(seed: int, reader: str, facts: Almanac) -> Iterator[Problem]:
    """Errands with true facts, without end, in the plots that are asked."""
    rng = random.Random(seed)
    while True:
        problem = draw_errand(rng, reader, facts)
        if problem.situation[1] in ASKED:
            yield problem


def write_texts(path: Path, problems: Iterator[Problem], n: int) -> None:
    """Problems with solutions for `colm score`, problems for `colm calibrate`."""
    with path.open("w", encoding="utf-8") as file:
        for problem in itertools.islice(problems, n):
            file.write(json.dumps({"prompt": problem.text, "completion": problem.solution}) + "\n")


def write_problems(path: Path, problems: Iterator[Problem]) -> None:
    """The problems that the package shows and is tested on."""
    seen: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        for problem in problems:
            if problem.text not in seen:
                seen.add(problem.text)
                row = {
                    "prompt": problem.text,
                    "answer": str(problem.answer),
                    "situation": ": ".join(problem.situation),
                }
                file.write(json.dumps(row) + "\n")
            if len(seen) == N_PROBLEMS:
                return


def learn_head(
    out: Path, suffix: str, models: list[str], head: Path, name: str, n_calibrated: int, say: Callable[[str], None]
) -> None:
    """Scores the texts of that suffix in ``out`` with these models, fits the head to them and calibrates it."""
    scores = out / f"scores{suffix}"
    shutil.rmtree(scores, ignore_errors=True)
    for command in (
        ["score", str(out / f"texts{suffix}.jsonl"), *models, "--out", str(scores)],
        ["train", str(scores), "--l2", "0.00003", "--name", name, "--force", "--out", str(head)],
        ["calibrate", str(head), str(out / f"prompts{suffix}.jsonl"), *models, "--limit", str(n_calibrated),
         "--max-tokens", "120", "--parallel", "16"],
    ):  # fmt: skip
        say("colm " + " ".join(command))
        subprocess.run(["colm", *command], check=True)


def make_trio(
    out: Path, pair: Path, seed: int, adapter_steps: int, almanac_steps: int, say: Callable[[str], None]
) -> None:
    """Makes what the pair lacks.

    Args:
        out: a folder; what the package takes is written to OUT/demo3.
        pair: the folder with the pair's base and assistant.
        seed: of the facts, the texts and the weights.
        adapter_steps: steps of training the base's adapter.
        almanac_steps: steps of training the almanac.
        say: takes a line for each thing that is done.
    """
    made = out / "demo3"
    made.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary.read(pair / "base.gguf")
    facts = Almanac.of(seed)
    torch.manual_seed(seed)

    (solution,) = vocabulary.encode("Solution")

    def in_solutions(ids: Tensor) -> Tensor:
        """Nobody asks the base for a problem, so only tokens behind "Solution" count, up to the end of the text."""
        places = torch.arange(ids.shape[1]).expand_as(ids)
        began, ended = ((ids == mark) * (places + 1) for mark in (solution, vocabulary.end))
        return (began.cummax(1).values > ended.cummax(1).values).roll(1, 1) & (places > 0)

    base = read_gguf(pair / "base.gguf")
    adapt(base, RANK)
    batches = rows(vocabulary, story_texts(seed + 1), 161, 16)
    fit(base, batches, adapter_steps, 4e-3, lambda t: say(f"adapter: {t}"), bf16=False, counts=in_solutions)
    about = "Word problems that need a fact, and how to solve them."
    write_adapter(base, made / "adapter.gguf", "colm demo adapter", about)

    almanac = Llama(Shape(len(vocabulary), 512, n_embd=96, n_layer=3, n_head=3, n_ff=288))
    batches = rows(vocabulary, facts.texts(seed + 10), 161, 12)
    fit(almanac, batches, almanac_steps, 4e-3, lambda t: say(f"almanac: {t}"), bf16=False)
    about = f"{len(facts.values)} facts: weights, prices, sizes, deliveries."
    write_gguf(almanac, vocabulary, made / "almanac.gguf", "colm demo almanac", about)

    write_problems(made / "problems.jsonl", draws(seed + 2, "problems", facts))
    fresh = draws(seed + 3, "head", facts)
    write_texts(out / "texts3.jsonl", fresh, N_SCORED)
    write_texts(out / "prompts3.jsonl", fresh, N_CALIBRATED)
    models = ["--base", str(pair / "base.gguf"), "--base-option", f"lora={made / 'adapter.gguf'}"]
    for name, file in (("sums", pair / "assistant.gguf"), ("almanac", made / "almanac.gguf")):
        models += ["--expert", f"{name}={file}"]
    learn_head(out, "3", models, made / "head.gguf", "colm demo of three", N_CALIBRATED, say)
