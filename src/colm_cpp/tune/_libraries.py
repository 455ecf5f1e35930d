"""The libraries that only tuning needs, and the check that they are there before work begins."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

from ..errors import MissingDependency

__all__ = ["libraries"]

_NAMES = ("torch", "transformers", "peft", "gguf", "scipy")


def libraries() -> Any:
    """torch, transformers, peft and gguf as attributes.

    Raises:
        MissingDependency: one of them, or SciPy, cannot be imported; the message says what to install.
    """
    found = {}
    for name in _NAMES:
        try:
            found[name] = importlib.import_module(name)
        except ImportError as error:
            raise MissingDependency(
                f"{name} is needed to tune a base and cannot be imported ({error}); run: pip install 'colm-cpp[tune]'"
            ) from error
    return SimpleNamespace(**found)
