"""What a name stands for, wherever a model, a head or a pair is named: in the Python API and on the command line alike.

A pair's name (:func:`colm_cpp.presets`) stands for two models and a head. A head is, in this order, a training-free one
by its name, one in the package by its name or by that of its pair, a file, or a token. A path object, or a text such as
``./demo``, is always a file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from .errors import OptionError
from .hub import is_hub_spec, resolve
from .preset import presets
from .shipped import shipped_head, shipped_heads

__all__ = [
    "HEAD_CHOICES",
    "TRAINING_FREE_HEADS",
    "NamedHead",
    "find_head",
    "find_model",
    "head_file",
    "head_names",
]

PathLike = str | os.PathLike[str]

TRAINING_FREE_HEADS = ("confidence", "entropy", "random", "always", "never")


def head_names() -> tuple[str, ...]:
    """Names of heads in the package: those of :func:`colm_cpp.shipped_heads`, and those of pairs, for their heads."""
    return tuple(dict.fromkeys([*shipped_heads(), *(known.name for known in presets())]))


HEAD_CHOICES = (
    "give head= one of: the path of a head file (.gguf), a colm_cpp.Head, a head of the package by name "
    f"({', '.join(map(repr, head_names()))}), a training-free head by name "
    f"({', '.join(map(repr, TRAINING_FREE_HEADS))}), or a token of the base's vocabulary such as '<|defer|>'"
)


@dataclass(frozen=True, slots=True)
class NamedHead:
    """What the name of a head stands for.

    Attributes:
        kind: ``"file"``, ``"packaged"``, ``"training-free"`` or ``"token"``.
        name: the name as it was given.
        place: its file, or its place on the hub; None of a training-free head and of a token.
    """

    kind: Literal["file", "packaged", "training-free", "token"]
    name: str
    place: str | None = None

    def file(self) -> str | None:
        """The local file, downloaded first where it is on the hub; None where there is none.

        Raises:
            DownloadError: it cannot be had.
        """
        return None if self.place is None else os.path.expanduser(resolve(self.place))


def find_head(head: PathLike) -> NamedHead:
    """What ``head`` stands for. Nothing is opened or downloaded; whether a token exists only a loaded base knows."""
    name = os.fspath(head)
    if not isinstance(head, str):
        return NamedHead("file", name, os.path.join(os.curdir, name) if is_hub_spec(name) else name)
    if name in TRAINING_FREE_HEADS:
        return NamedHead("training-free", name)
    packaged = shipped_head(name)
    if packaged is not None:
        return NamedHead("packaged", name, str(packaged))
    for known in presets():
        if known.name == name:
            return NamedHead("packaged", name, find_head(known.head).place)
    if "\0" not in name and (is_hub_spec(name) or name.lower().endswith(".gguf") or os.path.exists(name)):
        return NamedHead("file", name, name)
    return NamedHead("token", name)


def head_file(head: PathLike) -> str | None:
    """The local file of a head, see :meth:`NamedHead.file`."""
    return find_head(head).file()


def find_model(name: str, value: object) -> str:
    """The local file of the model that was given as the option ``name``, downloaded first where it is on the hub.

    Raises:
        TypeError: it is no path.
        OptionError: it is a pair's name.
        DownloadError: it cannot be had from the hub.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name}= is of type {type(value).__name__}; give the path of a GGUF file or hf:org/repo/file")
    if isinstance(value, str) and value in {known.name for known in presets()} and not os.path.isfile(value):
        raise OptionError(f"{name}={value!a} is the name of a pair, not of one model; give pair={value!a} instead")
    return os.path.expanduser(resolve(value))
