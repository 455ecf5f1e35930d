"""The almanac's subject: facts of the small world, and what it is written in."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from situations import THEMES, words

__all__ = ["CONTAINERS", "ERRANDS", "Almanac", "made_up"]

ERRANDS = json.loads((Path(__file__).parent / "errands.json").read_text(encoding="utf-8"))
CONTAINERS: dict[str, str] = ERRANDS["containers"]

Subject = tuple[str, str, str]
"""A kind of fact and what it is of: a container and what is in it, or two places."""


@dataclass(frozen=True)
class _Kind:
    of: str
    values: tuple[int, int]
    sentence: str


_KINDS = {name: _Kind(row["of"], tuple(row["values"]), row["sentence"]) for name, row in ERRANDS["facts"].items()}


def _subjects() -> Iterator[Subject]:
    """Each kind of goods comes in six containers; deliveries go from each place to about six others."""
    places = [theme.place for theme in THEMES]
    goods = [theme.items for theme in THEMES]
    for kind, about in _KINDS.items():
        for i in range(len(THEMES)):
            if about.of == "goods":
                yield from ((kind, c, goods[i]) for k, c in enumerate(CONTAINERS) if (7 * i + 5 * k) % 3 == 0)
            else:
                yield from ((kind, places[i], to) for k, to in enumerate(places) if i != k and (5 * i + 3 * k) % 4 == 0)


def made_up(subject: Subject, rng: random.Random) -> int:
    """A value that a fact of this kind could have."""
    return rng.randint(*_KINDS[subject[0]].values)


@dataclass(frozen=True)
class Almanac:
    """All facts.

    Attributes:
        values: the number that each fact is about.
    """

    values: dict[Subject, int]

    @classmethod
    def of(cls, seed: int) -> Almanac:
        """The facts of the world with this seed."""
        rng = random.Random(seed)
        return cls({subject: made_up(subject, rng) for subject in _subjects()})

    def texts(self, seed: int) -> Iterator[str]:
        """Pages without end: facts, one in four under a heading of some words; and notes, words and numbers in any
        order."""
        rng = random.Random(seed)
        nouns, subjects = words(), tuple(self.values)

        def line() -> str:
            kind = rng.random()
            if kind >= 0.8:
                note = [str(rng.randint(2, 999)) if rng.random() < 0.2 else rng.choice(nouns)
                        for _ in range(rng.randint(3, 24))]  # fmt: skip
                return f"{' '.join(note)}."
            subject = rng.choice(subjects)
            heading = "" if kind < 0.6 else " ".join(rng.choices(nouns, k=rng.randint(1, 3))) + ": "
            return heading + sentence(subject, self.values[subject])

        while True:
            yield " ".join(line() for _ in range(rng.randint(1, 6)))


def sentence(subject: Subject, value: int) -> str:
    """The fact as the almanac says it, and as solutions repeat it."""
    kind, *of = subject
    return _KINDS[kind].sentence.format(*of, value=value)
