"""``colm serve``: a pair behind OpenAI's HTTP API. It needs ``pip install 'colm-cpp[server]'``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras import require
from .settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .registry import Registry

__all__ = ["Settings", "create_app", "require_packages"]


def require_packages() -> None:
    """Raises MissingDependency where the extra ``server`` is not installed; the message says what to install."""
    for module in ("fastapi", "uvicorn", "prometheus_client"):
        require(module, "colm serve")


def create_app(registry: Registry, settings: Settings | None = None) -> FastAPI:
    """The ASGI application. Errors are those of :func:`require_packages`."""
    require_packages()
    from .app import create

    return create(registry, settings or Settings())
