"""Calls of functions that a model writes without what its template puts around them, as small models do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ASSISTANT, BASE, TinyModels
from server_world import TOOLS_TEMPLATE

import colm_cpp as colm
from colm_cpp._core import Grammar

pytest.importorskip("fastapi")

from colm_cpp.server.calls import Splitter
from colm_cpp.server.tools import Form, form_of

PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": PARAMETERS}}
    for name in ("weather", "weather_tomorrow", "time")
]
BARE = '{"name": "weather_tomorrow", "arguments": {"city": "Oslo {"}}'


@pytest.fixture(scope="module")
def pair(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    files = (tiny_model(**model, chat_template=TOOLS_TEMPLATE) for model in (BASE, ASSISTANT))
    with colm.load(*map(str, files), "confidence", n_ctx=256) as opened:
        yield opened


@pytest.fixture(scope="module")
def form(pair: colm.Pair) -> Form:
    made = form_of(pair, TOOLS, "auto", parallel=True)
    assert made is not None
    return made


def split(form: Form, pieces: list[str]) -> tuple[str, list[tuple[str, Any]], list[dict[str, Any]]]:
    splitter = Splitter(form)
    deltas = [delta for piece in pieces for delta in splitter.feed(piece)] + splitter.end()
    return splitter.content, [(call.name, json.loads(call.arguments)) for call in splitter.calls], deltas


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("space", [True, False])
def test_a_bare_call_is_a_call(form: Form, size: int, space: bool) -> None:
    text = BARE if space else BARE.replace('"name": ', '"name":')
    content, calls, deltas = split(form, [text[i : i + size] for i in range(0, len(text), size)])
    assert (content, calls) == ("", [("weather_tomorrow", {"city": "Oslo {"})])
    assert not any("content" in delta for delta in deltas)


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ann", "age": 3}',
        '{"name": "weather_',
        "{",
        "Hello " + BARE,
        " " + BARE,
        '{"names": []}',
    ],
)
@pytest.mark.parametrize("size", [1, 1000])
def test_other_text_is_content(form: Form, text: str, size: int) -> None:
    """JSON of another kind, a call behind other text, and what ends before it is one."""
    content, calls, _ = split(form, [text[i : i + size] for i in range(0, len(text), size)])
    assert (content, calls) == (text, [])


def test_where_a_call_must_come_or_is_written_with_tags_nothing_is_bare(pair: colm.Pair, form: Form) -> None:
    required = form_of(pair, TOOLS, "required", parallel=True)
    assert required is not None
    assert not required.bare
    tagged = f"Well. <tool_call>\n{BARE}\n</tool_call>"
    assert split(form, [tagged])[:2] == ("Well.", [("weather_tomorrow", {"city": "Oslo {"})])


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (BARE, True),
        (BARE.replace('": ', '":'), True),
        ('{"name": "time", "arguments": {"city": "a"}}', True),
        ('{"name": "time", "arguments": {"town": "a"}}', False),
        ('{"name": "time", "age": 3}', False),
        (BARE + " and more", False),
        ('{"name": "Ann", "age": 3}', True),
        ('{"name": "weathe"}', True),
        ('{"n', True),
        ("", True),
        ("Hello {", True),
        (f"<tool_call>\n{BARE}\n</tool_call>", True),
        (f"<tool_call>\n{BARE}\n</tool_call><tool_call>\n{BARE}\n</tool_call>", True),
        ('{"name<tool_call>\n' + BARE + "\n</tool_call>", True),
        ('{"name<tool_call>\nanything', False),
        ("<tool_call>\nanything", False),
    ],
)
def test_the_grammar_holds_for_bare_calls(form: Form, text: str, accepted: bool) -> None:
    assert Grammar(form.grammar).accepts(text) == accepted
