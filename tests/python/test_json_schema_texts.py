"""Texts that are written by a JSON schema are valid."""

from __future__ import annotations

import json
import random
from typing import Any, Literal

import jsonschema
import pydantic
import pytest
import schema_values
from schema_values import PROMPT

import colm_cpp as colm
from colm_cpp._core import Grammar
from colm_cpp.grammar.gbnf import to_gbnf

pair = schema_values.pair


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
