"""The hub refuses, is in trouble, or cuts a download off."""

from __future__ import annotations

import hashlib
import pathlib

import hub_files
import huggingface_hub
import huggingface_hub.errors
import huggingface_hub.file_download
import pytest
from hub_files import BIG, PARTS, SMALL, content
from hub_server import HubServer
from huggingface_hub import constants

from colm_cpp.errors import DownloadError
from colm_cpp.sources import hub

_loopback_only = hub_files._loopback_only
server = hub_files.server


# --- access -------------------------------------------------------------------------------------------


def test_missing_repository(server: HubServer) -> None:
    with pytest.raises(DownloadError, match=r"org/none.*private") as caught:
        hub.resolve("hf:org/none/*q4*")
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.RepositoryNotFoundError)
    assert [r.status for r in server.requests] == [404]


def test_private_without_token(server: HubServer) -> None:
    server.repos["org/repo"].token = "hf_right"
    with pytest.raises(DownloadError) as caught:
        hub.resolve("hf:org/repo/*q4*")
    assert "hf auth login" in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.RepositoryNotFoundError)
    assert [r.status for r in server.requests] == [401]
    assert "authorization" not in server.requests[0].headers


def test_private_with_wrong_token(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["org/repo"].token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError) as caught:
        hub.resolve("hf:org/repo/*q4*")
    message = str(caught.value)
    assert "refused access to org/repo" in message
    assert "401" in message
    assert "hf auth login" in message
    assert "hf_wrong" not in message
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.HfHubHTTPError)


@pytest.mark.parametrize("place", ["environment", "file"])
def test_private_with_token(place: str, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repos["org/repo"].token = "hf_right"
    if place == "environment":
        monkeypatch.setenv("HF_TOKEN", "hf_right")
    else:
        file = pathlib.Path(constants.HF_TOKEN_PATH)
        file.parent.mkdir(parents=True)
        file.write_text("hf_right")
    assert content(hub.resolve("hf:org/repo/*q4*")) == SMALL
    assert [r.method for r in server.requests] == ["GET", "HEAD", "GET"]
    assert {r.headers.get("authorization") for r in server.requests} == {"Bearer hf_right"}


def test_gated(server: HubServer) -> None:
    server.repos["org/repo"].gated = True
    with pytest.raises(DownloadError) as caught:
        hub.resolve("hf:org/repo/*q4*")
    message = str(caught.value)
    assert f"ask for it at {server.endpoint}/org/repo" in message
    assert "hf auth login" in message
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.GatedRepoError)
    assert [r.status for r in server.requests] == [200, 403]


def test_server_in_trouble(server: HubServer) -> None:
    server.failing["GET"] = 503
    with pytest.raises(DownloadError, match=r"HTTP status 503 \(out of order\)") as caught:
        hub.resolve("hf:org/repo/*q4*")
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.HfHubHTTPError)


def test_server_in_trouble_after_the_list(server: HubServer) -> None:
    server.failing["HEAD"] = 503
    with pytest.raises(DownloadError, match="HTTP status 503") as caught:
        hub.resolve("hf:org/repo/*q4*")
    # The client says "not in the cache" here; why it could not ask is in its exception's cause.
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.LocalEntryNotFoundError)
    assert len(server.seen("GET", "/api/")) == 1
    assert server.seen("HEAD", "/resolve/")


def test_login_page_instead_of_the_hub(server: HubServer) -> None:
    server.page = b"<html>Welcome to our hotel</html>"
    with pytest.raises(DownloadError, match=server.endpoint) as caught:
        hub.resolve("hf:org/repo/*q4*")
    assert caught.value.__cause__ is not None
    assert [r.status for r in server.requests] == [200]


# --- cut off ------------------------------------------------------------------------------------------


def test_cut_off_once(server: HubServer) -> None:
    server.cuts.append(25_500)
    try:
        path = hub.resolve("hf:org/repo/model-Q6_K.gguf")
    except DownloadError:
        # Early 1.x clients resume in the next call, later ones within this one.
        path = hub.resolve("hf:org/repo/model-Q6_K.gguf")
    assert hashlib.sha256(content(path)).digest() == hashlib.sha256(BIG).digest()
    first, second = server.seen("GET", "/resolve/")
    assert (first.status, first.sent, "range" in first.headers) == (200, 25_500, False)
    # Whole chunks of 1000 bytes were kept.
    assert (second.status, second.sent, second.headers["range"]) == (206, 39_000, "bytes=25000-")


def test_cut_off_for_good(server: HubServer) -> None:
    hub.resolve("hf:org/repo/*q4_k_m.gguf")
    server.requests.clear()
    server.cuts.extend([25_500, *[0] * 100])
    with pytest.raises(DownloadError) as caught:
        hub.resolve("hf:org/repo/model-Q6_K.gguf")
    message = str(caught.value)
    assert "the download of model-Q6_K.gguf failed" in message
    assert "call again" in message
    assert type(caught.value.__cause__).__name__ == "RemoteProtocolError"
    again = server.seen("GET", "/resolve/")[1:]
    assert all(r.headers.get("range") == "bytes=25000-" for r in again)

    # The next call gets the rest: after what was kept if this client keeps it, else all of it.
    server.cuts.clear()
    server.requests.clear()
    path = hub.resolve("hf:org/repo/model-Q6_K.gguf")
    assert hashlib.sha256(content(path)).digest() == hashlib.sha256(BIG).digest()
    (get,) = server.seen("GET", "/resolve/")
    assert (get.headers.get("range"), get.sent) in [("bytes=25000-", 39_000), (None, 64_000)]


def test_split_model_cut_off_keeps_complete_parts(server: HubServer) -> None:
    server.cuts.extend([1000, *[0] * 100])
    with pytest.raises(DownloadError, match=r"split/big-q8_0-00002-of-00003\.gguf"):
        hub.resolve("hf:org/repo/*q8_0*")
    server.cuts.clear()
    server.requests.clear()
    hub.resolve("hf:org/repo/*q8_0*")
    fetched = [r.path.removeprefix("/org/repo/resolve/main/") for r in server.seen("GET", "/resolve/")]
    assert fetched == list(PARTS)[1:]


def test_cache_cannot_be_written(server: HubServer) -> None:
    home = pathlib.Path(constants.HF_HOME)
    home.mkdir()
    (home / "hub").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match=r"the cache ") as caught:
        hub.resolve("hf:org/repo/*q4*")
    assert isinstance(caught.value.__cause__, OSError)
