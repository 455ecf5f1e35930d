"""The base's subject: short word problems with worked solutions, in a variety of situations."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sums import PERCENTAGES, Sum, never_trained_on

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


Numbers = Callable[[random.Random], tuple[tuple[int, ...], tuple[Sum, ...]]]


@dataclass(frozen=True)
class Plot:
    """What happens: the numbers, several wordings of the problem, and the headings of the solution's sums."""

    name: str
    numbers: Numbers
    problems: tuple[str, ...]
    headings: tuple[tuple[str, ...], ...]


def _groups_and_loose(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    per, n, loose = rng.randint(11, 240), rng.randint(3, 9), rng.randint(12, 600)
    first = Sum("*", per, n)
    return (n, per, loose), (first, Sum("+", first.result, loose))


def _groups_and_sold(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    per, n, sold = rng.randint(11, 240), rng.randint(3, 9), rng.randint(12, 900)
    first = Sum("*", per, n)
    return (n, per, sold), (first, Sum("-", first.result, sold))


def _gain_and_loss(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    a, b, c = rng.randint(102, 990), rng.randint(102, 990), rng.randint(103, 900)
    first = Sum("+", a, b)
    return (a, b, c), (first, Sum("-", first.result, c))


def _share_spoilt(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    p, n = rng.choice(PERCENTAGES), 20 * rng.randint(3, 99)
    first = Sum("%", p, n)
    return (n, p), (first, Sum("-", n, first.result))


def _share_more(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    p, n = rng.choice(PERCENTAGES), 20 * rng.randint(3, 60)
    first = Sum("%", p, n)
    return (n, p), (first, Sum("+", n, first.result))


def _hours(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    h, m = rng.randint(2, 29), rng.randint(12, 190)
    first = Sum("unit", h, 60, ("hours", "minutes"))
    return (h, m), (first, Sum("+", first.result, m))


def _weeks(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    w, n = rng.randint(2, 50), rng.randint(2, 9)
    first = Sum("unit", w, 7, ("weeks", "days"))
    return (w, n), (first, Sum("*", first.result, n))


def _dozens(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    d, c = rng.randint(9, 80), rng.randint(14, 600)
    first = Sum("unit", d, 12, ("dozen", "pieces"))
    return (d, c), (first, Sum("-", first.result, c))


def _rope(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    m, c = rng.randint(2, 19), rng.randint(21, 900)
    first = Sum("unit", m, 100, ("metres", "centimetres"))
    return (m, c), (first, Sum("-", first.result, c))


def _weight(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    p, c = rng.randint(4, 60), rng.randint(21, 500)
    first = Sum("unit", p, 16, ("pounds", "ounces"))
    return (p, c), (first, Sum("+", first.result, c))


def _change(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    price, n, paid = rng.randint(11, 240), rng.randint(3, 9), 100 * rng.randint(2, 19)
    first = Sum("*", price, n)
    return (n, price, paid), (first, Sum("-", paid, first.result))


def _two_prices(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    p, n, q, m = rng.randint(11, 120), rng.randint(3, 9), rng.randint(11, 120), rng.randint(3, 9)
    first, second = Sum("*", p, n), Sum("*", q, m)
    return (n, p, m, q), (first, second, Sum("+", first.result, second.result))


def _goal(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    goal, a, b = rng.randint(700, 1990), rng.randint(102, 800), rng.randint(102, 800)
    first = Sum("+", a, b)
    return (goal, a, b), (first, Sum("-", goal, first.result))


def _times_as_many(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    a, n = rng.randint(21, 220), rng.randint(3, 9)
    first = Sum("*", a, n)
    return (a, n), (first, Sum("+", a, first.result))


def _more_than(rng: random.Random) -> tuple[tuple[int, ...], tuple[Sum, ...]]:
    a, more = rng.randint(102, 790), rng.randint(21, 390)
    first = Sum("+", a, more)
    return (a, more), (first, Sum("+", a, first.result))


_NUMBERS: dict[str, Numbers] = {
    "groups and loose": _groups_and_loose,
    "groups and sold": _groups_and_sold,
    "gain and loss": _gain_and_loss,
    "share spoilt": _share_spoilt,
    "share more": _share_more,
    "hours": _hours,
    "weeks": _weeks,
    "dozens": _dozens,
    "rope": _rope,
    "weight": _weight,
    "change": _change,
    "two prices": _two_prices,
    "goal": _goal,
    "times as many": _times_as_many,
    "more than": _more_than,
}

PLOTS = tuple(
    Plot(
        row["name"],
        _NUMBERS[row["name"]],
        tuple(row["problems"]),
        tuple(tuple(headings) for headings in row["headings"]),
    )
    for row in _WORDINGS["plots"]
)


def held_out_situation(theme: Theme, plot: Plot) -> bool:
    """Whether training never sees this plot at this place; one combination in five."""
    return (THEMES.index(theme) * 3 + PLOTS.index(plot) * 7) % 5 == 0


def draw_problem(rng: random.Random, *, held_out: bool) -> Problem:
    """A problem.

    Args:
        rng: draws it.
        held_out: of a situation and with sums that training never sees; otherwise neither is kept from it.
    """
    while True:
        theme, plot = rng.choice(THEMES), rng.choice(PLOTS)
        if held_out_situation(theme, plot) == held_out:
            break
    while True:
        numbers, sums = plot.numbers(rng)
        computed = [sum_ for sum_ in sums if sum_.op != "unit"]
        if all(sum_.possible and never_trained_on(sum_) == held_out for sum_ in computed):
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
    return Problem((theme.place, plot.name), text, f"{' '.join(steps)}\nAnswer: {answer}", answer, sums)


def words() -> tuple[str, ...]:
    """The nouns of all themes, of which ledgers are full too."""
    found = {
        word
        for theme in THEMES
        for text in (theme.place, theme.items, theme.container, theme.containers, theme.people)
        for word in text.split()
    }
    return tuple(sorted(found))
