"""The application: routes, what stands before them, and the pairs behind them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .. import __version__
from . import chat, completions, distributions, models, page, responses
from .errors import install
from .metrics import Metrics
from .protect import Guard
from .registry import Registry
from .service import Service
from .settings import Settings
from .sse import ClientGone

__all__ = ["create"]

_ROUTERS = (chat.router, completions.router, responses.router, distributions.router, models.router, page.router)
CLIENT_GONE = 499  # of nginx; nobody reads it but the log


def create(registry: Registry, settings: Settings) -> FastAPI:
    """The application for these pairs."""
    service = Service(registry, settings, Metrics(registry))

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.ensure_future(registry.watch())
        try:
            yield
        finally:
            watching.cancel()
            service.texts.cancel()
            registry.close()

    app = FastAPI(title="colm serve", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    for router in _ROUTERS:
        app.include_router(router)
    install(app)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=CLIENT_GONE)

    # The last one that is added comes first.
    app.add_middleware(Guard, settings=settings)
    app.add_middleware(_Counted, service=service)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["Retry-After"],
        )
    return app


class _Counted:
    """Counts requests by route and status."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.monotonic()
        status = CLIENT_GONE

        async def watching(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watching)
        finally:
            # Paths that nobody knows would make a counter each.
            route = getattr(scope.get("route"), "path", "other")
            self._service.metrics.request(route, status, time.monotonic() - begin)
