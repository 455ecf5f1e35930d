"""Whether a schema's grammar takes a value."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from conftest import TinyModels, TinyPairs

import colm_cpp as colm
from colm_cpp._core import Grammar
from colm_cpp.grammar.json_schema import schema_to_gbnf

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
