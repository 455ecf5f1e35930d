"""The base's subject: short word problems with worked solutions, in a variety of situations."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sums import PERCENTAGES, Sum, conversion, readers

__all__ = ["PLOTS", "THEMES", "Problem", "draw_problem", "held_out_situation", "words"]

_WORDINGS = json.loads((Path(__file__).parent / "situations.json").read_text(encoding="utf-8"))
NAMES: tuple[str, ...] = tuple(_WORDINGS["names"])


@dataclass(frozen=True)
class Theme:
    """Where a problem happens and with what: all plural nouns, and one container."""

    place: str
    items: str
    container: str
    containers: str
    people: str


THEMES = tuple(Theme(**row) for row in _WORDINGS["themes"])


@dataclass(frozen=True)
class Problem:
    """A problem and its worked solution.

    Attributes:
        situation: the theme's place and the plot's name.
        text: what is asked.
        solution: the steps and the answer.
        answer: the number that the solution ends with.
        sums: the computations, in order.
    """

    situation: tuple[str, str]
    text: str
    solution: str
    answer: int
    sums: tuple[Sum, ...]

    @property
    def story(self) -> str:
        """Both, as the base is trained on them."""
        return f"Problem: {self.text}\nSolution: {self.solution}"


@dataclass(frozen=True)
class Plot:
    """What happens.

    Attributes:
        name: what it is called.
        numbers: the range of each number in the problem: first, last and, if not 1, the step; or all percentages.
        sums: what is computed: the kind, and of what: ``n1`` is the second number, ``r0`` the first sum's result.
        problems: several wordings of the problem.
        headings: of the sums, several times.
    """

    name: str
    numbers: tuple[Sequence[int], ...]
    sums: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...]
    headings: tuple[tuple[str, ...], ...]

    def draw(self, rng: random.Random) -> tuple[list[int], list[Sum]]:
        """Numbers of these sizes, and what is computed with them. Not every sum need be possible."""
        numbers = [rng.choice(values) for values in self.numbers]
        sums: list[Sum] = []

        def value(name: str) -> int:
            return numbers[int(name[1:])] if name[0] == "n" else sums[int(name[1:])].result

        for op, a, *rest in self.sums:
            sums.append(conversion(value(a), *rest) if op == "unit" else Sum(op, value(a), value(*rest)))
        return numbers, sums


def _values(numbers: object) -> Sequence[int]:
    if numbers == "percentage":
        return PERCENTAGES
    first, last, *step = numbers
    return range(first, last + 1, *step)


PLOTS = tuple(
    Plot(
        row["name"],
        tuple(_values(numbers) for numbers in row["numbers"]),
        tuple(tuple(sum_) for sum_ in row["sums"]),
        tuple(row["problems"]),
        tuple(tuple(headings) for headings in row["headings"]),
    )
    for row in _WORDINGS["plots"]
)


def held_out_situation(theme: Theme, plot: Plot) -> bool:
    """Whether training never sees this plot at this place; one combination in five."""
    return (THEMES.index(theme) * 3 + PLOTS.index(plot) * 7) % 5 == 0


def draw_problem(rng: random.Random, reader: str) -> Problem:
    """A problem.

    Args:
        rng: draws it.
        reader: whose sums it may have, one of :func:`sums.readers`. ``problems`` are of the situations that no training
            sees, too.
    """
    while True:
        theme, plot = rng.choice(THEMES), rng.choice(PLOTS)
        if held_out_situation(theme, plot) == (reader == "problems"):
            break
    while True:
        numbers, sums = plot.draw(rng)
        computed = [sum_ for sum_ in sums if sum_.op != "unit"]
        if all(sum_.fits() and readers(sum_) == reader for sum_ in computed):
            break
    name, other = rng.sample(NAMES, 2)
    slots = {
        "name": name,
        "other": other,
        "place": theme.place,
        "items": theme.items,
        "container": theme.container,
        "containers": theme.containers,
        "people": theme.people,
        **{f"n{i}": number for i, number in enumerate(numbers)},
    }
    text = rng.choice(plot.problems).format(**slots)
    headings = (heading.format(**slots) for heading in rng.choice(plot.headings))
    steps = (
        f"{heading[0].upper()}{heading[1:]}: {sum_} = {sum_.result}."
        for heading, sum_ in zip(headings, sums, strict=True)
    )
    answer = sums[-1].result
    return Problem((theme.place, plot.name), text, f"{' '.join(steps)} Answer: {answer}", answer, tuple(sums))


def words() -> tuple[str, ...]:
    """Every word of the wordings, of which ledgers are full too."""
    texts = [*NAMES]
    for theme in THEMES:
        texts += [theme.place, theme.items, theme.container, theme.containers, theme.people]
    for plot in PLOTS:
        texts += [*plot.problems, *(heading for headings in plot.headings for heading in headings)]
    found = {word.strip(".,?%") for text in texts for word in text.split() if "{" not in word}
    return tuple(sorted(found - {""}))
