"""A JSON schema and the schemas inside it: what each says of others, and where its references lead."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable
from typing import Any

from .._shown import shown
from ..errors import GrammarError
from ._json_keywords import ANNOTATIONS, TYPES, Place, as_list, escaped, following, is_schema, is_type, refuse
from ._languages import Languages
from ._regex import parse

__all__ = ["Document"]

_MOST_DEPTH = 300
_MOST_PARTS = 400_000
_MOST_CHARACTERS = 20_000_000


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
        if not is_schema(self._root):
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
        pointer = at + "".join(f"/{escaped(str(part))}" for part in path)
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
                there = f"{at}/{keyword}/{escaped(name)}"
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
            Place(there, "type", schema).expect(fits=is_type(schema["type"]), what="a JSON type or a list of them")
            given = set(as_list(schema["type"]))
            if "integer" not in given or "number" in given:
                rest = [kind for kind in TYPES if kind not in given and kind != "integer"]
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
            with following("patternProperties", at, pattern):
                languages.spend(5)
                if languages.accepts(parse(pattern, languages), name):
                    found.append(self.under(at, "patternProperties", pattern))
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
        if not is_schema(target):
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
                        (f"{at}/{escaped(key)}", value)
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
