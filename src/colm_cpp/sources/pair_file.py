"""A pair as one thing: models, adapter, head and options in a TOML file. ``docs/pairs.md`` describes it."""

from __future__ import annotations

import difflib
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._numbers import real, share
from .._shown import shortened, shown
from ..errors import LoadError, OptionError
from ..options import ASSISTANT, BASE, ExpertModel, LoadOptions, option_dict, read_experts, split_head
from ..remote import is_remote, not_remote
from .hub import is_hub_spec
from .shipped import shipped_heads

__all__ = ["FILE", "PACKAGED", "Preset", "read", "read_toml", "to_toml"]

FILE = "pair.toml"
VERSION = 1
# The presets in the package.
PACKAGED = Path(__file__).parents[1] / "data" / "pairs"
_MOST = 2**20  # bytes
_TABLES = ("options", "base_options", "assistant_options")
_MODELS = ("base", "assistant")


@dataclass(frozen=True, slots=True)
class Preset:
    """A pair that goes by a name or lies in a file: a base, its assistant or experts, and what belongs to them.

    Attributes:
        name: the preset's name; for a file or folder elsewhere, the name of that.
        base: the base's file, or its place on the hub.
        assistant: the assistant's file, or its place on the hub; "" where the pair has ``experts``.
        head: a head's file, its place on the hub, or the name of a head, see :func:`colm_cpp.load`. None: the pair has
            no head.
        about: one line about the pair.
        adapter: file (or place on the hub) and scale of a LoRA adapter of the base; None without one.
        defer_rate: share of the tokens that are deferred where a text gives no rate and no threshold. None: the head's
            default threshold.
        system: system message of a chat that has none; None without one.
        options: options for loading both models, see :class:`colm_cpp.LoadOptions`.
        base_options: options for the base alone.
        assistant_options: options for the assistant alone.
        file: the file that says all this; None for models that were given by themselves.
        experts: the experts in place of an assistant, each with options of its own.
    """

    name: str
    base: str
    assistant: str
    head: str | None
    about: str = ""
    adapter: tuple[str, float] | None = None
    defer_rate: float | None = None
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    base_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    assistant_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    file: Path | None = None
    experts: tuple[ExpertModel, ...] = ()

    @property
    def packaged(self) -> bool:
        """Whether it comes with the package."""
        return self.file is not None and self.file.parent == PACKAGED

    @property
    def models(self) -> list[str]:
        """The base's file, and the assistant's or those of the experts."""
        return [self.base, *([os.fspath(expert.model) for expert in self.experts] or [self.assistant])]

    @property
    def names(self) -> list[str]:
        """What the models are called, in the order of :attr:`models`."""
        return [BASE, *([expert.name for expert in self.experts] or [ASSISTANT])]

    def files(self) -> list[str | os.PathLike[str]]:
        """What is read when the pair is loaded, the head aside."""
        adapter = [] if self.adapter is None else [self.adapter[0]]
        adapters = [path for expert in self.experts for path, _ in LoadOptions.merge({}, expert.options).adapters()]
        return [*self.models, *adapter, *adapters, *([] if self.file is None else [self.file])]

    def refuse_experts(self, what: str, advice: str) -> None:
        """Raises OptionError where the pair has experts: ``what`` works with a base and one assistant."""
        if self.experts:
            names = " and ".join(expert.name for expert in self.experts)
            raise OptionError(
                f"{what} works with a base and one assistant, and this pair has the experts {names}; {advice}"
            )

    def refuse_remote(self, what: str) -> None:
        """Raises OptionError where an expert is on another machine: ``what`` needs the model itself."""
        for name, model in zip(self.names, self.models, strict=True):
            if is_remote(model):
                raise not_remote(name, model, what)

    def with_models(
        self, base: str | os.PathLike[str] | None = None, assistant: str | os.PathLike[str] | None = None
    ) -> Preset:
        """The same pair with other files of its models, for example those on this disk. None: the pair's own.

        The head and the adapter stay, and are refused where they do not fit the model.

        Raises:
            OptionError: an assistant is given, and the pair has experts.
        """
        if assistant is not None:
            self.refuse_experts("assistant=", "write their files into its pair.toml")
        return replace(
            self,
            base=self.base if base is None else os.fspath(base),
            assistant=self.assistant if assistant is None else os.fspath(assistant),
        )

    def without_head(self) -> Preset:
        """The two models alone."""
        return replace(self, head=None, defer_rate=None)

    def load_options(
        self, options: Mapping[str, Any], base_options: object = None, assistant_options: object = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Options of both models, of the base and of the assistant. Those given here replace the preset's.

        An adapter that is given, for both models or for the base, replaces the preset's too.
        """
        adapter = {} if self.adapter is None else {"lora": [self.adapter]}
        own = {**self.base_options, **adapter}, self.assistant_options
        given = option_dict("base_options", base_options), option_dict("assistant_options", assistant_options)
        base, assistant = (
            {**{name: value for name, value in preset.items() if name not in options}, **caller}
            for preset, caller in zip(own, given, strict=True)
        )
        return {**self.options, **options}, base, assistant


def read(file: Path, name: str | None = None) -> Preset:
    """Reads a pair's file.

    Args:
        file: the file.
        name: the preset's name. None: that of the file, or of its folder if the file is named ``pair.toml``.

    Raises:
        LoadError: the file is missing, is not TOML, or is of another version.
        OptionError: a key is unknown, is missing or has an invalid value; the message names file and key.
    """
    # Relative to the real file: a link to it may lie among the user's presets.
    folder = Path(os.path.realpath(file)).parent
    value = read_toml(file, "docs/pairs.md")
    if name is None:
        name = folder.name if file.name == FILE else file.stem
    version = value.pop("version", None)
    if version is not None and (type(version) is not int or version != VERSION):
        raise LoadError(f"{file} is of version {shown(version)}; this colm-cpp reads version {VERSION}")
    try:
        if version is None:
            raise OptionError(f"version is missing; write version = {VERSION}")
        return _parsed(value, file, folder, name)
    except (OptionError, TypeError) as error:
        raise OptionError(f"{file}: {error}") from error


def read_toml(file: Path, example: str) -> dict[str, Any]:
    """What a TOML file holds. ``example``: the page with an example of one. Raises LoadError."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST + 1)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        why = getattr(error, "strerror", None) or error
        raise LoadError(f"{file} cannot be read ({why}); check its name and permissions") from error
    if len(data) > _MOST:
        raise LoadError(f"{file} has more than {_MOST} bytes, too many for what it should hold; {example} describes it")
    tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        value: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{file} is not TOML ({shortened(str(error))}); {example} has an example") from error
    return value


def _parsed(value: dict[str, Any], file: Path, folder: Path, name: str) -> Preset:
    for key in value:
        if key not in _KEYS:
            close = difflib.get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the keys are version, {', '.join(_KEYS)}"
            raise OptionError(f"there is no key {shown(key)}; {hint}")
        value[key] = _KEYS[key](key, value[key])
    known = _models(value, folder)
    tables = {table: {**getattr(known, table), **value.get(table, {})} for table in _TABLES} if known else value
    given = [dict(tables.get(table, {})) for table in _TABLES]
    for table, options in zip(_TABLES, given, strict=True):
        if "lora" in options:
            raise OptionError(f"{table} has lora; write adapter = ... instead, which is an adapter of the base")
        _refuse_servers(table, options)
    LoadOptions.of_both(*given)
    adapter, scale = value.get("adapter"), value.get("adapter_scale")
    if scale is not None and adapter is None:
        raise OptionError(f"adapter_scale is {scale}, but there is no adapter; write adapter = ..., or remove it")
    head = value.get("head")
    experts = _experts(value["experts"], folder) if "experts" in value else ()
    if head is not None:
        head, who = split_head(head, [expert.name for expert in experts])
        if (is_file := head.lower().endswith(".gguf")) and not is_hub_spec(head):
            head = _place(folder, head)
    rate = value.get("defer_rate")
    if rate is not None and (head is None or not (is_file or is_hub_spec(head) or head in shipped_heads())):
        raise OptionError(f"defer_rate is {rate}, but head is no calibrated head file; only such a head knows rates")
    if head is not None and who is not None:
        head = f"{head}:{who}"
    if experts and "assistant_options" in value:
        raise OptionError("there are both experts and assistant_options; write options of an expert into its own table")
    assistant = "" if experts else value.get("assistant", "")
    return Preset(
        name=name,
        base=known.base if known else _place(folder, value["base"]),
        assistant=known.assistant if known else _place(folder, assistant) if assistant else "",
        head=head,
        about=value.get("about", ""),
        adapter=None if adapter is None else (_place(folder, adapter), 1.0 if scale is None else scale),
        defer_rate=rate,
        system=value.get("system"),
        options=given[0],
        base_options=given[1],
        assistant_options=given[2],
        file=file,
        experts=experts,
    )


def _experts(value: Mapping[str, Any], folder: Path) -> tuple[ExpertModel, ...]:
    """The table ``experts``; files lie relative to ``folder``."""
    found = []
    for expert in read_experts(value):
        options = dict(expert.options)
        # TOML has no tuples, and an adapter's place is relative, too.
        adapter, scale = options.pop("adapter", None), options.pop("adapter_scale", None)
        if "lora" in options:
            raise OptionError(f"the expert {expert.name} has lora; write adapter = ... instead")
        _refuse_servers(f"the expert {expert.name}", options)
        if adapter is not None:
            place = _place(folder, _text("adapter", adapter))
            options["lora"] = [(place, 1.0 if scale is None else _scale("adapter_scale", scale))]
        elif scale is not None:
            raise OptionError(f"the expert {expert.name} has adapter_scale, but no adapter; write adapter = ...")
        LoadOptions.merge({}, options)
        found.append(ExpertModel(expert.name, _place(folder, _text("model", expert.model)), options))
    return tuple(found)


def _refuse_servers(where: str, options: Mapping[str, Any]) -> None:
    """A file of somebody else's must not say where prompts are sent."""
    if "rpc_servers" in options:
        raise OptionError(
            f"{where} has rpc_servers, which a pair's file must not name; give them to load() or with --rpc"
        )


def _models(value: Mapping[str, Any], folder: Path) -> Preset | None:
    """The preset whose models the pair has; None if it names its models."""
    models = value.get("models")
    given = [key for key in (*_MODELS, "experts") if key in value]
    if models is None:
        if "assistant" in given and "experts" in given:
            raise OptionError("there are both assistant and experts; give one of the two")
        for key in ("base",) if "experts" in given else _MODELS:
            if key not in given:
                raise OptionError(f"{key} is missing; give base and assistant, or models = the name of a preset")
        return None
    if given:
        raise OptionError(f"there are both models and {given[0]}; give models, or base and assistant")
    # Only those in the package: the file then means the same on every machine.
    packaged = sorted(path.stem for path in PACKAGED.glob("*.toml"))
    if models not in packaged:
        raise OptionError(f"models is {shown(models)}; the presets in the package are {', '.join(packaged)}")
    return read(PACKAGED / f"{models}.toml", models)


def _place(folder: Path, given: str) -> str:
    if is_hub_spec(given) or is_remote(given):
        return given
    return os.path.normpath(os.path.join(folder, os.path.expanduser(given)))


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise OptionError(f"{key} is {shown(value)}; it must be a text that is not empty")
    if "\0" in value:
        raise OptionError(f"{key} is {shown(value)}; it must not hold a NUL character")
    return value


def _scale(key: str, value: object) -> float:
    if isinstance(value, bool) or not math.isfinite(number := real(key, value)):
        raise OptionError(f"{key} is {shown(value)}; it must be a finite number")
    return number


def _rate(key: str, value: object) -> float:
    if isinstance(value, bool):
        raise OptionError(f"{key} is {shown(value)}; it must be a number between 0 and 1")
    return share(key, value)


_KEYS: dict[str, Callable[[str, object], Any]] = {
    "about": _text,
    "models": _text,
    "base": _text,
    "assistant": _text,
    "adapter": _text,
    "adapter_scale": _scale,
    "head": _text,
    "defer_rate": _rate,
    "system": _text,
    "experts": option_dict,
    **dict.fromkeys(_TABLES, option_dict),
}


def to_toml(values: Mapping[str, str | float | None]) -> str:
    """The text of a pair's file: the version and these keys in their order. Keys of value None are left out."""
    lines = [f"version = {VERSION}"]
    for key, value in values.items():
        if value is not None:
            _KEYS[key](key, value)
            # JSON's strings are TOML's, but for DEL.
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"
