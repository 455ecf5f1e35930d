"""Presets: names for two models and a head, for ``colm.load(name)`` and ``--pair name``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import OptionError

__all__ = ["DEMO_FOLDER", "Preset", "preset", "presets"]

DEMO_FOLDER = Path(__file__).parent / "data" / "demo"


@dataclass(frozen=True, slots=True)
class Preset:
    """Two models and a head that belong together.

    Attributes:
        name: the preset's name.
        base: the base's file, or its place on the hub.
        assistant: the assistant's file, or its place on the hub.
        head: the head's file, or the name of a head in the package.
        about: one line about the pair.
    """

    name: str
    base: str
    assistant: str
    head: str
    about: str


_PRESETS = (
    Preset(
        "demo",
        str(DEMO_FOLDER / "base.gguf"),
        str(DEMO_FOLDER / "assistant.gguf"),
        str(DEMO_FOLDER / "head.gguf"),
        "two tiny models in the package: one tells word problems, the other does the sums",
    ),
    Preset(
        "qwen2.5-coder-0.5b-1.5b",
        "hf:Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF/*q4_k_m.gguf",
        "hf:Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF/*q4_k_m.gguf",
        "qwen2.5-coder-0.5b-1.5b",
        "two sizes of Qwen2.5-Coder-Instruct, about 1.5 GB from the hub, with the head in the package",
    ),
)


def presets() -> tuple[Preset, ...]:
    """The presets that :func:`colm_cpp.load` accepts."""
    return _PRESETS


def preset(name: object) -> Preset:
    """The preset of that name.

    Raises:
        TypeError: the name is not a str.
        OptionError: no preset has this name; the message lists all presets.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a preset is of type {type(name).__name__}; give a str such as {_PRESETS[0].name!r}"
        )
    for known in _PRESETS:
        if known.name == name:
            return known
    names = " and ".join(repr(known.name) for known in _PRESETS)
    raise OptionError(
        f"there is no preset {name!a}; the presets are {names}. For your own models give both base= and assistant="
    )
