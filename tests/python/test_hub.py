"""colm_cpp.sources.hub with the real client, against a look-alike of the hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import huggingface_hub.file_download
import pytest
from huggingface_hub import constants

from colm_cpp.errors import DownloadError, MissingDependency, OptionError
from colm_cpp.heads.head import Head
from colm_cpp.sources import hub

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from hub_server import HubServer, Repo, client_of, commit_of

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


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def content(path: str) -> bytes:
    return pathlib.Path(path).read_bytes()


# --- names --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "repo_id", "pattern", "revision"),
    [
        ("hf:org/repo/file.gguf", "org/repo", "file.gguf", None),
        ("hf:org/repo/*Q4_K_M*", "org/repo", "*Q4_K_M*", None),
        ("hf:o.r-g/re_po-1.5/a/b/*.gguf@v1.0", "o.r-g/re_po-1.5", "a/b/*.gguf", "v1.0"),
        ("hf:org/repo/file.gguf@refs/pr/3", "org/repo", "file.gguf", "refs/pr/3"),
        ("hf:org/repo/a@b.gguf@main", "org/repo", "a@b.gguf", "main"),
        ("hf:org/repo/..hidden..gguf", "org/repo", "..hidden..gguf", None),
    ],
)
def test_parse(spec: str, repo_id: str, pattern: str, revision: str | None) -> None:
    parsed = hub.HubFile.parse(spec)
    assert parsed == hub.HubFile(repo_id, pattern, revision)
    assert str(parsed) == spec


@pytest.mark.parametrize(
    "spec",
    [
        "hf:",
        "hf:org",
        "hf:org/",
        "hf:org/repo",
        "hf:org/repo/",
        "hf:/repo/file.gguf",
        "hf:org//file.gguf",
        "hf://org/repo/file.gguf",
        "hf:org/repo/a//b.gguf",
        "hf:org/repo/dir/",
        "hf:org/repo/../other/file.gguf",
        "hf:org/repo/dir/..",
        "hf:org/repo/./file.gguf",
        "hf:org/repo/dir\\file.gguf",
        "hf:../repo/file.gguf",
        "hf:org/../file.gguf",
        "hf:org/a--b/file.gguf",
        "hf:org/a..b/file.gguf",
        "hf:org/-repo/file.gguf",
        "hf:org/repo.git/file.gguf",
        "hf:o rg/repo/file.gguf",
        "hf:org/" + "r" * 97 + "/file.gguf",
        "hf:org/repo/file.gguf@",
        "hf:org/repo@main",
        "hf:org/repo/file.gguf@../../elsewhere",
        "hf:org/repo/file.gguf@a..b",
        "hf:org/repo/file.gguf@/main",
        "hf:org/repo/file.gguf@main ",
        "hf:org/repo/file.gguf@a\\b",
    ],
)
def test_malformed(spec: str, server: HubServer) -> None:
    with pytest.raises(OptionError) as caught:
        hub.resolve(spec)
    assert repr(spec) in str(caught.value)
    assert "hf:org/repo/file-pattern.gguf" in str(caught.value)
    assert server.requests == []


def test_malformed_says_what_is_wrong() -> None:
    with pytest.raises(OptionError, match="'@'"):
        hub.HubFile.parse("hf:org/repo/file.gguf@")
    with pytest.raises(OptionError, match="no file"):
        hub.HubFile.parse("hf:org/repo")


def test_parse_refuses_other_strings() -> None:
    with pytest.raises(OptionError, match="'hf:'"):
        hub.HubFile.parse("org/repo/file.gguf")


@pytest.mark.parametrize(
    "value",
    ["model.gguf", "/tmp/hf:x/y/z.gguf", "./hf:org/repo/file.gguf", "HF:org/repo/file.gguf", ""],
)
def test_other_strings_pass_through(value: str, server: HubServer) -> None:
    assert not hub.is_hub_spec(value)
    assert hub.resolve(value) == value
    assert server.requests == []


def test_path_objects_pass_through(server: HubServer) -> None:
    # Even this one: a path object says that it is a path.
    path = pathlib.PurePosixPath("hf:org/repo/model-q4_k_m.gguf")
    assert not hub.is_hub_spec(path)
    assert hub.resolve(path) == "hf:org/repo/model-q4_k_m.gguf"
    assert server.requests == []


def test_import_loads_no_client() -> None:
    code = "from colm_cpp.sources.hub import resolve; resolve('x.gguf')\n"
    code += "import sys; print('huggingface_hub' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("False\n", 0), done.stderr


def test_client_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependency, match="pip install") as caught:
        hub.resolve("hf:org/repo/model-q4_k_m.gguf")
    assert isinstance(caught.value.__cause__, ImportError)


@pytest.mark.parametrize("version", ["0.36.2", "1.0.1", "unknown"])
def test_client_too_old(version: str, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "__version__", version)
    with pytest.raises(MissingDependency, match=rf"1\.1 .*{version}"):
        hub.resolve("hf:org/repo/model-q4_k_m.gguf")
    assert server.requests == []


# --- choosing and downloading -------------------------------------------------------------------------


def test_download_then_cache(server: HubServer) -> None:
    path = hub.resolve("hf:org/repo/*q4_k_m.gguf")
    assert content(path) == SMALL
    assert path.startswith(constants.HF_HUB_CACHE + os.sep)
    assert [(r.method, r.path, r.status) for r in server.requests] == [
        ("GET", "/api/models/org/repo", 200),
        ("HEAD", "/org/repo/resolve/main/model-q4_k_m.gguf", 200),
        ("GET", "/org/repo/resolve/main/model-q4_k_m.gguf", 200),
    ]
    assert all("colm_cpp" in r.headers["user-agent"] for r in server.requests)
    assert not any("authorization" in r.headers for r in server.requests)
    assert server.bytes_sent() == len(SMALL)

    server.requests.clear()
    assert hub.resolve("hf:org/repo/*q4_k_m.gguf") == path
    assert server.seen("GET", "/resolve/") == []
    assert len(server.seen("HEAD", "/resolve/")) == 1


def test_changed_file_is_downloaded_again(server: HubServer) -> None:
    old = hub.resolve("hf:org/repo/*q4_k_m.gguf")
    server.repos["org/repo"] = Repo.of({"new-q4_k_m.gguf": b"GGUF new"})
    new = hub.resolve("hf:org/repo/*q4_k_m.gguf")
    assert (content(old), content(new)) == (SMALL, b"GGUF new")


@pytest.mark.parametrize("pattern", ["*-Q4_K_M.gguf", "MODEL-Q4*", "model-q4_k_m.GGUF"])
def test_case_is_disregarded_if_need_be(pattern: str, server: HubServer) -> None:
    assert content(hub.resolve(f"hf:org/repo/{pattern}")) == SMALL


def test_case_decides_if_it_can(server: HubServer) -> None:
    server.repos["org/repo"] = Repo.of({"a-q4.gguf": b"lower", "a-Q4.gguf": b"upper"})
    assert content(hub.resolve("hf:org/repo/*q4.gguf")) == b"lower"
    assert content(hub.resolve("hf:org/repo/*Q4.gguf")) == b"upper"
    with pytest.raises(DownloadError, match="2 files"):
        hub.resolve("hf:org/repo/A-q4.gguf")


@pytest.mark.parametrize("pattern", ["old/*.gguf", "*iq2*", "old/model-iq2.gguf", "?ld/model-iq2.gguf"])
def test_folders(pattern: str, server: HubServer) -> None:
    path = hub.resolve(f"hf:org/repo/{pattern}")
    assert content(path) == b"GGUF old"
    assert server.seen("GET", "/resolve/")[0].path == "/org/repo/resolve/main/old/model-iq2.gguf"


def test_exact_name_wins(server: HubServer) -> None:
    server.repos["org/repo"] = Repo.of({"m[1].gguf": b"brackets", "m1.gguf": b"one", "x/m[1].gguf": b"deep"})
    assert content(hub.resolve("hf:org/repo/m[1].gguf")) == b"brackets"
    assert content(hub.resolve("hf:org/repo/m[0-9].gguf")) == b"one"


def test_at_sign_in_a_file_name(server: HubServer) -> None:
    server.repos["org/repo"] = Repo.of({"a@b.gguf": b"at"})
    assert content(hub.resolve("hf:org/repo/a?b.gguf")) == b"at"
    assert content(hub.resolve("hf:org/repo/a@b.gguf@main")) == b"at"


def test_ambiguous(server: HubServer) -> None:
    names = [f"model-v{i:02d}.gguf" for i in range(12)]
    server.repos["org/repo"] = Repo.of(dict.fromkeys(names, b"x"))
    with pytest.raises(DownloadError) as caught:
        hub.resolve("hf:org/repo/*.gguf")
    message = str(caught.value)
    assert "12 files" in message
    assert "narrow the pattern" in message
    assert "and 2 more" in message
    assert [name in message for name in names] == [True] * 10 + [False] * 2
    assert server.seen("GET", "/resolve/") + server.seen("HEAD") == []


def test_no_match(server: HubServer) -> None:
    names = [f"model-v{i:02d}.gguf" for i in range(23)]
    server.repos["org/repo"] = Repo.of({"README.md": b"x", **dict.fromkeys(names, b"x")})
    with pytest.raises(DownloadError) as caught:
        hub.resolve("hf:org/repo/*q9*")
    message = str(caught.value)
    assert "'*q9*'" in message
    assert "and 3 more" in message
    assert "README" not in message
    assert [name in message for name in names] == [True] * 20 + [False] * 3
    assert server.seen("GET", "/resolve/") + server.seen("HEAD") == []


def test_no_gguf_at_all(server: HubServer) -> None:
    server.repos["org/repo"] = Repo.of({"README.md": b"x"})
    with pytest.raises(DownloadError, match=r"no \.gguf"):
        hub.resolve("hf:org/repo/*.gguf")


# --- split models -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["*q8_0*.gguf", "*Q8_0*", "split/big-q8_0-00001-of-00003.gguf"])
def test_split_model(pattern: str, server: HubServer) -> None:
    path = hub.resolve(f"hf:org/repo/{pattern}")
    assert os.path.basename(path) == "big-q8_0-00001-of-00003.gguf"
    assert [r.path for r in server.seen("GET", "/resolve/")] == [f"/org/repo/resolve/main/{n}" for n in PARTS]
    folder = os.path.dirname(path)
    assert {f"split/{name}": content(os.path.join(folder, name)) for name in os.listdir(folder)} == PARTS

    server.requests.clear()
    assert hub.resolve(f"hf:org/repo/{pattern}") == path
    assert server.seen("GET", "/resolve/") == []


def test_split_model_and_another_file(server: HubServer) -> None:
    with pytest.raises(DownloadError, match="pattern"):
        hub.resolve("hf:org/repo/*q[48]_*.gguf")
    assert server.bytes_sent() == 0


def test_two_split_models(server: HubServer) -> None:
    server.repos["org/repo"] = Repo.of({f"{m}-0000{i}-of-00002.gguf": b"x" for m in "ab" for i in (1, 2)})
    with pytest.raises(DownloadError, match="4 files"):
        hub.resolve("hf:org/repo/*.gguf")
    assert server.bytes_sent() == 0


def test_split_model_lacks_a_part(server: HubServer) -> None:
    server.repos["org/repo"] = Repo.of({n: b"x" for n in PARTS if "00002-of" not in n})
    with pytest.raises(DownloadError, match=r": split/big-q8_0-00002-of-00003\.gguf$"):
        hub.resolve("hf:org/repo/*q8_0*")
    assert server.bytes_sent() == 0


def test_later_part_alone(server: HubServer) -> None:
    with pytest.raises(DownloadError, match=r"first part, split/big-q8_0-00001-of-00003\.gguf"):
        hub.resolve("hf:org/repo/*-00002-of-*")
    assert server.bytes_sent() == 0


def test_names_that_are_no_parts(server: HubServer) -> None:
    server.repos["org/repo"] = Repo.of({"x-00000-of-00000.gguf": b"zero", "y-00001-OF-00002.gguf": b"upper"})
    assert content(hub.resolve("hf:org/repo/x*")) == b"zero"
    assert content(hub.resolve("hf:org/repo/y*")) == b"upper"


def test_parts_of_two_commits(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = server.repos["org/repo"]
    download = huggingface_hub.hf_hub_download

    def then_push(*args: Any, **kwargs: Any) -> Any:
        path = download(*args, **kwargs)
        newer = commit_of("newer")
        repo.commits[newer] = dict.fromkeys(PARTS, b"GGUF newer")
        repo.refs["main"] = newer
        return path

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", then_push)
    with pytest.raises(DownloadError, match="call again"):
        hub.resolve("hf:org/repo/*q8_0*")
    assert content(hub.resolve("hf:org/repo/*q8_0*")) == b"GGUF newer"


# --- revisions ----------------------------------------------------------------------------------------


def test_revision(server: HubServer) -> None:
    commit = commit_of("older")
    repo = server.repos["org/repo"]
    repo.commits[commit] = {"model-q4_k_m.gguf": b"GGUF older"}
    repo.refs["refs/pr/1"] = commit
    for revision in ("refs/pr/1", commit):
        server.requests.clear()
        assert content(hub.resolve(f"hf:org/repo/*q4*@{revision}")) == b"GGUF older"
        assert server.requests[0].path == f"/api/models/org/repo/revision/{revision}"
        # The commit's own files never change: the client does not even ask for the second.
        assert len(server.seen("HEAD", f"/resolve/{revision}/")) == (revision == "refs/pr/1")
        assert not server.seen("HEAD", "/resolve/main/") + server.seen("GET", "/resolve/main/")
    assert content(hub.resolve("hf:org/repo/*q4*")) == SMALL


def test_missing_revision(server: HubServer) -> None:
    with pytest.raises(DownloadError, match=r"org/repo.* v9") as caught:
        hub.resolve("hf:org/repo/*q4*@v9")
    assert isinstance(caught.value.__cause__, huggingface_hub.errors.RevisionNotFoundError)
    assert [r.path for r in server.requests] == ["/api/models/org/repo/revision/v9"]


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
    assert "the download of model-Q6_K.gguf was cut off" in message
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
