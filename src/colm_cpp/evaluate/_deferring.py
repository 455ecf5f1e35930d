"""Heads and options with which the texts of a benchmark are deferred."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..engine.prepared import PathLike
from ..heads.head import Head
from ..options import split_head
from ..sources.names import head_file

__all__ = ["always", "at_rate", "calibrated", "greedy", "together"]


def calibrated(head: PathLike | Head | None, experts: Sequence[str]) -> Head | None:
    """A pair's head, if it has a calibration table."""
    if head is None:
        return None
    who = None
    if not isinstance(head, Head):
        head, who = split_head(os.fspath(head), experts)
        file = head_file(head)
        if file is None:
            return None
        head = Head.load(file)
        head = head if who is None else head.replace(expert_names=(who,))
    return head if head.rates else None


def greedy(n_tokens: int) -> dict[str, Any]:
    """Options of a text without chance."""
    return {"temperature": 0.0, "max_tokens": n_tokens}


def at_rate(head: Head | str, rate: float) -> dict[str, Any]:
    """Options of a text that is deferred at a rate; the head ``random`` always defers the same positions."""
    return {"defer_rate": rate, **({"seed": 1} if isinstance(head, str) else {})}


def always(expert: str, experts: Sequence[str]) -> str:
    """The head with which this expert writes alone."""
    return "always" if len(experts) == 1 else f"always:{expert}"


def together(head: Head | str, experts: Sequence[str]) -> dict[str, Head | str]:
    """The ways of writing together by their names: the first is that of the pair's head where it has one."""
    if len(experts) == 1:
        return {"both": head}
    found: dict[str, Head | str] = {} if isinstance(head, str) or len(head.expert_names) == 1 else {"all": head}
    for name in experts:
        own = isinstance(head, Head) and head.expert_names == (name,)
        found[f"base and {name}"] = head if own else f"random:{name}"
    return found
