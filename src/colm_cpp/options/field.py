"""What an option is: a field of a dataclass with a default, the values that it may have, and its meaning."""

from __future__ import annotations

import dataclasses
import difflib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from .._numbers import flag, integer, real, share
from .._shown import shown
from ..errors import OptionError

__all__ = [
    "MAX_FLOAT",
    "MAX_INT",
    "Choice",
    "Flag",
    "Kind",
    "Option",
    "Own",
    "Real",
    "Whole",
    "choice",
    "documented",
    "option",
    "option_dict",
    "option_of",
    "read_fields",
    "reject_unknown",
]

MAX_INT = 2**31 - 1
MAX_FLOAT = 3.4028234663852886e38  # float32
# Names that other libraries give to the option for a JSON schema.
_GRAMMAR_NAMES = ("json_schema", "schema", "guided_json", "format")

_Default = TypeVar("_Default")
_Class = TypeVar("_Class", bound=type)


class Kind:
    """The values that an option may have. ``str()`` names them."""

    def read(self, name: str, value: object) -> Any:
        """``value`` in the form that is kept. Raises OptionError for one that the option cannot have."""
        return value


@dataclass(frozen=True, slots=True)
class Whole(Kind):
    """Whole numbers from ``least`` to ``most``, and perhaps a ``word``. They are kept as int: sums and products of
    small NumPy scalars overflow."""

    least: int
    most: int = MAX_INT
    word: str | None = None

    def read(self, name: str, value: object) -> int | str:
        """See :class:`Kind`."""
        if self.word is not None and isinstance(value, str):
            if value == self.word:
                return self.word
            numbers = f"a whole number from {self.least} to {self.most}"
            raise OptionError(f'{name} is {shown(value)}; give "{self.word}" or {numbers}')
        return integer(name, value, self.least, self.most)

    def __str__(self) -> str:
        numbers = "a whole number" if self.least == -MAX_INT - 1 else f"{self.least} or more"
        if self.most < MAX_INT:
            numbers = f"{self.least} to {self.most}"
        return numbers if self.word is None else f'{numbers}, or "{self.word}"'


@dataclass(frozen=True, slots=True)
class Real(Kind):
    """Numbers from ``least`` to ``most``, without ``least`` itself where ``is_open``; never infinity."""

    least: float = -MAX_FLOAT
    most: float = MAX_FLOAT
    is_open: bool = False

    def read(self, name: str, value: object) -> float:
        """See :class:`Kind`."""
        if (self.least, self.most, self.is_open) == (0.0, 1.0, False):
            return share(name, value)
        number = real(name, value)
        if (number > self.least if self.is_open else number >= self.least) and number <= self.most:
            return number
        raise OptionError(f"{name} is {shown(value)}; it must be {self}")

    def __str__(self) -> str:
        if self.most < MAX_FLOAT:
            least = f"above {self.least:g} and at most" if self.is_open else f"{self.least:g} to"
            return f"{least} {self.most:g}"
        if self.least == -MAX_FLOAT:
            return "a finite number"
        return f"a finite number above {self.least:g}" if self.is_open else f"a finite number, {self.least:g} or more"


class Amount(Real):
    """As :class:`Real`, and True and False are refused."""

    __slots__ = ()

    def read(self, name: str, value: object) -> float:
        """See :class:`Kind`."""
        if isinstance(value, bool):
            raise OptionError(f"{name} is {value}; it must be {self}")
        return Real.read(self, name, value)


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """True or False."""

    def read(self, name: str, value: object) -> bool:
        """See :class:`Kind`."""
        return flag(name, value)

    def __str__(self) -> str:
        return "True or False"


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One of several names."""

    names: tuple[str, ...]

    def read(self, name: str, value: object) -> str:
        """See :class:`Kind`."""
        choice(name, value, self.names)
        return str(value)

    def __str__(self) -> str:
        return ", ".join(f'"{name}"' for name in self.names)


@dataclass(frozen=True, slots=True)
class Own(Kind):
    """Values that the dataclass itself reads."""

    what: str

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of an option beside its name and default.

    Attributes:
        kind: the values that it may have.
        help: its meaning, for the command line as well. Names of options stand in double backquotes.
        more: what only readers of the documentation need.
        section: where the command line lists it; "": it is not there.
    """

    kind: Kind
    help: str
    more: str
    section: str


def option(default: _Default, kind: Kind, help: str, more: str = "", *, section: str = "Text") -> _Default:
    """A field of a dataclass of options; see :class:`Option`."""
    known = Option(kind, help, more, section)
    return dataclasses.field(default=default, metadata={"option": known})


def option_of(field: dataclasses.Field[Any]) -> Option:
    """What :func:`option` was told."""
    return cast(Option, field.metadata["option"])


def read_fields(options: Any) -> None:
    """Checks every field of a frozen dataclass of options, and keeps the form that :meth:`Kind.read` gives it.

    Raises:
        OptionError: a value that its option cannot have.
    """
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is not None or "None" not in str(field.type).split(" | "):
            object.__setattr__(options, field.name, option_of(field).kind.read(field.name, value))


def documented(cls: _Class) -> _Class:
    """Adds the fields of a dataclass of options to its docstring."""
    lines = [cls.__doc__ or "", "", "    Attributes:"]
    for field in dataclasses.fields(cls):
        known = option_of(field)
        text = f"{field.name}: {known.help} {known.more}".strip()
        lines.append(textwrap.fill(text, 120, initial_indent=" " * 8, subsequent_indent=" " * 12))
    cls.__doc__ = "\n".join([*lines, "    "])
    return cls


def choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raises OptionError for a value that is none of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise OptionError(f"{name} is {shown(value)}; it must be one of {', '.join(choices)}")


def option_dict(name: str, given: object) -> Mapping[str, Any]:
    """Options as a caller gives them; none for None.

    Raises:
        OptionError: they are no dict whose keys are names.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise OptionError(f"{name} is {shown(given)}; give a dict of options by name")
    return given


def reject_unknown(given: Mapping[str, object], known: type, what: str) -> None:
    """Raises TypeError for a name that is no field of the dataclass ``known``."""
    names = [field.name for field in dataclasses.fields(known)]
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(names)}"
            if "grammar" in names and name in _GRAMMAR_NAMES:
                hint = "; give the JSON schema as grammar="
            raise TypeError(f"{what} has no option {shown(name)}{hint}")
