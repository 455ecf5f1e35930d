"""Random chat templates that ask for as much as they can.

A template that fails at its first operation shows little, so most operations get values of the type that they take:
texts, numbers, lists. Some get any other.
"""

from __future__ import annotations

import random

from jinja2.defaults import DEFAULT_FILTERS, DEFAULT_TESTS

_FILTERS = sorted({*DEFAULT_FILTERS, "tojson"})
_TESTS = sorted(name for name in DEFAULT_TESTS if name.isidentifier())
_METHODS = sorted(
    name
    for kind in (str, list, dict, int, float, tuple, type({}.items()))
    for name in dir(kind)
    if not name.startswith("__")
)

# T, N, L, M, A: a text, a number, a list, a mapping, anything. A name of the template: ns.t, ns.n, ns.l, ns.m.
_ATOMS = {
    "T": (
        *(
            "'a'",
            "'ab '",
            "'日本'",
            "'\\n'",
            "'\\t'",
            "'%s'",
            "'%5d'",
            "'%9999999999d'",
            "'%(a)s'",
            "'{}'",
            "'{0}'",
            "','",
        ),
        *(
            "'{:>9999999999}'",
            "'{0!r:.9}'",
            "'<!---->'",
            "'&'",
            "'http://a.b '",
            "''",
            "'f'",
            "'role'",
            "'\\ud800'",
            "x",
        ),
    ),
    "N": (
        "0",
        "1",
        "-1",
        "2",
        "3",
        "7",
        "40",
        "300",
        "5000",
        "99999",
        "10000000000",
        "10**30",
        "2.5",
        "1e308",
        "-99999999",
    ),
    "L": (
        "[]",
        "[1]",
        "[1, 'a']",
        "('a', 'b')",
        "messages",
        "range(60)",
        "range(99999)",
        "[ns.t, ns.l]",
        "[ns.m] * 99",
    ),
    "M": ("{}", "{'a': 1}", "messages[0]", "{'a': ns.t, 'b': ns.m}", "{ns.t: ns.l}", "dict(a=ns.m, b=ns.m)"),
    "A": (
        "none",
        "true",
        "undefined",
        "ns",
        "dict",
        "namespace()",
        "cycler",
        "joiner",
        "lipsum",
        "self",
        "loop",
        "tools",
    ),
}
# What gives a value of a type.
_MAKERS = {
    "T": (
        *("(T + T)", "(T ~ T)", "(A ~ A)", "(T * N)", "(T % A)", "(T % (A, A))", "(T % M)", "T[N:N]", "T[::N]", "T[N]"),
        *(
            "T|center(N)",
            "T|indent(N)",
            "T|indent(T, true)",
            "T|replace(T, T)",
            "T|replace(T, T, N)",
            "T|truncate(N, true, T)",
        ),
        *(
            "T|wordwrap(N)",
            "T|wordwrap(N, true, T)",
            "T|trim(T)",
            "T|title",
            "T|upper",
            "T|reverse",
            "T|striptags",
            "T|urlize",
        ),
        *(
            "T|escape",
            "T|safe",
            "T|urlencode",
            "T|format(A)",
            "T|format(a=A)",
            "L|join(T)",
            "L|join(T, T)",
            "A|string",
            "A|pprint",
        ),
        *(
            "A|tojson",
            "A|tojson(indent=N)",
            "A|tojson(separators=(T, T))",
            "A|tojson(N, N, L, N)",
            "N|filesizeformat",
            "M|xmlattr",
        ),
        *(
            "T.center(N, T)",
            "T.ljust(N)",
            "T.rjust(N)",
            "T.zfill(N)",
            "T.expandtabs(N)",
            "T.replace(T, T)",
            "T.join(L)",
            "T.strip(T)",
        ),
        *(
            "T.format(A, A)",
            "T.format(a=A)",
            "T.format_map(M)",
            "T.lower()",
            "T.swapcase()",
            "T.title()",
            "T.removeprefix(T)",
        ),
        *(
            "L|first",
            "L|last",
            "L|random",
            "f(T)",
            "f(A, A)",
            "caller()",
            "strftime_now(T)",
            "(T if A else T)",
            "(A or T)",
            "A|d(T)",
        ),
        *(
            "lipsum(N, false, N, N)",
            "namespace(a=A)|string",
            "L|map('string')|join(T)",
            "T|list|join(T)",
            "(T|safe).join(L)",
        ),
    ),
    "N": (
        *(
            "(N + N)",
            "(N - N)",
            "(N * N)",
            "(N / N)",
            "(N // N)",
            "(N % N)",
            "(N ** N)",
            "-N",
            "N|round(N)",
            "N|round(N, 'floor')",
        ),
        *(
            "T|int",
            "T|int(N, N)",
            "T|float",
            "A|length",
            "L|sum",
            "L|max",
            "L|min",
            "T.count(T)",
            "T.find(T)",
            "T.rfind(T)",
            "T|wordcount",
        ),
        *(
            "(A == A)",
            "(A < A)",
            "(T in T)",
            "(A in L)",
            "(A not in M)",
            "N.bit_length()",
            "N.to_bytes(N, T)",
            "L.index(A)",
            "L.count(A)",
        ),
        *(
            "(T is lower)",
            "(A is in L)",
            "(A is eq A)",
            "(T is escaped)",
            "loop.length",
            "loop.index",
            "loop.changed(A)",
            "(T == T)",
        ),
    ),
    "L": (
        *(
            "(L + L)",
            "(L * N)",
            "L[N:N]",
            "L[::N]",
            "[A, A]",
            "(A, A)",
            "[L, L]",
            "L|list",
            "L|sort",
            "L|sort(true, true, T)",
            "L|unique|list",
        ),
        *(
            "L|batch(N)|list",
            "L|batch(N, A)|list",
            "L|slice(N, A)|list",
            "L|groupby(T)",
            "L|map('upper')|list",
            "L|map('center', N)|list",
        ),
        *(
            "L|map(attribute=T)|list",
            "L|map('replace', T, T)",
            "L|select('in', L)|list",
            "L|reject('eq', A)",
            "L|selectattr(T, 'in', A)|list",
        ),
        *(
            "T.split(T)",
            "T.split()",
            "T.rsplit(T, N)",
            "T.splitlines()",
            "T.partition(T)",
            "T|list",
            "L|reverse|list",
            "L|map('list')|list",
        ),
        *(
            "M|dictsort",
            "M|items|list",
            "M.items()|list",
            "M.keys()",
            "M.values()|list",
            "range(N)",
            "range(N, N, N)|list",
            "L|sum(start=[])",
        ),
        *(
            "varargs",
            "L|map('tojson')|list",
            "[L] * N",
            "L|map('map', 'string')|list",
            "L|unique",
            "L|map('d', L)",
            "(L or L)",
        ),
    ),
    "M": (
        "dict(M)",
        "dict(L)",
        "dict(M, a=A)",
        "{'a': A, 'b': A}",
        "{A: A}",
        "{L: 1}",
        "{T: M}",
        "M.copy()",
        "kwargs",
        "(M or M)",
        "L|first",
    ),
    "A": (
        "T",
        "N",
        "L",
        "M",
        "T",
        "L",
        "A[A]",
        "A[T]",
        "L[N]",
        "M[T]",
        "M.get(A)",
        "cycler(A, A).next()",
        "joiner(T)()",
        "(A and A)",
    ),
}


class Hostile:
    """Writes one template for each seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def template(self) -> str:
        """The template."""
        start = "{% set ns = namespace(t='abcdefghij', n=3, l=[1, 'a'], m={'a': 1}) %}{% set x = 'ab ' * 99 %}"
        macro = "{% macro f(x, y=1) %}" + self._statements(1) + "{% endmacro %}"
        return start + macro + self._statements(3)

    def _statements(self, depth: int) -> str:
        return "".join(self._statement(depth) for _ in range(self._random.randint(1, 3)))

    def _statement(self, depth: int) -> str:
        pick = self._random.randrange(16)
        kind = self._random.choice("TNLMA")
        value = self._value(kind, self._random.randint(0, 3))
        if depth <= 0 or pick < 3:
            return "{{ " + value + " }}"
        if pick < 8:
            name = "x" if kind == "A" else "ns." + kind.lower()
            return "{% set " + name + " = " + value + " %}"
        inside = self._statements(depth - 1)
        if pick < 12:
            over = self._random.choice(("range(60)", "range(60)", "range(99999)", "ns.l", self._value("L", 2)))
            test = self._random.choice(("", "", "", " if " + self._value("N", 1), " recursive"))
            leave = self._random.choice(("", "", "", "{% break %}", "{% continue %}", "{{ loop(ns.l) }}"))
            return "{% for y in " + over + test + " %}" + inside + leave + "{% endfor %}"
        if pick == 12:
            return "{% if " + value + " %}" + inside + "{% else %}" + self._statement(depth - 1) + "{% endif %}"
        if pick == 13:
            return "{% set x %}{{ x }}" + inside + "{{ x }}{% endset %}"
        tag = self._random.choice(
            (
                "call f(A)",
                "generation",
                "filter center(N)",
                "filter indent(N)",
                "with y = A",
                "autoescape true",
                "autoescape N",
                "block b",
            )
        )
        name = tag.split()[0]
        return "{% " + self._filled(tag, 1) + " %}" + inside + "{% end" + name + " %}"

    def _value(self, kind: str, depth: int) -> str:
        chance = self._random.random()
        if chance < 0.02:
            return f"({self._value('A', depth - 1)}).{self._random.choice(_METHODS)}({self._value('A', depth - 1)})"
        if chance < 0.04:
            return f"({self._value('A', depth - 1)})|{self._random.choice(_FILTERS)}({self._value('A', depth - 1)})"
        if chance < 0.05:
            return f"({self._value('A', depth - 1)} is {self._random.choice(_TESTS)}({self._value('A', 0)}))"
        if kind != "A" and chance < (0.3 if depth > 0 else 0.6):
            return f"ns.{kind.lower()}"
        if depth <= 0:
            return self._random.choice(_ATOMS[kind])
        return "(" + self._filled(self._random.choice(_MAKERS[kind]), depth - 1) + ")"

    def _filled(self, form: str, depth: int) -> str:
        """``form`` with values in place of its capital letters."""
        parts = []
        for i, letter in enumerate(form):
            alone = not (form[i + 1 : i + 2].isalnum() or form[max(i - 1, 0) : i].isalnum())
            parts.append(self._value(letter, depth) if letter in _ATOMS and alone else letter)
        return "".join(parts)
