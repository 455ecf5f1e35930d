"""The page: files of ``page/``, the style sheet that all pages share, and a policy for them.

The policy lets the page reach this server only, runs no script but its own, and forbids it to take text for HTML.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from ..files.style_sheet import PATH as STYLE_SHEET
from .errors import ApiError

__all__ = ["POLICY", "router"]

FOLDER = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
router = APIRouter(include_in_schema=False)


@router.api_route("/", methods=["GET", "HEAD"])
async def index() -> Response:
    """The page."""
    return _file("index.html")


@router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
async def part(name: str) -> Response:
    """A file of the page."""
    return _file(name)


def _file(name: str) -> Response:
    known = {path.relative_to(FOLDER).as_posix(): path for path in FOLDER.rglob("*") if path.is_file()}
    known[STYLE_SHEET.name] = STYLE_SHEET
    path = known.get(name)
    if path is None or path.suffix not in _TYPES:
        raise ApiError(404, "there is no such part of the page", code="not_found")
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=_HEADERS)
