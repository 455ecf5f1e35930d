"""``colm pull``, against a look-alike of the hub on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from commands import fail, run
from hub_server import HubServer, Repo, client_of
from tiny_models import Vocab, make_model

import colm_cpp as colm
from colm_cpp.sources.pair_file import to_toml


def pull(*names: object) -> Result:
    return run("pull", *names)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "files"
    folder.mkdir()
    make_model(folder / "base.gguf", seed=1)
    make_model(folder / "assistant.gguf", seed=2, n_embd=64)
    make_model(folder / "other.gguf", seed=3, n_embd=64, vocab=Vocab().replace_token(40, "?!"))
    colm.Head.linear([0.0] * 32).save(folder / "head.gguf")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    with HubServer() as running, client_of(running, tmp_path / "hf", monkeypatch):
        running.repos["org/repo"] = Repo.of({**files, "broken.gguf": b"GGUF", "cut.gguf": files["base.gguf"][:-50]})
        yield running


def preset(folder: Path, **keys: str) -> Path:
    file = folder / "pair.toml"
    models = {"base": "hf:org/repo/base.gguf", "assistant": "hf:org/repo/assistant.gguf"}
    file.write_text(to_toml({**models, **keys}))
    return file


def test_a_pair_is_there_afterwards(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = preset(tmp_path, head="hf:org/repo/head.gguf")
    result = pull(file)
    assert (result.exit_code, result.stderr) == (0, "")
    for name in ("base", "assistant", "head"):
        assert f"hf:org/repo/{name}.gguf" in result.stdout
    sent = server.bytes_sent()
    assert pull(file).exit_code == 0
    assert server.bytes_sent() == sent  # nothing is downloaded twice
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with colm.load(file, n_threads=1) as pair:
        assert f"share {pair.n_shared} tokens" in result.stdout


def test_single_files(server: HubServer) -> None:
    result = pull("hf:org/repo/assist*.gguf", "hf:org/repo/head.gguf")
    assert result.exit_code == 0
    names = [Path(line.rsplit(" (", 1)[0].rsplit(": ", 1)[1]).name for line in result.stdout.splitlines()]
    assert names == ["assistant.gguf", "head.gguf"]


def test_a_pair_in_the_package_needs_nothing(server: HubServer) -> None:
    result = pull("demo")
    assert result.exit_code == 0
    assert server.requests == []


def test_a_download_that_is_cut_off_goes_on_where_it_ended(server: HubServer, tmp_path: Path) -> None:
    size = (tmp_path / "files" / "base.gguf").stat().st_size
    server.cuts.extend([5000, 5000])
    assert pull("hf:org/repo/base.gguf").exit_code == 0
    ranges = [request.headers.get("range") for request in server.seen("GET", "base.gguf")]
    assert ranges == [None, "bytes=5000-", "bytes=10000-"]
    assert server.bytes_sent() == size


def test_a_download_that_fails_says_so(server: HubServer, tmp_path: Path) -> None:
    file = preset(tmp_path)
    server.cuts.extend([0] * 20)
    assert "call again" in fail("pull", file)
    server.cuts.clear()
    assert pull(file).exit_code == 0


def test_models_that_do_not_fit_together(server: HubServer, tmp_path: Path) -> None:
    assert "token 40" in fail("pull", preset(tmp_path, assistant="hf:org/repo/other.gguf"))


@pytest.mark.parametrize("name", ["broken", "cut"])
def test_a_damaged_file(server: HubServer, name: str, tmp_path: Path) -> None:
    for wanted in (f"hf:org/repo/{name}.gguf", preset(tmp_path, base=f"hf:org/repo/{name}.gguf")):
        assert f"{name}.gguf" in fail("pull", wanted)


def test_a_head_is_no_model(server: HubServer, tmp_path: Path) -> None:
    assert "hf:org/repo/head.gguf is no model" in fail("pull", preset(tmp_path, base="hf:org/repo/head.gguf"))


def test_bytes_that_changed_on_the_disk_are_found(server: HubServer, tmp_path: Path) -> None:
    assert pull("hf:org/repo/base.gguf").exit_code == 0
    (blob,) = (tmp_path / "hf" / "hub").rglob("blobs/*")
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert "base.gguf" in fail("pull", "hf:org/repo/base.gguf")
    assert not blob.exists()  # so that nothing loads it
    assert pull("hf:org/repo/base.gguf").exit_code == 0


def test_names_that_are_none(server: HubServer) -> None:
    assert pull().exit_code == 2
    for name in ("no-such-pair", "hf:org/none/x.gguf", "hf:org/repo/none.gguf", "hf:x"):
        assert name.removeprefix("hf:").split("/")[0] in fail("pull", name)
