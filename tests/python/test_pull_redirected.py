"""``colm pull`` and ``colm models --check`` where the hub redirects, or sends other bytes than it said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import fail, run, succeed
from hub_server import HubServer, Repo, client_of
from tiny_models import make_model

NAME = "hf:org/repo/good.gguf"
TOKEN = "hf_secret"


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return make_model(tmp_path / "made.gguf", seed=1).read_bytes()


@pytest.fixture
def server(model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as running, client_of(running, tmp_path / "hf", monkeypatch):
        running.repos["org/repo"] = Repo.of({"good.gguf": model}, token=TOKEN)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def store(model: bytes) -> Iterator[HubServer]:
    """Where the hub's large files lie: another host."""
    with HubServer() as running:
        running.repos["org/repo"] = Repo.of({"good.gguf": model})

        yield running


@pytest.fixture
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of one's own, whose models lie on the hub."""
    (tmp_path / "pairs").mkdir()
    lines = ["version = 1", *(f'{name} = "{NAME}"' for name in ("base", "assistant")), 'head = "confidence"']
    (tmp_path / "pairs" / "mine.toml").write_text("\n".join(lines))
    monkeypatch.setenv("COLM_PAIRS", str(tmp_path / "pairs"))


def kept(tmp_path: Path) -> list[Path]:
    """Files of models in the cache."""
    return [path for path in (tmp_path / "hf").rglob("*") if path.is_file() and "blobs" in path.parts]


def checked() -> str:
    """What ``colm models --check`` says of the pair of one's own."""
    _, _, said = run("models", "--check").stdout.partition("\n  mine ")
    return said.partition("\n\n")[0]


# -- redirects ---------------------------------------------------------------------------------------------------------


def test_the_token_stays_at_the_hub(server: HubServer, store: HubServer, model: bytes, presets: None) -> None:
    server.moved_to = store.endpoint + "{path}"
    assert "checked:" in checked()
    result = succeed("pull", NAME)
    file = result.stdout.rsplit(" (", 1)[0].split(": ", 1)[1].strip()
    assert Path(file).read_bytes() == model
    assert {request.headers.get("authorization") for request in server.requests} == {f"Bearer {TOKEN}"}
    assert {request.method for request in store.requests} == {"GET"}
    assert [request.headers["authorization"] for request in store.requests if "authorization" in request.headers] == []


@pytest.mark.parametrize(
    "place",
    [
        "{hub}/org/repo/resolve/main/good.gguf",
        "file:///etc/hostname",
        "http://127.0.0.1:1/good.gguf",
        "//",
        "http://[::",
        "",
    ],
)
def test_redirects_that_lead_nowhere(place: str, server: HubServer, tmp_path: Path, presets: None) -> None:
    """In a circle, to a file of this machine, to a host that refuses, to what is no URL: one line each."""
    server.moved_to = place.format(hub=server.endpoint)
    said = fail("pull", NAME)
    assert "the download of good.gguf failed" in said
    assert kept(tmp_path) == []
    assert "checked:" not in checked()
    server.moved_to = None
    succeed("pull", NAME)


# -- sizes and checksums -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [-1000, -1, 1])
def test_a_file_of_another_size(more: int, server: HubServer, model: bytes, tmp_path: Path) -> None:
    """Than the hub says before the download. Nothing of it is kept."""
    server.said_size = len(model) + more
    said = fail("pull", NAME)
    assert f"should be of size {len(model) + more} but has size {len(model)}" in said
    assert "force_download" not in said  # an argument of the client's
    assert kept(tmp_path) == []
    server.said_size = None
    succeed("pull", NAME)


def test_a_file_of_another_checksum(server: HubServer, model: bytes, tmp_path: Path) -> None:
    """Nothing loads it afterwards, and the same command downloads it anew."""
    server.swapped = model[:-1] + bytes([model[-1] ^ 1])
    said = fail("pull", NAME)
    assert "SHA-256" in said
    assert "good.gguf" in said
    assert kept(tmp_path) == []
    server.swapped = None
    succeed("pull", NAME)


def test_a_file_without_an_end(server: HubServer, monkeypatch: pytest.MonkeyPatch, presets: None) -> None:
    """Only as much of a header is read as was asked for."""
    monkeypatch.setattr("colm_cpp.sources.hub_header._FIRST", 1000)
    assert "checked:" in checked()
    server.overlong = True
    assert "more of good.gguf than the 1000 bytes" in checked()
