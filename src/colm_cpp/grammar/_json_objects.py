"""The rules of a JSON schema's objects."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from ._json_keywords import refuse
from ._json_rules import Name, Symbols
from ._json_text import json_literal
from ._json_values import holds
from ._languages import Term

if TYPE_CHECKING:
    from .json_schema import Atom, Converter

__all__ = ["object_rules"]

_MOST_PATTERNS = 4


def object_rules(converter: Converter, atoms: list[Atom]) -> list[Symbols]:
    """Objects that satisfy all of ``atoms``."""
    least, most = converter.counts(atoms, "minProperties", "maxProperties")
    required = dict.fromkeys(name for atom in atoms for name in atom.schema.get("required", ()))
    names = dict.fromkeys([*(n for atom in atoms for n in atom.schema.get("properties", {})), *required])
    key_schemas = [
        converter.document.under(atom.at, "propertyNames") for atom in atoms if "propertyNames" in atom.schema
    ]
    pairs: list[tuple[bool, Symbols]] = []
    for name in names:
        converter.languages.spend(10 + 3 * len(atoms))
        about = converter.about(atoms, name)
        fits = all(holds(converter.document, converter.languages, at, name) for at in key_schemas)
        if fits and not converter.never(about):
            pair: Symbols = [converter.text(json_literal(name) + ":"), Name("ws"), converter.goal(about)]
            pairs.append((name in required, pair))
        elif name in required:
            return []
    extra = _extra_pairs(converter, atoms, list(names), key_schemas)
    n_required = len(required)
    if extra and least >= n_required + 2:
        at = next(atom.at for atom in atoms if "minProperties" in atom.schema)
        refuse(
            "minProperties",
            at,
            f"is {least} where any name may occur; grammars cannot tell names that were written twice",
        )
    if most is not None and most < least:
        return []
    if not extra and most is not None and most >= len(pairs):
        most = None
    counted = most is not None or least > n_required
    return _members(converter, pairs, extra, least if counted else 0, most)


def _members(
    converter: Converter, pairs: list[tuple[bool, Symbols]], extra: list[Symbols], least: int, most: int | None
) -> list[Symbols]:
    """Objects of these pairs in this order, those that are required and any others, then extra ones.

    A rule for each place before a pair, and, where pairs are counted, each number of pairs written before it.
    """
    ends: Symbols = [Name("ws"), '"}"']
    cap = max(1, least, most or 0)
    comma: Symbols = ['","', Name("ws")]
    extra_rule = converter.rule(extra) if extra else None

    def end(count: int) -> list[Symbols]:
        here: list[Symbols] = [list(ends)] if count >= least else []
        if extra_rule is None or (most is not None and count >= most):
            return here
        before = comma if count else []
        if most is None:
            another = converter.rule([[*comma, extra_rule]])
            here.append([*before, extra_rule, Name(f"{another}*"), *ends])
        elif count + 1 <= most:
            another = converter.rule([[*comma, extra_rule]])
            here.append([*before, extra_rule, Name(f"{another}{{0,{most - count - 1}}}"), *ends])
        return here

    after = {count: converter.rule(end(count)) for count in range(cap + 1)}
    for must, pair in reversed(pairs):
        here = {count: converter.rule() for count in range(cap + 1)}
        for count, name in here.items():
            if most is None or count < most:
                converter.rules[name].append([*(comma if count else []), *pair, after[min(count + 1, cap)]])
            if not must:
                converter.rules[name].append([after[count]])
        after = here
    return [['"{"', Name("ws"), after[0]]]


def _extra_pairs(converter: Converter, atoms: list[Atom], names: list[str], key_schemas: list[str]) -> list[Symbols]:
    of = converter.languages
    patterns = [(atom, p) for atom in atoms for p in atom.schema.get("patternProperties", {})]
    if len(patterns) > _MOST_PATTERNS:
        refuse("patternProperties", patterns[0][0].at, f"has more than {_MOST_PATTERNS} patterns, which is the limit")
    terms = [converter.pattern(atom, "patternProperties", pattern) for atom, pattern in patterns]
    found: list[Symbols] = []
    for chosen in itertools.product((True, False), repeat=len(patterns)):
        about = []
        for atom in atoms:
            mine = [p for (owner, p), yes in zip(patterns, chosen, strict=True) if yes and owner is atom]
            about += [converter.document.under(atom.at, "patternProperties", p) for p in mine]
            if not mine:
                about += converter.document.other_properties(atom.at)
        if converter.never(about):
            continue
        key = of.both(*(term if yes else of.negate(term) for term, yes in zip(terms, chosen, strict=True)))
        key = of.both(key, *(_key_term(converter, at) for at in key_schemas))
        if names:
            key = of.both(key, of.negate(of.alt(*map(of.literal, names))))
        keys: Symbols = [Name("string")]
        if key is not of.everything:
            if not converter.automaton(key, atoms).has_words():
                continue
            keys = ['"\\""', converter.automaton_rule(key, atoms, quoted=True)]
        found.append([*keys, '":"', Name("ws"), converter.goal(about)])
    return found


def _key_term(converter: Converter, at: str) -> Term:
    of = converter.languages
    terms = []
    for atoms in converter.alternatives((at,)):
        values = converter.finite(atoms, (at,))
        if values is not None:
            terms += [of.literal(value) for value in values if isinstance(value, str)]
        elif "string" in converter.types(atoms):
            terms.append(converter.with_length(*converter.string_term(atoms)))
    return of.alt(*terms)
