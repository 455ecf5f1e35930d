"""What hostile chat templates may not do: take time, memory or stack, or raise what is no ChatTemplateError."""

from __future__ import annotations

import sys
import time

import pytest
from hostile_templates import Hostile

import colm_cpp as colm
from colm_cpp.chat import limits as chat_limits
from colm_cpp.chat.messages import render_chat

HELLO = [{"role": "user", "content": "hello"}]
NS = "{% set ns = namespace(t='abcdefghij', l=[1], u=(1,), d={'a': 1}, n=3) %}"
TEXT = "{% set a = 'x' * 3000000 %}{% set b = 'x' * 3000000 %}"
DOUBLING = NS + "{% for i in range(100) %}{% set STEP %}{% endfor %}{{ ns.t }}{{ ns.l }}{{ ns.n }}"

TOO_LARGE = {
    "format": "{{ '{:>3000000000}'.format(1) }}",
    "format with a given width": "{{ '{:{}}'.format(1, 3000000000) }}",
    "format_map": "{{ '{a:>3000000000}'.format_map({'a': 1}) }}",
    "format of much": "{{ ('{0}' * 100000).format('x' * 100000) }}",
    "escaped format": "{{ ('{:>3000000000}'|safe).format(1) }}",
    "percent": "{{ '%3000000000d' % 1 }}",
    "percent with a given width": "{{ '%*d' % (3000000000, 1) }}",
    "percent with a precision": "{{ '%.300000000f' % 1 }}",
    "percent of much": "{{ ('%(a)s' * 100000) % {'a': 'x' * 100000} }}",
    "format filter": "{{ '%3000000000s'|format('a') }}",
    "times": "{{ 'a' * 10**10 }}",
    "times, turned": "{{ 10**10 * 'a' }}",
    "times of a list": "{{ ([1] * 10**9)|length }}",
    "center": "{{ 'a'|center(10**10) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "zfill": "{{ 'a'.zfill(10**10) }}",
    "zfill of markup": "{{ ('a'|safe).zfill(10**10) }}",
    "expandtabs": "{{ ('\t' * 1000).expandtabs(tabsize=10**8) }}",
    "indent": "{{ ('a\n' * 1000)|indent(10**7) }}",
    "indent by a text": "{{ ('a\n' * 1000)|indent('x' * 100000) }}",
    "replace": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "replace method": "{{ ('a' * 100000).replace('a', 'b' * 100000) }}",
    "join": "{{ range(99999)|join('x' * 100000) }}",
    "join method": "{{ ('x' * 100000).join(range(99999)|map('string')) }}",
    "translate": "{{ ('a' * 1000000).translate({97: 'b' * 1000000}) }}",
    "to_bytes": "{{ (5).to_bytes(10**10, 'big') }}",
    "tojson indent": "{{ [[[[1] * 10000]]]|tojson(indent=10**7) }}",
    "tojson separators": "{{ ([1] * 100000)|tojson(separators=['x' * 100000, 'y']) }}",
    "batch": "{{ [1]|batch(10**9, 0)|list }}",
    "range": "{{ range(10**9)|list }}",
    "lipsum": "{{ lipsum(10**9) }}",
    "lipsum of nothing": "{{ lipsum(10**9, min=-5, max=0) }}",
    "power": "{{ (10**1000)**(10**1000) }}",
    "round": "{{ 5|round(-10**9) }}",
    "round up": "{{ 5|round(10**9, 'ceil') }}",
    "concatenated": TEXT + "{{ " + " ~ ".join("ab" * 50) + " }}",
    "doubled by ~": DOUBLING.replace("STEP", "ns.t = ns.t ~ ns.t"),
    "doubled by +": DOUBLING.replace("STEP", "ns.t = ns.t + ns.t"),
    "doubled list": DOUBLING.replace("STEP", "ns.l = ns.l + ns.l"),
    "doubled output": NS
    + "{% for i in range(60) %}{% set x %}{{ ns.t }}{{ ns.t }}{% endset %}{% set ns.t = x %}{% endfor %}",
    "squared": DOUBLING.replace("STEP", "ns.n = ns.n * ns.n"),
    "list of itself": DOUBLING.replace("STEP", "ns.l = [ns.l, ns.l]"),
    "tuple of itself": DOUBLING.replace("STEP", "ns.u = (ns.u, ns.u)") + "{{ {ns.u: 1} }}",
    "dict of itself": DOUBLING.replace("STEP", "ns.d = {'a': ns.d, 'b': ns.d}") + "{{ ns.d|tojson }}",
    "dict() of itself": DOUBLING.replace("STEP", "ns.d = dict(a=ns.d, b=ns.d)") + "{{ ns.d|tojson }}",
    "arguments": TEXT + "{% set c = cycler(" + ",".join("ab" * 50) + ") %}{{ c.items }}",
    "slices": NS + TEXT + "{% for i in range(9999) %}{% set ns.l = ns.l + [a[i:]] %}{% endfor %}",
    "split": "{{ ('ab,' * 1000000).split(',')|length }}",
    "splitlines": "{{ ('\n' * 3000000).splitlines()|length }}",
    "characters": "{{ ('ab' * 1000000)|list|length }}",
    "static text": "{% for i in range(99999) %}{% for j in range(99) %}" + "x" * 10000 + "{% endfor %}{% endfor %}",
    "static text in a macro": "{% macro f() %}{% for i in range(99999) %}"
    + "x" * 99999
    + "{% endfor %}{% endmacro %}{{ f()|length }}",
    "time format": "{{ strftime_now('%Y' * 1000000) }}",
    "source": "{{ 1 }}" * 100000,
    "parts": "{{a}}" * 20000,
}
TOO_DEEP = {
    "macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "block": "{% block a %}{{ self.a() }}{% endblock %}",
    "tuples": NS + "{% for i in range(99999) %}{% set ns.u = (ns.u,) %}{% endfor %}{{ {ns.u: 1} }}",
    "iterators": NS + "{% for i in range(99999) %}{% set ns.l = ns.l|map('string') %}{% endfor %}",
    "iterators in arguments": NS + "{% for i in range(99999) %}{% set ns.l = [1]|map('default', ns.l) %}{% endfor %}",
    "parentheses": "{{ " + "(" * 40000 + "1" + ")" * 40000 + " }}",
    "operators": "{{ " + "1+" * 5000 + "1 }}",
    "attributes": "{{ a" + ".b" * 5000 + " }}",
}
TOO_SLOW = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}" + "{% endfor %}" * 3,
    "tests of a loop": "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
    "calls": "{% macro f(n) %}{% if n < 60 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}",
    "comparisons": TEXT + "{{ 1 if " + " and ".join(["a == b"] * 2500) + " }}",
    "attributes of items": "{{ (range(99999)|list)|map(attribute='" + "real." * 20000 + "real')|list|length }}",
    "keys of a sort": "{{ (range(99999)|list)|sort(attribute='" + "real," * 20000 + "real')|length }}",
    "in a list": "{{ range(90000)|select('in', range(90000)|list)|list|length }}",
    "generation": "{% generation %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
    "{% endfor %}{% endgeneration %}",
}
# Operations that take the square of the size.
SQUARES = {
    "rfind": "{{ ('a' * 3000000).rfind('b' ~ 'a' * 1500000) }}",
    "rsplit": "{{ ('a' * 3000000).rsplit('b' ~ 'a' * 1500000) }}",
    "strip": "{{ ('b' * 3000000).strip('a' * 900000 ~ 'b') }}",
    "trim": "{{ ('b' * 3000000)|trim('a' * 900000 ~ 'b') }}",
    "sum": "{{ ([[1]] * 90000)|sum(start=[])|length }}",
    "striptags": "{{ ('<!---->' * 500000)|striptags }}",
    "striptags of markup": "{{ ('<!---->' * 500000)|safe.striptags() }}",
}
UNTYPED = {
    "break": "{% break %}",
    "21 loops": "{% for a in [1] %}" * 21 + "{% endfor %}" * 21,
    "cycler": "{{ cycler() }}",
    "encode": "{{ 'a'.encode('x') }}",
    "truncate": "{{ ('abc' * 100)|truncate(1) }}",
    "digits": "{{ " + "9" * 5000 + " }}",
    "hexadecimal": "{{ 0x" + "f" * 5000 + " }}",
    "stop": "{{ namespace(**{'a': 1}).b.c }}",
    "include": "{% include 'x' %}",
    "extends": "{% extends 5 %}",
    "autoescape": "{% autoescape 'a' * 10**10 %}{% endautoescape %}",
    "raise": "{{ raise_exception('x' * 3000000) }}",
    "a long name": "{{ x['a' * 3000000].y }}",
    "a lone surrogate": "{{ '\\ud800'.encode() }}",
}
ALL = {
    f"{kind}: {name}": template
    for kind, templates in {
        "large": TOO_LARGE,
        "deep": TOO_DEEP,
        "slow": TOO_SLOW,
        "square": SQUARES,
        "untyped": UNTYPED,
    }.items()
    for name, template in templates.items()
}


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> float:
    """A shorter limit of time, and how many seconds of the processor a template may take with it."""
    monkeypatch.setattr(chat_limits, "SECONDS", 0.1)
    return 1.5


@pytest.mark.parametrize("name", ALL)
def test_what_asks_for_too_much_is_refused(name: str, hurry: float) -> None:
    begin = time.thread_time()
    with pytest.raises(colm.ChatTemplateError) as error:
        render_chat(HELLO, ALL[name])
    assert time.thread_time() - begin < hurry
    assert len(str(error.value)) < 1000


def test_the_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_limits, "SECONDS", 0.3)
    begin = time.thread_time()
    with pytest.raises(colm.ChatTemplateError, match=r"0\.3 seconds"):
        render_chat(HELLO, TOO_SLOW["loops"])
    assert 0.3 <= time.thread_time() - begin < 1.0


def test_limits_grow_with_what_is_given() -> None:
    content = "x" * 5_000_000
    messages = [{"role": "user", "content": content}]
    assert (
        render_chat(messages, "{{ messages[0].content }}{{ messages[0].content|upper }}") == content + content.upper()
    )
    with pytest.raises(colm.ChatTemplateError):
        render_chat(HELLO, "{{ 'x' * 5000000 }}")
    for template in ("{{ messages[0].content * 5 }}", "{{ messages[0].content }}" * 5):
        with pytest.raises(colm.ChatTemplateError):
            render_chat(messages, template)


def test_long_conversations_are_no_attack() -> None:
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} " + "words " * 100} for i in range(1000)]
    growing = (
        "{% set ns = namespace(l=[], t='') %}{% for m in messages %}{% set ns.l = ns.l + [m] %}"
        "{% set ns.t = ns.t ~ m.content|trim %}"
        "{% endfor %}{{ ns.l|length }}{{ ns.t }}"
    )
    expected = "1000" + "".join(turn["content"].strip() for turn in turns)
    assert render_chat(turns, growing) == expected


def test_an_interrupt_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(chat_limits.Budget, "tick", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_chat(HELLO, "{{ 1 + 1 }}")


def _render_hostile(seeds: range, limit: float) -> int:
    """Renders a template for each seed; how many gave a text."""
    n_rendered = 0
    for seed in seeds:
        begin = time.thread_time()
        try:
            render_chat(HELLO, Hostile(seed).template())
            n_rendered += 1
        except colm.ChatTemplateError:
            pass
        except Exception as error:
            pytest.fail(f"seed {seed} raised {error!r}")
        assert time.thread_time() - begin < limit, f"seed {seed}"
    return n_rendered


def test_random_hostile_templates(hurry: float) -> None:
    assert _render_hostile(range(40), hurry) > 4  # else they show little


@pytest.mark.slow
def test_many_random_hostile_templates(hurry: float) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert _render_hostile(range(1000, 2000), hurry) > 100
    if sys.platform == "linux":  # elsewhere in other units
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800_000  # KiB
