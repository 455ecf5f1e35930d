"""Which LoRA adapters a base has, and whether a head was fitted to that base.

An adapter changes the hidden states. So a head that was fitted to a base with an adapter decides badly without it. Head
files therefore keep the SHA-256 and the scale of each adapter that the base had.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import _core
from .._shown import shown
from ..errors import HeadMismatch, LoadError
from ..files.paths import digest_of, to_native

if TYPE_CHECKING:
    from .head import Head

__all__ = [
    "MERGED_KEY",
    "AdapterWarning",
    "Adapters",
    "adapter_digest",
    "check_adapters",
    "described",
    "in_effect",
    "of_model",
]

MERGED_KEY = "colm.merged.adapters"
"""A string in a file that ``colm merge`` wrote: SHA-256 and scale of each adapter in it, as JSON."""

# SHA-256 and scale of each adapter, ascending.
Adapters: TypeAlias = "tuple[tuple[str, float], ...]"


class AdapterWarning(UserWarning):
    """A head that was fitted to the base without an adapter is used with one."""


def adapter_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of an adapter's file.

    Raises:
        LoadError: the file is missing or cannot be read.
    """
    try:
        return digest_of(os.fsdecode(to_native(path)))
    except OSError as error:
        raise LoadError(f"the adapter {os.fspath(path)} cannot be read ({error.strerror or error})") from error


def in_effect(adapters: Iterable[tuple[str, float]]) -> Adapters:
    """What adapters add up to: those of the same content together, those of scale 0 left out, in a fixed order.

    Args:
        adapters: SHA-256 and scale of each. Scales are rounded to float32, as models and head files hold them.
    """
    scales: dict[str, float] = {}
    for digest, scale in adapters:
        scales[digest] = scales.get(digest, 0.0) + scale
    # The shortest decimal that float32 rounds to the same number.
    return tuple(sorted((d, float(str(np.float32(scale)))) for d, scale in scales.items() if np.float32(scale) != 0))


def of_model(facts: Mapping[str, Any]) -> Adapters:
    """The adapters of a model that was loaded from a file, those merged into the file included.

    Args:
        facts: about the model, see :attr:`colm_cpp.Pair.base`.

    Raises:
        LoadError: the file has a damaged list of merged adapters.
    """
    loaded = [(adapter["sha256"], adapter["scale"]) for adapter in facts["adapters"]]
    return in_effect([*_merged_into(facts["path"]), *loaded])


def _merged_into(path: str) -> list[tuple[str, float]]:
    text = _core.inspect_gguf(to_native(path))["metadata"].get(MERGED_KEY)
    if text is None:
        return []
    try:
        return [(str(digest), float(scale)) for digest, scale in json.loads(text)]
    except (TypeError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} is damaged: {MERGED_KEY} is {shown(text)}; merge the adapter again") from error


def check_adapters(head: Head, base: Mapping[str, Any]) -> None:
    """Compares the adapters that the head was fitted with and those that the loaded base has.

    A head that does not say (an older file, another tool's) is not checked. A head that was fitted to the base without
    an adapter gives a warning with one: the pair works, but its deferral rates may not be those of the table.

    Raises:
        HeadMismatch: the head was fitted to the base with other adapters, or with other scales.
    """
    loaded = of_model(base)
    if head.base_adapters is None or head.base_adapters == loaded:
        return
    has = f"the base {base['path']} was loaded with {described(loaded)}"
    if not head.base_adapters:
        warnings.warn(
            f"the head {head.name or '(unnamed)'} was fitted to the base without an adapter, but {has}; deferral rates "
            "may differ from those that were calibrated. Fit or calibrate a head for this base",
            AdapterWarning,
            stacklevel=2,
        )
        return
    raise HeadMismatch(
        f"the head {head.name or '(unnamed)'} was fitted to the base with {described(head.base_adapters)}, but {has}; "
        "load the pair by its folder or its pair.toml, or give the base the adapter that lies beside the head "
        "(base_options={'lora': [('adapter.gguf', 1.0)]}, or --base-option lora=adapter.gguf)"
    )


def described(adapters: Adapters) -> str:
    """Adapters in words."""
    if not adapters:
        return "no adapter"
    return " and ".join(f"the adapter {digest[:12]} at scale {scale:g}" for digest, scale in adapters)
