"""JSON schemas as GBNF. Every keyword is honoured, or refused by name.

The schemas that a value has to satisfy together are a *conjunction*, named by their JSON pointers. Its ``$ref``,
``allOf``, ``anyOf`` and the like are resolved into *alternatives*, each a list of schemas without such keywords. An
alternative says, type by type, what a value looks like, and these are the rules of the grammar.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from ._formats import FORMATS, of_format
from ._json_keywords import ANNOTATIONS, KEYWORDS, Document, Place, listed, refuse, shown
from ._json_rules import Name, Symbols, written
from ._json_text import MOST_DIGITS, Bound, json_literal, literal, number_term, string_chars, text_chars
from ._json_values import distinct, holds
from ._languages import Languages, Ranges, Term, TooManyStates, TooMuchWork
from ._regex import NotSupported, parse
from .errors import GrammarError

__all__ = ["schema_to_gbnf"]

Conjunction = tuple[str, ...]
TYPES = ("null", "boolean", "number", "string", "array", "object")

_MOST_RULES = 40_000
_MOST_ALTERNATIVES = 200
_MOST_STATES = 3_000
_MOST_COUNT = 10_000
_MOST_PATTERNS = 4
_MOST_UNIQUE = 8
_MOST_VALUES = 10_000
_MOST_LISTED = 100_000


class Atom(NamedTuple):
    """A schema that has to hold, its references and combinations resolved."""

    at: str
    schema: dict[str, Any]


def schema_to_gbnf(schema: Any) -> str:
    """GBNF for the values that satisfy a JSON schema (draft 2020-12; lists as ``items``, ``definitions`` and
    ``dependencies`` of earlier drafts too).

    ``schema`` is what :mod:`json` makes of a schema. Object keys come in the order of ``properties``, others after
    them. ``format`` is an assertion.

    Raises:
        GrammarError: a keyword that cannot be honoured, with ``keyword`` and ``pointer``; a schema that no value
            satisfies; one that is too large.
    """
    return _Converter(Document(schema)).gbnf()


class _Converter:
    def __init__(self, document: Document) -> None:
        self._document = document
        self._languages = Languages()
        self._rules: dict[str, list[Symbols]] = {}
        self._goals: dict[frozenset[str], Name] = {}
        self._terms: dict[Term, Name] = {}
        self._chars: dict[tuple[Ranges, bool], Symbols] = {}
        self._todo: list[tuple[Name, Conjunction]] = []
        self._resolved: dict[Conjunction, list[list[Atom]]] = {}
        self._at = ""  # the schema that is read now

    def gbnf(self) -> str:
        root = self._goal(("",))
        try:
            while self._todo:
                name, conjunction = self._todo.pop()
                self._at = conjunction[0] if conjunction else ""
                self._rules[name] = self._values(conjunction)
            self._at = ""
            self._languages.spend(4 * sum(map(len, self._rules.values())))
        except (TooMuchWork, RecursionError) as error:
            why = "takes too many steps" if isinstance(error, TooMuchWork) else "refers to itself or is nested too deep"
            refuse(self._largest_keyword(), self._at, f"{why} together with the rest; make the schema smaller")
        self._rules["root"] = [[root]]
        return written(self._rules)

    def _largest_keyword(self) -> str:
        schema = self._document[self._at] if isinstance(self._document[self._at], dict) else {}
        sizes = {key: len(v) if isinstance(v, list | dict) else 0 for key, v in schema.items() if key in KEYWORDS}
        return max(sizes, key=lambda key: sizes[key], default="allOf")

    # -- rules --------------------------------------------------------------------------------------------------

    def _rule(self, alternatives: list[Symbols] | None = None) -> Name:
        if len(self._rules) >= _MOST_RULES:
            raise GrammarError(
                f"the JSON schema needs more than {_MOST_RULES} rules, which is the limit; make the schema smaller"
            )
        name = Name(f"r{len(self._rules)}")
        self._rules[name] = alternatives or []
        return name

    def _goal(self, conjunction: Iterable[str]) -> Name:
        """The rule of the values that satisfy all these schemas."""
        wanted = tuple(dict.fromkeys(at for at in conjunction if self._document[at] is not True))
        self._languages.spend(2 + 2 * len(wanted))
        key = frozenset(wanted)
        if key not in self._goals:
            self._goals[key] = self._rule()
            self._todo.append((self._goals[key], wanted))
        return self._goals[key]

    def _never(self, conjunction: Iterable[str]) -> bool:
        return any(self._document[at] is False for at in conjunction)

    # -- conjunctions -------------------------------------------------------------------------------------------

    def _values(self, conjunction: Conjunction) -> list[Symbols]:
        alternatives: list[Symbols] = []
        for atoms in self._alternatives(conjunction):
            values = self._finite(atoms, conjunction)
            if values is not None:
                alternatives += [[self._text(json_literal(value))] for value in values]
                continue
            for kind in self._types(atoms):
                alternatives += self._of_type(kind, atoms)
        return _unique(alternatives)

    def _text(self, text: str) -> str:
        self._languages.spend(10 + len(text) // 2)
        return literal(text)

    def _of_type(self, kind: str, atoms: list[Atom]) -> list[Symbols]:
        if kind == "string":
            return self._strings(atoms)
        if kind == "number":
            return self._numbers(atoms)
        if kind == "array":
            return self._arrays(atoms)
        if kind == "object":
            return self._objects(atoms)
        return [[Name(kind)]]

    def _finite(self, atoms: list[Atom], conjunction: Conjunction) -> list[Any] | None:
        """The values of an ``enum`` or ``const`` that satisfy everything else too; None where there is none."""
        for atom in atoms:
            for key in ("const", "enum"):
                if key in atom.schema:
                    values = [atom.schema["const"]] if key == "const" else self._listed(atom)
                    chosen = dict.fromkeys((*conjunction, *(other.at for other in atoms)))
                    try:
                        return [
                            v for v in values if all(holds(self._document, self._languages, at, v) for at in chosen)
                        ]
                    except (TooMuchWork, RecursionError):
                        refuse(key, atom.at, "takes too many steps to compare with the rest; give fewer values")
        return None

    def _listed(self, atom: Atom) -> list[Any]:
        """The values of an ``enum``, each once."""
        given = atom.schema["enum"]
        if len(given) > _MOST_LISTED:
            refuse("enum", atom.at, f"has {len(given)} values; at most {_MOST_LISTED} are read")
        values: list[Any] = self._document.once(atom.at, "distinct", lambda: distinct(given))
        if len(values) > _MOST_VALUES:
            refuse("enum", atom.at, f"has {len(values)} different values; the limit is {_MOST_VALUES}")
        return values

    @staticmethod
    def _types(atoms: list[Atom]) -> list[str]:
        types = list(TYPES)
        for atom in atoms:
            if "type" in atom.schema:
                given = {"number" if kind == "integer" else kind for kind in listed(atom.schema["type"])}
                types = [kind for kind in types if kind in given]
        return types

    def _alternatives(self, conjunction: Conjunction) -> list[list[Atom]]:
        """The conjunction as a choice between lists of schemas that say nothing of other schemas about the value."""
        if conjunction not in self._resolved:
            self._resolved[conjunction] = self._resolve(conjunction)
        return self._resolved[conjunction]

    def _resolve(self, conjunction: Conjunction) -> list[list[Atom]]:
        done: list[list[Atom]] = []
        pending: list[tuple[list[tuple[str, frozenset[str]]], dict[str, Atom]]] = [
            ([(at, frozenset()) for at in reversed(conjunction)], {})
        ]
        while pending:
            todo, atoms = pending.pop()
            while todo:
                at, above = todo.pop()
                self._languages.spend(4 + len(above) // 8)
                if at in above:
                    refuse("$ref", at, "refers to itself, so that no value could be checked")
                schema = self._document[at]
                if schema is False:
                    break
                if schema is True or at in atoms:
                    continue
                atoms[at] = Atom(at, self._checked(at, schema))
                within = above | {at}
                todo += [(part, within) for part in reversed(self._document.all_of(at))]
                groups = self._document.once(at, "any_of", partial(self._document.any_of, at, self._disjoint))
                branches = [group for group in groups if group]
                if branches:
                    choices = list(itertools.islice(itertools.product(*branches), _MOST_ALTERNATIVES + 1))
                    self._languages.spend((len(choices) - 1) * (8 + (len(todo) + len(atoms)) // 8))
                    for choice in reversed(choices[1:]):
                        pending.append(([*todo, *((part, within) for part in choice)], dict(atoms)))
                    todo += [(part, within) for part in choices[0]]
                if len(pending) + len(done) > _MOST_ALTERNATIVES:
                    refuse("anyOf", at, f"makes more than {_MOST_ALTERNATIVES} combinations, which is the limit")
            else:
                done.append(list(atoms.values()))
        return done

    def _checked(self, at: str, schema: dict[str, Any]) -> dict[str, Any]:
        self._at = at
        self._languages.spend(2 * len(schema) + sum(len(v) // 8 for v in schema.values() if isinstance(v, list | dict)))
        for key, value in schema.items():
            if key in KEYWORDS:
                KEYWORDS[key](Place(at, key, schema), value)
            elif key not in ANNOTATIONS and not key.startswith("x-"):
                close = difflib.get_close_matches(key[:50], [*KEYWORDS, *ANNOTATIONS], n=1)
                hint = f"; did you mean {close[0]!r}?" if close else "; leave it out, or begin its name with x-"
                refuse(key, at, f"is unknown{hint}")
        return schema

    def _disjoint(self, one: str, other: str) -> bool:
        """Whether it is certain that no value satisfies both."""
        self._languages.spend(10)
        return all(
            self._apart(a, b, one, other) for a in self._alternatives((one,)) for b in self._alternatives((other,))
        )

    def _apart(self, a: list[Atom], b: list[Atom], one: str, other: str) -> bool:
        for atoms, mine, its in ((a, one, other), (b, other, one)):
            values = self._finite(atoms, (mine,))
            if values is not None:
                return not any(holds(self._document, self._languages, its, value) for value in values)
        both = [*a, *b]
        return all(self._empty(kind, both, a, b) for kind in self._types(both))

    def _empty(self, kind: str, both: list[Atom], a: list[Atom], b: list[Atom]) -> bool:
        if kind == "string":
            term, _, _ = self._string_term(both)
            return self._automaton(term, both).has_words() is False
        if kind == "number":
            return self._automaton(self._number_term(both), both).has_words() is False
        if kind == "object":
            required = {name for atom in both for name in atom.schema.get("required", ())}
            return any(
                self._never(self._about(both, name))
                or any(self._disjoint(x, y) for x in self._about(a, name) for y in self._about(b, name))
                for name in required
            )
        return False

    # -- strings ------------------------------------------------------------------------------------------------

    def _string_term(self, atoms: list[Atom]) -> tuple[Term, int, int | None]:
        """What patterns and formats ask, and the shortest and the longest length."""
        of = self._languages
        low, high = self._counts(atoms, "minLength", "maxLength")
        terms = []
        for atom in atoms:
            schema = atom.schema
            if "pattern" in schema:
                terms.append(self._pattern(atom, "pattern", schema["pattern"]))
            if "format" in schema:
                if schema["format"] not in FORMATS:
                    refuse("format", atom.at, f"is {schema['format']!r}; known are {', '.join(FORMATS)}")
                terms.append(of_format(schema["format"], of))
            if "not" in schema:
                terms += [of.negate(of.literal(value)) for value in self._document.excluded_strings(atom.at)]
        return of.both(*terms), low, high

    def _pattern(self, atom: Atom, keyword: str, pattern: str) -> Term:
        try:
            return parse(pattern, self._languages)
        except (NotSupported, RecursionError) as error:
            refuse(keyword, atom.at, f"{pattern[:100]!r} has a part that grammars cannot follow: {error}")
        except TooMuchWork:
            refuse(keyword, atom.at, f"takes too many steps to follow: {pattern[:100]!r}; repeat fewer parts")

    def _with_length(self, term: Term, low: int, high: int | None) -> Term:
        if low == 0 and high is None:
            return term
        of = self._languages
        return of.both(term, of.repeat(of.chars(((0, 0xD7FF), (0xE000, 0x10FFFF))), low, high))

    def _strings(self, atoms: list[Atom]) -> list[Symbols]:
        term, low, high = self._string_term(atoms)
        if high is not None and high < low:
            return []
        if term is not self._languages.everything:
            return [['"\\""', self._automaton_rule(self._with_length(term, low, high), atoms, quoted=True)]]
        if low == 0 and high is None:
            return [[Name("string")]]
        counts = f"{{{low},{'' if high is None else high}}}"
        return [['"\\""', Name(f"char{counts}"), '"\\""']]

    def _automaton(self, term: Term, atoms: list[Atom]) -> Any:
        try:
            return self._languages.automaton(term, _MOST_STATES)
        except (TooManyStates, TooMuchWork, RecursionError) as error:
            keys = ("pattern", "format", "multipleOf", "maxLength", "minimum", "maximum", "patternProperties")
            at, key = next(((a.at, k) for a in atoms for k in keys if k in a.schema), (atoms[0].at, "properties"))
            if isinstance(error, TooMuchWork):
                refuse(key, at, "takes too many steps together with the rest; repeat fewer parts, or a simpler one")
            refuse(key, at, f"needs more than {_MOST_STATES} states together with the rest, which is the limit")

    def _automaton_rule(self, term: Term, atoms: list[Atom], *, quoted: bool) -> Name:
        """The rule of a language; as the rest of a JSON string after its opening quote where it is ``quoted``."""
        if term in self._terms:
            return self._terms[term]
        automaton = self._automaton(term, atoms)
        names = [self._rule() for _ in automaton.steps]
        for name, targets, ends in zip(names, automaton.steps, automaton.ends, strict=True):
            self._languages.spend(2 + 5 * len(targets))
            for target, ranges in targets.items():
                self._rules[name].append([*self._one_of(ranges, quoted=quoted), names[target]])
            if ends:
                self._rules[name].append(['"\\""'] if quoted else [])
        self._terms[term] = names[0]
        return names[0]

    def _one_of(self, ranges: Ranges, *, quoted: bool) -> Symbols:
        key = ranges, quoted
        if key not in self._chars:
            self._languages.spend(20 + 4 * len(ranges))
            pieces = string_chars(ranges) if quoted else [text_chars(ranges)]
            self._chars[key] = [pieces[0]] if len(pieces) == 1 else [self._rule([[piece] for piece in pieces])]
        return self._chars[key]

    # -- numbers ------------------------------------------------------------------------------------------------

    def _numbers(self, atoms: list[Atom]) -> list[Symbols]:
        low, high, multiples = self._bounds(atoms)
        if low is None and high is None and not multiples:
            return [[Name("integer" if self._integer(atoms) else "number")]]
        return [[self._automaton_rule(self._number_term(atoms), atoms, quoted=False)]]

    @staticmethod
    def _integer(atoms: list[Atom]) -> bool:
        kinds = [listed(atom.schema["type"]) for atom in atoms if "type" in atom.schema]
        return any("integer" in kind and "number" not in kind for kind in kinds)

    def _number_term(self, atoms: list[Atom]) -> Term:
        low, high, multiples = self._bounds(atoms)
        return number_term(self._languages, low, high, multiples, integer=self._integer(atoms))

    def _bounds(self, atoms: list[Atom]) -> tuple[Bound | None, Bound | None, list[Decimal]]:
        lows: list[Bound] = []
        highs: list[Bound] = []
        multiples: list[Decimal] = []
        farthest = Decimal(10) ** MOST_DIGITS
        for atom in atoms:
            for key, value in atom.schema.items():
                if key == "multipleOf":
                    multiples.append(Decimal(repr(value)))
                if key not in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
                    continue
                bound = Bound(Decimal(repr(value)), not key.startswith("exclusive"))
                is_low = key.endswith("inimum")
                # No number that is written lies beyond.
                if bound.value <= -farthest if is_low else bound.value >= farthest:
                    continue
                exponent = bound.value.as_tuple().exponent
                if abs(bound.value) >= farthest or not isinstance(exponent, int) or exponent < -20:
                    refuse(
                        key,
                        atom.at,
                        f"is {value}; at most {MOST_DIGITS} digits before and 20 after the point are compared",
                    )
                (lows if is_low else highs).append(bound)
        low = max(lows, key=lambda bound: (bound.value, not bound.inclusive), default=None)
        high = min(highs, key=lambda bound: (bound.value, bound.inclusive), default=None)
        return low, high, multiples

    # -- arrays -------------------------------------------------------------------------------------------------

    def _arrays(self, atoms: list[Atom]) -> list[Symbols]:
        low, high = self._counts(atoms, "minItems", "maxItems")
        if high is not None and high < low:
            return []
        empty: list[Symbols] = [['"["', Name("ws"), '"]"']] if low == 0 else []
        if high == 0:
            return empty
        first = {atom.at: self._document.first_items(atom.at) for atom in atoms}
        n_first = max(map(len, first.values()), default=0)
        rest = [at for atom in atoms for at in self._document.other_items(atom.at)]
        contains = [atom for atom in atoms if "contains" in atom.schema and atom.schema.get("minContains", 1) > 0]
        for atom in atoms:
            if "contains" in atom.schema and "maxContains" in atom.schema:
                refuse("maxContains", atom.at, "cannot be honoured by a grammar")
        unique = next((atom for atom in atoms if atom.schema.get("uniqueItems")), None)
        if unique is not None and high != 1:
            return self._unique_items(unique, atoms, rest, empty, low, high, simple=not (n_first or contains))
        if contains:
            return self._containing(contains, rest, low, high, n_first)
        start: Symbols = ['"["', Name("ws")]
        if n_first == 0:
            more = self._items(self._goal(rest), max(low - 1, 0), None if high is None else high - 1)
            return [*empty, [*start, self._goal(rest), *more]]
        # After so many items: the end, or another one.
        closes = ["ws", '"]"']
        after = self._rule()
        ends = [Name(part) if part == "ws" else part for part in closes]
        last: list[Symbols] = [list(ends)] if low <= n_first else []
        if (high is None or high > n_first) and not self._never(rest):
            more_high = None if high is None else high - n_first
            last.append(self._items(self._goal(rest), max(low - n_first, 0), more_high))
        self._rules[after] = last
        for i in reversed(range(n_first)):
            item = self._goal(
                at for atom in atoms for at in (first[atom.at][i : i + 1] or self._document.other_items(atom.at))
            )
            if i == 0:
                return [*empty, [*start, item, after]]
            here: list[Symbols] = [list(ends)] if low <= i else []
            if high is None or high > i:
                here.append(['","', Name("ws"), item, after])
            after = self._rule(here)
        raise AssertionError("there is a first item")

    def _items(self, item: Name, low: int, high: int | None) -> Symbols:
        """Further items and the end."""
        another = self._rule([['","', Name("ws"), item]])
        return [Name(f"{another}{{{low},{'' if high is None else high}}}"), Name("ws"), '"]"']

    def _containing(
        self, contains: list[Atom], rest: list[str], low: int, high: int | None, n_first: int
    ) -> list[Symbols]:
        atom = contains[0]
        least = int(atom.schema.get("minContains", 1))
        if len(contains) > 1 or n_first or high is not None or low > least:
            refuse(
                "contains",
                atom.at,
                "can be honoured alone only, not with prefixItems, maxItems, more minItems or another contains",
            )
        item = self._goal(rest)
        match = self._goal([*rest, self._document.under(atom.at, "contains")])
        others = self._rule([['","', Name("ws"), item]])
        ends: Symbols = [Name(f"{others}*"), Name("ws"), '"]"']
        more = self._rule([[Name(f"{others}*"), '","', Name("ws"), match]])
        first = self._rule([[match], [item, Name(f"{others}*"), '","', Name("ws"), match]])
        return [['"["', Name("ws"), first, Name(f"{more}{{{least - 1},{least - 1}}}"), *ends]]

    def _unique_items(
        self,
        unique: Atom,
        atoms: list[Atom],
        rest: list[str],
        empty: list[Symbols],
        low: int,
        high: int | None,
        *,
        simple: bool,
    ) -> list[Symbols]:
        values: list[str] | None = [] if simple else None
        for alternative in self._alternatives(tuple(rest)) if simple else ():
            found = self._finite(alternative, tuple(rest))
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
        names = {mask: self._rule() for mask in range(1, 1 << len(values))}
        for mask, name in names.items():
            n = mask.bit_count()
            if n >= low:
                self._rules[name].append([Name("ws"), '"]"'])
            if high is None or n < high:
                self._rules[name] += [
                    ['","', Name("ws"), literal(text), names[mask | 1 << i]]
                    for i, text in enumerate(values)
                    if not mask >> i & 1
                ]
        return [*empty, *(['"["', Name("ws"), literal(text), names[1 << i]] for i, text in enumerate(values))]

    # -- objects ------------------------------------------------------------------------------------------------

    def _about(self, atoms: list[Atom], name: str) -> list[str]:
        """The schemas that the value of a property has to satisfy."""
        return [at for atom in atoms for at in self._document.property_schemas(self._languages, atom.at, name)]

    def _objects(self, atoms: list[Atom]) -> list[Symbols]:
        least, most = self._counts(atoms, "minProperties", "maxProperties")
        required = dict.fromkeys(name for atom in atoms for name in atom.schema.get("required", ()))
        names = dict.fromkeys([*(n for atom in atoms for n in atom.schema.get("properties", {})), *required])
        key_schemas = [
            self._document.under(atom.at, "propertyNames") for atom in atoms if "propertyNames" in atom.schema
        ]
        pairs: list[tuple[bool, Symbols]] = []
        for name in names:
            self._languages.spend(10 + 3 * len(atoms))
            about = self._about(atoms, name)
            fits = all(holds(self._document, self._languages, at, name) for at in key_schemas)
            if fits and not self._never(about):
                pair: Symbols = [self._text(json_literal(name) + ":"), Name("ws"), self._goal(about)]
                pairs.append((name in required, pair))
            elif name in required:
                return []
        extra = self._extra_pairs(atoms, list(names), key_schemas)
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
        return self._members(pairs, extra, least if counted else 0, most)

    def _members(
        self, pairs: list[tuple[bool, Symbols]], extra: list[Symbols], least: int, most: int | None
    ) -> list[Symbols]:
        """Objects of these pairs in this order, those that are required and any others, then extra ones.

        A rule for each place before a pair, and, where pairs are counted, each number of pairs written before it.
        """
        ends: Symbols = [Name("ws"), '"}"']
        cap = max(1, least, most or 0)
        comma: Symbols = ['","', Name("ws")]
        extra_rule = self._rule(extra) if extra else None

        def end(count: int) -> list[Symbols]:
            here: list[Symbols] = [list(ends)] if count >= least else []
            if extra_rule is None or (most is not None and count >= most):
                return here
            before = comma if count else []
            if most is None:
                another = self._rule([[*comma, extra_rule]])
                here.append([*before, extra_rule, Name(f"{another}*"), *ends])
            elif count + 1 <= most:
                another = self._rule([[*comma, extra_rule]])
                here.append([*before, extra_rule, Name(f"{another}{{0,{most - count - 1}}}"), *ends])
            return here

        after = {count: self._rule(end(count)) for count in range(cap + 1)}
        for must, pair in reversed(pairs):
            here = {count: self._rule() for count in range(cap + 1)}
            for count, name in here.items():
                if most is None or count < most:
                    self._rules[name].append([*(comma if count else []), *pair, after[min(count + 1, cap)]])
                if not must:
                    self._rules[name].append([after[count]])
            after = here
        return [['"{"', Name("ws"), after[0]]]

    def _extra_pairs(self, atoms: list[Atom], names: list[str], key_schemas: list[str]) -> list[Symbols]:
        of = self._languages
        patterns = [(atom, p) for atom in atoms for p in atom.schema.get("patternProperties", {})]
        if len(patterns) > _MOST_PATTERNS:
            refuse(
                "patternProperties", patterns[0][0].at, f"has more than {_MOST_PATTERNS} patterns, which is the limit"
            )
        terms = [self._pattern(atom, "patternProperties", pattern) for atom, pattern in patterns]
        found: list[Symbols] = []
        for chosen in itertools.product((True, False), repeat=len(patterns)):
            about = []
            for atom in atoms:
                mine = [p for (owner, p), yes in zip(patterns, chosen, strict=True) if yes and owner is atom]
                about += [self._document.under(atom.at, "patternProperties", p) for p in mine]
                if not mine:
                    about += self._document.other_properties(atom.at)
            if self._never(about):
                continue
            key = of.both(*(term if yes else of.negate(term) for term, yes in zip(terms, chosen, strict=True)))
            key = of.both(key, *(self._key_term(at) for at in key_schemas))
            if names:
                key = of.both(key, of.negate(of.alt(*map(of.literal, names))))
            keys: Symbols = [Name("string")]
            if key is not of.everything:
                if not self._automaton(key, atoms).has_words():
                    continue
                keys = ['"\\""', self._automaton_rule(key, atoms, quoted=True)]
            found.append([*keys, '":"', Name("ws"), self._goal(about)])
        return found

    def _key_term(self, at: str) -> Term:
        of = self._languages
        terms = []
        for atoms in self._alternatives((at,)):
            values = self._finite(atoms, (at,))
            if values is not None:
                terms += [of.literal(value) for value in values if isinstance(value, str)]
            elif "string" in self._types(atoms):
                terms.append(self._with_length(*self._string_term(atoms)))
        return of.alt(*terms)

    # -- counts -------------------------------------------------------------------------------------------------

    @staticmethod
    def _counts(atoms: list[Atom], least: str, most: str) -> tuple[int, int | None]:
        for atom in atoms:
            for key in (least, most):
                if atom.schema.get(key, 0) > _MOST_COUNT:
                    refuse(key, atom.at, f"is {shown(atom.schema[key])}; at most {_MOST_COUNT} can be counted")
        lows = [int(atom.schema[least]) for atom in atoms if least in atom.schema]
        highs = [int(atom.schema[most]) for atom in atoms if most in atom.schema]
        return max(lows, default=0), min(highs, default=None)


def _unique(alternatives: list[Symbols]) -> list[Symbols]:
    return list({tuple((type(s), s) for s in symbols): symbols for symbols in alternatives}.values())
