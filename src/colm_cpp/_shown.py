"""A value that a caller or a file gave, as a message shows it."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

__all__ = ["counted", "listed", "shortened", "shown"]

_MOST = 200  # characters of one value


class _Short(reprlib.Repr):
    """``repr`` that reads only the beginning of a long value, since a message shows no more of it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = self.maxdict = 30

    def repr_int(self, x: int, level: int) -> str:
        try:
            return repr(x)
        except ValueError:  # thousands of digits, which Python does not write out
            return f"a number of about {int(x.bit_length() * 0.30103)} digits"

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: 2 * _MOST])

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: 2 * _MOST])

    def repr_instance(self, x: object, level: int) -> str:
        try:
            return repr(x)
        except Exception as error:  # whatever the caller's own class raises
            return f"a {type(x).__name__} without a repr ({type(error).__name__})"


_short = _Short()


def shown(value: object) -> str:
    """``repr(value)``, cut at 200 characters; never raises, and no control or bidirectional character comes through.

    A number with thousands of digits, which has no ``repr``, is described instead.
    """
    return shortened(_short.repr(value))


def shortened(text: str) -> str:
    """``text``, cut at 200 characters."""
    return text if len(text) <= _MOST else text[:_MOST] + "..."


def counted(n: int, what: str) -> str:
    """``1 token``, ``2 tokens``."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def listed(values: Iterable[object]) -> str:
    """The first eight values as :func:`shown`, and how many more there are."""
    values = list(values)
    more = f" and {len(values) - 8} more" if len(values) > 8 else ""
    return ", ".join(shown(value) for value in values[:8]) + more
