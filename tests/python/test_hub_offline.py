"""Without the hub: what was downloaded before is used. The progress bar."""

from __future__ import annotations

import io
import os
import pathlib
import socket
import sys
from typing import Any

import hub_files
import huggingface_hub
import huggingface_hub.errors
import huggingface_hub.file_download
import pytest
from hub_files import content
from hub_server import HubServer, Repo, commit_of
from huggingface_hub import constants

from colm_cpp.errors import DownloadError
from colm_cpp.heads.head import Head
from colm_cpp.sources import hub

_loopback_only = hub_files._loopback_only
server = hub_files.server


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


# --- offline ------------------------------------------------------------------------------------------


def test_offline_with_cache(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.resolve("hf:org/repo/*q4_k_m.gguf")
    deep = hub.resolve("hf:org/repo/old/*")
    server.requests.clear()
    offline(monkeypatch)
    assert hub.resolve("hf:org/repo/*q4_k_m.gguf") == path
    assert hub.resolve("hf:org/repo/*IQ2*") == deep
    # Matched against what is cached: with the hub, this matches three files.
    assert hub.resolve("hf:org/repo/model*.gguf") == path
    assert server.requests == []


def test_offline_split_model(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.resolve("hf:org/repo/*q8_0*")
    offline(monkeypatch)
    server.requests.clear()
    assert hub.resolve("hf:org/repo/*q8_0*") == path
    pathlib.Path(path.replace("-00001-of-", "-00003-of-")).unlink()
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE.*: split/big-q8_0-00003-of-00003\.gguf$"):
        hub.resolve("hf:org/repo/*q8_0*")
    assert server.requests == []


def test_offline_with_another_file(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.resolve("hf:org/repo/*q4_k_m.gguf")
    offline(monkeypatch)
    server.requests.clear()
    with pytest.raises(DownloadError) as caught:
        hub.resolve("hf:org/repo/*Q6_K.gguf")
    assert "in the cache (HF_HUB_OFFLINE is set): model-q4_k_m.gguf" in str(caught.value)
    assert server.requests == []


def test_offline_without_cache(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(DownloadError) as caught:
        hub.resolve("hf:org/repo/*q4_k_m.gguf")
    message = str(caught.value)
    assert "org/repo (revision main) is cached" in message
    assert constants.HF_HUB_CACHE in message
    assert "unset HF_HUB_OFFLINE" in message
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.LocalEntryNotFoundError)
    assert server.requests == []


def test_offline_revision(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = server.repos["org/repo"]
    repo.commits[commit_of("v1")] = {"model-q4_k_m.gguf": b"GGUF v1"}
    repo.refs["v1"] = commit_of("v1")
    hub.resolve("hf:org/repo/*q4*@v1")
    offline(monkeypatch)
    assert content(hub.resolve("hf:org/repo/*q4*@v1")) == b"GGUF v1"
    assert content(hub.resolve(f"hf:org/repo/*q4*@{commit_of('v1')}")) == b"GGUF v1"
    with pytest.raises(DownloadError, match="revision main"):
        hub.resolve("hf:org/repo/*q4*")


def test_offline_with_known_incomplete_snapshot(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer clients may know what the folder lacks, and then refuse it with its path in the exception."""
    path = hub.resolve("hf:org/repo/*q4_k_m.gguf")

    class Incomplete(huggingface_hub.errors.LocalEntryNotFoundError):
        snapshot_path = os.path.dirname(path)

    def refuse(*args: Any, **kwargs: Any) -> str:
        raise Incomplete("1 file(s) are missing")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    offline(monkeypatch)
    assert hub.resolve("hf:org/repo/*q4_k_m.gguf") == path


def test_deleted_blob_is_not_cached(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = hub.resolve("hf:org/repo/*q4_k_m.gguf")
    os.unlink(os.path.realpath(path))
    offline(monkeypatch)
    with pytest.raises(DownloadError, match=r"no \.gguf.*HF_HUB_OFFLINE"):
        hub.resolve("hf:org/repo/*q4_k_m.gguf")


@pytest.mark.parametrize("cached", [True, False])
def test_unreachable(cached: bool, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    if cached:
        hub.resolve("hf:org/repo/*q4_k_m.gguf")
    with socket.socket() as taken:
        # Bound but not listening, so nobody else can listen there: a connection is refused.
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(DownloadError) as caught:
            hub.resolve("hf:org/repo/*q4_k_m.gguf")
    message = str(caught.value)
    assert constants.ENDPOINT in message
    assert "may be offline" in message
    assert ("cached of org/repo (revision main): model-q4_k_m.gguf; set HF_HUB_OFFLINE=1" in message) == cached
    assert ("no .gguf of org/repo (revision main) is cached" in message) == (not cached)
    assert type(caught.value.__cause__).__name__ == "ConnectError"


def test_unreachable_after_the_list(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        template = f"http://127.0.0.1:{taken.getsockname()[1]}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        with pytest.raises(DownloadError, match="offline") as caught:
            hub.resolve("hf:org/repo/*q4_k_m.gguf")
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.LocalEntryNotFoundError)
    assert [r.path for r in server.requests] == ["/api/models/org/repo"]


def test_hub_that_never_answers(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(DownloadError, match=r"offline.*Timeout"):
            hub.resolve("hf:org/repo/*q4_k_m.gguf")


# --- progress bar -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def __init__(self, tty: bool) -> None:
        super().__init__()
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty


@pytest.mark.parametrize(
    ("progress", "tty", "drawn"),
    [
        (None, True, True),
        (None, False, False),
        (True, True, True),
        (True, False, True),
        (False, True, False),
        (False, False, False),
    ],
)
def test_progress(
    progress: bool | None, tty: bool, drawn: bool, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stderr = Terminal(tty)
    monkeypatch.setattr(sys, "stderr", stderr)
    hub.resolve("hf:org/repo/*q4_k_m.gguf", progress=progress)
    assert len(server.seen("GET", "/resolve/")) == 1
    assert ("100%" in stderr.getvalue()) == drawn
    assert drawn or stderr.getvalue() == ""


def test_progress_switched_off_by_environment(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", True)
    stderr = Terminal(tty=True)
    monkeypatch.setattr(sys, "stderr", stderr)
    hub.resolve("hf:org/repo/*q4_k_m.gguf", progress=True)
    assert stderr.getvalue() == ""


def test_a_head_of_the_hub(server: HubServer, tmp_path: pathlib.Path) -> None:
    Head.linear([1.0, 2.0]).save(tmp_path / "head.gguf")
    server.repos["org/repo"] = Repo.of({"heads/my-head.gguf": (tmp_path / "head.gguf").read_bytes()})
    assert Head.load("hf:org/repo/*head.gguf").n_embd == 2
    with pytest.raises(DownloadError):
        Head.load("hf:org/repo/other.gguf")
