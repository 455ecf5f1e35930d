"""Turning ``grammar=`` and ``response_format=`` into GBNF."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from .._shown import shown
from ..errors import GrammarError
from .json_schema import schema_to_gbnf

__all__ = ["response_grammar", "to_gbnf"]


def to_gbnf(grammar: Any) -> str:
    """GBNF for a grammar, a JSON schema, a pydantic model or a ``llama_cpp.LlamaGrammar``; ``""`` for None.

    A dict is a JSON schema, and so is text that begins with ``{`` (GBNF never does). A value with the method
    ``model_json_schema()``, such as a pydantic class, gives its schema. Its objects allow only the listed properties
    unless the schema says otherwise, because the class would ignore others.

    Raises:
        GrammarError: ``grammar`` has another type, is empty, or is a JSON schema with an unsupported keyword.
    """
    if grammar is None:
        return ""
    if isinstance(grammar, dict):
        return _from_schema(grammar)
    if callable(model_schema := getattr(grammar, "model_json_schema", None)):
        try:
            schema = model_schema()
        except Exception as error:  # the class's own code runs
            raise GrammarError(f"{shown(str(grammar))}.model_json_schema() raised {error!r}"[:500]) from error
        return _from_schema(_closed(schema))
    given = grammar if isinstance(grammar, str) else getattr(grammar, "_grammar", None)
    if not isinstance(given, str):
        raise GrammarError(
            f"grammar is of type {type(grammar).__name__}; give GBNF text, a JSON schema, a pydantic model or a "
            "LlamaGrammar"
        )
    text: str = given
    if not text.strip():
        raise GrammarError("the grammar is empty; omit grammar=, or give GBNF with a rule named root")
    if "\0" in text:
        raise GrammarError("the grammar holds a NUL character; GBNF is plain text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise GrammarError("the grammar holds a lone surrogate; GBNF is UTF-8 text") from None
    if not text.lstrip().startswith("{"):
        return text
    try:
        return _from_schema(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"the JSON schema is not valid JSON: {error}") from error


def response_grammar(response_format: Any) -> Any:
    """The ``grammar`` for a ``response_format`` of OpenAI's API: a JSON schema, or None for text.

    Accepted are ``{"type": "text"}``, ``{"type": "json_object"}`` (with llama-cpp-python's ``schema``, if given),
    ``{"type": "json_schema", "json_schema": {"schema": ...}}`` and a pydantic model.

    Raises:
        GrammarError: ``response_format`` has another form.
    """
    if response_format is None or callable(getattr(response_format, "model_json_schema", None)):
        return response_format
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind == "text":
        return None
    if kind == "json_object":
        schema = response_format.get("schema", {"type": "object"})
    elif kind == "json_schema":
        inner = response_format.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
    else:
        schema = None
    if not isinstance(schema, dict):
        raise GrammarError(
            f"response_format is {shown(response_format)}; give {{'type': 'json_object'}} or "
            "{'type': 'json_schema', 'json_schema': {'schema': ...}}, or the schema as grammar="
        )
    return schema


def _from_schema(schema: Any) -> str:
    try:
        text = json.dumps(schema)
    except (TypeError, ValueError, RecursionError):
        return schema_to_gbnf(schema)  # raises GrammarError with the reason
    return _from_text(text)


@lru_cache(maxsize=16)
def _from_text(text: str) -> str:
    return schema_to_gbnf(json.loads(text))


def _closed(schema: Any) -> Any:
    """The schema with ``additionalProperties: false`` on every object that does not set it."""
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: part if key in ("const", "enum", "default", "examples") else _closed(part) for key, part in schema.items()
    }
    if schema.get("type") == "object" and isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed
