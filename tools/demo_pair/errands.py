"""Problems that need a fact which they do not state: what a crate weighs, how long a delivery takes."""

from __future__ import annotations

import random
from dataclasses import dataclass

from almanac import CONTAINERS, ERRANDS, Almanac, Subject, made_up, sentence
from situations import NAMES, THEMES, Problem
from sums import Sum, readers

__all__ = ["ASKED", "draw_errand"]


@dataclass(frozen=True)
class _Plot:
    """What happens, as of :class:`situations.Plot`; ``f0`` in a sum is the first fact's number.

    Attributes:
        facts: kind and slots of what has to be known.
    """

    name: str
    facts: tuple[tuple[str, str, str], ...]
    numbers: tuple[tuple[int, int], ...]
    sums: tuple[tuple[str, str, str], ...]
    problems: tuple[str, ...]
    headings: tuple[tuple[str, ...], ...]


_PLOTS = tuple(
    _Plot(row["name"], *(tuple(row[key]) for key in ("facts", "numbers", "sums", "problems", "headings")))
    for row in ERRANDS["plots"]
)
ASKED = frozenset(row["name"] for row in ERRANDS["plots"] if row.get("asked", True))
"""The plots of problems. A base of this size does not learn to say which two places a delivery was between."""


def draw_errand(rng: random.Random, reader: str, almanac: Almanac | None) -> Problem:
    """A problem.

    Args:
        rng: draws it.
        reader: whose sums it may have, as of :func:`situations.draw_problem`; ``problems`` are goods in a plot that no
            training sees together, too.
        almanac: says the facts. None: they are made up for this one problem, as those that tell stories do.
    """
    while True:
        goods, plot = rng.randrange(len(THEMES)), rng.randrange(len(_PLOTS))
        if ((3 * goods + 7 * plot) % 5 == 0) == (reader == "problems"):
            break
    plot = _PLOTS[plot]
    while True:
        slots = _slots(rng, goods)
        subjects: list[Subject] = [(kind, slots[a], slots[b]) for kind, a, b in plot.facts]
        if almanac is not None and not all(subject in almanac.values for subject in subjects):
            continue
        facts = [made_up(subject, rng) if almanac is None else almanac.values[subject] for subject in subjects]
        numbers = [rng.randint(*values) for values in plot.numbers]
        sums: list[Sum] = []
        known = {"n": numbers, "f": facts}
        for op, *of in plot.sums:
            sums.append(Sum(op, *(sums[int(i)].result if which == "r" else known[which][int(i)] for which, i in of)))
        if all(sum_.fits() and readers(sum_) == reader for sum_ in sums):
            break
    slots |= {f"n{i}": str(number) for i, number in enumerate(numbers)}
    steps = [sentence(subject, value) for subject, value in zip(subjects, facts, strict=True)]
    for heading, sum_ in zip(rng.choice(plot.headings), sums, strict=True):
        said = heading.format(**slots)
        steps.append(f"{said[0].upper()}{said[1:]}: {sum_} = {sum_.result}.")
    answer = sums[-1].result
    text = rng.choice(plot.problems).format(**slots)
    solution = f"{' '.join(steps)} Answer: {answer}"
    return Problem((THEMES[goods].items, plot.name), text, solution, answer, tuple(sums))


def _slots(rng: random.Random, goods: int) -> dict[str, str]:
    """Who, where and with what."""
    name, other = rng.sample(NAMES, 2)
    places = rng.sample(THEMES, 3)
    second = rng.choice([theme.items for i, theme in enumerate(THEMES) if i != goods])
    container, container2 = rng.choices(tuple(CONTAINERS), k=2)
    return {
        "name": name,
        "other": other,
        "place": places[0].place,
        "place2": places[1].place,
        "place3": places[2].place,
        "people": places[0].people,
        "items": THEMES[goods].items,
        "items2": second,
        "container": container,
        "container2": container2,
        "containers": CONTAINERS[container],
    }
