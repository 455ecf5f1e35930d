"""The keywords of JSON Schema, and what each may hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from .._shown import shown
from ..errors import GrammarError
from ._formats import FORMATS
from ._languages import TooMuchWork
from ._regex import NotSupported

__all__ = [
    "ANNOTATIONS",
    "KEYWORDS",
    "TYPES",
    "Place",
    "as_list",
    "escaped",
    "following",
    "is_number",
    "is_schema",
    "is_type",
    "refuse",
]

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
# They say nothing of what a value looks like.
ANNOTATIONS = frozenset(
    (
        *("$comment", "$vocabulary", "title", "description", "default", "example", "examples", "deprecated"),
        *("readOnly", "writeOnly", "contentEncoding", "contentMediaType", "contentSchema"),
        *("discriminator", "externalDocs", "xml"),
    )
)


def refuse(keyword: str, at: str, why: str) -> NoReturn:
    """Raises GrammarError for a keyword of the schema at a JSON pointer."""
    pointer = f"{at}/{escaped(keyword)}"
    error = GrammarError(f"the JSON schema has {keyword} (at #{ascii(pointer)[1:-1]}), which {why}")
    error.keyword, error.pointer = keyword, pointer
    raise error


@contextmanager
def following(keyword: str, at: str, pattern: str) -> Iterator[None]:
    """Refuses a pattern of the schema that turns out to be one which no grammar can follow."""
    try:
        yield
    except TooMuchWork:
        refuse(keyword, at, f"takes too many steps to follow: {shown(pattern)}; repeat fewer parts")
    except (NotSupported, RecursionError) as error:
        refuse(keyword, at, f"{shown(pattern)} has a part that grammars cannot follow: {error}")


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
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


# -- what keywords may hold -----------------------------------------------------------------------------------------


def as_list(value: Any) -> list[Any]:
    """A list as it is, anything else alone in one."""
    return value if isinstance(value, list) else [value]


def is_schema(value: Any) -> bool:
    """Whether it may stand where a schema is wanted."""
    return isinstance(value, dict | bool)


def is_type(value: Any) -> bool:
    """Whether it is the value of a ``type``."""
    kinds = as_list(value)
    return bool(kinds) and all(isinstance(kind, str) and kind in TYPES for kind in kinds)


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
    fits = is_schema(value) or (isinstance(value, list) and "prefixItems" not in place.schema and _schemas_fit(value))
    place.expect(fits=fits, what="a schema")


def _schemas_fit(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_schema, value))


def _unevaluated(place: Place, value: Any) -> None:
    place.expect(fits=is_schema(value), what="a schema")
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
_schema = _fits(is_schema, "a schema: an object, or true or false")
_schemas = _fits(_schemas_fit, "a list of schemas, at least one")
_schema_map = _fits(lambda v: isinstance(v, dict) and all(map(is_schema, v.values())), "an object of schemas")
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
    "type": _fits(is_type, f"one of {', '.join(TYPES)}, or a list of them"),
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
        lambda v: isinstance(v, dict) and all(is_schema(d) or isinstance(d, list) for d in v.values()),
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
