"""Makes the models of `colm demo`: the pair, and what three have beyond it. See README.md beside this file."""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import situations
import sums
import torch
from fit import fit, rows
from model import Llama, Shape, write_gguf
from trio import learn_head, make_trio, write_texts
from vocabulary import Vocabulary

N_VOCAB = 1024
N_CTX = 512
N_STORIES = 10_000  # what the base is trained on, again and again; the assistant's ledgers never repeat
N_PROBLEMS = 500
N_SCORED = 4_000
N_CALIBRATED = 96


def head_stories(seed: int) -> Iterator[situations.Problem]:
    """Stories with sums that neither model was trained on, to learn the head from and to calibrate it with."""
    rng = random.Random(seed)
    while True:
        yield situations.draw_problem(rng, "head")


def story_texts(seed: int) -> Iterator[str]:
    """The base's corpus: the same stories, in another order each time."""
    rng = random.Random(seed + 1)
    corpus = [situations.draw_problem(rng, "models").story for _ in range(N_STORIES)]
    while True:
        rng.shuffle(corpus)
        yield from corpus


def ledger_texts(seed: int) -> Iterator[str]:
    """The assistant's corpus: some entries a text."""
    rng = random.Random(seed)
    nouns = situations.words()
    while True:
        yield " ".join(sums.ledger_line(rng, nouns) for _ in range(rng.randint(1, 6)))


def write_problems(path: Path, seed: int) -> None:
    """The problems that the package shows and is tested on: held-out situations with held-out sums."""
    rng = random.Random(seed)
    seen: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        while len(seen) < N_PROBLEMS:
            problem = situations.draw_problem(rng, "problems")
            if problem.text not in seen:
                seen.add(problem.text)
                row = {
                    "prompt": problem.text,
                    "answer": str(problem.answer),
                    "situation": ": ".join(problem.situation),
                }
                file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="a folder; what the package takes is written to OUT/demo and OUT/demo3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pair", type=Path, help="a folder with the pair; make only what three models have beyond it")
    parser.add_argument("--base-steps", type=int, default=600)
    parser.add_argument("--assistant-steps", type=int, default=6000)
    parser.add_argument("--adapter-steps", type=int, default=500)
    parser.add_argument("--almanac-steps", type=int, default=1500)
    arguments = parser.parse_args()
    out, seed = arguments.out, arguments.seed
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

    if arguments.pair is None:
        make_pair(out, seed, arguments.base_steps, arguments.assistant_steps, say)
    make_trio(out, arguments.pair or out / "demo", seed, arguments.adapter_steps, arguments.almanac_steps, say)
    say("done")


def make_pair(out: Path, seed: int, base_steps: int, assistant_steps: int, say: Callable[[str], None]) -> None:
    """Makes the two models, their head and the problems, in OUT/demo."""
    made = out / "demo"
    made.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    sample = itertools.chain(
        itertools.islice(story_texts(seed), 20_000), itertools.islice(ledger_texts(seed + 10), 5_000)
    )
    vocabulary = Vocabulary.learn(sample, N_VOCAB)
    say(f"vocabulary of {len(vocabulary)} tokens")

    base = Llama(Shape(N_VOCAB, N_CTX, n_embd=128, n_layer=4, n_head=4, n_ff=384))
    fit(base, rows(vocabulary, story_texts(seed), 161, 32), base_steps, 4e-3, lambda t: say(f"base: {t}"))
    write_gguf(base, vocabulary, made / "base.gguf", "colm demo base", "Word problems and how to solve them.")

    assistant = Llama(Shape(N_VOCAB, N_CTX, n_embd=128, n_layer=4, n_head=4, n_ff=384))
    batches = rows(vocabulary, ledger_texts(seed + 10), 161, 24)
    fit(assistant, batches, assistant_steps, 4e-3, lambda t: say(f"assistant: {t}"))
    write_gguf(assistant, vocabulary, made / "assistant.gguf", "colm demo assistant", "Sums in ledgers.")

    write_problems(made / "problems.jsonl", seed + 2)
    fresh = head_stories(seed + 3)
    write_texts(out / "texts.jsonl", fresh, N_SCORED)
    write_texts(out / "prompts.jsonl", fresh, N_CALIBRATED)
    models = ["--base", str(made / "base.gguf"), "--assistant", str(made / "assistant.gguf")]
    learn_head(out, "", models, made / "head.gguf", "colm demo", N_CALIBRATED, say)


if __name__ == "__main__":
    main()
