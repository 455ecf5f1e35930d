"""Sets of strings as expressions with union, intersection and complement, and their finite automata.

Automata come from Brzozowski's derivatives (J. ACM 11, 1964): the derivative of an expression by a character is what
may follow that character, and the expressions met on the way are the automaton's states.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Literal

__all__ = ["ANY", "Automaton", "Languages", "Ranges", "Term", "TooManyStates", "TooMuchWork", "complement", "union"]

Ranges = tuple[tuple[int, int], ...]
Kind = Literal["set", "empty text", "cat", "alt", "and", "not", "repeat", "multiple"]

_LAST = 0x10FFFF
# About so many elementary steps take well below a second; counted, so that a refusal never depends on the machine.
_MOST_WORK = 600_000
# Surrogates are no characters; JSON writes those that a string holds nevertheless as escapes.
ANY: Ranges = ((0, 0xD7FF), (0xE000, _LAST))


def union(*sets: Ranges) -> Ranges:
    """All characters of any of the sets, as sorted ranges apart from each other."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(part for ranges in sets for part in ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """All other characters."""
    others = []
    start = 0
    for first, last in union(ranges, ((0xD800, 0xDFFF),)):
        if start < first:
            others.append((start, first - 1))
        start = last + 1
    if start <= _LAST:
        others.append((start, _LAST))
    return tuple(others)


def _number(value: int | tuple[int, int]) -> int:
    assert isinstance(value, int)
    return value


class Term:
    """A set of strings; equal expressions of one :class:`Languages` are one object."""

    __slots__ = ("data", "has_empty", "kind", "number", "parts")

    def __init__(self, number: int, kind: Kind, parts: tuple[Term, ...], data: tuple[int, ...] | Ranges) -> None:
        self.number = number
        self.kind = kind
        self.parts = parts
        self.data = data
        self.has_empty = self._has_empty()

    def _has_empty(self) -> bool:
        match self.kind:
            case "empty text":
                return True
            case "cat" | "and":
                return all(part.has_empty for part in self.parts)
            case "alt":
                return any(part.has_empty for part in self.parts)
            case "not":
                return not self.parts[0].has_empty
            case "repeat":
                return self.data[0] == 0
            case "multiple":
                modulus, places, rest, used = map(_number, self.data)
                return rest * int(10 ** (places - max(used, 0))) % modulus == 0
            case _:
                return False


@dataclass(frozen=True)
class Automaton:
    """States are numbered from 0, where it begins; ``steps[state]`` maps the next state to the characters to it."""

    steps: list[dict[int, Ranges]]
    ends: list[bool]

    def has_words(self) -> bool:
        """Whether it accepts anything."""
        return bool(self.ends) and (self.ends[0] or bool(self.steps[0]))


class TooManyStates(Exception):
    """An automaton has more states than were asked for."""


class TooMuchWork(Exception):
    """All that was made needs more steps than are allowed."""


class Languages:
    """Makes terms and automata, in a bounded number of steps: any method may raise :class:`TooMuchWork`."""

    def __init__(self) -> None:
        self._work_left = _MOST_WORK
        # What was read of regular expressions.
        self.patterns: dict[str, Term] = {}
        self._starting: dict[Term, frozenset[int]] = {}
        self._terms: dict[object, Term] = {}
        self._derivatives: dict[tuple[Term, int], Term] = {}
        self.nothing = self.chars(())
        self.empty = self._term("empty text", (), ())
        self.everything = self.repeat(self.chars(ANY), 0, None)

    def spend(self, steps: int) -> None:
        """Counts steps of work.

        Raises:
            TooMuchWork: more than are allowed, together with those before.
        """
        self._work_left -= steps
        if self._work_left < 0:
            raise TooMuchWork

    def _term(self, kind: Kind, parts: tuple[Term, ...], data: tuple[int, ...] | Ranges) -> Term:
        self.spend(1 + len(parts) + len(data))
        key = kind, tuple(part.number for part in parts), data
        found = self._terms.get(key)
        if found is None:
            self.spend(3)
            found = self._terms[key] = Term(len(self._terms), kind, parts, data)
        return found

    def chars(self, ranges: Ranges) -> Term:
        """One character of the set."""
        return self._term("set", (), ranges)

    def literal(self, text: str) -> Term:
        """This string alone."""
        return self.cat(*(self.chars(((ord(c), ord(c)),)) for c in text))

    def cat(self, *parts: Term) -> Term:
        """One after the other."""
        return reduce(lambda rest, part: self._cat(part, rest), reversed(parts), self.empty)

    def _cat(self, first: Term, rest: Term) -> Term:
        if first is self.nothing or rest is self.nothing:
            return self.nothing
        if first is self.empty:
            return rest
        if rest is self.empty:
            return first
        return self._term("cat", (first, rest), ())

    def alt(self, *parts: Term) -> Term:
        """Either."""
        return self._combine("alt", parts, neutral=self.nothing, absorbing=self.everything)

    def both(self, *parts: Term) -> Term:
        """Strings that are in all of them."""
        return self._combine("and", parts, neutral=self.everything, absorbing=self.nothing)

    def _combine(self, kind: Literal["alt", "and"], parts: tuple[Term, ...], *, neutral: Term, absorbing: Term) -> Term:
        flat: dict[int, Term] = {}
        for part in parts:
            members = part.parts if part.kind == kind else (part,)
            self.spend(len(members))
            for member in members:
                if member is absorbing:
                    return absorbing
                if member is not neutral:
                    flat[member.number] = member
        if not flat:
            return neutral
        if len(flat) == 1:
            return next(iter(flat.values()))
        return self._term(kind, tuple(flat[number] for number in sorted(flat)), ())

    def negate(self, part: Term) -> Term:
        """All other strings."""
        if part.kind == "not":
            return part.parts[0]
        if part is self.nothing:
            return self.everything
        if part is self.everything:
            return self.nothing
        return self._term("not", (part,), ())

    def repeat(self, part: Term, low: int, high: int | None) -> Term:
        """``low`` to ``high`` times; None is any number."""
        if part.has_empty:
            low = 0
        if high == 0 or part is self.empty or (part is self.nothing and low == 0):
            return self.empty
        if part is self.nothing:
            return self.nothing
        if low == high == 1 or (part.kind == "repeat" and part.data == (0, -1) and high != 0):
            return part
        return self._term("repeat", (part,), (low, -1 if high is None else high))

    def multiple(self, modulus: int, places: int) -> Term:
        """Plain decimal numbers without a sign that are multiples of modulus / 10**places."""
        return self._term("multiple", (), (modulus, places, 0, -1))

    def derive(self, term: Term, char: int) -> Term:
        """What may follow ``char``."""
        key = term, char
        found = self._derivatives.get(key)
        self.spend(1)
        if found is None:
            self.spend(2 + len(term.data))
            found = self._derivatives[key] = self._derive(term, char)
        return found

    def _derive(self, term: Term, char: int) -> Term:
        match term.kind:
            case "set":
                return self.empty if any(a <= char <= b for a, b in term.data) else self.nothing  # type: ignore[misc]
            case "cat":
                first, rest = term.parts
                after = self._cat(self.derive(first, char), rest)
                return self.alt(after, self.derive(rest, char)) if first.has_empty else after
            case "alt":
                return self.alt(*(self.derive(part, char) for part in term.parts))
            case "and":
                return self.both(*(self.derive(part, char) for part in term.parts))
            case "not":
                return self.negate(self.derive(term.parts[0], char))
            case "repeat":
                low, high = map(_number, term.data)
                more = self.repeat(term.parts[0], max(low - 1, 0), None if high < 0 else high - 1)
                return self._cat(self.derive(term.parts[0], char), more)
            case "multiple":
                return self._next_digit(term, char)
            case _:
                return self.nothing

    def _next_digit(self, term: Term, char: int) -> Term:
        modulus, places, rest, used = map(_number, term.data)
        if char == ord("."):
            return self.nothing if used >= 0 else self._term("multiple", (), (modulus, places, rest, 0))
        digit = char - ord("0")
        if not 0 <= digit <= 9 or (used == places and digit > 0):
            return self.nothing
        if used == places:
            return term
        rest = (rest * 10 + digit) % modulus
        return self._term("multiple", (), (modulus, places, rest, used + 1 if used >= 0 else used))

    def accepts(self, term: Term, text: str) -> bool:
        """Whether the string is in the set."""
        for c in text:
            term = self.derive(term, ord(c))
        return term.has_empty

    def _starts(self, term: Term) -> frozenset[int]:
        """Where ranges of characters begin that the term treats alike as its next character."""
        found = self._starting.get(term)
        if found is None:
            found = self._starting[term] = self._find_starts(term)
        self.spend(1 + len(found) // 4)
        return found

    def _find_starts(self, term: Term) -> frozenset[int]:
        match term.kind:
            case "set":
                return frozenset(edge for a, b in term.data for edge in (a, b + 1))  # type: ignore[misc]
            case "cat":
                first, rest = term.parts
                return self._starts(first) | self._starts(rest) if first.has_empty else self._starts(first)
            case "multiple":
                return frozenset((ord("."), ord("/"), *range(ord("0"), ord("9") + 2)))
            case _:
                return frozenset().union(*(self._starts(part) for part in term.parts))

    def automaton(self, term: Term, most: int) -> Automaton:
        """The deterministic automaton, without states from which no end can be reached.

        Raises:
            TooManyStates: more than ``most``.
        """
        numbers = {term: 0}
        order = [term]
        steps: list[dict[int, Ranges]] = []
        for state in order:
            targets: dict[int, list[tuple[int, int]]] = {}
            edges = sorted(self._starts(state) | {first for first, _ in ANY})
            self.spend(10 + 2 * len(edges))
            for first, after in pairwise([*edges, _LAST + 1]):
                if 0xD800 <= first <= 0xDFFF or first > _LAST:
                    continue
                target = self.derive(state, first)
                if target is self.nothing:
                    continue
                if target not in numbers:
                    if len(order) >= most:
                        raise TooManyStates
                    numbers[target] = len(order)
                    order.append(target)
                targets.setdefault(numbers[target], []).append(
                    (first, min(after - 1, 0xD7FF if first < 0xD800 else _LAST))
                )
            steps.append({target: union(tuple(ranges)) for target, ranges in targets.items()})
        return _trimmed(steps, [state.has_empty for state in order])


def _trimmed(steps: list[dict[int, Ranges]], ends: list[bool]) -> Automaton:
    before: list[list[int]] = [[] for _ in steps]
    for state, targets in enumerate(steps):
        for target in targets:
            before[target].append(state)
    live = set(todo := [state for state, end in enumerate(ends) if end])
    while todo:
        for state in before[todo.pop()]:
            if state not in live:
                live.add(state)
                todo.append(state)
    kept = [0, *(state for state in range(1, len(steps)) if state in live)]
    numbers = {state: i for i, state in enumerate(kept)}
    return Automaton(
        [{numbers[t]: r for t, r in steps[state].items() if t in live} for state in kept], [ends[s] for s in kept]
    )
