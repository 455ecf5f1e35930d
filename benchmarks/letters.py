"""Texts of multiple-choice questions in the style of the models, and who knows the letter in scores of such texts.

    python benchmarks/letters.py texts csqa.jsonl csqa-letter.jsonl [--skip 266 --shuffle 1]
    python benchmarks/letters.py scores SCORES base.gguf
    python benchmarks/letters.py mix SCORES base.gguf assistant.gguf [--adapter adapter.gguf]

``texts`` gives every row the completion "[Explanation]. Therefore, the answer is C. garments.", which is how both Qwen
models answer. With ``--shuffle`` the choices stand in another order: a row gives a text that nothing has learned from.
``scores`` looks at the token of the letter in each text. ``mix`` has both models read these texts up to the letter, and
says how often mixtures and products of the two distributions over the five letters are right.
"""

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np
from llama_cpp import Llama, llama_get_logits_ith

from colm_cpp.learn import Scores

CHOICE = re.compile(r"^([A-E])\. (.*)$", re.MULTILINE)


def shuffled(prompt: str, order: random.Random) -> str:
    """The prompt with its choices in a random order."""
    choices = [choice for _, choice in CHOICE.findall(prompt)]
    order.shuffle(choices)
    return CHOICE.sub(lambda found: f"{found[1]}. {choices.pop()}", prompt)


def write_texts(task: Path, out: Path, skip: int, seed: int | None) -> None:
    """Writes the texts of all rows but the first ones."""
    lines = []
    order = random.Random(seed)
    for row in map(json.loads, task.read_text().splitlines()[skip:]):
        if seed is not None:
            row["prompt"] = shuffled(row["prompt"], order)
        letter = next(letter for letter, choice in CHOICE.findall(row["prompt"]) if choice == row["answer"])
        completion = f"[Explanation]. Therefore, the answer is {letter}. {row['answer']}."
        lines.append(json.dumps({**row, "completion": completion}, ensure_ascii=False))
    out.write_text("\n".join(lines) + "\n")
    print(f"{out}: {len(lines)} texts")


def letter_tokens(vocabulary: Llama) -> list[int]:
    return [vocabulary.tokenize(f" {letter}".encode(), add_bos=False)[0] for letter in "ABCDE"]


def who_knows(folder: Path, base: Path) -> None:
    letters = letter_tokens(Llama(str(base), vocab_only=True, verbose=False))
    scores = Scores(folder)
    token, text = np.asarray(scores["token"]), np.asarray(scores["text"])
    at = np.flatnonzero(np.isin(token, letters))
    at = at[np.unique(text[at], return_index=True)[1]]  # the first of each text
    right = {name: np.asarray(scores[f"{name}_top"])[at] == token[at] for name in ("base", "assistant")}
    print(f"{len(at)} letters")
    for name, of_model in right.items():
        nats = -np.asarray(scores[f"{name}_logprob"])[at].mean()
        print(f"{name:9s}  right at {of_model.mean():.1%}, {nats:.2f} nats")
    print(f"either     right at {(right['base'] | right['assistant']).mean():.1%}")
    sure = np.argsort(np.asarray(scores["base_top_logprob"])[at])
    for share in (0.2, 0.4, 0.6, 0.8):
        chosen = right["base"].copy()
        deferred = sure[: round(share * len(at))]
        chosen[deferred] = right["assistant"][deferred]
        print(f"{share:.0%} of the letters deferred, where the base is least sure: right at {chosen.mean():.1%}")


def letter_logprobs(texts: list[list[int]], model: Path, adapter: Path | None) -> np.ndarray:
    """log P of the five letters behind each text, [n_texts, 5]. The rest of the vocabulary has its share."""
    llama = Llama(str(model), n_ctx=512, lora_path=adapter and str(adapter), n_gpu_layers=0, verbose=False)
    letters = letter_tokens(llama)
    rows = []
    for text in texts:
        llama.reset()
        llama.eval(text)
        last = llama_get_logits_ith(llama.ctx, -1)
        logits = np.ctypeslib.as_array(last, (llama.n_vocab(),)).astype(np.float64)
        rows.append((logits - np.logaddexp.reduce(logits))[letters])
    return np.array(rows)


def mix(folder: Path, base: Path, assistant: Path, adapter: Path | None) -> None:
    letters = letter_tokens(Llama(str(base), vocab_only=True, verbose=False))
    texts, right = [], []
    for row in map(json.loads, (folder / "texts.jsonl").read_text().splitlines()):
        at = next(i for i in range(*row["scored"][0]) if row["tokens"][i] in letters)
        texts.append(row["tokens"][:at])
        right.append(letters.index(row["tokens"][at]))
    of_base = letter_logprobs(texts, base, adapter)
    of_assistant = letter_logprobs(texts, assistant, None)

    def share(logprobs: np.ndarray) -> float:
        return float((logprobs.argmax(1) == right).mean())

    print(f"{len(texts)} letters: base {share(of_base):.1%}, assistant {share(of_assistant):.1%}")
    five = [logprobs - np.logaddexp.reduce(logprobs, 1, keepdims=True) for logprobs in (of_base, of_assistant)]
    for weight in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        mixture = np.logaddexp(np.log(1 - weight) + of_base, np.log(weight) + of_assistant)
        product = (1 - weight) * five[0] + weight * five[1]
        print(f"assistant's weight {weight}: mixture {share(mixture):.1%}, product {share(product):.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    texts = commands.add_parser("texts")
    texts.add_argument("task", type=Path)
    texts.add_argument("out", type=Path)
    texts.add_argument("--skip", type=int, default=0, help="rows")
    texts.add_argument("--shuffle", type=int, metavar="SEED", help="put the choices in a random order")
    scores = commands.add_parser("scores")
    scores.add_argument("scores", type=Path)
    scores.add_argument("base", type=Path)
    mixed = commands.add_parser("mix")
    mixed.add_argument("scores", type=Path)
    mixed.add_argument("base", type=Path)
    mixed.add_argument("assistant", type=Path)
    mixed.add_argument("--adapter", type=Path, help="of the base")
    given = parser.parse_args()
    if given.command == "texts":
        write_texts(given.task, given.out, given.skip, given.shuffle)
    elif given.command == "scores":
        who_knows(given.scores, given.base)
    else:
        mix(given.scores, given.base, given.assistant, given.adapter)


if __name__ == "__main__":
    main()
