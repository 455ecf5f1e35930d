"""Chat templates and messages that are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import bad_input
import pytest
import tiny_models as tm
from bad_input import HELLO, load, says

import colm_cpp as colm
from colm_cpp import errors

folder = bad_input.folder
pair = bad_input.pair
still_usable = bad_input.still_usable


def test_chat_without_a_template(folder: Path) -> None:
    with load(folder, base=folder / "assistant.gguf") as pair:
        with pytest.raises(errors.ChatTemplateError) as error:
            pair.chat(HELLO)
        says(error, folder / "assistant.gguf", "chat_template=")
        assert pair.chat(HELLO, chat_template=tm.CHATML, max_tokens=1, seed=1).tokens


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("", ["no chat template"]),
        ("{{", ["parsed", "line 1"]),
        ("\n{% for %}", ["parsed", "line 2"]),
        ("{% if x %}", ["parsed"]),
        ("{{ 1 | nofilter }}", ["nofilter"]),
        ("{{ raise_exception('roles must alternate') }}", ["roles must alternate"]),
        ("{{ nothing.here }}", ["nothing"]),
        ("{{ messages[9].content }}", ["9"]),
        ("{{ 1 / 0 }}", ["ZeroDivisionError"]),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", ["unsafe"]),
        ("{{ cycler.__init__.__globals__ }}", ["unsafe"]),
        ("{{ lipsum.__globals__['os'].system('true') }}", ["unsafe"]),
        ("{{ messages.append(1) }}", ["unsafe"]),
        ("{% include '/etc/passwd' %}", ["loader"]),
        ("{{ range(10 ** 9) | list }}", ["range"]),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", ["recursion"]),
        ("{{ 'a' * 10 ** 15 }}", [10**15]),
        (5, ["template"]),
        (b"{{ messages }}", ["template"]),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.usefixtures("still_usable")
def test_chat_template(pair: colm.Pair, template: Any, parts: list[object]) -> None:
    for attempt in (
        lambda: pair.chat(HELLO, chat_template=template),
        lambda: pair.stream_chat(HELLO, chat_template=template),
        lambda: pair.render_chat(HELLO, chat_template=template),
    ):
        with pytest.raises(errors.ChatTemplateError) as error:
            attempt()
        assert re.search("|".join(re.escape(str(part)) for part in parts), str(error.value), re.IGNORECASE)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__ }}",
        "{{ self.__init__ }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ '%s' % messages.__class__ }}",
        "{{ messages | attr('__class__') }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__ }}",
    ],
)
def test_chat_template_finds_no_way_out(pair: colm.Pair, template: str) -> None:
    try:
        text = pair.render_chat(HELLO, chat_template=template)
    except errors.ChatTemplateError:
        return
    assert "class" not in text
    assert "module" not in text


@pytest.mark.parametrize(
    ("messages", "parts"),
    [
        (None, ["NoneType", "role"]),
        ("hi", ["str", "role"]),
        ({"role": "user"}, ["dict", "role"]),
        ([], ["empty"]),
        ([5], ["message 0", "5", "role"]),
        ([*HELLO, {}], ["message 1", "role"]),
        ([{"role": "user"}], ["message 0", "content"]),
        ([{"content": "hi"}], ["message 0", "role"]),
        ([{"role": 5, "content": "hi"}], ["message 0", "5"]),
        pytest.param(iter(HELLO), ["list"], id="an iterator"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_chat_messages(pair: colm.Pair, messages: Any, parts: list[object]) -> None:
    with pytest.raises(errors.ChatTemplateError) as error:
        pair.chat(messages)
    says(error, *parts)


def test_chat_variables(pair: colm.Pair) -> None:
    variables: Any
    for variables in (5, {"messages": []}, {1: 2}):
        with pytest.raises(errors.ChatTemplateError):
            pair.chat(HELLO, template_variables=variables)


def test_chat_with_a_lone_surrogate(pair: colm.Pair) -> None:
    with pytest.raises(errors.TokenizeError, match="surrogate"):
        pair.chat([{"role": "user", "content": "\ud800"}])
