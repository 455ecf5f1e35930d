"""The libraries that only tuning needs, and the check that they are there before work begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ..extras import require

__all__ = ["libraries"]


def libraries() -> Any:
    """torch, transformers and peft as attributes.

    Raises:
        MissingDependency: one of them, or SciPy, cannot be imported; the message says what to install.
    """
    require("scipy.optimize", "tuning")
    return SimpleNamespace(**{name: require(name, "tuning") for name in ("torch", "transformers", "peft")})
