"""What templates render, compared with transformers' apply_chat_template, whose templates they are."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import colm_cpp as colm
from colm_cpp.chat.messages import render_chat

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather <now> & later.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": 'Name, such as "K\u00f6ln"'},
                "unit": {"type": "string", "enum": ["C", "F"], "default": None},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["city"],
        },
    },
}
TOOLS = [WEATHER, {"type": "function", "function": {"name": "now", "description": "Time.", "parameters": {}}}]
DOCUMENTS = [{"title": "Rivers", "text": "Two rivers \u2014 one city."}, {"title": "Hills", "text": "None."}]

SYSTEM = {"role": "system", "content": "Be brief & <kind>."}
USER = {"role": "user", "content": "  Hi, what's up in 日本? "}
REPLY = {"role": "assistant", "content": "Fine.\n"}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "K\u00f6ln"}}}
TEXT_CALL = {**CALL, "function": {"name": "get_weather", "arguments": '{"city": "K\u00f6ln"}'}}
RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"sky": "grey"}'}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one turn": [USER],
    "turns": [SYSTEM, USER, REPLY, {"role": "user", "content": "And?"}],
    "ends with a reply": [USER, REPLY],
    "call": [USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT],
    "call with null": [SYSTEM, USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT, REPLY, USER],
    "call with text": [USER, {"role": "assistant", "content": "I look.", "tool_calls": [TEXT_CALL, CALL]}, RESULT],
    "thoughts": [USER, {**REPLY, "reasoning_content": "Hm."}, USER],
    "thoughts by another name": [USER, {**REPLY, "thinking": "Hm."}, USER],
    "thoughts in the text": [USER, {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nFine."}, USER],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}]}],
    "null": [{"role": "user", "content": None}],
}
VARIABLES = {"enable_thinking": False, "builtin_tools": ["x"], "functions": "[]", "datetime": "now"}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": False, "tools": TOOLS},
    {"tools": [], "documents": DOCUMENTS},
    {"tools": TOOLS, "documents": DOCUMENTS, "variables": VARIABLES},
]

OURS = {
    "generation": "{% for m in messages %}{% generation %}{% set x = m.role %}{{ x }}{% endgeneration %}{{ x }}"
    "{% endfor %}",
    "absent": "{{ tools is none }}{{ tools is not none }}{{ documents is none }}{{ tools is defined }}"
    "{{ custom is defined }}",
    "tojson": "{{ messages|tojson }}{{ messages|tojson(indent=2) }}"
    "{{ tools|tojson(separators=(',', ':'), sort_keys=true) }}"
    "{{ messages|tojson(ensure_ascii=true) }}"
    "{{ {'b': 'é<', 'a': [1, 2.5, none, true]}|tojson(True, 4, ('; ', '= '), True) }}",
    "nothing": "{% for m in messages %}[{{ m.content }}{{ m.content is none }}{{ 'content' in m }}"
    "{{ m['tool_calls'] }}]{% endfor %}",
    "lines": "\n  {%- for m in messages %}\n  {% if loop.first %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\n\n",
    "values": "{{ 1 ~ 'a' ~ none ~ [1, 'b'] ~ {'a': 1} }}{{ messages[0] }}{{ messages[:1] }}"
    "{{ messages[-1:][0].role[::-1] }}"
    "{{ (1, 2) + (3,) }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 2 ** 10 }}{{ -3 }}{{ 'ab' * 2 }}{{ [1] * 2 }}"
    "{{ 1 < 2 <= 2 != 3 }}{{ 1 in [1] }}",
    "filters": "{{ 'a b'|title }}{{ 'x'|center(5) }}{{ 'a\nb'|indent(2, true) }}{{ [3, 1, 2]|sort|join('-') }}"
    "{{ [1, 2, 3]|sum }}"
    "{{ messages|map(attribute='role')|list }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
    "{{ 'aXa'|replace('X', 'y') }}"
    "{{ range(5)|batch(2, 0)|list }}{{ range(5)|slice(2)|list }}{{ {'b': 1, 'a': 2}|dictsort }}"
    "{{ {'a': 1}|items|list }}{{ 2.567|round(1) }}"
    "{{ '%s is %5.1f%%' % ('x', 2) }}{{ '%(a)s'|format(a=1) }}{{ [1, 1, 2]|unique|list }}"
    "{{ messages|groupby('role')|length }}{{ 'abcdefgh'|truncate(4, true, '') }}"
    "{{ '<a>'|e }}{{ '<a>'|escape|length }}{{ ('<b>'|safe) ~ '<' }}{{ ' x '|trim }}{{ 'abc'|reverse }}"
    "{{ 'a,b'|upper|first }}{{ '42'|int + 1 }}",
    "methods": "{{ ' a '.strip() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a b'.split() }}{{ 'a,b,c'.rsplit(',', 1) }}"
    "{{ '-'.join(['a', 'b']) }}{{ 'aa'.replace('a', 'bc', 1) }}"
    "{{ '{:>5}|{a!r:<4}|{0[0]}'.format('x', a=1) }}{{ '{b}'.format_map({'b': 2}) }}{{ 'x'.center(4, '*') }}"
    "{{ 'a\tb'.expandtabs(4) }}{{ 'a\nb'.splitlines() }}"
    "{{ messages[0].get('role') }}{{ messages[0].items()|list }}{{ messages[0].keys()|list }}"
    "{{ 'abc'.rfind('c') }}{{ [1, 2].index(2) }}{{ dict(a=1, **{'b': 2}) }}",
    "macros": "{% macro f(x, n=1) %}({{ x }}{% if n < 4 %}{{ f(x, n=n + 1) }}{% endif %}"
    "{{ caller() if caller }}){% endmacro %}{{ f('y') }}{% call f('z', 4) %}c{% endcall %}"
    "{% set ns = namespace(n=0, l=[]) %}{% for m in messages if m.role != 'x' recursive %}"
    "{% set ns.n = ns.n + 1 %}{% set ns.l = ns.l + [m.role] %}{{ loop.index }}/{{ loop.length }}"
    "{% if loop.depth < 3 %}{{ loop([m]) }}{% endif %}{% if ns.n > 6 %}{% break %}{% endif %}{% else %}none"
    "{% endfor %}{{ ns.n }}{{ ns.l }}"
    "{% set block %}a{{ 1 }}{% endset %}{{ block }}{% filter upper %}abc{% endfilter %}{% with a = 1, b = 2 %}"
    "{{ a + b }}{% endwith %}{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}",
    "escaped": "{% autoescape true %}{{ '<' }}<{{ messages[0].role ~ ('>'|safe) ~ '<' }}"
    "{{ ('{}'|safe).format('<') }}{{ messages }}{% endautoescape %}{{ '<' }}",
    "refused": "{% if messages|length > 1 %}{{ raise_exception('one message only') }}{% endif %}ok",
    "underscore": "{% set ns = namespace(_x=1) %}{{ ns._x }}",
}


def theirs(template: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    """What apply_chat_template renders; None where it refuses."""
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    try:
        rendered, _ = utils.render_jinja_template(
            [utils._normalize_chat_messages(messages)],
            chat_template=template,
            tools=options.get("tools"),
            documents=options.get("documents"),
            add_generation_prompt=options.get("add_generation_prompt", True),
            bos_token="<s>",
            eos_token="</s>",
            **options.get("variables", {}),
        )
    except Exception:
        return None
    return rendered[0]


def ours(template: str, messages: list[dict[str, Any]], options: dict[str, Any]) -> str | None:
    """What render_chat renders; None where it refuses."""
    try:
        return render_chat(messages, template, bos_token="<s>", eos_token="</s>", **options)
    except colm.ChatTemplateError:
        return None


def compare(template: str) -> int:
    """How many conversations were rendered, each of them alike."""
    n_rendered = 0
    for name, messages in CONVERSATIONS.items():
        for options in OPTIONS:
            for _ in range(3):  # a template may write the time
                minute = datetime.now().minute
                expected, rendered = theirs(template, messages, options), ours(template, messages, options)
                if datetime.now().minute == minute:
                    break
            assert rendered == expected, f"{name}, {options}"
            n_rendered += expected is not None
    return n_rendered


def shipped() -> list[Path]:
    """The templates in llama.cpp's source."""
    source = os.environ.get("COLM_LLAMA_SOURCE")
    return sorted(Path(source, "models", "templates").glob("*.jinja")) if source else []


@pytest.mark.slow
@pytest.mark.skipif(not shipped(), reason="COLM_LLAMA_SOURCE names no folder with llama.cpp's source")
@pytest.mark.parametrize("path", shipped() or [Path()], ids=lambda path: path.stem)
def test_templates_of_models(path: Path) -> None:
    assert compare(path.read_text()) > 0


@pytest.mark.parametrize("name", OURS)
def test_what_templates_use(name: str) -> None:
    n_rendered = compare(OURS[name])
    assert n_rendered == (0 if name == "underscore" else 12 if name == "refused" else len(CONVERSATIONS) * len(OPTIONS))
