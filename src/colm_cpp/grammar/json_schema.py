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

from .._shown import shown
from ..errors import GrammarError
from ._formats import FORMATS, of_format
from ._json_arrays import array_rules
from ._json_document import Document
from ._json_keywords import ANNOTATIONS, KEYWORDS, Place, as_list, following, refuse
from ._json_objects import object_rules
from ._json_rules import Name, Symbols, written
from ._json_text import MOST_DIGITS, Bound, json_literal, literal, number_term, string_chars, text_chars
from ._json_values import distinct, holds
from ._languages import Languages, Ranges, Term, TooManyStates, TooMuchWork
from ._regex import parse

__all__ = ["schema_to_gbnf"]

Conjunction = tuple[str, ...]
TYPES = ("null", "boolean", "number", "string", "array", "object")

_MOST_RULES = 40_000
_MOST_ALTERNATIVES = 200
_MOST_STATES = 3_000
_MOST_COUNT = 10_000
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
    return Converter(Document(schema)).gbnf()


class Converter:
    """The grammar of one schema while it is made; arrays and objects have modules of their own."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.languages = Languages()
        self.rules: dict[str, list[Symbols]] = {}
        self._goals: dict[frozenset[str], Name] = {}
        self._terms: dict[Term, Name] = {}
        self._chars: dict[tuple[Ranges, bool], Symbols] = {}
        self._todo: list[tuple[Name, Conjunction]] = []
        self._resolved: dict[Conjunction, list[list[Atom]]] = {}
        self._at = ""  # the schema that is read now

    def gbnf(self) -> str:
        root = self.goal(("",))
        try:
            while self._todo:
                name, conjunction = self._todo.pop()
                self._at = conjunction[0] if conjunction else ""
                self.rules[name] = self._values(conjunction)
            self._at = ""
            self.languages.spend(4 * sum(map(len, self.rules.values())))
        except (TooMuchWork, RecursionError) as error:
            why = "takes too many steps" if isinstance(error, TooMuchWork) else "refers to itself or is nested too deep"
            refuse(self._largest_keyword(), self._at, f"{why} together with the rest; make the schema smaller")
        self.rules["root"] = [[root]]
        return written(self.rules)

    def _largest_keyword(self) -> str:
        schema = self.document[self._at] if isinstance(self.document[self._at], dict) else {}
        sizes = {key: len(v) if isinstance(v, list | dict) else 0 for key, v in schema.items() if key in KEYWORDS}
        return max(sizes, key=lambda key: sizes[key], default="allOf")

    # -- rules --------------------------------------------------------------------------------------------------

    def rule(self, alternatives: list[Symbols] | None = None) -> Name:
        if len(self.rules) >= _MOST_RULES:
            raise GrammarError(
                f"the JSON schema needs more than {_MOST_RULES} rules, which is the limit; make the schema smaller"
            )
        name = Name(f"r{len(self.rules)}")
        self.rules[name] = alternatives or []
        return name

    def goal(self, conjunction: Iterable[str]) -> Name:
        """The rule of the values that satisfy all these schemas."""
        wanted = tuple(dict.fromkeys(at for at in conjunction if self.document[at] is not True))
        self.languages.spend(2 + 2 * len(wanted))
        key = frozenset(wanted)
        if key not in self._goals:
            self._goals[key] = self.rule()
            self._todo.append((self._goals[key], wanted))
        return self._goals[key]

    def never(self, conjunction: Iterable[str]) -> bool:
        return any(self.document[at] is False for at in conjunction)

    # -- conjunctions -------------------------------------------------------------------------------------------

    def _values(self, conjunction: Conjunction) -> list[Symbols]:
        alternatives: list[Symbols] = []
        for atoms in self.alternatives(conjunction):
            values = self.finite(atoms, conjunction)
            if values is not None:
                alternatives += [[self.text(json_literal(value))] for value in values]
                continue
            for kind in self.types(atoms):
                alternatives += self._of_type(kind, atoms)
        return _unique(alternatives)

    def text(self, text: str) -> str:
        self.languages.spend(10 + len(text) // 2)
        return literal(text)

    def _of_type(self, kind: str, atoms: list[Atom]) -> list[Symbols]:
        makers = {"string": self._strings, "number": self._numbers}
        makers |= {"array": partial(array_rules, self), "object": partial(object_rules, self)}
        return makers[kind](atoms) if kind in makers else [[Name(kind)]]

    def finite(self, atoms: list[Atom], conjunction: Conjunction) -> list[Any] | None:
        """The values of an ``enum`` or ``const`` that satisfy everything else too; None where there is none."""
        for atom in atoms:
            for key in ("const", "enum"):
                if key in atom.schema:
                    values = [atom.schema["const"]] if key == "const" else self._listed(atom)
                    chosen = dict.fromkeys((*conjunction, *(other.at for other in atoms)))
                    try:
                        return [v for v in values if all(holds(self.document, self.languages, at, v) for at in chosen)]
                    except (TooMuchWork, RecursionError):
                        refuse(key, atom.at, "takes too many steps to compare with the rest; give fewer values")
        return None

    def _listed(self, atom: Atom) -> list[Any]:
        """The values of an ``enum``, each once."""
        given = atom.schema["enum"]
        if len(given) > _MOST_LISTED:
            refuse("enum", atom.at, f"has {len(given)} values; at most {_MOST_LISTED} are read")
        values: list[Any] = self.document.once(atom.at, "distinct", lambda: distinct(given))
        if len(values) > _MOST_VALUES:
            refuse("enum", atom.at, f"has {len(values)} different values; the limit is {_MOST_VALUES}")
        return values

    @staticmethod
    def types(atoms: list[Atom]) -> list[str]:
        types = list(TYPES)
        for atom in atoms:
            if "type" in atom.schema:
                given = {"number" if kind == "integer" else kind for kind in as_list(atom.schema["type"])}
                types = [kind for kind in types if kind in given]
        return types

    def alternatives(self, conjunction: Conjunction) -> list[list[Atom]]:
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
                self.languages.spend(4 + len(above) // 8)
                if at in above:
                    refuse("$ref", at, "refers to itself, so that no value could be checked")
                schema = self.document[at]
                if schema is False:
                    break
                if schema is True or at in atoms:
                    continue
                atoms[at] = Atom(at, self._checked(at, schema))
                within = above | {at}
                todo += [(part, within) for part in reversed(self.document.all_of(at))]
                groups = self.document.once(at, "any_of", partial(self.document.any_of, at, self._disjoint))
                branches = [group for group in groups if group]
                if branches:
                    choices = list(itertools.islice(itertools.product(*branches), _MOST_ALTERNATIVES + 1))
                    self.languages.spend((len(choices) - 1) * (8 + (len(todo) + len(atoms)) // 8))
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
        self.languages.spend(2 * len(schema) + sum(len(v) // 8 for v in schema.values() if isinstance(v, list | dict)))
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
        self.languages.spend(10)
        return all(
            self._apart(a, b, one, other) for a in self.alternatives((one,)) for b in self.alternatives((other,))
        )

    def _apart(self, a: list[Atom], b: list[Atom], one: str, other: str) -> bool:
        for atoms, mine, its in ((a, one, other), (b, other, one)):
            values = self.finite(atoms, (mine,))
            if values is not None:
                return not any(holds(self.document, self.languages, its, value) for value in values)
        both = [*a, *b]
        return all(self._empty(kind, both, a, b) for kind in self.types(both))

    def _empty(self, kind: str, both: list[Atom], a: list[Atom], b: list[Atom]) -> bool:
        if kind == "string":
            term, _, _ = self.string_term(both)
            return self.automaton(term, both).has_words() is False
        if kind == "number":
            return self.automaton(self._number_term(both), both).has_words() is False
        if kind == "object":
            required = {name for atom in both for name in atom.schema.get("required", ())}
            return any(
                self.never(self.about(both, name))
                or any(self._disjoint(x, y) for x in self.about(a, name) for y in self.about(b, name))
                for name in required
            )
        return False

    def about(self, atoms: list[Atom], name: str) -> list[str]:
        """The schemas that the value of a property has to satisfy."""
        return [at for atom in atoms for at in self.document.property_schemas(self.languages, atom.at, name)]

    # -- strings ------------------------------------------------------------------------------------------------

    def string_term(self, atoms: list[Atom]) -> tuple[Term, int, int | None]:
        """What patterns and formats ask, and the shortest and the longest length."""
        of = self.languages
        low, high = self.counts(atoms, "minLength", "maxLength")
        terms = []
        for atom in atoms:
            schema = atom.schema
            if "pattern" in schema:
                terms.append(self.pattern(atom, "pattern", schema["pattern"]))
            if "format" in schema:
                if schema["format"] not in FORMATS:
                    refuse("format", atom.at, f"is {schema['format']!r}; known are {', '.join(FORMATS)}")
                terms.append(of_format(schema["format"], of))
            if "not" in schema:
                terms += [of.negate(of.literal(value)) for value in self.document.excluded_strings(atom.at)]
        return of.both(*terms), low, high

    def pattern(self, atom: Atom, keyword: str, pattern: str) -> Term:
        with following(keyword, atom.at, pattern):
            return parse(pattern, self.languages)

    def with_length(self, term: Term, low: int, high: int | None) -> Term:
        if low == 0 and high is None:
            return term
        of = self.languages
        return of.both(term, of.repeat(of.chars(((0, 0xD7FF), (0xE000, 0x10FFFF))), low, high))

    def _strings(self, atoms: list[Atom]) -> list[Symbols]:
        term, low, high = self.string_term(atoms)
        if high is not None and high < low:
            return []
        if term is not self.languages.everything:
            return [['"\\""', self.automaton_rule(self.with_length(term, low, high), atoms, quoted=True)]]
        if low == 0 and high is None:
            return [[Name("string")]]
        counts = f"{{{low},{'' if high is None else high}}}"
        return [['"\\""', Name(f"char{counts}"), '"\\""']]

    def automaton(self, term: Term, atoms: list[Atom]) -> Any:
        try:
            return self.languages.automaton(term, _MOST_STATES)
        except (TooManyStates, TooMuchWork, RecursionError) as error:
            keys = ("pattern", "format", "multipleOf", "maxLength", "minimum", "maximum", "patternProperties")
            at, key = next(((a.at, k) for a in atoms for k in keys if k in a.schema), (atoms[0].at, "properties"))
            if isinstance(error, TooMuchWork):
                refuse(key, at, "takes too many steps together with the rest; repeat fewer parts, or a simpler one")
            refuse(key, at, f"needs more than {_MOST_STATES} states together with the rest, which is the limit")

    def automaton_rule(self, term: Term, atoms: list[Atom], *, quoted: bool) -> Name:
        """The rule of a language; as the rest of a JSON string after its opening quote where it is ``quoted``."""
        if term in self._terms:
            return self._terms[term]
        automaton = self.automaton(term, atoms)
        names = [self.rule() for _ in automaton.steps]
        for name, targets, ends in zip(names, automaton.steps, automaton.ends, strict=True):
            self.languages.spend(2 + 5 * len(targets))
            for target, ranges in targets.items():
                self.rules[name].append([*self._one_of(ranges, quoted=quoted), names[target]])
            if ends:
                self.rules[name].append(['"\\""'] if quoted else [])
        self._terms[term] = names[0]
        return names[0]

    def _one_of(self, ranges: Ranges, *, quoted: bool) -> Symbols:
        key = ranges, quoted
        if key not in self._chars:
            self.languages.spend(20 + 4 * len(ranges))
            pieces = string_chars(ranges) if quoted else [text_chars(ranges)]
            self._chars[key] = [pieces[0]] if len(pieces) == 1 else [self.rule([[piece] for piece in pieces])]
        return self._chars[key]

    # -- numbers ------------------------------------------------------------------------------------------------

    def _numbers(self, atoms: list[Atom]) -> list[Symbols]:
        low, high, multiples = self._bounds(atoms)
        if low is None and high is None and not multiples:
            return [[Name("integer" if self._integer(atoms) else "number")]]
        return [[self.automaton_rule(self._number_term(atoms), atoms, quoted=False)]]

    @staticmethod
    def _integer(atoms: list[Atom]) -> bool:
        kinds = [as_list(atom.schema["type"]) for atom in atoms if "type" in atom.schema]
        return any("integer" in kind and "number" not in kind for kind in kinds)

    def _number_term(self, atoms: list[Atom]) -> Term:
        low, high, multiples = self._bounds(atoms)
        return number_term(self.languages, low, high, multiples, integer=self._integer(atoms))

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

    # -- counts -------------------------------------------------------------------------------------------------

    @staticmethod
    def counts(atoms: list[Atom], least: str, most: str) -> tuple[int, int | None]:
        for atom in atoms:
            for key in (least, most):
                if atom.schema.get(key, 0) > _MOST_COUNT:
                    refuse(key, atom.at, f"is {shown(atom.schema[key])}; at most {_MOST_COUNT} can be counted")
        lows = [int(atom.schema[least]) for atom in atoms if least in atom.schema]
        highs = [int(atom.schema[most]) for atom in atoms if most in atom.schema]
        return max(lows, default=0), min(highs, default=None)


def _unique(alternatives: list[Symbols]) -> list[Symbols]:
    return list({tuple((type(s), s) for s in symbols): symbols for symbols in alternatives}.values())
