"""Checks of numbers that a caller gives. Needs no extension."""

from __future__ import annotations

import contextlib
import math
import operator

from ._shown import shown
from .errors import OptionError

__all__ = ["flag", "integer", "real", "seconds", "share"]

_MAX_SECONDS = 100 * 365 * 86400.0


def real(name: str, value: object) -> float:
    """One number, as float. NumPy scalars are accepted. Text and arrays are refused, although float() takes some.

    Raises:
        OptionError: ``value`` is not a number, or is NaN.
    """
    number = None
    if not isinstance(value, (str, bytes, bytearray)) and getattr(value, "shape", ()) == ():
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float(value)  # type: ignore[arg-type]
    if number is None:
        raise OptionError(f"{name} is {shown(value)}; it must be a number")
    if math.isnan(number):
        raise OptionError(f"{name} is NaN; it must be a number")
    return number


def integer(name: str, value: object, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``.

    Raises:
        OptionError: ``value`` is not such a number.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise OptionError(f"{name} is {shown(value)}; it must be a whole number from {low} to {high}")
    if not low <= number <= high:
        raise OptionError(f"{name} is {shown(number)}; it must be from {low} to {high}")
    return number


def share(name: str, value: object) -> float:
    """A number from 0 to 1. For a percentage, the message suggests the share.

    Raises:
        OptionError: ``value`` is not a number from 0 to 1.
    """
    number = real(name, value)
    if not 0.0 <= number <= 1.0:
        hint = f". Did you mean {number / 100:g}?" if 1.0 < number <= 100.0 else ""
        raise OptionError(f"{name} is {shown(value)}; it must be between 0 and 1{hint}")
    return number


def seconds(name: str, value: object) -> float:
    """A waiting time in seconds, 0 or more.

    Raises:
        OptionError: ``value`` is negative, above 100 years, or not a number.
    """
    number = real(name, value)
    if not 0.0 <= number <= _MAX_SECONDS:
        raise OptionError(f"{name} is {shown(value)}; give seconds, 0 or more, or None for no limit")
    return number


def flag(name: str, value: object) -> bool:
    """``bool(value)``.

    Raises:
        OptionError: ``value`` is an array.
    """
    if getattr(value, "shape", ()) != ():
        raise OptionError(f"{name} is {shown(value)}; it must be True or False")
    return bool(value)
