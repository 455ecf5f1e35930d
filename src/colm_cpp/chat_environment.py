"""The Jinja environment that chat templates are written for, with a bound on all that they can ask for.

What templates find here (helpers, filters, whitespace) is what Hugging Face's ``apply_chat_template`` gives them.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from jinja2.tests import TESTS
from jinja2.utils import Namespace, generate_lorem_ipsum
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from .chat_limits import MAX_ITEMS, Budget, LimitError

__all__ = ["compiled", "limited"]

MAX_SOURCE = 125_000
"""Characters of a template; the longest in use have some 17,000."""
MAX_NODES = 20_000
"""Parts of a parsed template; the largest in use have some 1,300."""
_MAX_WIDTH = 10_000
_MAX_SMALL = 50_000
# Width and precision of a field in "%-10.3f" and "%(name)s".
_PERCENT_FIELD = re.compile(r"[%)][-+ #0]*([0-9]+|\*)?(?:\.([0-9]+|\*))?")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"

_state = threading.local()
T = TypeVar("T")


def _budget() -> Budget:
    return _state.budget  # type: ignore[no-any-return]


@contextmanager
def limited() -> Iterator[Budget]:
    """What is compiled and rendered inside, in this thread, shares one budget."""
    outer = getattr(_state, "budget", None)  # a signal handler may render too
    _state.budget = Budget()
    try:
        yield _state.budget
    finally:
        _state.budget = outer


# -- filters and methods whose result can be much larger than what they take -----------------------------------


def _n_lines(text: str) -> int:
    return 1 + sum(text.count(end) for end in _LINE_ENDS)


def _whole(value: object) -> int:
    # A value of another type is refused by the operation itself.
    return value if isinstance(value, int) else 0


def _check_width(_: object, width: object = 80, *__: object, **___: object) -> None:
    _budget().room(_whole(width))


def _check_replace(text: object, old: object, new: object, *_: object, **__: object) -> None:
    text, old, new = str(text), str(old), str(new)
    _budget().room(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _check_indent(text: object, width: object = 4, *_: object, **__: object) -> None:
    text = str(text)
    n_lines = _n_lines(text)
    _budget().items(n_lines)
    _budget().room(len(text) + n_lines * (len(width) if isinstance(width, str) else _whole(width)))


def _check_chars(text: object, chars: object = None) -> None:
    # Each character of the text is looked up in all of them.
    if isinstance(chars, str):
        _check_search(text, chars)


def _check_search(text: object, part: object = None, *_: object, **__: object) -> None:
    if isinstance(part, str) and len(part) * len(str(text)) > 64 * _budget().max_weight:
        raise LimitError(f"it looks for {len(part)} characters in a text of {len(str(text))}")


def _check_join(items: list[object], d: object = "", attribute: object = None) -> None:
    _budget().room(_budget().weigh(items) + len(items) * len(str(d)))


def _check_sum(items: list[object], attribute: object = None, start: object = 0) -> None:
    # Python adds lists one by one, copying each time.
    if not isinstance(start, (int, float)) and len(items) > 1000:
        _budget().items(len(items) ** 2)


def _check_batch(_: object, linecount: object, *__: object, **___: object) -> None:
    _budget().items(_whole(linecount))


def _check_round(_: object, precision: object = 0, *__: object, **___: object) -> None:
    if abs(_whole(precision)) > 400:
        raise LimitError("it rounds to more than 400 digits")


def _check_small(value: object, *_: object, **__: object) -> None:
    # Filters that go through a text piece by piece, or more than once; templates for chats hardly need them.
    size = _budget().weigh(value)
    if size > _MAX_SMALL:
        raise LimitError(f"it uses a slow filter on a value of size {size}; at most {_MAX_SMALL} is allowed")


def _check_percent(text: object, *args: object, **kwargs: object) -> None:
    """For ``text % args``."""
    text, budget = str(text), _budget()
    width = 0
    for digits in {number for field in _PERCENT_FIELD.findall(text) for number in field if number}:
        for number in map(_whole, args) if digits == "*" else [int(digits) if len(digits) < 6 else _MAX_WIDTH + 1]:
            width = max(width, abs(number))
    if width > _MAX_WIDTH:
        raise LimitError(f"it formats to more than {_MAX_WIDTH} characters")
    budget.room(len(text) + text.count("%") * (width + budget.weigh(args) + budget.weigh(kwargs)))


def _check_tabs(text: str, tabsize: object = 8) -> None:
    _budget().room(len(text) + text.count("\t") * _whole(tabsize))


def _check_lines(text: str, *_: object, **__: object) -> None:
    _budget().items(_n_lines(text))


_Check = Callable[..., None]
_FILTER_CHECKS: dict[str, _Check] = {
    "batch": _check_batch,
    "center": _check_width,
    "format": _check_percent,
    "indent": _check_indent,
    "join": _check_join,
    "replace": _check_replace,
    "round": _check_round,
    "sum": _check_sum,
    "trim": _check_chars,
    **dict.fromkeys(
        ("filesizeformat", "pprint", "striptags", "title", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"),
        _check_small,
    ),
}
# These read all of what they are given before they go on.
_READ_ALL = frozenset({"groupby", "join", "list", "max", "min", "sort", "sum"})
# These give back what is there already.
_GIVE_BACK = frozenset({"attr", "d", "default", "first", "last", "max", "min", "random", "safe", "string"})
_METHOD_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _check_width),
    **dict.fromkeys(("lstrip", "rstrip", "strip"), _check_chars),
    # Searching from the end takes the product of both lengths; from the beginning, their sum.
    **dict.fromkeys(("rfind", "rindex", "rpartition", "rsplit"), _check_search),
    **dict.fromkeys(("striptags", "unescape"), _check_small),  # of Markup
    "expandtabs": _check_tabs,
    "replace": _check_replace,
    "splitlines": _check_lines,
}
_NOT_ALLOWED: dict[type[Any], frozenset[str]] = {
    str: frozenset({"encode", "maketrans", "translate"}),
    int: frozenset({"from_bytes", "to_bytes"}),
    float: frozenset({"fromhex"}),
    dict: frozenset({"fromkeys"}),
    # A view of the dict whose size is not known.
    **dict.fromkeys((type({}.keys()), type({}.values()), type({}.items())), frozenset({"mapping"})),
}
# Tests that take no longer on a large value.
_QUICK_TESTS = frozenset(
    [
        "boolean",
        "callable",
        "defined",
        "divisibleby",
        "even",
        "false",
        "filter",
        "float",
        "integer",
        "iterable",
        "mapping",
        "none",
        "number",
        "odd",
        "sameas",
        "sequence",
        "string",
        "test",
        "true",
        "undefined",
    ]
)


def _bounded_filter(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    check = _FILTER_CHECKS.get(name)
    at = 1 if hasattr(original, "jinja_pass_arg") else 0  # Jinja's own argument comes first

    @functools.wraps(original)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget = _budget()
        budget.tick()
        if name in _READ_ALL and len(args) > at:
            value = args[at]
            if isinstance(value, str):
                budget.items(len(value))
            elif isinstance(value, (Iterator, range)):
                args = (*args[:at], budget.listed(value), *args[at + 1 :])
        if check is not None:
            check(*args[at:], **kwargs)
        result = original(*args, **kwargs)
        if isinstance(result, Iterator):
            return budget.lazily(result, *args[at:], *kwargs.values())
        return result if name in _GIVE_BACK else budget.made(result)

    return bounded


def _bounded_test(name: str, original: Any) -> Any:
    if name in _QUICK_TESTS:
        return original

    @functools.wraps(original)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _budget().tick()
        return original(*args, **kwargs)

    return bounded


def _split(owner: str, name: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    parts: list[str] = getattr(owner, name)(sep, maxsplit if 0 <= maxsplit < MAX_ITEMS else MAX_ITEMS)
    return _budget().made(parts)


class _Formatter(SandboxedFormatter):
    """``str.format`` with bounds on widths and on the whole."""

    _size = 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        """One field."""
        budget = _budget()
        budget.tick()
        if any(len(digits) > 5 or int(digits) > _MAX_WIDTH for digits in re.findall(r"[0-9]+", format_spec)):
            raise LimitError(f"it formats to more than {_MAX_WIDTH} characters ({format_spec[:80]!r})")
        text = super().format_field(value, format_spec)
        self._size += len(text)
        budget.room(self._size)
        return text


class _EscapeFormatter(_Formatter, SandboxedEscapeFormatter):
    """The same for ``Markup``."""


# -- what templates find ---------------------------------------------------------------------------------------


def _raise_exception(message: object) -> None:
    raise jinja2.TemplateError(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML, which would change the prompt.
    budget = _budget()
    weight = budget.weigh(value)
    if indent is not None:
        width = len(indent) if isinstance(indent, str) else _whole(indent)
        budget.room(weight // 16 * width * (1 + budget.depth(value)))
    for separator in separators or ():
        budget.room(weight // 16 * len(separator))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    if len(form) > 1000:
        raise LimitError(f"its time format has {len(form)} characters; at most 1000 are allowed")
    return datetime.datetime.now().strftime(form)


def _lipsum(n: int = 5, html: bool = True, min: int = 20, max: int = 100) -> str:
    if n > 100 or max > 1000:
        raise LimitError("it wants more than 100 paragraphs of 1000 words")
    return generate_lorem_ipsum(n, html, min, max)


class _Dict:
    """``dict(...)`` without the class, whose attributes would lead out of the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class _Namespace(Namespace):
    """``namespace(...)`` without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args  # so that an attribute may be called "self"
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        _budget().tick()
        return _budget().made(super().__repr__())


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, such as {name[:80]!r}")


class _Generation(Extension):
    """``{% generation %}``: templates mark with it what the assistant wrote. The text is the same without it."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's interface)

    def parse(self, parser: Parser) -> nodes.Node:
        """The block as the call of a macro, as Hugging Face has it: names set inside stay inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


# -- templates with looks at the time in them ------------------------------------------------------------------


def _unchanged(value: T) -> T:
    _budget().tick()
    return value


def _made(value: T) -> T:
    return _budget().made(value)


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    _budget().tick()
    return _budget().made(value[start:stop:step])


@jinja2.pass_eval_context
def _concat(context: nodes.EvalContext, parts: tuple[Any, ...]) -> str:
    budget = _budget()
    budget.tick()
    budget.room(budget.weigh(parts) - 16 * len(parts))
    return budget.made(markup_join(parts) if context.autoescape else str_join(parts))


@jinja2.pass_context
def _written(_: Context, value: Any) -> str:
    """What ``{{ value }}`` and the text between tags become."""
    budget = _budget()
    budget.tick()
    # The context's argument is not used, but with it Jinja computes no output while it compiles.
    return budget.made(value if isinstance(value, str) else str(value))


class _Bounds(NodeTransformer):
    """Adds to a parsed template what keeps it within its budget."""

    _n_nodes = 0

    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """One node, and all below it."""
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise LimitError(f"it has more than {MAX_NODES} parts")
        _budget().tick()
        return super().visit(node, *args, **kwargs)

    @staticmethod
    def _filter(name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
        return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)

    def _looking_at_the_time(self, node: nodes.Node) -> nodes.Node:
        # A property, whose look costs less than a call through the sandbox.
        self.generic_visit(node)
        look = nodes.ExprStmt(nodes.EnvironmentAttribute("tick"), lineno=node.lineno)
        node.body.insert(0, look)  # type: ignore[attr-defined]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """A loop: before each round, and before each test of an item."""
        self._looking_at_the_time(node)
        if node.test is not None:
            node.test = self._filter("_unchanged", node.test)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        """A macro: at each call."""
        return self._looking_at_the_time(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        """A block given to a macro: at each call."""
        return self._looking_at_the_time(node)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        """Text between tags: counted as output each time it is written."""
        return nodes.MarkSafeIfAutoescape(nodes.Const(node.data, lineno=node.lineno), lineno=node.lineno)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """``a ~ b``"""
        self.generic_visit(node)
        return self._filter("_concat", nodes.Tuple(node.nodes, "load", lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Comparisons go through all of both values."""
        self.generic_visit(node)
        for operand in node.ops:
            operand.expr = self._filter("_unchanged", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """``a[b:c]``, which Jinja does not ask the sandbox about."""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        none = nodes.Const(None, lineno=node.lineno)
        part = node.arg
        return self._filter("_slice", node.node, part.start or none, part.stop or none, part.step or none)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        """``[a, b]``"""
        self.generic_visit(node)
        return self._filter("_made", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """``{a: b}``"""
        self.generic_visit(node)
        return self._filter("_made", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """``(a, b)``, but not the names that are assigned to."""
        self.generic_visit(node)
        return self._filter("_made", node) if node.ctx == "load" else node


class _Generator(CodeGenerator):
    def visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> Any:
        """One node; compiling takes time too."""
        _budget().tick()
        return super().visit(node, *args, **kwargs)


class _Environment(ImmutableSandboxedEnvironment):
    """Sandboxed and immutable, because a template is a program out of a downloaded file, and bounded likewise."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        # trim_blocks and lstrip_blocks are what templates are written for. Nothing is computed while compiling.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,
            finalize=_written,
            cache_size=0,
        )
        self.filters = {name: _bounded_filter(name, f) for name, f in {**FILTERS, "tojson": _tojson}.items()}
        self.filters |= {"_unchanged": _unchanged, "_made": _made, "_slice": _slice, "_concat": _concat}
        self.tests = {name: _bounded_test(name, f) for name, f in TESTS.items()}
        self.globals |= {
            "dict": _Dict(),
            "lipsum": _lipsum,
            "namespace": _Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    @property
    def tick(self) -> None:
        """Looks at the time."""
        _budget().tick()

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may have an attribute."""
        for kind, names in _NOT_ALLOWED.items():
            if attr in names and isinstance(obj, kind):
                return False
        if isinstance(obj, (bytes, bytearray, memoryview)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``; filters that take the name of an attribute come here too."""
        _budget().tick()
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, where its result will not be too large."""
        budget = _budget()
        budget.tick()
        if operator == "*":
            for value, factor in ((left, right), (right, left)):
                if isinstance(factor, int):
                    if isinstance(value, int):
                        budget.bits(value.bit_length() + factor.bit_length())
                    elif isinstance(value, str):
                        budget.room(len(value) * factor)
                    elif not isinstance(value, float):
                        budget.room(budget.weigh(value) * factor)
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int):
                budget.bits(left.bit_length() * abs(right))
        elif operator == "%":
            if isinstance(left, str):
                _check_percent(left, *(right if isinstance(right, tuple) else (right,)))
        elif operator == "+" and isinstance(left, str) and isinstance(right, str):
            budget.room(len(left) + len(right))
        return budget.made(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``format`` and ``format_map`` of a text, within bounds."""
        owner = getattr(value, "__self__", None)
        if not isinstance(value, (types.MethodType, types.BuiltinMethodType)) or not isinstance(owner, str):
            return None
        if value.__name__ not in ("format", "format_map"):
            return None
        kind = type(owner)

        def formatted(*args: Any, **kwargs: Any) -> str:
            formatter = _EscapeFormatter(self, escape=owner.escape) if isinstance(owner, Markup) else _Formatter(self)
            if value.__name__ == "format_map":
                (mapping,) = args
                return kind(formatter.vformat(owner, (), mapping))
            return kind(formatter.vformat(owner, args, kwargs))

        return formatted

    def call(
        self, context: Context, obj: Any, /, *args: Any, _loop_vars: Any = None, _block_vars: Any = None, **kwargs: Any
    ) -> Any:
        """A call of anything that is not a filter or a test."""
        budget = _budget()
        budget.tick()
        budget.enter()
        try:
            budget.room(budget.weigh(args) + budget.weigh(kwargs))
            owner = obj.__self__ if isinstance(obj, (types.BuiltinMethodType, types.MethodType)) else None
            if isinstance(owner, str):
                name = obj.__name__
                if name in ("rsplit", "split"):
                    if name == "rsplit":
                        _check_search(owner, *args, **kwargs)
                    return _split(owner, name, *args, **kwargs)
                if name == "join" and args:
                    args = (budget.listed(args[0]), *args[1:])
                    _check_join(args[0], owner)
                elif name in _METHOD_CHECKS:
                    _METHOD_CHECKS[name](owner, *args, **kwargs)
            result = super().call(context, obj, *args, _loop_vars=_loop_vars, _block_vars=_block_vars, **kwargs)
            return result if isinstance(owner, dict) else budget.made(result)  # what a dict gives is there already
        finally:
            budget.leave()


_environment = _Environment()


@functools.lru_cache(maxsize=32)
def compiled(source: str) -> jinja2.Template:
    """The template that ``source`` describes. Requires :func:`limited` around it.

    Raises:
        jinja2.TemplateSyntaxError: it cannot be parsed.
        LimitError: it is too large.
    """
    if len(source) > MAX_SOURCE:
        raise LimitError(f"it has {len(source)} characters; at most {MAX_SOURCE} are allowed")
    tree = _Bounds().visit(_environment.parse(source))
    return jinja2.Template.from_code(_environment, _environment.compile(tree), _environment.globals)
