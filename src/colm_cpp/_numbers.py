"""Numbers that a caller gives, and how a message shows what it was instead. Needs no extension."""

from __future__ import annotations

import contextlib
import math

from ._shown import shown
from .errors import OptionError

__all__ = ["flag", "real", "seconds", "share"]

_MAX_SECONDS = 100 * 365 * 86400.0


def real(name: str, value: object) -> float:
    """What stands for one number, a NumPy scalar too; no text, and no array of one number, which float() would take.

    Raises:
        OptionError: it is no number, or NaN.
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


def share(name: str, value: object) -> float:
    """A number from 0 to 1. Who gives a percentage is asked whether a share was meant.

    Raises:
        OptionError: it lies outside, or is no number.
    """
    number = real(name, value)
    if not 0.0 <= number <= 1.0:
        hint = f". Did you mean {number / 100:g}?" if 1.0 < number <= 100.0 else ""
        raise OptionError(f"{name} is {shown(value)}; it must be between 0 and 1{hint}")
    return number


def seconds(name: str, value: object) -> float:
    """A time that may be waited, 0 or more.

    Raises:
        OptionError: it is negative, longer than 100 years, or no number.
    """
    number = real(name, value)
    if not 0.0 <= number <= _MAX_SECONDS:
        raise OptionError(f"{name} is {shown(value)}; give seconds, 0 or more, or None for as long as it takes")
    return number


def flag(name: str, value: object) -> bool:
    """``bool(value)``.

    Raises:
        OptionError: it is an array.
    """
    if getattr(value, "shape", ()) != ():
        raise OptionError(f"{name} is {shown(value)}; it must be True or False")
    return bool(value)
