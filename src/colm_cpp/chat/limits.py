"""How much a chat template may use: time, memory, the size of a value, the depth of calls.

A template is a program out of a downloaded file, and one line of it can ask for gigabytes or for years. No single
operation of Python can be interrupted, so every value that a template makes is kept small enough that no operation on
it takes long, and the time is looked at between operations.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from types import GeneratorType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import jinja2

from .messages import MAX_DEPTH

__all__ = ["MAX_ITEMS", "SECONDS", "Budget", "LimitError", "current", "limited"]

SECONDS = 1.5
"""Processor time of one rendering, compiling included."""
MAX_CALLS = 100
"""Macros, recursive loops and blocks inside each other."""
MAX_ITEMS = 250_000
"""Items of one list."""
MAX_BITS = 1 << 16
"""Of a whole number."""
_MAX_WEIGHT = 4_000_000
_MAX_BYTES = 256 << 20
_NODE = 16  # weight of a value beside the characters of a text

_CONTAINERS: tuple[type[Any], ...] = (
    list,
    tuple,
    dict,
    set,
    frozenset,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
)

T = TypeVar("T")


class LimitError(jinja2.TemplateRuntimeError):
    """A template wants more than it may have."""


class Budget:
    """What one rendering has used, and may still use.

    The weight of a value is the number of its characters, written out, plus 16 for it and for each value in it. A value
    that stands in a container several times counts each time, because printing and comparing go through it each time.
    """

    def __init__(self) -> None:
        self._cpu_end = time.thread_time() + SECONDS
        self._end = time.monotonic() + SECONDS
        self._bytes_left = _MAX_BYTES
        self._calls = 0
        # Containers cannot be changed in the sandbox, so each is weighed once. They are kept, so that ids stay theirs.
        self._known: dict[int, tuple[object, int, int]] = {}
        self._iterators: WeakKeyDictionary[Iterator[Any], int] = WeakKeyDictionary()
        self.max_weight = _MAX_WEIGHT

    def allow(self, given: object) -> None:
        """Lets values be some times as large as what the caller gave."""
        self.max_weight = 1 << 62
        weight = self.weigh(given)
        self.max_weight = _MAX_WEIGHT + 4 * weight
        self._bytes_left = _MAX_BYTES + min(256 * weight, 4 * _MAX_BYTES)

    def tick(self) -> None:
        """Looks at the time."""
        if time.monotonic() > self._end:
            # On a busy machine the time passes without us: only that of this thread counts.
            left = self._cpu_end - time.thread_time()
            if left <= 0:
                raise LimitError(f"it takes longer than {SECONDS} seconds")
            self._end = time.monotonic() + left

    def enter(self) -> None:
        """Begins a call. :meth:`leave` ends it."""
        self._calls += 1
        if self._calls > MAX_CALLS:
            raise LimitError(f"its recursion is deeper than {MAX_CALLS} calls")

    def leave(self) -> None:
        """Ends a call."""
        self._calls -= 1

    def room(self, size: int) -> None:
        """Refuses a value of ``size`` characters or more, before it is made."""
        if size > self.max_weight:
            raise LimitError(f"it wants a value of size {_digits(size)}; at most {self.max_weight} is allowed")

    def items(self, n: int) -> None:
        """Refuses a list of ``n`` items, before it is made."""
        if n > MAX_ITEMS:
            raise LimitError(f"it wants a list of {_digits(n)} items; at most {MAX_ITEMS} are allowed")

    def bits(self, n: int) -> None:
        """Refuses a whole number of ``n`` bits, before it is made."""
        if n > MAX_BITS:
            raise LimitError(f"it wants a whole number of {_digits(n)} bits; at most {MAX_BITS} are allowed")

    def weigh(self, value: object) -> int:
        """The weight of a value."""
        return self._measure(value)[0]

    def depth(self, value: object) -> int:
        """How many containers stand inside each other in a value."""
        return self._measure(value)[1]

    def made(self, value: T) -> T:
        """Takes note of a new value, and refuses one that is too large."""
        if isinstance(value, str):
            self.room(len(value))
            # Latin letters take one byte each; of others it is not known without looking at all of them.
            self._take(64 + len(value) * (1 if value.isascii() else 4))
        elif isinstance(value, _CONTAINERS):
            if id(value) not in self._known:
                self._take(64 + 32 * len(value))
                self.items(len(value))
            self.room(self.weigh(value))
        elif isinstance(value, int):
            self.bits(value.bit_length())
        return value

    def lazily(self, items: Iterator[Any], *sources: object) -> Iterator[Any]:
        """The same items, with an eye on the time and on the lists among them, computed as they are asked for.

        An iterator over an iterator over many others would overflow the stack, so ``sources``, which the items are made
        of, must not stand too deep.
        """
        depth = 1 + max((self.depth(source) for source in sources), default=0)
        self._check_depth(depth)
        watched = self.watched(items)
        self._iterators[watched] = depth
        return watched

    def watched(self, items: Iterable[Any]) -> Iterator[Any]:
        """The same items, with an eye on the time and on the lists among them."""
        for item in items:
            self.tick()
            yield self.made(item) if isinstance(item, _CONTAINERS) else item

    def listed(self, items: Iterable[Any]) -> list[Any]:
        """The items in a list."""
        result = []
        for item in self.watched(items):
            result.append(item)
            if len(result) > MAX_ITEMS:
                self.items(len(result))
        return self.made(result)

    @staticmethod
    def _check_depth(depth: int) -> None:
        if depth > MAX_DEPTH:
            raise LimitError(f"it nests lists and dicts {depth} deep; at most {MAX_DEPTH} are allowed")

    def _take(self, n_bytes: int) -> None:
        self._bytes_left -= n_bytes
        if self._bytes_left < 0:
            raise LimitError("it makes more values than memory is allowed for")

    def _measure(self, value: object) -> tuple[int, int]:
        if isinstance(value, str):
            return _NODE + len(value), 0
        if isinstance(value, int):
            return _NODE + value.bit_length() // 3, 0
        if not isinstance(value, _CONTAINERS):
            return _NODE, self._iterators.get(value, 0) if isinstance(value, GeneratorType) else 0
        known = self._known.get(id(value))
        if known is not None:
            return known[1], known[2]
        weight, depth = _NODE, 0
        inner: Iterable[object] = chain(value.keys(), value.values()) if isinstance(value, dict) else value
        for item in inner:
            item_weight, item_depth = self._measure(item)
            weight += item_weight
            depth = max(depth, item_depth + 1)
            if weight > self.max_weight:
                self.room(weight)
        self._check_depth(depth)
        self._known[id(value)] = value, weight, depth
        return weight, depth


def _digits(n: int) -> str:
    # Python writes out no number of more than some thousand digits.
    return str(n) if n.bit_length() < 1000 else f"2^{n.bit_length() - 1}"


_state = threading.local()


def current() -> Budget:
    """The budget of what this thread is rendering."""
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
