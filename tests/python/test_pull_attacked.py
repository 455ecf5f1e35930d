"""``colm pull`` where the hub or the disk is bad: names that leave the cache, a full disk, a file of another size."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.file_download
import pytest
from click.testing import Result
from commands import fail, run
from hub_server import HubServer, Repo, client_of
from tiny_models import make_model


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return make_model(tmp_path / "made.gguf", seed=1).read_bytes()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running, client_of(running, tmp_path / "hf", monkeypatch):
        yield running


def pull(*names: str) -> Result:
    return run("pull", *names)


@pytest.mark.parametrize("name", ["../../../../evil.gguf", "a/../../evil.gguf", "/evil.gguf", "a\\..\\evil.gguf"])
def test_names_that_leave_the_cache_are_not_fetched(name: str, model: bytes, server: HubServer, tmp_path: Path) -> None:
    server.repos["org/repo"] = Repo.of({name: model, "good.gguf": model})
    assert pull("hf:org/repo/*evil.gguf").exit_code == 1
    assert not server.seen("GET", "/resolve/")
    result = pull("hf:org/repo/*.gguf")  # the only one that counts
    assert result.exit_code == 0
    assert "good.gguf" in result.stdout
    assert list(tmp_path.rglob("*evil*")) == []


def test_a_full_disk(model: bytes, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told as what it is. Once there is room, the same command goes on."""
    server.repos["org/repo"] = Repo.of({"good.gguf": model})
    get = huggingface_hub.file_download.http_get

    def full(*given: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub.file_download, "http_get", full)
    result = fail("pull", "hf:org/repo/good.gguf")
    assert "No space left on device" in result
    assert "the download" not in result
    monkeypatch.setattr(huggingface_hub.file_download, "http_get", get)
    assert pull("hf:org/repo/good.gguf").exit_code == 0
