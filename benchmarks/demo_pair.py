"""The demo's models on the problems of the package: each alone, and together as the head decides.

    python benchmarks/demo_pair.py [FOLDER] [--three [FOLDER]]

FOLDER holds base.gguf, assistant.gguf and head.gguf as tools/demo_pair/make.py writes them; without it, the pair in the
package. The 500 problems are those of the package either way. --three is for the three models: the pair's two, and
almanac.gguf, adapter.gguf, head.gguf and 300 problems.jsonl of its own FOLDER, since each making has facts of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import colm_cpp as colm
from colm_cpp.evaluate.demo import ARMS, answer_all, answer_arms, demo_problems, tally
from colm_cpp.evaluate.demo_three import arms_of_several, shares
from colm_cpp.options import LoadOptionsDict
from colm_cpp.sources.preset import DEMO_FOLDER, DEMO_THREE_FOLDER


def of_two(folder: Path) -> None:
    """Prints the table of the pair."""
    with colm.load(folder / "base.gguf", folder / "assistant.gguf", folder / "head.gguf") as pair:
        answered = answer_all(pair, demo_problems(), n_parallel=32)
    print("| who writes | exact final answer | tokens deferred |\n|---|---|---|")
    for arm in ARMS:
        count = tally([answer for answer in answered if answer.arm == arm])
        print(f"| {arm} | {count.accuracy:.1%} of {count.n_problems} | {count.deferral_rate:.1%} |")


def of_three(folder: Path, more: Path) -> None:
    """Prints the table of the three models."""
    experts = {"sums": folder / "assistant.gguf", "almanac": more / "almanac.gguf"}
    adapted: LoadOptionsDict = {"lora": more / "adapter.gguf"}
    with colm.load(folder / "base.gguf", experts=experts, head=more / "head.gguf", base_options=adapted) as pair:
        arms = arms_of_several(pair)
        answered = answer_arms(pair, demo_problems(file=more / "problems.jsonl"), arms, n_parallel=32)
    print("| who writes | exact final answer | tokens by sums | tokens by almanac |\n|---|---|---|---|")
    for arm in arms:
        own = [answer for answer in answered if answer.arm == arm.name]
        written = " | ".join(f"{share:.1%}" for share in shares(own, len(experts)))
        print(f"| {arm.name} | {tally(own).accuracy:.1%} of {len(own)} | {written} |")


def main() -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=DEMO_FOLDER)
    parser.add_argument("--three", nargs="?", type=Path, const=DEMO_THREE_FOLDER)
    given = parser.parse_args()
    if given.three is None:
        of_two(given.folder)
    else:
        of_three(given.folder, given.three)


if __name__ == "__main__":
    main()
