"""Pairs that go by a name, for ``colm.load(name)`` and ``--pair name``: two models and a head in a word."""

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
        name: what it is called.
        base: the base's file, or its place on the hub.
        assistant: the assistant's, likewise.
        head: the head's file, or its name if it comes with the package.
        about: what the pair is, in a line.
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
    """The pairs that :func:`colm_cpp.load` knows by name."""
    return _PRESETS


def preset(name: object) -> Preset:
    """The pair of that name.

    Raises:
        TypeError: the name is no text.
        OptionError: there is none; the message lists those there are.
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a pair is of type {type(name).__name__}; give a text such as {_PRESETS[0].name!r}"
        )
    for known in _PRESETS:
        if known.name == name:
            return known
    names = " and ".join(repr(known.name) for known in _PRESETS)
    raise OptionError(
        f"there is no pair named {name!a}; known by name: {names}. For models of your own give both, base= and "
        "assistant="
    )
