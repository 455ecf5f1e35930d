"""The keywords of JSON Schema: what each may hold, and what it says of other schemas."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from ._formats import FORMATS
from ._languages import Languages, TooMuchWork
from ._regex import NotSupported, parse
from .errors import GrammarError

__all__ = ["ANNOTATIONS", "KEYWORDS", "Document", "Place", "is_number", "listed", "refuse", "shown"]

_MOST_DEPTH = 300
_MOST_PARTS = 400_000
_MOST_CHARACTERS = 20_000_000
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
# They say nothing of what a value looks like.
ANNOTATIONS = frozenset(
    (
        *("$comment", "$vocabulary", "title", "description", "default", "example", "examples", "deprecated"),
        *("readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"),
        *("discriminator", "externalDocs", "xml"),
    )
)


def shown(value: Any) -> str:
    """The beginning of a value's JSON, for messages."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else text[:80] + "..."


def refuse(keyword: str, at: str, why: str) -> NoReturn:
    """Raises GrammarError for a keyword of the schema at a JSON pointer."""
    pointer = f"{at}/{_escaped(keyword)}"
    error = GrammarError(f"the JSON schema has {keyword} (at #{ascii(pointer)[1:-1]}), which {why}")
    error.keyword, error.pointer = keyword, pointer
    raise error


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


class Place(NamedTuple):
    """A keyword in a schema."""

    at: str
    keyword: str
    schema: dict[str, Any]

    def expect(self, *, fits: bool, what: str) -> None:
        """Raises GrammarError unless it ``fits``."""
        if not fits:
            refuse(self.keyword, self.at, f"is {shown(self.schema[self.keyword])}; it must be {what}")

    def refuse(self, why: str) -> NoReturn:
        refuse(self.keyword, self.at, why)


class Document:
    """A JSON schema with the schemas inside it, by JSON pointer, and some that stand for their keywords."""

    def __init__(self, schema: Any) -> None:
        _check_depth(schema)
        try:
            # What is no JSON fails here: other types, NaN, numbers too long to write.
            text = json.dumps(schema, allow_nan=False)
            if len(text) > _MOST_CHARACTERS:
                raise GrammarError(f"the JSON schema has {len(text)} characters; the limit is {_MOST_CHARACTERS}")
            self._root = json.loads(text)
        except GrammarError:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise GrammarError(f"the JSON schema is not valid JSON: {str(error)[:200]}") from None
        if not _is_schema(self._root):
            raise GrammarError(f"the JSON schema is {shown(self._root)}; it must be an object, true or false")
        self._schemas: dict[str, Any] = {"": self._root}
        self._anchors: dict[str, str] | None = None
        self._made: dict[tuple[str, str], Any] = {}
        draft = self._root.get("$schema") if isinstance(self._root, dict) else None
        self._ref_stands_alone = isinstance(draft, str) and "draft-0" in draft

    def __getitem__(self, at: str) -> Any:
        return self._schemas[at]

    def under(self, at: str, *path: str | int) -> str:
        """The pointer of a schema inside the one ``at``."""
        pointer = at + "".join(f"/{_escaped(str(part))}" for part in path)
        if pointer not in self._schemas:
            found = self._schemas[at]
            for part in path:
                found = found[part]
            self._schemas[pointer] = found
        return pointer

    def put(self, at: str, schema: Any) -> str:
        """Adds a schema that stands for a keyword."""
        self._schemas[at] = schema
        return at

    def once(self, at: str, keyword: str, make: Callable[[], Any]) -> Any:
        """What was made of a keyword the first time."""
        if (at, keyword) not in self._made:
            self._made[at, keyword] = make()
        return self._made[at, keyword]

    # -- what schemas say of others -------------------------------------------------------------------------------

    def all_of(self, at: str) -> list[str]:
        """The schemas that must hold as well."""
        schema = self._schemas[at]
        found = [self._target(at, schema["$ref"])] if "$ref" in schema else []
        if found and self._ref_stands_alone and set(schema) - ANNOTATIONS - {"$ref", "$schema", "$id", "definitions"}:
            refuse(
                "$ref", at, "has keywords beside it, which drafts before 2019-09 ignore; put the reference into allOf"
            )
        found += [self.under(at, "allOf", i) for i in range(len(schema.get("allOf", ())))]
        if "not" in schema:
            found += self._negated(at, schema["not"])
        if "if" in schema and not isinstance(schema["if"], bool) and ("then" in schema or "else" in schema):
            refuse("if", at, "a grammar cannot follow; give the cases as anyOf")
        if "if" in schema:
            case = "then" if schema["if"] is True else "else"
            found += [self.under(at, case)] if case in schema and isinstance(schema["if"], bool) else []
        return found

    def any_of(self, at: str, disjoint: Callable[[str, str], bool]) -> list[list[str]]:
        """Lists of schemas, of each of which one must hold."""
        schema = self._schemas[at]
        groups = [[self.under(at, "anyOf", i) for i in range(len(schema.get("anyOf", ())))]]
        one = [self.under(at, "oneOf", i) for i in range(len(schema.get("oneOf", ())))]
        for i, first in enumerate(one):
            for j, second in enumerate(one[:i]):
                if not disjoint(second, first):
                    refuse("oneOf", at, f"has branches, {j} and {i}, that may both hold for a value; use anyOf")
        groups.append(one)
        # A property brings a demand with it: it is absent, or the demand is met.
        for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
            for name, demand in schema.get(keyword, {}).items():
                there = f"{at}/{keyword}/{_escaped(name)}"
                wanted = {"required": demand} if isinstance(demand, list) else demand
                absent = self.put(f"{there}#absent", {"properties": {name: False}})
                groups.append([absent, self.put(f"{there}#met", wanted)])
        return groups

    def _negated(self, at: str, schema: Any) -> list[str]:
        there = f"{at}/not"
        if isinstance(schema, bool):
            return [self.put(f"{there}#", not schema)]
        keys = set(schema) - ANNOTATIONS
        if not keys:
            return [self.put(f"{there}#", False)]
        if keys == {"type"}:
            Place(there, "type", schema).expect(fits=_is_type(schema["type"]), what="a JSON type or a list of them")
            given = set(listed(schema["type"]))
            if "integer" not in given or "number" in given:
                rest = [kind for kind in _TYPES if kind not in given and kind != "integer"]
                return [self.put(f"{there}#", {"type": rest} if rest else False)]
        if keys == {"required"} and schema["required"]:
            absent = [{"properties": {name: False}} for name in schema["required"]]
            return [self.put(f"{there}#", {"type": "object", "anyOf": absent})]
        if keys == {"not"}:
            return [self.put(f"{there}#", schema["not"])]
        if keys == {"anyOf"}:
            return [self.put(f"{there}#", {"allOf": [{"not": part} for part in schema["anyOf"]]})]
        if not self.excluded_strings(at):
            refuse("not", at, "a grammar can follow for type, required and strings in const or enum only")
        return []

    def excluded_strings(self, at: str) -> list[str]:
        """The strings that ``not`` forbids by ``const`` or ``enum``."""
        schema = self._schemas[at].get("not")
        keys = set(schema) - ANNOTATIONS if isinstance(schema, dict) else set()
        found: list[Any] = [schema["const"]] if keys == {"const"} else schema["enum"] if keys == {"enum"} else []
        return found if all(isinstance(value, str) for value in found) else []

    def first_items(self, at: str) -> list[str]:
        """The schemas of the first items, one each."""
        schema = self._schemas[at]
        key = "prefixItems" if "prefixItems" in schema else "items"
        return [self.under(at, key, i) for i in range(len(schema[key]))] if isinstance(schema.get(key), list) else []

    def other_items(self, at: str) -> list[str]:
        """The schema of all other items, if there is one."""
        schema = self._schemas[at]
        in_lists = "additionalItems" if isinstance(schema.get("items"), list) else "items"
        return [self.under(at, key) for key in (in_lists, "unevaluatedItems") if key in schema][:1]

    def property_schemas(self, languages: Languages, at: str, name: str) -> list[str]:
        """The schemas that the value of a property must satisfy."""
        schema = self._schemas[at]
        found = [self.under(at, "properties", name)] if name in schema.get("properties", {}) else []
        for pattern in schema.get("patternProperties", {}):
            try:
                languages.spend(5)
                if languages.accepts(parse(pattern, languages), name):
                    found.append(self.under(at, "patternProperties", pattern))
            except TooMuchWork:
                refuse("patternProperties", at, f"has {shown(pattern)}, which takes too many steps to follow")
            except (NotSupported, RecursionError) as error:
                refuse("patternProperties", at, f"{shown(pattern)} has a part that grammars cannot follow: {error}")
        return found or self.other_properties(at)

    def other_properties(self, at: str) -> list[str]:
        """The schema of properties that no other keyword names, if there is one."""
        keys = ("additionalProperties", "unevaluatedProperties")
        return [self.under(at, key) for key in keys if key in self._schemas[at]][:1]

    # -- references -----------------------------------------------------------------------------------------------

    def _target(self, at: str, ref: str) -> str:
        own = self._root.get("$id", "") if isinstance(self._root, dict) else ""
        fragment = ref.removeprefix(own.rstrip("#")) if own else ref
        if fragment and not fragment.startswith("#"):
            refuse("$ref", at, f"is {shown(ref)}, outside of this schema; put it under $defs")
        pointer = urllib.parse.unquote(fragment[1:])
        if pointer and not pointer.startswith("/"):
            found = self._named().get(pointer)
            if found is None:
                refuse("$ref", at, f"is {shown(ref)}, which names nothing in this schema")
            return found
        target = self._root
        path: list[str | int] = []
        for part in pointer.split("/")[1:]:
            key: Any = part.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list):
                key = int(key) if key.isascii() and key.isdigit() and len(key) < 9 else -1
                known = 0 <= key < len(target)
            else:
                known = isinstance(target, dict) and key in target
            if not known:
                refuse("$ref", at, f"is {shown(ref)}, which leads nowhere in this schema")
            target = target[key]
            path.append(key)
            if (
                isinstance(target, dict)
                and isinstance(target.get("$id"), str)
                and path[-2:-1] in (["$defs"], ["definitions"])
            ):
                refuse(
                    "$ref",
                    at,
                    f"leads through the schema with $id {shown(target['$id'])}; only the outermost may have one",
                )
        if not _is_schema(target):
            refuse("$ref", at, f"is {shown(ref)}, where there is no schema")
        return self.under("", *path)

    def _named(self) -> dict[str, str]:
        if self._anchors is None:
            self._anchors = {}
            pending: list[tuple[str, Any]] = [("", self._root)]
            while pending:
                at, part = pending.pop()
                if isinstance(part, dict):
                    for key in ("$anchor", "$dynamicAnchor"):
                        if isinstance(part.get(key), str):
                            self._anchors.setdefault(part[key], at)
                            self._schemas.setdefault(at, part)
                    pending += [
                        (f"{at}/{_escaped(key)}", value)
                        for key, value in part.items()
                        if key not in ("enum", "const", "default", "examples")
                    ]
                elif isinstance(part, list):
                    pending += [(f"{at}/{i}", value) for i, value in enumerate(part)]
        return self._anchors


def _check_depth(schema: Any) -> None:
    pending = [(schema, 0)]
    n_parts = 0
    while pending:
        part, depth = pending.pop()
        n_parts += 1
        if n_parts + len(pending) > _MOST_PARTS:
            raise GrammarError(
                f"the JSON schema has more than {_MOST_PARTS} parts, which is the limit; make it smaller"
            )
        if depth > _MOST_DEPTH:
            raise GrammarError(
                f"the JSON schema is nested deeper than {_MOST_DEPTH}, the limit, or contains itself; move parts "
                "to $defs"
            )
        if isinstance(part, dict):
            pending += [(value, depth + 1) for value in part.values()]
        elif isinstance(part, list | tuple):
            pending += [(value, depth + 1) for value in part]


# -- what keywords may hold -----------------------------------------------------------------------------------------


def listed(value: Any) -> list[Any]:
    """A list as it is, anything else alone in one."""
    return value if isinstance(value, list) else [value]


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_type(value: Any) -> bool:
    kinds = listed(value)
    return bool(kinds) and all(isinstance(kind, str) and kind in _TYPES for kind in kinds)


def is_number(value: Any) -> bool:
    """Whether it is a JSON number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(check: Callable[[Any], bool], what: str) -> Callable[[Place, Any], None]:
    return lambda place, value: place.expect(fits=check(value), what=what)


def _schema_url(place: Place, value: Any) -> None:
    if not (isinstance(value, str) and value.startswith(("http://json-schema.org/", "https://json-schema.org/"))):
        place.refuse(f"is {shown(value)}; known are the drafts of json-schema.org")


def _id(place: Place, _: Any) -> None:
    if place.at:
        place.refuse("may be given to the outermost schema only; refer to parts of it by #/$defs/...")


def _format(place: Place, value: Any) -> None:
    if not (isinstance(value, str) and value in FORMATS):
        place.refuse(f"is {shown(value)}; known are {', '.join(FORMATS)}")


def _items(place: Place, value: Any) -> None:
    fits = _is_schema(value) or (isinstance(value, list) and "prefixItems" not in place.schema and _schemas_fit(value))
    place.expect(fits=fits, what="a schema")


def _schemas_fit(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _unevaluated(place: Place, value: Any) -> None:
    place.expect(fits=_is_schema(value), what="a schema")
    if value is True or value == {}:
        return
    others = {"$ref", "allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies", "not"}
    others |= {"contains"} if place.keyword == "unevaluatedItems" else set()
    found = sorted(others & set(place.schema))
    if found:
        place.refuse(
            f"cannot be honoured beside {found[0]}; list all properties in one schema with additionalProperties"
        )


def _never(why: str) -> Callable[[Place, Any], None]:
    return lambda place, _: place.refuse(why)


_count = _fits(lambda v: is_number(v) and v >= 0 and v == int(v), "a whole number, 0 or more")
_number = _fits(is_number, "a number")
_text = _fits(lambda v: isinstance(v, str), "a string")
_texts = _fits(lambda v: isinstance(v, list) and all(isinstance(t, str) for t in v), "a list of strings")
_schema = _fits(_is_schema, "a schema: an object, or true or false")
_schemas = _fits(_schemas_fit, "a list of schemas, at least one")
_schema_map = _fits(lambda v: isinstance(v, dict) and all(map(_is_schema, v.values())), "an object of schemas")
_names_map = _fits(
    lambda v: (
        isinstance(v, dict) and all(isinstance(t, list) and all(isinstance(n, str) for n in t) for t in v.values())
    ),
    "an object of lists of names",
)
_anything = _fits(lambda _: True, "anything")

KEYWORDS: dict[str, Callable[[Place, Any], None]] = {
    "$schema": _schema_url,
    "$id": _id,
    "$anchor": _text,
    "$dynamicAnchor": _text,
    "$dynamicRef": _never("cannot be honoured; use $ref"),
    "$recursiveRef": _never("cannot be honoured; use $ref"),
    "$recursiveAnchor": _never("cannot be honoured"),
    "$ref": _text,
    "$defs": _schema_map,
    "definitions": _schema_map,
    "type": _fits(_is_type, f"one of {', '.join(_TYPES)}, or a list of them"),
    "enum": _fits(lambda v: isinstance(v, list), "a list of values"),
    "const": _anything,
    "minLength": _count,
    "maxLength": _count,
    "pattern": _text,
    "format": _format,
    "minimum": _number,
    "maximum": _number,
    "exclusiveMinimum": _number,
    "exclusiveMaximum": _number,
    "multipleOf": _fits(lambda v: is_number(v) and v > 0, "a number above 0"),
    "prefixItems": _schemas,
    "items": _items,
    "additionalItems": _schema,
    "unevaluatedItems": _unevaluated,
    "contains": _schema,
    "minContains": _count,
    "maxContains": _count,
    "minItems": _count,
    "maxItems": _count,
    "uniqueItems": _fits(lambda v: isinstance(v, bool), "true or false"),
    "properties": _schema_map,
    "patternProperties": _schema_map,
    "additionalProperties": _schema,
    "unevaluatedProperties": _unevaluated,
    "propertyNames": _schema,
    "required": _texts,
    "minProperties": _count,
    "maxProperties": _count,
    "dependentRequired": _names_map,
    "dependentSchemas": _schema_map,
    "dependencies": _fits(
        lambda v: isinstance(v, dict) and all(_is_schema(d) or isinstance(d, list) for d in v.values()),
        "an object of schemas and lists of names",
    ),
    "allOf": _schemas,
    "anyOf": _schemas,
    "oneOf": _schemas,
    "not": _schema,
    "if": _schema,
    "then": _schema,
    "else": _schema,
}
