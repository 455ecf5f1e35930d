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
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from jinja2.tests import TESTS
from jinja2.utils import Namespace, generate_lorem_ipsum
from markupsafe import Markup

from .bounds import BOUNDS_FILTERS, Bounds, Generator, written
from .checks import (
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
from .limits import LimitError, current

__all__ = ["compiled"]

MAX_SOURCE = 125_000
"""Characters of a template; the longest in use have some 17,000."""


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


class _Environment(ImmutableSandboxedEnvironment):
    """Sandboxed and immutable, because a template is a program out of a downloaded file, and bounded likewise."""

    code_generator_class = Generator
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self) -> None:
        # trim_blocks and lstrip_blocks are what templates are written for. Nothing is computed while compiling.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, loopcontrols],
            optimized=False,
            finalize=written,
            cache_size=0,
        )
        self.filters = {name: bounded_filter(name, f) for name, f in {**FILTERS, "tojson": _tojson}.items()}
        self.filters |= BOUNDS_FILTERS
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
    """The template that ``source`` describes. Requires :func:`.limits.limited` around it.

    Raises:
        jinja2.TemplateSyntaxError: it cannot be parsed.
        LimitError: it is too large.
    """
    if len(source) > MAX_SOURCE:
        raise LimitError(f"it has {len(source)} characters; at most {MAX_SOURCE} are allowed")
    tree = Bounds().visit(_environment.parse(source))
    return jinja2.Template.from_code(_environment, _environment.compile(tree), _environment.globals)
