"""The Jinja environment that chat templates are written for, with a bound on all that they can ask for.

What templates find here (helpers, filters, whitespace) is what Hugging Face's ``apply_chat_template`` gives them.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import types
from collections.abc import Callable
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

from .chat_checks import (
    MAX_WIDTH,
    METHOD_CHECKS,
    NOT_ALLOWED,
    bounded_filter,
    bounded_test,
    check_join,
    check_percent,
    check_search,
    split,
    whole,
)
from .chat_limits import LimitError, current

__all__ = ["compiled"]

MAX_SOURCE = 125_000
"""Characters of a template; the longest in use have some 17,000."""
MAX_NODES = 20_000
"""Parts of a parsed template; the largest in use have some 1,300."""

T = TypeVar("T")


class _Formatter(SandboxedFormatter):
    """``str.format`` with bounds on widths and on the whole."""

    _size = 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        """One field."""
        budget = current()
        budget.tick()
        if any(len(digits) > 5 or int(digits) > MAX_WIDTH for digits in re.findall(r"[0-9]+", format_spec)):
            raise LimitError(f"it formats to more than {MAX_WIDTH} characters ({format_spec[:80]!r})")
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
    budget = current()
    weight = budget.weigh(value)
    if indent is not None:
        width = len(indent) if isinstance(indent, str) else whole(indent)
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
        current().tick()
        return current().made(super().__repr__())


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
    current().tick()
    return value


def _made(value: T) -> T:
    return current().made(value)


def _slice(value: Any, start: Any, stop: Any, step: Any) -> Any:
    current().tick()
    return current().made(value[start:stop:step])


@jinja2.pass_eval_context
def _concat(context: nodes.EvalContext, parts: tuple[Any, ...]) -> str:
    budget = current()
    budget.tick()
    budget.room(budget.weigh(parts) - 16 * len(parts))
    return budget.made(markup_join(parts) if context.autoescape else str_join(parts))


@jinja2.pass_context
def _written(_: Context, value: Any) -> str:
    """What ``{{ value }}`` and the text between tags become."""
    budget = current()
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
        current().tick()
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
        current().tick()
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
        self.filters = {name: bounded_filter(name, f) for name, f in {**FILTERS, "tojson": _tojson}.items()}
        self.filters |= {"_unchanged": _unchanged, "_made": _made, "_slice": _slice, "_concat": _concat}
        self.tests = {name: bounded_test(name, f) for name, f in TESTS.items()}
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
        current().tick()

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may have an attribute."""
        for kind, names in NOT_ALLOWED.items():
            if attr in names and isinstance(obj, kind):
                return False
        if isinstance(obj, (bytes, bytearray, memoryview)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``; filters that take the name of an attribute come here too."""
        current().tick()
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, where its result will not be too large."""
        budget = current()
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
                check_percent(left, *(right if isinstance(right, tuple) else (right,)))
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
        budget = current()
        budget.tick()
        budget.enter()
        try:
            budget.room(budget.weigh(args) + budget.weigh(kwargs))
            owner = obj.__self__ if isinstance(obj, (types.BuiltinMethodType, types.MethodType)) else None
            if isinstance(owner, str):
                name = obj.__name__
                if name in ("rsplit", "split"):
                    if name == "rsplit":
                        check_search(owner, *args, **kwargs)
                    return split(owner, name, *args, **kwargs)
                if name == "join" and args:
                    args = (budget.listed(args[0]), *args[1:])
                    check_join(args[0], owner)
                elif name in METHOD_CHECKS:
                    METHOD_CHECKS[name](owner, *args, **kwargs)
            result = super().call(context, obj, *args, _loop_vars=_loop_vars, _block_vars=_block_vars, **kwargs)
            return result if isinstance(owner, dict) else budget.made(result)  # what a dict gives is there already
        finally:
            budget.leave()


_environment = _Environment()


@functools.lru_cache(maxsize=32)
def compiled(source: str) -> jinja2.Template:
    """The template that ``source`` describes. Requires :func:`.chat_limits.limited` around it.

    Raises:
        jinja2.TemplateSyntaxError: it cannot be parsed.
        LimitError: it is too large.
    """
    if len(source) > MAX_SOURCE:
        raise LimitError(f"it has {len(source)} characters; at most {MAX_SOURCE} are allowed")
    tree = _Bounds().visit(_environment.parse(source))
    return jinja2.Template.from_code(_environment, _environment.compile(tree), _environment.globals)
