"""Packages that only some of the work needs, and that the user installs for it."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingDependency

__all__ = ["require"]

_PACKAGES = {
    "matplotlib": ("Matplotlib", "matplotlib"),
    "ml_dtypes": ("ml_dtypes", "ml_dtypes"),
    "safetensors": ("safetensors", "safetensors ml_dtypes"),
    "scipy.optimize": ("SciPy", "scipy"),
    "torch": ("PyTorch", "torch"),
    "transformers": ("transformers", "transformers"),
    "peft": ("peft", "peft"),
    **dict.fromkeys(("prompt_toolkit", "prompt_toolkit.history"), ("prompt_toolkit", "prompt_toolkit")),
    "fastapi": ("FastAPI", "'colm-cpp[server]'"),
    "uvicorn": ("uvicorn", "'colm-cpp[server]'"),
    "httpx": ("httpx", "'colm-cpp[remote]'"),
    "ray": ("Ray", "'colm-cpp[ray]'"),
    "prometheus_client": ("prometheus-client", "'colm-cpp[server]'"),
}


def require(module: str, what: str) -> Any:
    """Imports ``module``. Called before work begins, so that nothing is computed for nobody.

    Args:
        module: one that an extra of the package brings.
        what: what needs it, as the subject of a sentence.

    Raises:
        MissingDependency: it cannot be imported; the message says what to install.
    """
    name, package = _PACKAGES[module]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"{what} needs {name}, which cannot be imported ({error}); run: pip install {package}"
        ) from error
