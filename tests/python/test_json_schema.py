"""JSON schemas as grammars: what is accepted is right, and what cannot be honoured is refused by name."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pydantic
import pytest
from conftest import TinyModels, TinyPairs

import colm_cpp as colm
from colm_cpp._core import Grammar
from colm_cpp.grammar.gbnf import to_gbnf
from colm_cpp.grammar.json_schema import schema_to_gbnf

SUITE = os.environ.get("COLM_JSON_SCHEMA_SUITE")
PROMPT = "The answer is"


@pytest.fixture(scope="module")
def pair(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    pairs = TinyPairs(tiny_model)
    yield pairs(n_ctx=2048)
    pairs.close()


def spellings(value: Any) -> Iterator[str]:
    """JSON texts of a value: names in each order, whole numbers with and without a fraction, and so on."""
    if isinstance(value, str):
        yield from (json.dumps(value, ensure_ascii=False), json.dumps(value))
    elif value is None or isinstance(value, bool):
        yield json.dumps(value)
    elif isinstance(value, int | float):
        plain = format(Decimal(repr(value)), "f")
        yield from dict.fromkeys(
            (json.dumps(value), plain, str(int(value)) if value == int(value) else plain, repr(float(value)))
        )
    elif isinstance(value, list):
        for parts in itertools.islice(itertools.product(*map(list, map(spellings, value))), 3000):
            yield f"[{','.join(parts)}]"
    else:
        for members in itertools.islice(itertools.permutations(value.items()), 720):
            choices = [[f"{name}:{part}" for name in spellings(key) for part in spellings(v)] for key, v in members]
            for parts in itertools.islice(itertools.product(*choices), 200):
                yield f"{{{','.join(parts)}}}"


def accepts(schema: Any, value: Any) -> bool:
    """Whether the grammar has a text for the value."""
    grammar = Grammar(schema_to_gbnf(schema))
    return any(grammar.accepts(text.encode("utf-8", "surrogatepass")) for text in spellings(value))


def refused(schema: Any) -> colm.GrammarError:
    with pytest.raises(colm.GrammarError) as error:
        schema_to_gbnf(schema)
    return error.value


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


# -- values -----------------------------------------------------------------------------------------------------

STRINGS = ["a\\b", "a\nb", 'a"b', "😀", "é日\u2028", "\u0000\x1f\x7f", "\ud800", "\ud83d", "[]^-", "", " ", "/"]


@pytest.mark.parametrize(
    "value", [*STRINGS, 1, 1.0, -0.5, 1e300, True, None, [], {}, {'a\\\n"😀': [1, "\\"]}], ids=ascii
)
def test_constants_are_written_as_they_are(pair: colm.Pair, value: Any) -> None:
    for schema in ({"const": value}, {"enum": [value]}):
        assert accepts(schema, value)
        for other in (*STRINGS, 2, False, [1]):
            if other != value:
                assert not accepts(schema, other)
        got = pair.generate(PROMPT, grammar=schema, max_tokens=None, seed=1)
        written = json.loads(got.text)
        assert written == value
        assert type(written) is type(value)


@pytest.mark.parametrize("name", STRINGS, ids=ascii)
def test_property_names_are_written_as_they_are(pair: colm.Pair, name: str) -> None:
    schema = {"type": "object", "properties": {name: {"const": 1}}, "required": [name], "additionalProperties": False}
    assert json.loads(pair.generate(PROMPT, grammar=schema, max_tokens=None, seed=1).text) == {name: 1}


def test_strings_have_no_raw_controls_and_whole_escapes() -> None:
    grammar = Grammar(schema_to_gbnf({"type": "string"}))
    for c in range(0x20):
        assert not grammar.begins(f'"{chr(c)}')
    good = (r'"\b\f\n\r\t\"\\\/"', r'"\u0041"', r'"\ud83d\ude00"', r'"\uD7FF\uE000"', '"é日😀"')
    for text in good:
        assert grammar.accepts(text)
        json.loads(text).encode()
    for text in (r'"\ud83d"', r'"\ude00"', r'"\ud83d\u0041"', r'"\x41"', r'"\u12"', r'"\"', '"\x7f"'):
        assert not grammar.accepts(text)


def test_lengths_are_those_of_characters() -> None:
    grammar = Grammar(schema_to_gbnf({"type": "string", "minLength": 2, "maxLength": 3}))
    for text in ("ab", "é日", "😀😀", r"\ud83d\ude00\n", "abc"):
        assert grammar.accepts(f'"{text}"')
    for text in ("a", "😀", r"\ud83d\ude00", "abcd", ""):
        assert not grammar.accepts(f'"{text}"')


def test_long_enums_are_quick() -> None:
    values = [f"value {i * 7919 % 10007}" for i in range(10_000)]
    start = time.process_time()
    grammar = Grammar(schema_to_gbnf({"enum": values}))
    assert grammar.accepts('"value 7"')
    assert not grammar.accepts('"value 10007"')
    assert time.process_time() - start < 5.0  # comparing each with each takes longer


def test_white_space_ends() -> None:
    grammar = Grammar(schema_to_gbnf({"type": "array", "items": {"type": "integer"}}))
    for text in ("[1,2]", "[1, 2]", "[ 1, 2 ]", "[\n  1,\n  2\n]"):
        assert grammar.accepts(text)
    for text in ("[ " + " " * 2, "[\n" + " " * 21, "[\n\n", "[1,\n\n", " "):
        assert not grammar.begins(text)
    for kind in ("integer", "number"):
        assert not Grammar(schema_to_gbnf({"type": kind})).begins("1" * 20)


@pytest.mark.parametrize("seed", range(40))
def test_bounds_of_numbers(seed: int) -> None:
    rng = random.Random(seed)
    digits = rng.choice((0, 0, 1, 3))

    def number(scale: int) -> float:
        value = round(rng.uniform(-scale, scale), digits)
        return value if digits else int(value)

    scale = rng.choice((3, 30, 2000))
    schema: dict[str, Any] = {"type": rng.choice(("integer", "number"))}
    low, high = sorted((number(scale), number(scale)))
    for key, value in (
        (rng.choice(("minimum", "exclusiveMinimum")), low),
        (rng.choice(("maximum", "exclusiveMaximum")), high),
    ):
        if rng.random() < 0.8:
            schema[key] = value
    if rng.random() < 0.3:
        schema["multipleOf"] = rng.choice((1, 2, 7) if schema["type"] == "integer" else (0.5, 0.25, 3))
    validator = _Validator({key: _exact(value) for key, value in schema.items()})
    try:
        grammar = Grammar(schema_to_gbnf(schema))
    except colm.GrammarError:
        assert not any(validator.is_valid(v) for v in range(-100, 101))
        return
    near = [v + d for v in (low, high, 0, 10, -10) for d in (-1, 0, 1, 0.5, -0.5, 0.001, -0.001)]
    for value in [*near, *(number(2 * scale) for _ in range(100))]:
        value = round(value, 3)
        texts = {repr(value), str(int(value))} if value == int(value) else {repr(value)}
        assert any(map(grammar.accepts, texts)) == validator.is_valid(_exact(value)), (schema, value)
    for text in ("00", "01", "+1", "1.", ".5", "-", "1e5", "--1"):
        assert not grammar.accepts(text)


# Decimals, where floats would divide with a rest.
_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "number", lambda _, v: isinstance(v, int | Decimal)
    ),
)


def _exact(value: Any) -> Any:
    return value if not isinstance(value, float) else int(value) if value == int(value) else Decimal(repr(value))


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            "^[a-z]{2,4}$",
            "a",
            "^a",
            "b$",
            "^(foo|ba[rz])+$",
            r"^\d{3}-\d{4}$",
            r"^\w+\s\S*$",
            "^[^a-c]*$",
            "^.{3}$",
            "",
            "^$",
        ),
        *(
            r"^\\$",
            r"^\"$",
            "^[\\n\\t]$",
            "x|^y$",
            "^(?:ab)?c*?$",
            r"^[\d.\-]+$",
            r"^é日?$",
            r"^\x41\u0042$",
            "^a{0}b{2,}$",
            "^[]a]",
        ),
    ],
)
def test_patterns(pattern: str) -> None:
    schema = {"type": "string", "pattern": pattern}
    grammar = None if pattern == "^[]a]" else Grammar(schema_to_gbnf(schema))
    rng = random.Random(0)
    letters = 'abcfoz01-. \n\t"\\éA日By'
    texts = ["", *("".join(rng.choice(letters) for _ in range(rng.randrange(1, 6))) for _ in range(400))]
    texts += ["foobar", "123-4567", "ab c", "é日", "AB", "bb"]
    if grammar is None:
        return  # ECMA-262 has an empty class there, and Python does not
    for text in texts:
        ends = not text.endswith("\n")  # Python's `$` is before that too
        if ends:
            assert grammar.accepts(json.dumps(text, ensure_ascii=False)) == bool(re.search(pattern, text, re.ASCII)), (
                text
            )


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


# -- texts ------------------------------------------------------------------------------------------------------


def random_schema(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """A schema with values of modest size, of the keywords that most schemas have."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "anyOf", "format", "pattern"]
    match rng.choice([*kinds, "array", "object", "object"] if depth else kinds):
        case "string":
            return {"type": "string", "minLength": rng.randrange(3), "maxLength": rng.randrange(3, 9)}
        case "integer":
            low = rng.randrange(-200, 200)
            return {
                "type": "integer",
                **rng.choice(({}, {"minimum": low, "maximum": low + rng.randrange(300)}, {"exclusiveMinimum": low})),
            }
        case "number":
            low = round(rng.uniform(-9, 9), 2)
            return {"type": "number", "minimum": low, "exclusiveMaximum": round(low + rng.uniform(0.1, 50), 2)}
        case "enum":
            return {"enum": rng.sample(["a", 'q"', "\\n", "é😀", 1, 2.5, None, True, [1, "x"], {"k": "v"}], 3)}
        case "anyOf":
            return {"anyOf": [random_schema(rng, 0) for _ in range(2)]}
        case "format":
            return {"type": "string", "format": rng.choice(["date", "time", "date-time", "uuid", "ipv4"])}
        case "pattern":
            return {"type": "string", "pattern": rng.choice(["^[a-z]{1,5}$", r"^\d{3}-\d{2}$", '^("|\\\\|\\n){1,3}$'])}
        case "array":
            return {
                "type": "array",
                "items": random_schema(rng, depth - 1),
                "minItems": rng.randrange(2),
                "maxItems": rng.randrange(2, 4),
            }
        case "object":
            names = rng.sample(["name", "n", 'a"b', "日本", "back\\slash", "list"], rng.randrange(1, 4))
            properties = {name: random_schema(rng, depth - 1) for name in names}
            return {
                "type": "object",
                "properties": properties,
                "required": names[: rng.randrange(len(names) + 1)],
                "additionalProperties": False,
            }
        case kind:
            return {"type": kind}


def _write(pair: colm.Pair, seed: int) -> None:
    schema = random_schema(random.Random(seed))
    got = pair.generate(
        PROMPT, grammar=schema, max_tokens=None, seed=seed, temperature=1.5, top_k=0 if seed % 3 else 40
    )
    assert got.finish_reason == "eos", (schema, got.text)
    value = json.loads(got.text)
    jsonschema.validate(value, schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


def test_texts_are_valid(pair: colm.Pair) -> None:
    for seed in range(40):
        _write(pair, seed)


@pytest.mark.slow
def test_many_texts_are_valid(pair: colm.Pair) -> None:
    for seed in range(300, 1000):
        _write(pair, seed)


class Part(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1, max_length=5)
    size: int = pydantic.Field(ge=1, le=99)


class Order(pydantic.BaseModel):
    kind: Literal["new", "used"]
    parts: list[Part] = pydantic.Field(min_length=1, max_length=2)
    note: str | None = pydantic.Field(default=None, max_length=6)


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: int = 1


def test_a_pydantic_model_is_a_grammar(pair: colm.Pair) -> None:
    for seed in range(5):
        got = pair.generate(PROMPT, grammar=Order, max_tokens=None, seed=seed)
        order = Order.model_validate_json(got.text)
        assert set(json.loads(got.text)) <= {"kind", "parts", "note"}
        assert order.kind in ("new", "used")
    assert not Grammar(to_gbnf(Order)).begins('{"kind":"new","parts":[{"name":"a","size":1}],"other"')
    assert Grammar(to_gbnf(Open)).accepts('{"a":1,"other":2}')


def test_response_format(pair: colm.Pair) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [5, 7]}}, "required": ["a"], "additionalProperties": False}
    options: dict[str, Any] = {"max_tokens": None, "seed": 3}
    want = pair.generate(PROMPT, grammar=schema, **options).text
    assert json.loads(want)["a"] in (5, 7)
    for given in (
        {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}},
        {"type": "json_object", "schema": schema},
    ):
        assert pair.generate(PROMPT, response_format=given, **options).text == want
    free = pair.generate(PROMPT, max_tokens=4, seed=3)
    assert pair.generate(PROMPT, response_format={"type": "text"}, max_tokens=4, seed=3).text == free.text
    got = pair.generate(PROMPT, response_format={"type": "json_object"}, max_tokens=30, seed=3)
    assert Grammar(to_gbnf({"type": "object"})).begins(got.text)
    order = pair.generate(PROMPT, response_format=Order, **options)
    Order.model_validate_json(order.text)
    for wrong in ({"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}, "json", 5, {}):
        with pytest.raises(colm.GrammarError, match="grammar="):
            pair.generate(PROMPT, response_format=wrong)
    with pytest.raises(colm.OptionError, match="response_format"):
        pair.generate(PROMPT, response_format={"type": "json_object"}, grammar=schema)
    unknown: dict[str, Any] = {"json_schema": schema}
    with pytest.raises(TypeError, match="grammar="):
        pair.generate(PROMPT, **unknown)
