"""The look-alike of the hub and its files, for the tests."""

from __future__ import annotations

import hashlib
import os
import pathlib
import socket
import sys
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest
from hub_server import HubServer, Repo
from huggingface_hub import close_session, constants

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
    """The look-alike, with the client pointed at it and all the client's folders in tmp_path.

    The client reads its environment once, when imported, so its constants are replaced instead; the few
    variables that it reads at every call are replaced as well.
    """
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("TQDM_POSITION", raising=False)
    with HubServer() as running:
        home = tmp_path / "hf"
        for name, value in {
            "ENDPOINT": running.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": running.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(home / "hub"),
            "HUGGINGFACE_HUB_CACHE": str(home / "hub"),
            "HF_ASSETS_CACHE": str(home / "assets"),
            "HF_XET_CACHE": str(home / "xet"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DISABLE_TELEMETRY": True,
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
            # So that a cut leaves whole chunks behind even though the test's files are small.
            "DOWNLOAD_CHUNK_SIZE": 1000,
        }.items():
            monkeypatch.setattr(constants, name, value)
        # The client sleeps, seconds at a time, before it tries anything again.
        hurried = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
        monkeypatch.setattr("huggingface_hub.file_download.time", hurried)
        monkeypatch.setattr("huggingface_hub.utils._http.time", hurried)
        bars = sys.modules["huggingface_hub.utils.tqdm"]
        monkeypatch.setattr(bars, "HF_HUB_DISABLE_PROGRESS_BARS", None)
        monkeypatch.setattr(bars, "progress_bar_states", {})
        # The HTTP client is kept between calls, with the proxies of when it was made.
        close_session()
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
        close_session()


def content(path: str) -> bytes:
    return pathlib.Path(path).read_bytes()
