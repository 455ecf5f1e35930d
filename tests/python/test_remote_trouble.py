"""Servers of models on other machines that are away, slow, broken or endless, in every protocol: a typed error each."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

pytest.importorskip("httpx")

import remote_lookalikes
from conftest import each_once
from remote_lookalikes import KEY, PROTOCOLS, TEXT, LookAlike, Words, ask, connect

from colm_cpp.errors import ColmError, RemoteAnswerInvalid, RemoteRefused, RemoteTimeout, RemoteUnreachable
from colm_cpp.remote._http import Http

server = remote_lookalikes.server
GB = 2**30
PACKED = gzip.compress(b" " * 10**7)


def test_unreachable(server: LookAlike) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with contextlib.closing(connect(server.url.replace(server.address, address))) as model:
        with pytest.raises(RemoteUnreachable, match=address):
            model.check(Words())
        with pytest.raises(RemoteUnreachable):
            model.likeliest(0, TEXT, [8])


def test_slow(server: LookAlike) -> None:
    """A server that never answers; machines may be busy."""
    ended = threading.Event()
    begin = time.monotonic()
    try:
        with pytest.raises(RemoteTimeout):
            ask(server, timeout=0.3, then={"answers": lambda *_: ended.wait(60)})
    finally:
        ended.set()
    assert time.monotonic() - begin < 40


def drip(owner: LookAlike, handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then: never silent, never done."""
    start(handler, 1000)
    with contextlib.suppress(OSError):
        for _ in range(40):
            handler.wfile.write(b" ")
            time.sleep(0.05)


def drip_headers(owner: LookAlike, handler: BaseHTTPRequestHandler) -> None:
    """As many bytes as a header may have, one by one."""
    drip_first(handler, b"HTTP/1.1 200 OK\r\nX: ", b"x")


def drip_news(owner: LookAlike, handler: BaseHTTPRequestHandler) -> None:
    """It always says that it goes on working."""
    drip_first(handler, b"", b"HTTP/1.1 102 Processing\r\n\r\n")


def drip_first(handler: BaseHTTPRequestHandler, first: bytes, piece: bytes) -> None:
    handler.wfile.write(first)
    with contextlib.suppress(OSError):
        for _ in range(600):
            handler.wfile.write(piece)
            time.sleep(0.05)
    handler.close_connection = True


def flood(owner: LookAlike, handler: BaseHTTPRequestHandler) -> None:
    """10 GB, as fast as they are read."""
    start(handler, 10 * GB)
    pour(owner, handler, lambda piece: piece)


def endless(owner: LookAlike, handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    pour(owner, handler, lambda piece: b"%x\r\n%s\r\n" % (len(piece), piece))


def pour(owner: LookAlike, handler: BaseHTTPRequestHandler, framed: Callable[[bytes], bytes]) -> None:
    piece = b" " * 2**18
    with contextlib.suppress(OSError):
        while owner.sent < 10 * GB:
            handler.wfile.write(framed(piece))
            owner.sent += len(piece)
    handler.close_connection = True


def start(handler: BaseHTTPRequestHandler, length: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.close_connection = True


def half(owner: LookAlike, handler: BaseHTTPRequestHandler) -> None:
    start(handler, 1000)
    handler.wfile.write(b'{"choices": [')


def hang_up(owner: LookAlike, handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def redirect(owner: LookAlike, handler: Any) -> None:
    handler.send(307, b"", Location="http://127.0.0.2:1/elsewhere")


def expired(owner: LookAlike, handler: Any) -> None:
    handler.send(401, b'{"error": "the key has expired"}')


def broken(owner: LookAlike, handler: Any) -> None:
    handler.send(500, b"x" * 2**20)


def compressed(owner: LookAlike, handler: Any) -> None:
    handler.send(200, b"no gzip", **{"Content-Encoding": "gzip"})


def packed(owner: LookAlike, handler: Any) -> None:
    """Bytes that would unpack to something much longer."""
    assert handler.headers["Accept-Encoding"] == "identity"
    handler.send(200, PACKED, **{"Content-Encoding": "gzip"})


def colours(owner: LookAlike, handler: Any) -> None:
    handler.send(500, b"\x1b[2J\x1b]0;owned\x07 all is well")


TROUBLES: dict[Any, type[ColmError]] = {
    drip: RemoteTimeout,
    drip_headers: RemoteTimeout,
    drip_news: RemoteTimeout,
    packed: RemoteAnswerInvalid,
    colours: RemoteRefused,
    half: RemoteAnswerInvalid,
    hang_up: RemoteUnreachable,
    redirect: RemoteRefused,
    expired: RemoteRefused,
    broken: RemoteRefused,
    compressed: RemoteAnswerInvalid,
}


def name_of(value: Any) -> str:
    return str(getattr(value, "__name__", value))


@pytest.mark.parametrize(("trouble", "server"), each_once(TROUBLES, PROTOCOLS), indirect=["server"], ids=name_of)
def test_trouble(server: LookAlike, trouble: Any) -> None:
    kind = TROUBLES[trouble]
    begin = time.monotonic()
    with pytest.raises(kind) as caught:
        ask(server, timeout=0.2 if kind is RemoteTimeout else 30, then={"answers": trouble})
    assert time.monotonic() - begin < 20
    assert server.address in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value), "nothing that a terminal obeys"


@pytest.mark.parametrize(
    ("trouble", "server"), each_once([flood, endless], PROTOCOLS), indirect=["server"], ids=name_of
)
def test_10_gb(server: LookAlike, trouble: Any) -> None:
    """Cut off at the limit, and nothing more is read."""
    with pytest.raises(RemoteAnswerInvalid, match="bytes"):
        ask(server, timeout=30, then={"answers": trouble})
    assert server.sent < 0.2 * GB


def test_the_key_goes_to_nobody_else() -> None:
    """A redirect is not followed, so the other host sees neither the text nor the key."""
    with LookAlike("colm") as other, LookAlike("colm", key=KEY) as server:
        place = f"http://{other.address}/"
        with pytest.raises(RemoteRefused, match="redirects"):
            ask(server, key=KEY, then={"answers": lambda _, handler: handler.send(307, b"", Location=place)})
        assert not other.asked


def test_a_key_that_expires_later(server: LookAlike) -> None:
    server.key = KEY
    with contextlib.closing(connect(server.url, key=KEY)) as model:
        model.check(Words())
        assert model.likeliest(0, TEXT, [8])
        server.key = "another"
        with pytest.raises(RemoteRefused, match="expired") as caught:
            model.likeliest(0, TEXT, [8])
        assert KEY not in str(caught.value)
        server.key = KEY
        assert model.likeliest(0, TEXT, [8])  # the next text tries again


def test_a_server_that_takes_a_request_piece_by_piece() -> None:
    """Each piece is taken in time, and all of them are not."""
    ended = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**14)

        def take() -> None:
            connection, _ = listening.accept()
            with connection, contextlib.suppress(OSError):
                while not ended.wait(0.05) and connection.recv(2**14):
                    pass

        taker = threading.Thread(target=take)
        taker.start()
        http = Http(f"http://127.0.0.1:{listening.getsockname()[1]}", key=None, timeout=0.5, retries=0)
        with contextlib.closing(http):
            begin = time.monotonic()
            with pytest.raises(RemoteTimeout):
                http.post_bytes("/", b" " * 2**23, "text/plain")
            assert time.monotonic() - begin < 10
        ended.set()
    taker.join(20)


def test_closed_while_a_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """close() cannot shut what is not there yet; the call ends all the same, and does not wait for its timeout."""
    make = socket.create_connection
    with socket.create_server(("127.0.0.1", 0)) as silent:
        http = Http(f"http://127.0.0.1:{silent.getsockname()[1]}", key=None, timeout=20, retries=2)

        def connect_late(*args: Any, **options: Any) -> socket.socket:
            http.close()
            return make(*args, **options)

        monkeypatch.setattr(socket, "create_connection", connect_late)
        begin = time.monotonic()
        with pytest.raises(RemoteUnreachable, match="the connection was closed"):
            http.get("/")
    assert time.monotonic() - begin < 15
