"""The look-alike of the hub and its files, for the tests."""

from __future__ import annotations

import hashlib
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hub_server import HubServer, Repo, client_of

SMALL = b"GGUF small"


BIG = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(2000))  # 64000 bytes


PARTS = {f"split/big-q8_0-{i:05d}-of-00003.gguf": b"GGUF part %d" % i for i in (1, 2, 3)}


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes any connection to elsewhere fail, and loudly."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"a test tried to reach {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture
def server(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The look-alike, with the client pointed at it and all the client's folders in tmp_path."""
    with HubServer() as running, client_of(running, tmp_path / "hf", monkeypatch):
        running.repos["org/repo"] = Repo.of(
            {
                "README.md": b"hello",
                "model-q4_k_m.gguf": SMALL,
                "model-Q6_K.gguf": BIG,
                "old/model-iq2.gguf": b"GGUF old",
                **PARTS,
            }
        )
        yield running


def content(path: str) -> bytes:
    return pathlib.Path(path).read_bytes()
