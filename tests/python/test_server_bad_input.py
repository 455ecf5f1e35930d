"""What clients do wrong, on purpose or not: a clear error each, and the server up afterwards."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from conftest import TinyModels

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from server_world import World, running, tiny

from colm_cpp.server import Settings
from colm_cpp.server.registry import Registry

KEY = "s3cret"
LIMIT = 2**20


@pytest.fixture(scope="module")
def world(tiny_model: TinyModels) -> Iterator[World]:
    settings = Settings(api_key=KEY, max_body=LIMIT, body_timeout=0.5, header_timeout=0.5, cors_origins=("http://a.b",))
    with running(Registry([tiny(tiny_model)]), settings) as world:
        answers(world)
        yield world


HTTP = httpx.Client(timeout=20)  # making one takes long


@pytest.fixture(scope="session", autouse=True)
def _no_connection_is_left() -> Iterator[None]:
    yield
    HTTP.close()


def answers(world: World) -> None:
    """The server is up, and writes."""
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2}
    answer = HTTP.post(f"{world.address}/v1/completions", json=body, headers=auth())
    assert answer.status_code == 200, answer.text


@pytest.fixture(autouse=True)
def _up_afterwards(world: World) -> Iterator[None]:
    yield
    answers(world)


def auth(**more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}", **more}


def post(world: World, content: bytes, path: str = "/v1/chat/completions", **headers: str) -> httpx.Response:
    sent = auth(**{"Content-Type": "application/json", **headers})
    return HTTP.post(f"{world.address}{path}", content=content, headers=sent, timeout=20)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error object, which is OpenAI's."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    found: dict[str, Any] = error
    return found


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{'model': 'tiny'}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}]',
        b"\xff\xfe{}",
        b'{"model": "tiny", "messages": "hello"}',
        b'{"model": 3, "messages": [{"role": "user", "content": "a"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": {"a": 1}}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "temperature": 1e999}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "seed": ' + b"9" * 4000 + b"}",
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "colm": {"grammar": "root ::= ("}}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "colm": {"grammar": 3}}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "colm": {"\\ud800": 3}}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "\\ud800": 3}',
        b'{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}',
        b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "response_format": '
        + b'{"type":"json_schema","json_schema":{"schema":' * 1
        + b'{"allOf":[' * 300
        + b"{}"
        + b"]}" * 300
        + b"}}}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" * 200_000,
    ],
    ids=lambda body: body[:70].decode("latin-1"),
)
def test_bodies(world: World, body: bytes) -> None:
    answer = post(world, body)
    assert answer.status_code in (400, 404), answer.text
    error_of(answer)


def test_the_wrong_type_of_content(world: World) -> None:
    """A page of another origin can send this without being asked; it must not be read."""
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a"}]}).encode()
    answer = post(world, body, **{"Content-Type": "text/plain"})
    assert answer.status_code == 400
    assert "application/json" in error_of(answer)["message"]


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_bodies_that_are_too_long(world: World, declared: bool) -> None:
    """50 MB: refused before it is read where its length is known, else when the limit is reached."""
    size = 50 * 2**20
    host, port = world.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        length = f"Content-Length: {size}" if declared else "Transfer-Encoding: chunked"
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n{length}\r\n\r\n".encode())
        piece = b"a" * 2**16
        sent = 0
        with contextlib.suppress(OSError):  # the server closes the connection
            while sent < size:
                connection.sendall(piece if declared else b"10000\r\n" + piece + b"\r\n")
                sent += len(piece)
        assert sent < size
    answer = post(world, b'{"model": "' + b"a" * LIMIT + b'"}')
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "body_too_long"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Token {KEY}"},
        {"Authorization": "Basic !!!"},
        {"Authorization": "Basic " + base64.b64encode(b"me:wrong").decode()},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
    ids=str,
)
def test_keys_that_are_missing_or_wrong(world: World, headers: dict[str, Any]) -> None:
    for path in ("/v1/models", "/metrics", "/tokenizer_info", "/", "/openapi.json", "/nothing"):
        answer = HTTP.get(f"{world.address}{path}", headers=headers)
        assert answer.status_code == 401
        assert error_of(answer)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"]
        assert KEY not in answer.text


def test_keys_that_are_right(world: World) -> None:
    """As a browser sends a password, too; and a page of an allowed origin may ask first."""
    basic = "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()
    for value in (f"Bearer {KEY}", f"bearer {KEY}", basic):
        assert HTTP.get(f"{world.address}/v1/models", headers={"Authorization": value}).status_code == 200
    assert HTTP.get(f"{world.address}/health").status_code == 200
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    url = f"{world.address}/v1/chat/completions"
    assert HTTP.options(url, headers={"Origin": "http://a.b", **asks}).status_code == 200
    refused = HTTP.options(url, headers={"Origin": "http://evil.example", **asks})
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    "path", ["/nothing", "/v1/nothing", "/v1/models/nothing", "/page/../../settings.py", "/page/%2e%2e/x"]
)
def test_paths_that_are_not_there(world: World, path: str) -> None:
    answer = HTTP.get(f"{world.address}{path}", headers=auth())
    assert answer.status_code == 404
    error_of(answer)


def test_methods_that_are_not_allowed(world: World) -> None:
    answer = HTTP.get(f"{world.address}/v1/chat/completions", headers=auth())
    assert answer.status_code == 405
    error_of(answer)


def raw(world: World, request: bytes, *, wait: float = 5.0) -> bytes:
    """What the server answers to these bytes, until it closes the connection or says nothing more."""
    host, port = world.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(request)
        received = b""
        # A reset: what was sent behind the refused part was not read.
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
        return received


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HEAD += f"Authorization: Bearer {KEY}\r\n".encode()
BODY = b'{"model": "tiny", "prompt": "a", "max_tokens": 1}'
SECOND = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + SECOND,
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + BODY + SECOND,
        HEAD + b"Content-Length: +5\r\n\r\n" + BODY + SECOND,
        HEAD + b"Content-Length: -1\r\n\r\n" + BODY + SECOND,
        HEAD + b"Content-Length: 0x10\r\n\r\n" + BODY + SECOND,
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND,
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SECOND,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n" + SECOND,
        HEAD + b"X: a\x00b\r\n\r\n" + SECOND,
        b"GET /health HTTP/1.1\r\n\r\n" + SECOND,
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + SECOND,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: " + b"b" * 200_000 + b"\r\n\r\n",
    ],
    ids=lambda request_: request_[-120:-20].decode("latin-1")[:50],
)
def test_requests_framed_in_two_ways(world: World, request_: bytes) -> None:
    """Nothing behind such a request is taken for one: a proxy may see its end elsewhere."""
    received = raw(world, request_, wait=2.0)
    assert [status[:1] for status in re.findall(rb"HTTP/1.1 (\d\d\d) ", received)] == [b"4"], received
    assert b'"status":"ok"' not in received


def test_slow_bodies(world: World) -> None:
    """A body that stops in the middle is given up."""
    start = time.monotonic()
    received = raw(world, HEAD + b"Content-Length: 5000\r\n\r\n{", wait=10)
    assert received.startswith(b"HTTP/1.1 408")
    assert 0.4 < time.monotonic() - start < 5


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: a\r\n"])
def test_slow_heads(world: World, sent: bytes) -> None:
    """So is a connection on which no request comes."""
    start = time.monotonic()
    raw(world, sent, wait=10)
    assert time.monotonic() - start < 5


def test_clients_that_do_not_read(world: World) -> None:
    """A stream whose client stops reading holds a slot no longer than its text takes."""
    host, port = world.address.removeprefix("http://").split(":")
    body = json.dumps({"model": "tiny", "prompt": "a", "max_tokens": 200, "stream": True, "logprobs": 20}).encode()
    connections = []
    for _ in range(8):
        connection = socket.create_connection((host, int(port)), timeout=20)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        connections.append(connection)
    try:
        answers(world)
    finally:
        for connection in connections:
            connection.close()
    end = time.monotonic() + 10
    turns = world.registry.entries["tiny"].turns
    assert turns is not None
    while turns.writing or turns.waiting:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("n", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_connections(n: int, tiny_model: TinyModels) -> None:
    """Open at the same time: half of them ask at once, the others say nothing for a while."""
    request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    connections: list[socket.socket] = []
    # A slow machine takes long for all of them, and silence longer than header_timeout ends a connection.
    with running(Registry([tiny(tiny_model)]), Settings(api_key=KEY, header_timeout=120.0)) as world:
        host, port = world.address.removeprefix("http://").split(":")
        try:
            while len(connections) < n:
                # Not all at a stroke: the system's queue of new connections is not what is tested.
                new = [socket.create_connection((host, int(port)), timeout=60) for _ in range(50)]
                connections += new
                for connection in new[::2]:
                    connection.sendall(request)
                for connection in new[::2]:
                    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            answers(world)
            for connection in connections[1::2]:  # none was given up
                connection.sendall(request)
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        finally:
            for connection in connections:
                connection.close()


def test_hosts(tiny_model: TinyModels) -> None:
    """A page that has this machine's address for its own name gets nothing (DNS rebinding)."""
    with running(Registry([tiny(tiny_model)]), Settings(local_only=True)) as world:
        for host in ("127.0.0.1", "localhost:8080", "[::1]:8080", "LOCALHOST"):
            assert HTTP.get(f"{world.address}/health", headers={"Host": host}).status_code == 200
        for host in ("evil.example", "127.0.0.1.evil.example", "evil.example:8080", ""):
            assert HTTP.get(f"{world.address}/health", headers={"Host": host}).status_code == 403
