"""The demo pair on its 500 problems: each model alone, both at random, both as the head decides.

    python benchmarks/demo_pair.py [FOLDER]

FOLDER holds base.gguf, assistant.gguf and head.gguf as tools/demo_pair/make.py writes them; without it, the pair in the
package. The problems are those of the package either way.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import colm_cpp as colm
from colm_cpp.evaluate.demo import ARMS, answer_all, demo_problems, tally
from colm_cpp.sources.preset import DEMO_FOLDER


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", nargs="?", type=Path, default=DEMO_FOLDER)
    folder = parser.parse_args().folder
    with colm.load(folder / "base.gguf", folder / "assistant.gguf", folder / "head.gguf") as pair:
        answered = answer_all(pair, demo_problems(), n_parallel=32)
    print("| who writes | exact final answer | tokens deferred |\n|---|---|---|")
    for arm in ARMS:
        count = tally([answer for answer in answered if answer.arm == arm])
        print(f"| {arm} | {count.accuracy:.1%} of {count.n_problems} | {count.deferral_rate:.1%} |")


if __name__ == "__main__":
    main()
