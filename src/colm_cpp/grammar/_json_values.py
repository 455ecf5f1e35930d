"""Whether a JSON value satisfies a JSON schema: for the values of ``enum`` and ``const``, and names of properties."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from ._formats import of_format
from ._json_document import Document
from ._json_keywords import KEYWORDS, Place, as_list, following, is_number
from ._languages import Languages
from ._regex import parse

__all__ = ["distinct", "holds"]


def _same(value: Any) -> Any:
    """Equal for equal JSON values; Python's own equality takes true for 1."""
    if isinstance(value, dict):
        return "object", frozenset((key, _same(part)) for key, part in value.items())
    if isinstance(value, list):
        return "array", tuple(map(_same, value))
    return isinstance(value, bool), value


def distinct(values: list[Any]) -> list[Any]:
    """Each of the values that are written alike once; 1 and 1.0 are not."""
    return list({json.dumps(value): value for value in values}.values())


def _kinds(value: Any) -> tuple[str, ...]:
    if value is None:
        return ("null",)
    if isinstance(value, bool):
        return ("boolean",)
    if isinstance(value, int | float):
        return ("number", "integer") if value == int(value) else ("number",)
    return ("string" if isinstance(value, str) else "array" if isinstance(value, list) else "object",)


def holds(document: Document, languages: Languages, at: str, value: Any) -> bool:
    """Whether the value satisfies the schema ``at``.

    Raises:
        GrammarError: a keyword that cannot be honoured.
    """
    schema = document[at]
    if isinstance(schema, bool):
        return schema
    languages.spend(8 + len(schema) + (len(value) if isinstance(value, str | list | dict) else 0))

    def check() -> bool:
        languages.spend(sum(len(content) for content in schema.values() if isinstance(content, list | dict)))
        for key, content in schema.items():
            if key in KEYWORDS:
                KEYWORDS[key](Place(at, key, schema), content)
        return True

    document.once(at, "checked", check)

    def sub(part: Any, *path: str | int) -> bool:
        return holds(document, languages, document.under(at, *path), part)

    if "type" in schema and not set(_kinds(value)) & set(as_list(schema["type"])):
        return False
    if "const" in schema and _same(value) != _same(schema["const"]):
        return False
    if "enum" in schema and _same(value) not in document.once(at, "enum", lambda: set(map(_same, schema["enum"]))):
        return False
    if "$ref" in schema and not holds(document, languages, document.all_of(at)[0], value):
        return False
    for key, enough in (("allOf", all), ("anyOf", any)):
        if key in schema and not enough(sub(value, key, i) for i in range(len(schema[key]))):
            return False
    if "oneOf" in schema and sum(sub(value, "oneOf", i) for i in range(len(schema["oneOf"]))) != 1:
        return False
    if "not" in schema and sub(value, "not"):
        return False
    if "if" in schema:
        case = "then" if sub(value, "if") else "else"
        if case in schema and not sub(value, case):
            return False
    if isinstance(value, str):
        return _string_holds(document, languages, at, value)
    if is_number(value):
        return _number_holds(schema, value)
    if isinstance(value, list):
        return _array_holds(document, languages, at, value)
    return not isinstance(value, dict) or _object_holds(document, languages, at, value)


def _string_holds(document: Document, languages: Languages, at: str, value: str) -> bool:
    schema = document[at]
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    if "pattern" in schema:
        with following("pattern", at, schema["pattern"]):
            if not languages.accepts(parse(schema["pattern"], languages), value):
                return False
    return "format" not in schema or languages.accepts(of_format(schema["format"], languages), value)


def _number_holds(schema: dict[str, Any], value: float) -> bool:
    exact = Fraction(Decimal(repr(value)))
    limits = {key: Fraction(Decimal(repr(schema[key]))) for key in schema if key in _COMPARE or key == "multipleOf"}
    return all(
        (exact / limit).denominator == 1 if key == "multipleOf" else _COMPARE[key](exact, limit)
        for key, limit in limits.items()
    )


_COMPARE: dict[str, Callable[[Fraction, Fraction], bool]] = {
    "minimum": lambda value, limit: value >= limit,
    "maximum": lambda value, limit: value <= limit,
    "exclusiveMinimum": lambda value, limit: value > limit,
    "exclusiveMaximum": lambda value, limit: value < limit,
}


def _array_holds(document: Document, languages: Languages, at: str, value: list[Any]) -> bool:
    schema = document[at]
    first = document.first_items(at)
    others = document.other_items(at)
    for i, part in enumerate(value):
        for item in [first[i]] if i < len(first) else others:
            if not holds(document, languages, item, part):
                return False
    if "contains" in schema:
        n = sum(holds(document, languages, document.under(at, "contains"), part) for part in value)
        if not schema.get("minContains", 1) <= n <= schema.get("maxContains", n):
            return False
    if schema.get("uniqueItems") and len(set(map(_same, value))) != len(value):
        return False
    return bool(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)))


def _object_holds(document: Document, languages: Languages, at: str, value: dict[str, Any]) -> bool:
    schema = document[at]
    for name, part in value.items():
        about = [(schema_at, part) for schema_at in document.property_schemas(languages, at, name)]
        if "propertyNames" in schema:
            about.append((document.under(at, "propertyNames"), name))
        if not all(holds(document, languages, schema_at, thing) for schema_at, thing in about):
            return False
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        for name, demand in schema.get(keyword, {}).items():
            if name not in value:
                continue
            if isinstance(demand, list):
                met = all(other in value for other in demand)
            else:
                met = holds(document, languages, document.under(at, keyword, name), value)
            if not met:
                return False
    if not all(name in value for name in schema.get("required", ())):
        return False
    return bool(schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value)))
