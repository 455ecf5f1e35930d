"""JSON schemas as grammars: what is accepted is right, and what cannot be honoured is refused by name."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from schema_values import accepts, refused, spellings

import colm_cpp as colm
from colm_cpp._core import Grammar
from colm_cpp.grammar.json_schema import schema_to_gbnf

SUITE = os.environ.get("COLM_JSON_SCHEMA_SUITE")


# -- the JSON-Schema-Test-Suite -----------------------------------------------------------------------------------

# Here `format` is an assertion; what the suite says of each format is tested below.
NOT_OURS = {"format.json"}


def suite(folder: str) -> list[Path]:
    if SUITE is None:
        pytest.skip("COLM_JSON_SCHEMA_SUITE names no JSON-Schema-Test-Suite")
    return sorted(path for path in Path(SUITE, "tests", folder).glob("*.json") if path.name not in NOT_OURS)


def _count(draft: str, url: str) -> tuple[int, Counter[str]]:
    """How many schemas of a draft are accepted, all rightly, and how many are refused for which keyword."""
    n_accepted = 0
    refusals: Counter[str] = Counter()
    for path in suite(draft):
        for group in json.loads(path.read_text("utf-8")):
            schema = group["schema"]
            named = {"$schema": url, **schema} if isinstance(schema, dict) else schema
            satisfiable = True
            try:
                grammar = Grammar(schema_to_gbnf(named))
            except colm.GrammarError as error:
                satisfiable = "any value" not in str(error)
                if satisfiable:
                    assert error.keyword in json.dumps(schema), error  # noqa: PT017
                    assert error.pointer.endswith(f"/{error.keyword}"), error  # noqa: PT017
                    refusals[error.keyword] += 1
                    continue
            n_accepted += 1
            for case in group["tests"]:
                texts = (text.encode("utf-8", "surrogatepass") for text in spellings(case["data"]))
                accepted = satisfiable and any(map(grammar.accepts, texts))
                assert accepted == case["valid"], (path.name, group["description"], case)
    return n_accepted, refusals


def test_the_suite() -> None:
    n_accepted, refusals = _count("draft2020-12", "https://json-schema.org/draft/2020-12/schema")
    assert n_accepted >= 233, refusals


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draft", "url", "at_least"),
    [
        ("draft2019-09", "https://json-schema.org/draft/2019-09/schema", 237),
        ("draft7", "http://json-schema.org/draft-07/schema#", 185),
        ("draft6", "http://json-schema.org/draft-06/schema#", 178),
    ],
)
def test_the_suites_of_earlier_drafts(draft: str, url: str, at_least: int) -> None:
    n_accepted, refusals = _count(draft, url)
    assert n_accepted >= at_least, refusals


FORMATS = ["date", "time", "date-time", "duration", "uuid", "ipv4", "ipv6", "email", "uri"]


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    (path,) = (path for path in suite("draft2020-12/optional/format") if path.stem == name)
    group = json.loads(path.read_text("utf-8"))[0]
    assert group["schema"]["format"] == name
    strings = [case for case in group["tests"] if isinstance(case["data"], str)]
    wrong = [case for case in strings if accepts(group["schema"], case["data"]) and not case["valid"]]
    assert not wrong
    right = [case["data"] for case in strings if case["valid"] and accepts(group["schema"], case["data"])]
    assert right, "no valid text is accepted"


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": ["string", "null"], "maxLength": 2}, [None, "ab", ""], ["abc", 1]),
        ({"type": "string", "pattern": "^a+$", "maxLength": 3, "minLength": 2}, ["aa", "aaa"], ["a", "aaaa", "bb"]),
        ({"allOf": [{"pattern": "a"}, {"pattern": "b"}], "type": "string"}, ["ab", "xbya"], ["a", "b"]),
        (
            {"type": "array", "items": {"enum": [1, 2, "x"]}, "uniqueItems": True},
            [[], [2, 1], ["x", 1, 2]],
            [[1, 1], [2, 1, 2]],
        ),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[], [5]], [[5, 5]]),
        ({"type": "array", "contains": {"type": "null"}, "minContains": 2}, [[None, 1, None]], [[], [None, 1]]),
        (True, [1, "a", None, [], {"a": [1]}], []),
        ({}, [1, "a", None, [], {"a": [1]}], []),
        ({"enum": [1, "a", 7, None], "type": "integer", "maximum": 5}, [1], ["a", 7, None]),
        ({"type": "string", "not": {"enum": ["a", "b"]}}, ["c", "ab", ""], ["a", "b", 1]),
        ({"not": {"type": ["string", "array"]}}, [1, None, {}], ["", []]),
        (
            {
                "$defs": {
                    "n": {
                        "type": "object",
                        "properties": {"v": {"type": "integer"}, "next": {"$ref": "#/$defs/n"}},
                        "required": ["v"],
                        "additionalProperties": False,
                    }
                },
                "$ref": "#/$defs/n",
            },
            [{"v": 1}, {"v": 1, "next": {"v": 2, "next": {"v": 3}}}],
            [{}, {"v": 1, "next": {}}, {"v": 1, "next": None}],
        ),
        (
            {
                "type": "object",
                "patternProperties": {"^x-": {"type": "integer"}, "y$": {"minimum": 5}},
                "additionalProperties": {"type": "null"},
            },
            [{}, {"x-a": 1}, {"x-y": 5}, {"b": None, "by": 9}],
            [{"x-a": None}, {"x-y": 4}, {"b": 1}, {"by": 4}],
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "ab": {}},
                "additionalProperties": False,
                "minProperties": 1,
                "maxProperties": 1,
            },
            [{"a": 1}, {"ab": None}],
            [{}, {"a": 1, "ab": 2}, {"b": 1}, {"a": "x"}],
        ),
        (
            {
                "type": "object",
                "properties": {"kind": {"type": "string"}},
                "dependentRequired": {"kind": ["size"]},
                "propertyNames": {"maxLength": 4},
            },
            [{}, {"kind": "a", "size": 1}, {"size": 2, "x": 1}],
            [{"kind": "a"}, {"toolong": 1}],
        ),
        (
            {
                "oneOf": [
                    {"type": "object", "properties": {"t": {"const": c}, c: {}}, "required": ["t", c]}
                    for c in ("x", "y")
                ]
            },
            [{"t": "x", "x": 1}, {"t": "y", "y": 1, "x": 2}],
            [{"t": "x"}, {"t": "z", "x": 1}],
        ),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_keywords_together(schema: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        assert accepts(schema, value), value
    for value in bad:
        assert not accepts(schema, value), value


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "uniqueItems", "/uniqueItems"),
        ({"properties": {"a/b": {"maxlength": 3}}}, "maxlength", "/properties/a~1b/maxlength"),
        ({"properties": {"a": {"type": "string", "format": "hostname"}}}, "format", "/properties/a/format"),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, "pattern", "/properties/a/pattern"),
        ({"pattern": r"\bword"}, "pattern", "/pattern"),
        ({"items": {"minLength": -1}}, "minLength", "/items/minLength"),
        ({"items": {"minLength": "2"}}, "minLength", "/items/minLength"),
        ({"type": "strong"}, "type", "/type"),
        ({"$ref": "#/nowhere"}, "$ref", "/$ref"),
        ({"$ref": "#"}, "$ref", "/$ref"),
        ({"anyOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}, "$ref", "/$defs/a/$ref"),
        ({"$ref": "http://127.0.0.1:1/x"}, "$ref", "/$ref"),
        ({"maxLength": 10**9}, "maxLength", "/maxLength"),
        ({"anyOf": []}, "anyOf", "/anyOf"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 2}]}, "oneOf", "/oneOf"),
        ({"exclusiveMinimum": True, "minimum": 1}, "exclusiveMinimum", "/exclusiveMinimum"),
        ({"minimum": 10**400}, "minimum", "/minimum"),
        ({"type": "integer", "multipleOf": 1000003}, "multipleOf", "/multipleOf"),
        ({"$schema": "http://elsewhere/schema"}, "$schema", "/$schema"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_cannot_be_honoured_is_refused_by_name(schema: Any, keyword: str, pointer: str) -> None:
    error = refused(schema)
    assert (error.keyword, error.pointer) == (keyword, pointer)
    assert keyword in str(error)


def test_schemas_that_no_value_satisfies() -> None:
    for schema in (
        *(False, {"type": "string", "enum": [1]}, {"type": "string", "minLength": 2, "maxLength": 1}, {"not": {}}),
        {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
        {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}}, "$ref": "#/$defs/n"},
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
    ):
        assert "any value" in str(refused(schema))


def test_schemas_without_bound_are_refused() -> None:
    deep: Any = {}
    for _ in range(5000):
        deep = {"items": deep}
    circular: dict[str, Any] = {}
    circular["items"] = circular
    many = {"allOf": [{"anyOf": [{"minLength": i} for i in range(10)]} for _ in range(10)]}
    huge = {"properties": {f"p{i}": {"type": "integer"} for i in range(100)}, "maxProperties": 9000}
    for schema in (
        deep,
        circular,
        many,
        huge,
        {"const": float("nan")},
        {"const": 10**5000},
        {1: object()},
        {"a": {1, 2}},
        5,
        "a",
    ):
        assert "JSON schema" in str(refused(schema))
