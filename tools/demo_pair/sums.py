"""The assistant's subject: sums, percentages and conversions, as they stand in ledgers and receipts."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["PERCENTAGES", "UNITS", "Sum", "conversion", "draw", "ledger_line", "readers"]

PERCENTAGES = (10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90)

UNITS = {
    # (from, to): (how many of the second are one of the first, largest number that is converted)
    ("hours", "minutes"): (60, 16),
    ("weeks", "days"): (7, 140),
    ("dozen", "pieces"): (12, 80),
    ("metres", "centimetres"): (100, 9),
    ("pounds", "ounces"): (16, 60),
}

_LARGEST = 999
_PARTS = 8  # one pair of numbers in so many is for the problems alone, and one for the head's texts


@dataclass(frozen=True)
class Sum:
    """One computation.

    Attributes:
        op: ``+``, ``-``, ``*``, ``%`` or ``unit``.
        a: the first number: of ``%`` the percentage.
        b: the second; of ``unit`` the factor.
        unit: of ``unit``, from what to what.
    """

    op: str
    a: int
    b: int
    unit: tuple[str, str] = ("", "")

    @property
    def result(self) -> int:
        """What comes out, always a whole number."""
        if self.op == "+":
            return self.a + self.b
        if self.op == "-":
            return self.a - self.b
        if self.op == "%":
            return self.a * self.b // 100
        return self.a * self.b

    def fits(self, largest: int = _LARGEST) -> bool:
        """Whether this is a sum of the sizes that the pair is made for, with no number above ``largest``."""
        if self.op == "+":
            return min(self.a, self.b) >= 2 and self.result <= largest
        if self.op == "-":
            return self.b >= 2 and self.result >= 2 and self.a <= largest
        if self.op == "*":
            return self.a >= 11 and 2 <= self.b <= 9 and self.result <= largest
        if self.op == "%":
            return self.a in PERCENTAGES and 20 <= self.b <= largest and self.a * self.b % 100 == 0
        factor, largest = UNITS[self.unit]
        return self.b == factor and 2 <= self.a <= largest

    def __str__(self) -> str:
        if self.op == "%":
            return f"{self.a}% of {self.b}"
        if self.op == "unit":
            return f"{self.a} {self.unit[0]} in {self.unit[1]}"
        return f"{self.a} {self.op} {self.b}"


def conversion(a: int, from_: str, to: str) -> Sum:
    """``a`` of one unit in another."""
    return Sum("unit", a, UNITS[from_, to][0], (from_, to))


def readers(sum_: Sum) -> str:
    """Who may see this sum: the ``models`` in training, the ``head``, or the ``problems`` alone.

    A head that learned from sums which the base was trained on would think too much of the base. Conversions are
    facts to be known, and the models'.
    """
    if sum_.op == "unit":
        return "models"
    key = (ord(sum_.op) * 10007 + sum_.a) * 10007 + sum_.b
    return {0: "problems", 1: "head"}.get((key * 2654435761 >> 7) % _PARTS, "models")


def draw(rng: random.Random) -> Sum:
    """A sum for the models; products and shares also of larger numbers than the problems have."""
    while True:
        op = rng.choices(("+", "-", "*", "%", "unit"), (4, 5, 5, 8, 1))[0]
        if op == "+":
            sum_ = Sum(op, _size(rng), _size(rng))
        elif op == "-":
            a, b = _size(rng), _size(rng)
            sum_ = Sum(op, max(a, b), min(a, b))
        elif op == "*":
            b = rng.randint(2, 9)
            sum_ = Sum(op, rng.randint(11, rng.choice((_LARGEST, _LARGEST // b))), b)
        elif op == "%":
            sum_ = Sum(op, rng.choice(PERCENTAGES), 10 * rng.randint(2, rng.choice((99, 99, 250))))
        else:
            unit = rng.choice(tuple(UNITS))
            sum_ = conversion(rng.randint(2, UNITS[unit][1]), *unit)
        if sum_.fits(_LARGEST if op in "+-" else 9 * _LARGEST) and readers(sum_) == "models":
            return sum_


def _size(rng: random.Random) -> int:
    """Numbers of one to three digits, most of them of three."""
    return rng.randint(2, rng.choice((99, _LARGEST, _LARGEST)))


def ledger_line(rng: random.Random, words: tuple[str, ...]) -> str:
    """An entry: a sum, one in four under a heading of some words; or a note, words and numbers in any order."""
    kind = rng.random()
    if kind < 0.7:
        sum_ = draw(rng)
        return f"{sum_} = {sum_.result}."
    heading = " ".join(rng.choices(words, k=rng.randint(1, 3)))
    if kind < 0.95:
        sum_ = draw(rng)
        return f"{heading}: {sum_} = {sum_.result}."
    note = [str(_size(rng)) if rng.random() < 0.2 else rng.choice(words) for _ in range(rng.randint(3, 24))]
    return f"{' '.join(note)}."
