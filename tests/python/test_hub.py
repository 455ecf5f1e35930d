"""colm_cpp.sources.hub with the real client, against a look-alike of the hub on 127.0.0.1."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

import hub_files
import huggingface_hub
import huggingface_hub.errors
import huggingface_hub.file_download
import pytest
from hub_files import PARTS, SMALL, content
from hub_server import HubServer, Repo, commit_of
from huggingface_hub import constants

from colm_cpp.errors import DownloadError, MissingDependency, OptionError
from colm_cpp.sources import hub

_loopback_only = hub_files._loopback_only
server = hub_files.server


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
