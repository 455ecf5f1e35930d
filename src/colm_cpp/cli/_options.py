"""Command-line options out of the dataclasses of :mod:`colm_cpp.options`: names, types and defaults are theirs."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from ..options import (
    Choice,
    Flag,
    GenerationOptions,
    Kind,
    LoadOptions,
    Own,
    SlotOptions,
    Whole,
    option_of,
    reject_unknown,
)
from ._help import Command, option

__all__ = [
    "GENERATION",
    "LOAD",
    "SLOTS",
    "ModelOption",
    "ParamType",
    "collect",
    "flag_of",
    "from_table",
    "model_options",
    "read_model_options",
    "table_of",
]

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # not generic in older versions of click


class _Floats(ParamType):
    name = "NUMBERS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        try:
            return [float(number) for number in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers; separate the numbers by commas, such as 1,2", param, ctx)


class _Servers(ParamType):
    name = "HOST:PORT,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        return list(value.split(","))


class _Bias(ParamType):
    name = "ID=BIAS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        token, _, bias = value.partition("=")
        try:
            return int(token), float(bias)
        except ValueError:
            self.fail(
                f"{value!r} is not ID=BIAS; give a token id and a number, such as 42=1.5 (-inf bans the token)",
                param,
                ctx,
            )


class _WholeOr(ParamType):
    """A whole number or the word that stands beside it."""

    def __init__(self, kind: Whole) -> None:
        self.kind = kind
        self.name = f"N|{kind.word}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == self.kind.word:
            return str(value)
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is no whole number; give {self.kind.least} to {self.kind.most}, or {self.kind.word}")


class _Adapter(ParamType):
    name = "PATH[:SCALE]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        path, colon, scale = value.rpartition(":")
        if not colon or not path or os.path.exists(value):
            return value, 1.0
        try:
            return path, float(scale)
        except ValueError:  # a colon of the path's own, as in C:\lora.gguf or hf:org/repo/lora.gguf
            return value, 1.0


@dataclass(frozen=True)
class Spec:
    """One option, derived from a field of a dataclass. ``flags``: as click takes them, ``--mmap/--no-mmap``."""

    name: str
    flags: str
    help: str
    type: click.ParamType[Any]
    default: Any
    optional: bool
    multiple: bool
    section: str

    def decorator(self, section: str) -> Callable[[Command], Command]:
        """What adds it to a command. Its value stays None (or empty) unless it is given."""
        is_flag = self.type is click.BOOL
        shown = str(self.default)
        if is_flag and self.default is not None:
            shown = self.flags.split("/")[0 if self.default else 1].removeprefix("--")
        text = self.help if self.default is None or self.multiple else f"{self.help} [default: {shown}]"
        return option(
            section,
            self.flags,
            self.name,
            type=None if is_flag else self.type,
            default=None,
            multiple=self.multiple,
            help=text,
        )


# Types of options that take their values from the command line in a form of its own: (type, may be repeated).
_SPECIAL: dict[str, tuple[click.ParamType[Any], bool]] = {
    "tensor_split": (_Floats(), False),
    "rpc_servers": (_Servers(), False),
    "lora": (_Adapter(), True),
    "stop": (click.STRING, True),
    "logit_bias": (_Bias(), True),
    "proxy_tuned": (click.STRING, False),
    "proxy_untuned": (click.STRING, False),
    "features": (click.STRING, False),
}


_SHORT = {"n_parallel": "--parallel", "rpc_servers": "--rpc"}


def flag_of(name: str) -> str:
    """``use_mmap`` is ``--mmap``, ``n_parallel`` ``--parallel``, ``rpc_servers`` ``--rpc``."""
    return _SHORT.get(name) or "--" + name.removeprefix("use_").replace("_", "-")


def _type(kind: Kind) -> click.ParamType[Any]:
    if isinstance(kind, Whole):
        return click.INT if kind.word is None else _WholeOr(kind)
    if isinstance(kind, Choice):
        return click.Choice(kind.names)
    return click.BOOL if isinstance(kind, Flag) else click.FLOAT


def table_of(options: type, flags: Mapping[str, str] = MappingProxyType({})) -> dict[str, Spec]:
    """The options of a dataclass by their names. ``flags``: those that :func:`flag_of` does not give."""
    own = {field.name: flags.get(field.name) or flag_of(field.name) for field in dataclasses.fields(options)}
    table = {}
    for field in dataclasses.fields(options):
        known = option_of(field)
        if not known.section or (isinstance(known.kind, Own) and field.name not in _SPECIAL):
            continue  # the head and the grammar have flags of their own
        kind, multiple = _SPECIAL.get(field.name) or (_type(known.kind), False)
        help = re.sub(r"``(\w+)``", lambda name: own.get(name[1], name[1]), known.help)
        help = help.replace("None: ", "Unset: ") + (" Repeatable." if multiple else "")
        flag, optional = own[field.name], "None" in str(field.type)
        if kind is click.BOOL and "/" not in flag:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        table[field.name] = Spec(field.name, flag, help, kind, field.default, optional, multiple, known.section)
    return table


LOAD = table_of(LoadOptions)
SLOTS = table_of(SlotOptions)
GENERATION = table_of(GenerationOptions)


def from_table(
    table: Mapping[str, Spec], section: str | None = None, only: Iterable[str] | None = None
) -> Callable[[Command], Command]:
    """A decorator that adds the options of ``table``, all or those named in ``only``. None: each in its own section."""

    def decorate(command: Command) -> Command:
        for name in reversed(list(table if only is None else only)):
            command = table[name].decorator(section or table[name].section)(command)
        return command

    return decorate


def _final(name: str, value: Any) -> Any:
    """A command-line value in the form of the Python API."""
    if name == "logit_bias":
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def collect(table: Mapping[str, Spec], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that belong to ``table`` and were given."""
    given = {name: value for name, value in values.items() if name in table and value is not None and value != ()}
    return {name: _final(name, value) for name, value in given.items()}


class GivenOption(tuple[str, Any]):
    """The name and the value of an option of loading.

    Attributes:
        text: how it was given.
    """

    text: str

    @classmethod
    def of(cls, name: str, value: Any, text: str) -> GivenOption:
        """An option that was given as ``text``."""
        self = cls((name, value))
        self.text = text
        return self


class ModelOption(ParamType):
    """An option of loading with its value."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> GivenOption:
        name, equals, text = value.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            self.fail(f"{value!r} has no '='; give a loading option and its value, such as n_ctx=2048", param, ctx)
        try:
            reject_unknown({name: text}, LoadOptions, param.opts[0] if param else "loading")
        except TypeError as error:
            raise OptionError(str(error)) from None
        spec = LOAD[name]
        if spec.optional and text.lower() == "none":
            return GivenOption.of(name, None, value)
        return GivenOption.of(name, spec.type.convert(text, param, ctx), value)


def model_options(command: Command) -> Command:
    """Adds ``--base-option`` and ``--assistant-option``."""
    for model in ("assistant", "base"):
        command = option(
            "Loading",
            f"--{model}-option",
            type=ModelOption(),
            multiple=True,
            help=f"A loading option for the {model} only, such as n_ctx=2048. Repeatable.",
        )(command)
    return command


def read_model_options(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The values of ``--base-option`` as a dict; the last one of a name counts, adapters add up."""
    options: dict[str, Any] = {}
    for name, value in pairs:
        options[name] = [*options.get(name, []), value] if LOAD[name].multiple else value
    return options
