"""The experts of a pair: their names, their models and what is special about loading each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .._shown import shown
from ..errors import OptionError
from ..heads.checks import EXPERT_NAME, MAX_EXPERTS
from .field import option_dict

__all__ = ["ASSISTANT", "BASE", "MAX_EXPERTS", "ExpertModel", "Experts", "expert_name", "read_experts", "split_head"]

PathLike = str | os.PathLike[str]
# What load() takes as experts=: of each name a model, or a dict with "model" and options of loading.
Experts: TypeAlias = Mapping[str, "PathLike | Mapping[str, Any]"]

BASE, ASSISTANT = "base", "assistant"


@dataclass(frozen=True, slots=True)
class ExpertModel:
    """An expert beside the base.

    Attributes:
        name: what tokens, statistics and messages call it.
        model: its file, or its place on the hub.
        options: options of loading that replace those of all models.
    """

    name: str
    model: PathLike
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)


def expert_name(name: object) -> str:
    """Checks the name of an expert.

    Raises:
        OptionError: it is no short word, or it is ``base``.
    """
    if not isinstance(name, str) or re.fullmatch(EXPERT_NAME, name) is None:
        raise OptionError(
            f"the name of an expert is {shown(name)}; give a letter and at most 31 more letters, digits, '-' and '_'"
        )
    if name == BASE:
        raise OptionError("an expert is called 'base', which is the name of the base itself; give it another name")
    return name


def read_experts(experts: object) -> tuple[ExpertModel, ...]:
    """Reads ``experts=`` of :func:`colm_cpp.load`.

    Raises:
        TypeError: a model is neither a path nor a dict.
        OptionError: there are none or too many, a name cannot be used, or a dict has no ``"model"``.
    """
    if not isinstance(experts, Mapping) or not 1 <= len(experts) <= MAX_EXPERTS:
        given = f"has {len(experts)} entries" if isinstance(experts, Mapping) else f"is {shown(experts)}"
        raise OptionError(
            f"experts {given}; give 1 to {MAX_EXPERTS} models by their names, such as {{'code': 'c.gguf'}}"
        )
    found = []
    for key, value in experts.items():
        name = expert_name(key)
        options: dict[str, Any] = {}
        if isinstance(value, Mapping):
            options = dict(option_dict(f"the expert {name}", value))
            if "model" not in options:
                raise OptionError(f'the expert {name} has no "model"; give its file beside the options of loading it')
            value = options.pop("model")
        if not isinstance(value, (str, os.PathLike)):
            raise TypeError(f"the expert {name} is of type {type(value).__name__}; give a GGUF file's path or a dict")
        found.append(ExpertModel(name, value, options))
    return tuple(found)


def split_head(head: str, experts: Sequence[str]) -> tuple[str, str | None]:
    """``"head.gguf:math"`` as the head and the expert behind it; None where no name of an expert stands behind."""
    name, _, last = head.rpartition(":")
    return (name, last) if name and last in experts else (head, None)
