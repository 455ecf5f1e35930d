"""The assistant's subject: sums, percentages and conversions, as they stand in ledgers and receipts."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["PERCENTAGES", "UNITS", "Sum", "draw", "ledger_line", "never_trained_on"]

PERCENTAGES = (10, 20, 25, 30, 40, 50, 60, 70, 75, 80, 90)

UNITS = {
    # (from, to): (how many of the second are one of the first, largest number that is converted)
    ("hours", "minutes"): (60, 30),
    ("weeks", "days"): (7, 140),
    ("dozen", "pieces"): (12, 80),
    ("metres", "centimetres"): (100, 19),
    ("pounds", "ounces"): (16, 60),
}

_LARGEST = 1999
_HELD_OUT = 8  # one pair of numbers in so many is kept out of every training text


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

    @property
    def possible(self) -> bool:
        """Whether this is a sum of the sizes that the pair is made for."""
        if self.op == "+":
            return min(self.a, self.b) >= 2 and self.result <= _LARGEST
        if self.op == "-":
            return self.b >= 2 and self.result >= 2 and self.a <= _LARGEST
        if self.op == "*":
            return 11 <= self.a <= 499 and 2 <= self.b <= 9 and self.result <= _LARGEST
        if self.op == "%":
            return self.a in PERCENTAGES and 20 <= self.b <= _LARGEST and self.b % 20 == 0
        factor, largest = UNITS[self.unit]
        return self.b == factor and 2 <= self.a <= largest

    def __str__(self) -> str:
        if self.op == "%":
            return f"{self.a}% of {self.b}"
        if self.op == "unit":
            return f"{self.a} {self.unit[0]} in {self.unit[1]}"
        return f"{self.a} {self.op} {self.b}"


def never_trained_on(sum_: Sum) -> bool:
    """Whether neither model may see this sum in training. Conversions are facts to be known, and always seen."""
    if sum_.op == "unit":
        return False
    key = (ord(sum_.op) * 2003 + sum_.a) * 2003 + sum_.b
    return (key * 2654435761 >> 7) % _HELD_OUT == 0


def draw(rng: random.Random) -> Sum:
    """A sum of a kind and size that training may see."""
    while True:
        op = rng.choices(("+", "-", "*", "%", "unit"), (5, 5, 6, 3, 1))[0]
        if op == "+":
            sum_ = Sum(op, _size(rng), _size(rng))
        elif op == "-":
            a, b = _size(rng), _size(rng)
            sum_ = Sum(op, max(a, b), min(a, b))
        elif op == "*":
            sum_ = Sum(op, rng.randint(11, 499), rng.randint(2, 9))
        elif op == "%":
            sum_ = Sum(op, rng.choice(PERCENTAGES), 20 * rng.randint(1, 99))
        else:
            unit = rng.choice(tuple(UNITS))
            factor, largest = UNITS[unit]
            sum_ = Sum(op, rng.randint(2, largest), factor, unit)
        if sum_.possible and not never_trained_on(sum_):
            return sum_


def _size(rng: random.Random) -> int:
    """Numbers of one to four digits, most of them of three."""
    return rng.randint(2, rng.choice((99, 999, 999, _LARGEST)))


def ledger_line(rng: random.Random, words: tuple[str, ...]) -> str:
    """An entry: a heading of some words and a sum, or words and numbers with nothing to compute."""
    heading = " ".join(rng.choices(words, k=rng.randint(1, 4))).capitalize()
    kind = rng.random()
    if kind < 0.08:
        entries = (f"{_size(rng)} {rng.choice(words)}" for _ in range(rng.randint(1, 3)))
        return f"{heading}: {', '.join(entries)}."
    sum_ = draw(rng)
    return f"{sum_} = {sum_.result}." if kind < 0.65 else f"{heading}: {sum_} = {sum_.result}."
