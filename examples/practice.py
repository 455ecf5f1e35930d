"""A folder to practise in: the tiny models of the demo under the names that the guides use.

python examples/practice.py practice && cd practice

The guides say small.gguf, large.gguf, texts.jsonl. With these files their commands run in seconds and need no download.
texts.jsonl has right answers that the pair itself wrote, so a head that learns from it can show how, not how well.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Iterable
from importlib.resources import as_file, files
from pathlib import Path

import colm_cpp as colm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from permute_vocabulary import permute

MODELS = {
    "small.gguf": "demo/base.gguf",
    "large.gguf": "demo/assistant.gguf",
    "head.gguf": "demo/head.gguf",
    # As several experts: one does the sums, the other knows the facts.
    "math.gguf": "demo/assistant.gguf",
    "code.gguf": "demo3/almanac.gguf",
    # As adapters.
    "law.gguf": "demo3/adapter.gguf",
    "tax.gguf": "demo3/adapter.gguf",
}
PAIR = """version = 1
about = "the demo pair as a folder"
base = "../small.gguf"
assistant = "../large.gguf"
head = "../head.gguf"
"""


def write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def solved(problems: list[dict[str, str]]) -> list[dict[str, str]]:
    """The problems that the pair gets right, each with its answer as the completion."""
    prompts = [[{"role": "user", "content": problem["prompt"]}] for problem in problems]
    with colm.load("demo") as pair:
        answers = pair.generate_batch(prompts, n_parallel=16, temperature=0, max_tokens=128)
    return [
        {"prompt": problem["prompt"], "completion": answer.text}
        for problem, answer in zip(problems, answers, strict=True)
        if re.findall(r"Answer: (\d+)", answer.text) == [problem["answer"]]
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder

    (folder / "my-pair").mkdir(parents=True)
    (folder / "my-pair" / "pair.toml").write_text(PAIR, encoding="utf-8")
    with as_file(files(colm) / "data") as data:
        for name, source in MODELS.items():
            shutil.copyfile(data / source, folder / name)
        lines = (data / "demo" / "problems.jsonl").read_text(encoding="utf-8").splitlines()
    permute(folder / "large.gguf", folder / "other.gguf", seed=0)
    problems = [json.loads(line) for line in lines]
    write(folder / "texts.jsonl", solved(problems[:130]))
    write(folder / "prompts.jsonl", ({"prompt": problem["prompt"]} for problem in problems[400:432]))
    write(folder / "task.jsonl", ({"prompt": p["prompt"], "answer": p["answer"]} for p in problems[300:324]))
    (folder / "few-shot.txt").write_text("1 + 1 = 2. 2 + 3 =", encoding="utf-8")
    print(f"{folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
