"""What ``colm serve`` says and refuses when it starts, and requests that tools other than OpenAI's clients send."""

from __future__ import annotations

import errno
import gzip
import os
import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from click.testing import Result
from commands import run
from conftest import TinyModels
from server_world import World, running, tiny

import colm_cpp as colm
import colm_cpp.server.run
from colm_cpp.server import Settings
from colm_cpp.server.registry import Registry


@pytest.fixture(scope="module")
def world(tiny_model: TinyModels) -> Iterator[World]:
    with running(Registry([tiny(tiny_model)])) as world:
        yield world


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Runs the command up to where it would serve."""
    monkeypatch.setattr(colm_cpp.server.run, "run", lambda app, listening, **_: listening.close() or 0)
    monkeypatch.delenv("COLM_API_KEY", raising=False)

    def command(*arguments: str) -> Result:
        return run("serve", "--pair", "demo", "--port", "0", *arguments)

    return command


@pytest.mark.parametrize("key", ["", "two words", "sésame", "line\n"])
def test_keys_that_no_client_can_send(key: str) -> None:
    with pytest.raises(colm.OptionError, match="api_key") as error:
        Settings(api_key=key)
    assert not key or key not in str(error.value)


def test_an_empty_key_does_not_open_the_server(start) -> None:  # type: ignore[no-untyped-def]
    assert start("--api-key", "").exit_code == 1
    assert start("--api-key", "s3cret").exit_code == 0


@pytest.mark.parametrize(
    "origin", ["example.org", "https://example.org/", "https://Example.org", "https://a.b/page", ""]
)
def test_origins_that_no_browser_sends(origin: str) -> None:
    with pytest.raises(colm.OptionError, match="cors_origin"):
        Settings(cors_origins=(origin,))


@pytest.mark.parametrize("origin", ["*", "null", "http://localhost:3000", "https://example.org", "http://[::1]:80"])
def test_origins_that_browsers_send(origin: str) -> None:
    assert Settings(cors_origins=(origin,)).cors_origins == (origin,)


def test_a_server_that_is_open_to_all_says_so(start) -> None:  # type: ignore[no-untyped-def]
    assert "--api-key" in start("--host", "0.0.0.0", "--quiet").stderr
    assert "--api-key" not in start("--host", "0.0.0.0", "--api-key", "s3cret").stderr
    assert "--api-key" not in start().stderr


def test_a_port_in_use_is_told_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        result = run("serve", "--pair", "demo", "--port", port)
    assert result.exit_code == 1
    assert result.stderr.count(port) == 1
    assert "--port" in result.stderr


@pytest.mark.parametrize("path", ["/", "/health", "/page/app.js"])
def test_head(world: World, path: str) -> None:
    """Watchdogs and ``curl -I`` ask for the head alone."""
    answer = httpx.head(f"{world.address}{path}")
    assert answer.status_code == 200
    assert answer.content == b""


def test_a_compressed_body_is_refused_by_its_name(world: World) -> None:
    body = gzip.compress(b'{"model": "tiny", "prompt": "a"}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = httpx.post(f"{world.address}/v1/completions", content=body, headers=headers)
    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "why"),
    [(b"[" * 100_000, "recursion"), (b'"\xff"', "0xff"), (b"9" * 5000, "digits")],
    ids=["deep", "bytes", "long"],
)
def test_a_body_that_cannot_be_read_is_told_why(world: World, body: bytes, why: str) -> None:
    headers = {"Content-Type": "application/json"}
    error = httpx.post(f"{world.address}/v1/completions", content=body, headers=headers)
    assert error.status_code == 400
    assert error.json()["error"]["code"] == "invalid_json"
    assert why in error.json()["error"]["message"]


def test_an_address_that_is_taken() -> None:
    with colm_cpp.server.run.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        words = re.escape(os.strerror(errno.EADDRINUSE)) if os.name == "posix" else "[^()]+"
        with pytest.raises(OSError, match=rf"cannot listen to 127\.0\.0\.1:{port} \({words}\); give another"):
            colm_cpp.server.run.listen("127.0.0.1", port)
