"""Resolving names of models, heads and presets, for the Python API and the command line.

A preset (:func:`colm_cpp.presets`) names a pair and its head. The name of a head is tried in this order: a
training-free head, a head in the package, the head of a preset, a file, a token of the vocabulary. A path object, or a
str such as ``./demo``, is always a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .._shown import shown
from ..errors import HeadError, OptionError
from ..options import split_head
from ..remote import is_remote, not_remote
from .hub import is_hub_spec, resolve
from .pair_file import PACKAGED, Preset, read
from .preset import is_preset, packaged_names, preset_files
from .shipped import shipped_head, shipped_heads

__all__ = [
    "HEAD_CHOICES",
    "TRAINING_FREE_HEADS",
    "NamedHead",
    "find_head",
    "find_model",
    "find_models",
    "head_file",
    "head_names",
    "refuse_unknown_expert",
]

PathLike = str | os.PathLike[str]

_ADDRESS = re.compile(r"[\w.-]+:\d{1,5}(/.*)?")  # host:port
TRAINING_FREE_HEADS = ("confidence", "entropy", "random", "always", "never")


def head_names() -> tuple[str, ...]:
    """Names of the heads in the package (:func:`colm_cpp.shipped_heads`), and of its presets with a head's file."""
    files = ((name, read(PACKAGED / f"{name}.toml", name).head) for name in packaged_names())
    with_file = [name for name, head in files if head is not None and head not in TRAINING_FREE_HEADS]
    return tuple(dict.fromkeys([*shipped_heads(), *with_file]))


HEAD_CHOICES = (
    "head= takes the path of a head file (.gguf), a colm_cpp.Head, the name of a head in the package "
    f"({', '.join(map(repr, head_names()))}), the name of a training-free head "
    f"({', '.join(map(repr, TRAINING_FREE_HEADS))}), or a token of the base's vocabulary such as '<|defer|>'"
)


@dataclass(frozen=True, slots=True)
class NamedHead:
    """What the name of a head stands for.

    Attributes:
        kind: ``"file"``, ``"packaged"``, ``"training-free"`` or ``"token"``.
        name: the name that was given; of a training-free head its own, also where a preset stands for it.
        place: the head's file, or its place on the hub. None for a training-free head and for a token.
        expert: who writes, where a preset with several experts says so.
    """

    kind: Literal["file", "packaged", "training-free", "token"]
    name: str
    place: str | None = None
    expert: str | None = None

    def file(self) -> str | None:
        """The head's local file, downloaded first if it is on the hub; None for a head without a file.

        Raises:
            DownloadError: the file cannot be downloaded.
        """
        return None if self.place is None else os.path.expanduser(resolve(self.place))


def find_head(head: PathLike) -> NamedHead:
    """What ``head`` stands for. Nothing is opened or downloaded. A token is not checked against the base."""
    name = os.fspath(head)
    if not isinstance(head, str):
        return NamedHead("file", name, os.path.join(os.curdir, name) if is_hub_spec(name) else name)
    if name in TRAINING_FREE_HEADS:
        return NamedHead("training-free", name)
    file = None if name in shipped_heads() else preset_files().get(name)
    known = None if file is None else read(file, name)
    if known is not None and known.head is not None:
        own, expert = split_head(known.head, known.names[1:])
        if own in TRAINING_FREE_HEADS:
            return NamedHead("training-free", own, None, expert)
        return NamedHead("packaged" if known.packaged else "file", name, _file_or_token(own).place, expert)
    return _file_or_token(name)


def _file_or_token(name: str) -> NamedHead:
    packaged = shipped_head(name)
    if packaged is not None:
        return NamedHead("packaged", name, str(packaged))
    if "\0" not in name and (is_hub_spec(name) or name.lower().endswith(".gguf") or os.path.exists(name)):
        return NamedHead("file", name, name)
    return NamedHead("token", name)


def head_file(head: PathLike) -> str | None:
    """The local file of a head, see :meth:`NamedHead.file`."""
    return find_head(head).file()


def refuse_unknown_expert(head: str, experts: Sequence[str]) -> None:
    """Raises HeadError where ``head`` is a head and, behind it, the name of an expert that the pair does not have."""
    known, _, who = head.rpartition(":")
    if known and who not in experts and find_head(head).kind == "token" and find_head(known).kind != "token":
        raise HeadError(f"the head {head!a} names the expert {shown(who)}, and this pair has {' and '.join(experts)}")


def find_model(name: str, value: object, *, remote: bool = False) -> str:
    """The local file of a model, downloaded first if it is on the hub. ``name`` is the option that messages name.

    Args:
        name: the option.
        value: what was given for it.
        remote: the URL of a model on another machine is returned as it is.

    Raises:
        TypeError: ``value`` is neither a str nor a path.
        OptionError: ``value`` is the name of a preset, the address of a server without its scheme, or without
            ``remote`` a model on another machine.
        DownloadError: the file cannot be downloaded from the hub.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name}= is of type {type(value).__name__}; give the path of a GGUF file or hf:org/repo/file")
    if is_preset(value):
        raise OptionError(f"{name}={value!a} is a preset, which stands for two models; give pair={value!a} instead")
    if is_remote(value):
        if remote:
            return value
        raise not_remote(name, value)
    if isinstance(value, str) and _ADDRESS.fullmatch(value) and not os.path.exists(value):
        raise OptionError(
            f"{name} is {shown(value)}, and there is no such file; for a model on another machine say what serves it, "
            "such as http:// before the address of a llama-server"
        )
    return os.path.expanduser(resolve(value))


def find_models(pair: Preset, *, remote: bool = False) -> Preset:
    """The pair with the local files of its models.

    ``remote``: experts may be on other machines. Errors are those of :func:`find_model`.
    """
    base = find_model("base", pair.base)
    if pair.experts:
        experts = tuple(
            replace(expert, model=find_model(expert.name, expert.model, remote=remote)) for expert in pair.experts
        )
        return replace(pair, base=base, experts=experts)
    return replace(pair, base=base, assistant=find_model("assistant", pair.assistant, remote=remote))
