"""Every conversion of a JSON schema ends soon: it gives a grammar, or refuses the schema by keyword and pointer."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

import colm_cpp as colm
from colm_cpp._core import Grammar
from colm_cpp.grammar.gbnf import response_grammar, to_gbnf
from colm_cpp.grammar.json_schema import schema_to_gbnf

HUGE = 10**5000  # more digits than Python writes


def text(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


def convert(schema: Any) -> str | colm.GrammarError:
    """The grammar or the refusal, after less than three seconds of CPU time on a busy machine."""
    start = time.process_time()
    try:
        result: str | colm.GrammarError = schema_to_gbnf(schema)
    except colm.GrammarError as error:
        result = error
    taken = time.process_time() - start
    assert taken < 3, f"{taken:.2f} s"
    return result


def chain(n: int, last: Any) -> dict[str, Any]:
    links = {str(i): {"$ref": f"#/$defs/{i + 1}"} for i in range(n)}
    return {"$ref": "#/$defs/0", "$defs": {**links, str(n): last}}


def doubled(n: int) -> dict[str, Any]:
    links = {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(n)}
    return {"$ref": "#/$defs/0", "$defs": {**links, str(n): {"minLength": 1}}}


def deep(n: int, keyword: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"minLength": 1}
    for _ in range(n):
        schema = {keyword: [schema, schema]}
    return schema


REFUSED: dict[str, tuple[Any, str, str]] = {
    "counts in counts": (text("^((a{1,10}){1,10}){1,10}$"), "pattern", "/pattern"),
    "higher counts": (text("^((a{1,100}){1,100}){1,100}$"), "pattern", "/pattern"),
    "counts at the limit": (text("^(((a{1,1000}){1,1000}){1,1000}){1,1000}$"), "pattern", "/pattern"),
    "choices in counts": (text("^(((a|b|ab){1,50}){1,50}){1,50}$"), "pattern", "/pattern"),
    "choices and a remainder": (text("(a|b)*a(a|b){1,500}$"), "pattern", "/pattern"),
    "optional parts": (text("^(a?){1,1000}(a?b?){1,1000}$"), "pattern", "/pattern"),
    "many classes": (text(r"^\w{1,1000}\w{1,1000}\w{1,1000}$"), "pattern", "/pattern"),
    "classes anywhere": (text(r"\w{1,1000}-\w{1,1000}-\w{1,1000}"), "pattern", "/pattern"),
    "deep below a property": (
        {"properties": {"a": {"items": text("((a{1,99}b?){1,99}c?){1,99}$")}}},
        "pattern",
        "/properties/a/items/pattern",
    ),
    "key pattern": (
        {"patternProperties": {"^((a{1,99}){1,99}){1,99}$": {}}},
        "patternProperties",
        "/patternProperties",
    ),
    "key pattern and a property": (
        {"properties": {"a" * 3000: {}}, "patternProperties": {"^((a{1,99}){1,99}){1,99}$": {}}},
        "patternProperties",
        "/patternProperties",
    ),
    "pattern of an enum": ({"enum": ["a" * 3000], "pattern": "^((a{1,99}){1,99}){1,99}$"}, "pattern", "/pattern"),
    "products of choices": (
        {"allOf": [{"anyOf": [{"minimum": i}, {"maximum": i}]} for i in range(40)]},
        "anyOf",
        "/allOf/39/anyOf",
    ),
    "choices in choices": (doubled(25), "anyOf", "/$defs/"),
    "many integers": ({"enum": list(range(200_000))}, "enum", "/enum"),
    "many texts": ({"enum": [f"text {i}" for i in range(20_000)]}, "enum", "/enum"),
    "long texts": ({"enum": [f"{i}" * 400 for i in range(5_000)]}, "enum", "/enum"),
    "references to each other": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"allOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}},
        "$ref",
        "",
    ),
    # How deep the converter gets before it refuses depends on the stack: one of the two keywords is named.
    "a branch that is the whole": ({"oneOf": [{"$ref": "#"}, {"type": "null"}]}, ("oneOf", "$ref"), ""),
}


# These take about a second each, and their like is tried by default.
SLOW_REFUSED = {
    *("higher counts", "counts at the limit", "choices in counts", "deep below a property"),
    *("key pattern and a property", "many classes"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_REFUSED else ()) for name in REFUSED]
)
def test_large_schemas_are_refused_in_time(name: str) -> None:
    schema, keyword, pointer = REFUSED[name]
    error = convert(schema)
    assert isinstance(error, colm.GrammarError), name
    assert error.keyword in (keyword if isinstance(keyword, tuple) else (keyword,))
    assert error.pointer is not None
    assert error.pointer.startswith(pointer)


CONVERTED: dict[str, tuple[Any, Any, Any]] = {
    "one count in another": (text("^(a{1,10}){1,10}$"), "a" * 100, "a" * 101),
    "stars in a count": (text("^(a*){1,100}$"), "a" * 500, "b"),
    "choices in a count": (text("^(a|b|ab){1,50}$"), "ab" * 50, "ab" * 51),
    "many choices": (text("^(" + "|".join(f"{i:03}" for i in range(400)) + ")$"), "399", "400"),
    "one class": (text(r"^\w{1,1000}$"), "a" * 1000, "a" * 1001),
    "equal values": ({"enum": ["long " * 200] * 10_000}, "long " * 200, "long "),
    "many values": ({"enum": [*range(2_000)]}, 1999, 2000),
    "all at once": ({"allOf": [{"minimum": i} for i in range(500)], "type": "integer"}, 499, 498),
    "many branches": ({"oneOf": [{"const": i} for i in range(60)]}, 59, 60),
    "a long chain": (chain(500, {"type": "null"}), None, 1),
    "many first items": ({"type": "array", "prefixItems": [{"type": "null"}] * 3_000}, [None], [1]),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "one class" else ()) for name in CONVERTED]
)
def test_large_schemas_are_converted_in_time(name: str) -> None:
    schema, good, bad = CONVERTED[name]
    gbnf = convert(schema)
    assert isinstance(gbnf, str), gbnf
    grammar = Grammar(gbnf)
    assert grammar.accepts(json.dumps(good))
    assert not grammar.accepts(json.dumps(bad))


def test_equal_values_are_written_once() -> None:
    gbnf = schema_to_gbnf({"enum": ["once", "once", 1, 1, True]})
    assert (gbnf.count("once"), gbnf.count('"1"'), gbnf.count('"true"')) == (1, 1, 1)


ENDING: list[Any] = [
    deep(12, "allOf"),
    deep(25, "anyOf"),
    chain(20_000, {"type": "null"}),
    {"items": [{"type": "null"}] * 30_000},
    {"properties": {f"a{i}": {} for i in range(20_000)}, "additionalProperties": False},
    {"properties": {f"a{i}": {} for i in range(3_000)}, "additionalProperties": {"type": "null"}},
    {"properties": {f"a{i}": {} for i in range(3_000)}, "patternProperties": {"^b{1,1000}": {}, "c{9}$": {}}},
    {"patternProperties": {"a{1,300}": {}, "b{1,300}": {}, "c{1,300}": {}, "d{1,300}$": {}}},
    {"oneOf": [{"const": i} for i in range(1_000)]},
    {"oneOf": [{"pattern": f"^{i}.{{1,99}}$", "type": "string"} for i in range(30)]},
    {"oneOf": [{"required": [f"a{i}"]} for i in range(199)]},
    {"anyOf": [{"pattern": f"{i}.*{i}"} for i in range(199)]},
    {"enum": [[i, {"a": i}] for i in range(9_999)], "allOf": [{"enum": [i]} for i in range(999)]},
    {"allOf": [text(f"{i}.*{i}") for i in range(100)]},
    {"dependentRequired": {f"a{i}": ["b"] for i in range(100)}},
    {"not": {"enum": [f"text {i}" for i in range(3_000)]}, "type": "string"},
    {"multipleOf": 10**4200 + 1},
    {"multipleOf": 1e-300, "minimum": 1},
    {"multipleOf": 997, "minimum": 1, "maximum": 10**19 - 1, "allOf": [{"multipleOf": 991}]},
    {"type": "string", "format": "email", "maxLength": 10_000, "pattern": "a.*b.*c.*d"},
    {"x" * 1_000_000: 1},
    {"const": [0] * 1_000_000},
    {"const": "a" * 5_000_000},
    text("^(" + "|".join(f"a{i}" for i in range(320)) + "){1,1000}$"),
    text("(" * 45 + "a{1,9}" + "){1,9}" * 45),
    text("(" * 45 + "a?b?" + "){0,9}c?" * 45),
]
SLOW_ONES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 19, 23)  # these take about a second each


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param(schema, id=str(i), marks=pytest.mark.slow if i in SLOW_ONES else ())
        for i, schema in enumerate(ENDING)
    ],
)
def test_every_conversion_ends(schema: Any) -> None:
    result = convert(schema)
    assert isinstance(result, colm.GrammarError) or result.startswith("root ::=")


@pytest.mark.parametrize(
    "schema",
    [
        {"const": HUGE},
        {"enum": [-HUGE]},
        {"minimum": HUGE},
        {"multipleOf": HUGE},
        {"maxLength": HUGE},
        {"type": "array", "minItems": HUGE},
        {"title": HUGE},
        {"unknown": HUGE},
        {"properties": {"a": {"default": [HUGE]}}},
        {"properties": {HUGE: {}}},
        {"type": HUGE},
    ],
    ids=range(11),
)
def test_numbers_that_python_does_not_write(schema: Any) -> None:
    for give in (
        schema_to_gbnf,
        to_gbnf,
        lambda s: to_gbnf(response_grammar({"type": "json_object", "schema": s})),
        lambda s: to_gbnf(response_grammar({"type": "json_schema", "json_schema": {"schema": s}})),
    ):
        with pytest.raises(colm.GrammarError):
            give(schema)


@pytest.mark.parametrize(
    "given", [HUGE, {"type": HUGE}, {"type": "json_schema", "json_schema": HUGE}, [HUGE]], ids=range(4)
)
def test_response_formats_that_python_does_not_write(given: Any) -> None:
    with pytest.raises(colm.GrammarError):
        response_grammar(given)


def test_schema_texts_with_numbers_that_python_does_not_read() -> None:
    with pytest.raises(colm.GrammarError):
        to_gbnf('{"const": 1' + "0" * 5000 + "}")


@pytest.mark.parametrize(
    "key",
    [
        *("minLength", "maxItems", "minProperties", "minimum", "const"),
        pytest.param("multipleOf", marks=pytest.mark.slow),
    ],
)
def test_long_numbers_are_converted_or_refused(key: str) -> None:
    for value in (10**4200, 1e308):
        convert({key: value})
