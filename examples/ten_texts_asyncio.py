"""Ten conversations at once in asyncio. The texts share each pass over the weights, and nothing blocks the event loop.

python examples/ten_texts_asyncio.py --pair demo
"""

from __future__ import annotations

import argparse
import asyncio
import time

import colm_cpp as colm

TEXTS = 10


async def ask(pair: colm.Pair, number: int) -> str:
    """Asks one question and prints a line when its answer ends."""
    question = f"There were {number} drawers with 13{number} pencils in each drawer. How many pencils are there?"
    stream = pair.astream_chat([{"role": "user", "content": question}], temperature=0)
    pieces = [token.text async for token in stream]
    print(f"{number}: {''.join(pieces).strip()}")
    return "".join(pieces)


async def main(name: str) -> None:
    """Asks all questions, and counts how often the loop was free meanwhile."""
    start = time.monotonic()
    with colm.load(name, n_parallel=TEXTS) as pair:
        answers = asyncio.gather(*(ask(pair, number) for number in range(TEXTS)))
        ticks = 0
        while not answers.done():
            await asyncio.sleep(0.001)
            ticks += 1
        await answers
    print(f"{TEXTS} texts in {time.monotonic() - start:.1f} s; the loop went round {ticks} times")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", default="demo")
    asyncio.run(main(parser.parse_args().pair))
