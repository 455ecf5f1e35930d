"""The rules of a JSON schema's arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._json_keywords import refuse
from ._json_rules import Name, Symbols
from ._json_text import json_literal, literal

if TYPE_CHECKING:
    from .json_schema import Atom, Converter

__all__ = ["array_rules"]

_MOST_UNIQUE = 8


def array_rules(converter: Converter, atoms: list[Atom]) -> list[Symbols]:
    """Arrays that satisfy all of ``atoms``."""
    low, high = converter.counts(atoms, "minItems", "maxItems")
    if high is not None and high < low:
        return []
    empty: list[Symbols] = [['"["', Name("ws"), '"]"']] if low == 0 else []
    if high == 0:
        return empty
    first = {atom.at: converter.document.first_items(atom.at) for atom in atoms}
    n_first = max(map(len, first.values()), default=0)
    rest = [at for atom in atoms for at in converter.document.other_items(atom.at)]
    contains = [atom for atom in atoms if "contains" in atom.schema and atom.schema.get("minContains", 1) > 0]
    for atom in atoms:
        if "contains" in atom.schema and "maxContains" in atom.schema:
            refuse("maxContains", atom.at, "cannot be honoured by a grammar")
    unique = next((atom for atom in atoms if atom.schema.get("uniqueItems")), None)
    if unique is not None and high != 1:
        return _unique_items(converter, unique, rest, empty, low, high, simple=not (n_first or contains))
    if contains:
        return _containing(converter, contains, rest, low, high, n_first)
    start: Symbols = ['"["', Name("ws")]
    if n_first == 0:
        more = _items(converter, converter.goal(rest), max(low - 1, 0), None if high is None else high - 1)
        return [*empty, [*start, converter.goal(rest), *more]]
    # After so many items: the end, or another one.
    after = converter.rule()
    ends: Symbols = [Name("ws"), '"]"']
    last: list[Symbols] = [list(ends)] if low <= n_first else []
    if (high is None or high > n_first) and not converter.never(rest):
        more_high = None if high is None else high - n_first
        last.append(_items(converter, converter.goal(rest), max(low - n_first, 0), more_high))
    converter.rules[after] = last
    for i in reversed(range(n_first)):
        item = converter.goal(
            at for atom in atoms for at in (first[atom.at][i : i + 1] or converter.document.other_items(atom.at))
        )
        if i == 0:
            return [*empty, [*start, item, after]]
        here: list[Symbols] = [list(ends)] if low <= i else []
        if high is None or high > i:
            here.append(['","', Name("ws"), item, after])
        after = converter.rule(here)
    raise AssertionError("there is a first item")


def _items(converter: Converter, item: Name, low: int, high: int | None) -> Symbols:
    """Further items and the end."""
    another = converter.rule([['","', Name("ws"), item]])
    return [Name(f"{another}{{{low},{'' if high is None else high}}}"), Name("ws"), '"]"']


def _containing(
    converter: Converter, contains: list[Atom], rest: list[str], low: int, high: int | None, n_first: int
) -> list[Symbols]:
    atom = contains[0]
    least = int(atom.schema.get("minContains", 1))
    if len(contains) > 1 or n_first or high is not None or low > least:
        refuse(
            "contains",
            atom.at,
            "can be honoured alone only, not with prefixItems, maxItems, more minItems or another contains",
        )
    item = converter.goal(rest)
    match = converter.goal([*rest, converter.document.under(atom.at, "contains")])
    others = converter.rule([['","', Name("ws"), item]])
    ends: Symbols = [Name(f"{others}*"), Name("ws"), '"]"']
    more = converter.rule([[Name(f"{others}*"), '","', Name("ws"), match]])
    first = converter.rule([[match], [item, Name(f"{others}*"), '","', Name("ws"), match]])
    return [['"["', Name("ws"), first, Name(f"{more}{{{least - 1},{least - 1}}}"), *ends]]


def _unique_items(
    converter: Converter,
    unique: Atom,
    rest: list[str],
    empty: list[Symbols],
    low: int,
    high: int | None,
    *,
    simple: bool,
) -> list[Symbols]:
    values: list[str] | None = [] if simple else None
    for alternative in converter.alternatives(tuple(rest)) if simple else ():
        found = converter.finite(alternative, tuple(rest))
        if found is None or values is None:
            values = None
            break
        values += [json_literal(value) for value in found]
    values = None if values is None else list(dict.fromkeys(values))
    if values is None or len(values) > _MOST_UNIQUE or any(text[0] in "[{" for text in values):
        refuse(
            "uniqueItems",
            unique.at,
            f"is possible where items have an enum of up to {_MOST_UNIQUE} plain values, or with maxItems 1; "
            "grammars do not remember what was written",
        )
    names = {mask: converter.rule() for mask in range(1, 1 << len(values))}
    for mask, name in names.items():
        n = mask.bit_count()
        if n >= low:
            converter.rules[name].append([Name("ws"), '"]"'])
        if high is None or n < high:
            converter.rules[name] += [
                ['","', Name("ws"), literal(text), names[mask | 1 << i]]
                for i, text in enumerate(values)
                if not mask >> i & 1
            ]
    return [*empty, *(['"["', Name("ws"), literal(text), names[1 << i]] for i, text in enumerate(values))]
