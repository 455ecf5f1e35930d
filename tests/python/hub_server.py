"""A look-alike of the model hub on 127.0.0.1, as far as the real client talks to it.

It serves the file list of a repository (``/api/models/...``) and its files (``/org/repo/resolve/...``)
with the headers and error codes that the client acts on, keeps a record of every request, and can cut
answers off in the middle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import time
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import loopback
import pytest
from huggingface_hub import close_session, constants


def commit_of(label: str) -> str:
    """A commit id as git makes them: 40 hex digits."""
    return hashlib.sha1(label.encode()).hexdigest()


@dataclass
class Repo:
    """A repository: which commit each branch or tag is, and the files of each commit."""

    refs: dict[str, str]
    commits: dict[str, dict[str, bytes]]
    token: str | None = None  # if set, the repository is private and this is the token that may read it
    gated: bool = False  # everyone sees the file list, nobody gets a file

    @classmethod
    def of(cls, files: dict[str, bytes], *, token: str | None = None, gated: bool = False) -> Repo:
        """A repository with one commit, which is its main branch."""
        commit = commit_of(repr(sorted(files)))
        return cls({"main": commit}, {commit: files}, token, gated)


@dataclass
class Request:
    """One request and what was sent in return."""

    method: str
    path: str  # percent-decoded, without the query
    headers: dict[str, str]  # names in lower case
    status: int = 0
    sent: int = 0  # bytes of a file's content, before any cut


@dataclass
class HubServer(loopback.Server):
    """The server; use it as a context manager.

    Attributes:
        repos: what it holds, by ``org/repo``.
        requests: every request so far, in order.
        cuts: for each of the next GETs of a file, how many bytes to send before closing the connection.
        failing: HTTP status with which to answer every request of the method that is the key.
        ranges: whether it sends parts of files.
        page: if set, every GET is answered with this web page, as a network's login page would be.
        moved_to: if set, requests of files are redirected to this URL (a part ``{path}`` becomes the path), as the hub
            does with large files.
        said_size: if set, the size that the hub says a file has, whatever is sent.
        overlong: whether it sends more than the part of a file that it was asked for.
        swapped: if set, the bytes that are sent in place of a file's own, whose SHA-256 the hub still says.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: deque[int] = field(default_factory=deque)
    failing: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    page: bytes | None = None
    moved_to: str | None = None
    said_size: int | None = None
    overlong: bool = False
    swapped: bytes | None = None

    @property
    def endpoint(self) -> str:
        """What HF_ENDPOINT would be."""
        return f"http://{self.address}"

    def seen(self, method: str, part: str = "") -> list[Request]:
        """The requests so far with this method whose path contains `part`."""
        return [r for r in self.requests if r.method == method and part in r.path]

    def bytes_sent(self) -> int:
        """How many bytes of files were sent so far."""
        return sum(r.sent for r in self.requests)


class _Handler(loopback.Handler):
    owner: HubServer
    seen: Request

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        raw = urlsplit(self.path).path
        self.seen = Request(self.command, unquote(raw), {k.lower(): v for k, v in self.headers.items()})
        self.owner.requests.append(self.seen)
        if self.command in self.owner.failing:
            self._refuse(self.owner.failing[self.command], None, "out of order")
            return
        if self.owner.page is not None:
            self._begin(200, {"Content-Type": "text/html", "Content-Length": str(len(self.owner.page))})
            self._body(self.owner.page)
            return

        # Split before decoding: a revision's own slashes arrive as %2F.
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", raw)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", raw)
        match = api or file
        if match is None:
            self._refuse(404, None, "no such page")
            return
        name, revision = unquote(match[1]), unquote(match[2] or "main")
        repo = self.owner.repos.get(name)
        if repo is None:
            self._refuse(404, "RepoNotFound", "Repository not found")
            return
        given = self.seen.headers.get("authorization")
        if repo.token is not None and given != f"Bearer {repo.token}":
            if given is None:
                self._refuse(401, "RepoNotFound", "Invalid username or password.")
            else:
                self._refuse(401, None, "Invalid credentials in Authorization header")
            return
        commit = repo.refs.get(revision, revision)
        files = repo.commits.get(commit)
        if files is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif api:
            self._list(name, commit, files)
        elif repo.gated:
            self._refuse(403, "GatedRepo", "Access to this model is restricted")
        elif unquote(match[3]) not in files:
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._send_file(commit, files[unquote(match[3])])

    def _list(self, name: str, commit: str, files: dict[str, bytes]) -> None:
        siblings = [{"rfilename": file} for file in files]
        body = json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}).encode()
        self._begin(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
        self._body(body)

    def _send_file(self, commit: str, content: bytes) -> None:
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "X-Linked-Size": str(len(content) if self.owner.said_size is None else self.owner.said_size),
        }
        if self.owner.moved_to is not None:
            place = self.owner.moved_to.format(path=self.path)
            self._begin(302, {**headers, "X-Linked-ETag": headers["ETag"], "Location": place, "Content-Length": "0"})
            return
        content = content if self.owner.swapped is None else self.owner.swapped
        status, start, end = 200, 0, len(content)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.seen.headers.get("range", ""))
        if wanted and self.command == "GET" and self.owner.ranges:
            status, start = 206, int(wanted[1])
            end = min(end, int(wanted[2]) + 1) if wanted[2] else end
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        body = content[start:] if self.owner.overlong else content[start:end]
        self._begin(status, {**headers, "Content-Length": str(len(body))})
        if self.command == "HEAD":
            return
        if self.owner.cuts:
            body = body[: self.owner.cuts.popleft()]
            self.close_connection = True
        self.seen.sent = len(body)
        self._body(body)

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        headers = {"Content-Length": "0", "X-Error-Message": message}
        if code is not None:
            headers["X-Error-Code"] = code
        self._begin(status, headers)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self.seen.status = status
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()

    def _body(self, body: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(body)
            self.wfile.flush()


HubServer.handler = _Handler


@contextlib.contextmanager
def client_of(running: HubServer, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Points the client at the look-alike, with all the client's folders in `home`.

    The client reads its environment once, when imported, so its constants are replaced instead; the few
    variables that it reads at every call are replaced as well.
    """
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGING")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("TQDM_POSITION", raising=False)
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
    yield
    close_session()
