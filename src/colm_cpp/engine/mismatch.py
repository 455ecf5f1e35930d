"""How the pair of a session differs from the one that is to read it, in words."""

from __future__ import annotations

from typing import Any

from .._shown import shown
from ..options import KV_TYPES

__all__ = ["difference"]

_TYPES = {number: name for name, number in KV_TYPES.items()}
_FLASH_ATTENTION = {-1: None, 0: False, 1: True}


def difference(name: str, before: Any, now: Any) -> str:
    """What differs between two identities (:func:`.session.identity`) in ``name``.

    Args:
        name: ``n_parallel``, ``llama.cpp``, or a model and what is another there, such as ``base.type_k``.
        before: the value of the session, from a file; anything.
        now: the value of the pair.
    """
    if name == "llama.cpp":
        return f"it was written with {_in_words(_build, before)}, and this is {_build(now)}"
    model, _, what = name.partition(".")
    if what == "file":
        return f"its {model} is another file ({_in_words(_file, before)}) than that of this pair ({_file(now)})"
    if what == "adapters":
        return f"its {model} had {_in_words(_adapters, before)}, and that of this pair has {_adapters(now)}"
    who = f"its {model}" if what else "its pair"
    option = what or name
    return f"{who} was loaded with {_option(option, before)}, and this one with {_option(option, now)}"


def _in_words(words: Any, value: Any) -> str:
    """``words(value)``; the value as it stands where it has another shape."""
    try:
        return str(words(value))
    except (TypeError, ValueError, IndexError, KeyError):
        return shown(value)


def _build(value: Any) -> str:
    python, library, order = value
    return f"llama-cpp-python {python} ({library}) on a {order}-endian machine"


def _file(value: Any) -> str:
    size, digest = value
    return f"{size:,} bytes, digest {digest[:12]}"


def _adapters(value: Any) -> str:
    named = [f"{digest[:12]} with scale {scale:g}" for digest, scale in value]
    return f"the adapters {', '.join(named)}" if named else "no adapter"


def _option(name: str, value: Any) -> str:
    if name in ("type_k", "type_v"):
        value = _TYPES.get(value, value) if isinstance(value, int) else value
    elif name == "flash_attn":
        value = _FLASH_ATTENTION.get(value, value) if isinstance(value, int) else value
    return f"{name}={shown(value)}"
