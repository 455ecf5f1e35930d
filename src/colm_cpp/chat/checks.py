"""Looks at filters, methods and operators of chat templates before they make much out of little."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

from .limits import MAX_ITEMS, LimitError, current

__all__ = [
    "METHOD_CHECKS",
    "NOT_ALLOWED",
    "bounded_filter",
    "bounded_test",
    "check_join",
    "check_percent",
    "check_search",
    "split",
]

MAX_WIDTH = 10_000
_MAX_SMALL = 50_000
# Width and precision of a field in "%-10.3f" and "%(name)s".
_PERCENT_FIELD = re.compile(r"[%)][-+ #0]*([0-9]+|\*)?(?:\.([0-9]+|\*))?")
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def _n_lines(text: str) -> int:
    return 1 + sum(text.count(end) for end in _LINE_ENDS)


def whole(value: object) -> int:
    # A value of another type is refused by the operation itself.
    return value if isinstance(value, int) else 0


def _check_width(_: object, width: object = 80, *__: object, **___: object) -> None:
    current().room(whole(width))


def _check_replace(text: object, old: object, new: object, *_: object, **__: object) -> None:
    text, old, new = str(text), str(old), str(new)
    current().room(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _check_indent(text: object, width: object = 4, *_: object, **__: object) -> None:
    text = str(text)
    n_lines = _n_lines(text)
    current().items(n_lines)
    current().room(len(text) + n_lines * (len(width) if isinstance(width, str) else whole(width)))


def _check_chars(text: object, chars: object = None) -> None:
    # Each character of the text is looked up in all of them.
    if isinstance(chars, str):
        check_search(text, chars)


def check_search(text: object, part: object = None, *_: object, **__: object) -> None:
    """Before a part is looked for in a text. Raises LimitError."""
    if isinstance(part, str) and len(part) * len(str(text)) > 64 * current().max_weight:
        raise LimitError(f"it looks for {len(part)} characters in a text of {len(str(text))}")


def check_join(items: list[object], d: object = "", attribute: object = None) -> None:
    """Before items are joined with `d` between them. Raises LimitError."""
    current().room(current().weigh(items) + len(items) * len(str(d)))


def _check_sum(items: list[object], attribute: object = None, start: object = 0) -> None:
    # Python adds lists one by one, copying each time.
    if not isinstance(start, (int, float)) and len(items) > 1000:
        current().items(len(items) ** 2)


def _check_batch(_: object, linecount: object, *__: object, **___: object) -> None:
    current().items(whole(linecount))


def _check_round(_: object, precision: object = 0, *__: object, **___: object) -> None:
    if abs(whole(precision)) > 400:
        raise LimitError("it rounds to more than 400 digits")


def _check_small(value: object, *_: object, **__: object) -> None:
    # Filters that go through a text piece by piece, or more than once; templates for chats hardly need them.
    size = current().weigh(value)
    if size > _MAX_SMALL:
        raise LimitError(f"it uses a slow filter on a value of size {size}; at most {_MAX_SMALL} is allowed")


def check_percent(text: object, *args: object, **kwargs: object) -> None:
    """For ``text % args``."""
    text, budget = str(text), current()
    width = 0
    for digits in {number for field in _PERCENT_FIELD.findall(text) for number in field if number}:
        for number in map(whole, args) if digits == "*" else [int(digits) if len(digits) < 6 else MAX_WIDTH + 1]:
            width = max(width, abs(number))
    if width > MAX_WIDTH:
        raise LimitError(f"it formats to more than {MAX_WIDTH} characters")
    budget.room(len(text) + text.count("%") * (width + budget.weigh(args) + budget.weigh(kwargs)))


def _check_tabs(text: str, tabsize: object = 8) -> None:
    current().room(len(text) + text.count("\t") * whole(tabsize))


def _check_lines(text: str, *_: object, **__: object) -> None:
    current().items(_n_lines(text))


_Check = Callable[..., None]
_FILTER_CHECKS: dict[str, _Check] = {
    "batch": _check_batch,
    "center": _check_width,
    "format": check_percent,
    "indent": _check_indent,
    "join": check_join,
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
METHOD_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _check_width),
    **dict.fromkeys(("lstrip", "rstrip", "strip"), _check_chars),
    # Searching from the end takes the product of both lengths; from the beginning, their sum.
    **dict.fromkeys(("rfind", "rindex", "rpartition", "rsplit"), check_search),
    **dict.fromkeys(("striptags", "unescape"), _check_small),  # of Markup
    "expandtabs": _check_tabs,
    "replace": _check_replace,
    "splitlines": _check_lines,
}
NOT_ALLOWED: dict[type[Any], frozenset[str]] = {
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


def bounded_filter(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """Jinja's filter of this name, within the budget of the template that uses it."""
    check = _FILTER_CHECKS.get(name)
    at = 1 if hasattr(original, "jinja_pass_arg") else 0  # Jinja's own argument comes first

    @functools.wraps(original)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        budget = current()
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


def bounded_test(name: str, original: Any) -> Any:
    """Jinja's test of this name, each of whose calls counts."""
    if name in _QUICK_TESTS:
        return original

    @functools.wraps(original)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        current().tick()
        return original(*args, **kwargs)

    return bounded


def split(owner: str, name: str, sep: str | None = None, maxsplit: int = -1) -> list[str]:
    """``owner.split`` or ``owner.rsplit``, by its name, into a bounded number of parts. Raises LimitError."""
    parts: list[str] = getattr(owner, name)(sep, maxsplit if 0 <= maxsplit < MAX_ITEMS else MAX_ITEMS)
    return current().made(parts)
