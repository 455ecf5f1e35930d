"""Models that several machines hold together, with `ggml-rpc-server` on this one (docs/rpc.md).

They need `COLM_RPC`, a folder with `ggml-rpc-server` and ggml's RPC backend as a library, both built from the source of
the installed llama.cpp (`.ci/run` shows how).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels, ids
from loopback import free_port

import colm_cpp as colm
from colm_cpp import _core
from colm_cpp.llama import rpc

FOLDER = Path(os.environ.get("COLM_RPC", "/nowhere"))
LIBRARY = FOLDER / "libggml-rpc.so"
SERVER = FOLDER / "ggml-rpc-server"
pytestmark = pytest.mark.skipif(
    not SERVER.exists(), reason="COLM_RPC names no folder with ggml-rpc-server and libggml-rpc.so"
)
PROMPT = "one two three"
WRITING: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "threshold": 0.5, "seed": 3}


class Server:
    """A `ggml-rpc-server` on this machine, or in a network namespace of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1", inside: tuple[str, ...] = ()) -> None:
        self.address = f"{host}:{port}"
        self._command = [*inside, str(SERVER), "-H", host, "-p", str(port), "-t", "1"]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Until it answers."""
        for _ in range(200):
            with contextlib.suppress(colm.RpcError):
                return rpc.check_server(self.address)
            time.sleep(0.05)
        pytest.fail(f"{self._command} does not answer")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def backend() -> None:
    """This process has the backend."""
    if not _core.has_rpc(os.fsencode(LIBRARY) if LIBRARY.exists() else ""):
        pytest.skip("the installed llama.cpp has no RPC backend, and COLM_RPC has none that fits")


@pytest.fixture
def servers(backend: None) -> Iterator[list[Server]]:
    started = [Server(free_port()) for _ in range(2)]
    try:
        for server in started:
            server.wait()
        yield started
    finally:
        for server in started:
            server.stop()


@pytest.fixture
def files(tiny_model: TinyModels) -> tuple[Path, Path]:
    return tiny_model(**BASE), tiny_model(**ASSISTANT)


@pytest.fixture
def alone(files: tuple[Path, Path]) -> colm.Completion:
    """What the models write on this machine alone; both have a part."""
    with colm.load(*files, "random", **TINY_LOAD) as pair:
        written = pair.generate(PROMPT, **WRITING)
    assert {token.source for token in written.tokens} == {"base", "assistant"}
    return written


@pytest.mark.parametrize("who", ["base", "assistant", "both", "two servers"])
def test_other_machines_give_the_same_tokens(
    who: str, servers: list[Server], files: tuple[Path, Path], alone: colm.Completion, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "colm_cpp.llama")
    addresses = [server.address for server in servers][: 2 if who == "two servers" else 1]
    given: Any = {"rpc_servers": addresses}
    options = given if who in ("both", "two servers") else {f"{who}_options": given}
    with colm.load(*files, "random", **options, **TINY_LOAD) as pair:
        held = [record.getMessage() for record in caplog.records if "model buffer size" in record.getMessage()]
        for address in addresses:
            n_of = sum(address in line for line in held)
            assert n_of == (1 if who in ("base", "assistant") else 2), held
            assert _core.RpcServer.is_connected(address)
        assert ids(pair.generate(PROMPT, **WRITING)) == ids(alone)
        assert ids(pair.generate(PROMPT, lookahead=4, **WRITING)) == ids(alone)
        batch = pair.generate_batch([PROMPT, "four"], n_parallel=2, **WRITING)
        assert ids(batch[0]) == ids(alone)
        with pair.stream("a session", max_tokens=4) as stream:
            list(stream)
    assert _core.RpcServer.n_connected() == 0


def test_a_server_that_is_gone_is_an_error_and_one_that_is_back_is_used(
    servers: list[Server], files: tuple[Path, Path], alone: colm.Completion
) -> None:
    options: Any = {"assistant_options": {"rpc_servers": [servers[0].address]}}
    for _ in range(2):
        with colm.load(*files, "random", **options, **TINY_LOAD) as pair:
            assert ids(pair.generate(PROMPT, **WRITING)) == ids(alone)
        servers[0].stop()
        with pytest.raises(colm.RpcError) as raised:
            colm.load(*files, "random", **options, **TINY_LOAD)
        assert raised.value.server == servers[0].address
        servers[0].start()
        servers[0].wait()


def test_a_server_with_another_client(
    servers: list[Server], files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ggml would wait for it without limit."""
    monkeypatch.setattr(rpc.check_server, "__defaults__", (0.5,))
    host, port = servers[0].address.split(":")
    with socket.create_connection((host, int(port))) as other:
        other.sendall(rpc._HEADER.pack(14, 24) + bytes(24))
        other.recv(64)
        with pytest.raises(colm.RpcError, match="one at a time"):
            colm.load(*files, rpc_servers=[servers[0].address], **TINY_LOAD)
    colm.load(*files, rpc_servers=[servers[0].address], **TINY_LOAD).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_has_no_connection(servers: list[Server], files: tuple[Path, Path]) -> None:
    with colm.load(*files, "random", rpc_servers=[servers[0].address], **TINY_LOAD) as pair:
        child = os.fork()
        if child == 0:
            try:
                pair.generate(PROMPT, **WRITING)
                os._exit(1)
            except colm.ForkError:
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        pair.generate(PROMPT, **WRITING)


WRITE = """
import json, os, sys
import colm_cpp as colm
base, assistant, address, load, writing, server = json.loads(sys.argv[1])
options = {"rpc_servers": [address]}
with colm.load(base, assistant, "random", assistant_options=options, **load) as pair:
    written = pair.generate("one two three", **writing)
    print(json.dumps([[token.id, token.source] for token in written.tokens]), flush=True)
    if server:
        os.kill(server, 9)
        pair.generate("four", **writing)
"""


def write_elsewhere(
    files: tuple[Path, Path], address: str, kill: int = 0, inside: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Writes in a process of its own, which takes the backend from GGML_BACKEND_PATH."""
    arguments = json.dumps([*map(str, files), address, TINY_LOAD, WRITING, kill])
    env = {**os.environ, **({"GGML_BACKEND_PATH": str(LIBRARY)} if LIBRARY.exists() else {})}
    command = [*inside, sys.executable, "-c", WRITE, arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=env)


def test_a_connection_that_breaks_ends_the_process(
    servers: list[Server], files: tuple[Path, Path], alone: colm.Completion
) -> None:
    """As docs/rpc.md says: ggml ends the process, and says why. If this fails, the page can promise more."""
    done = write_elsewhere(files, servers[0].address, kill=servers[0].process.pid)
    assert [tuple(entry) for entry in json.loads(done.stdout)] == ids(alone)
    assert done.returncode == -signal.SIGABRT
    assert "Remote RPC server crashed" in done.stderr


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def two_networks() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Commands that run something in one of two network namespaces, 10.213.7.1 and 10.213.7.2."""
    names = [f"colm{os.getpid()}{end}" for end in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ends = [("name", name, "netns", name) for name in names]
        ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for i, name in enumerate(names, start=1):
            ip("-n", name, "addr", "add", f"10.213.7.{i}/24", "dev", name)
            ip("-n", name, "link", "set", name, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        pytest.skip(f"no network namespaces can be made here ({getattr(error, 'stderr', None) or error})")
    yield tuple(("ip", "netns", "exec", name) for name in names)  # type: ignore[misc]
    for name in names:
        ip("netns", "del", name)


def test_between_two_networks(
    two_networks: tuple[tuple[str, ...], tuple[str, ...]],
    backend: None,
    files: tuple[Path, Path],
    alone: colm.Completion,
) -> None:
    here, there = two_networks
    server = Server(50052, "10.213.7.2", there)
    try:
        for _ in range(50):
            done = write_elsewhere(files, server.address, inside=here)
            if "is ggml-rpc-server running there?" not in done.stderr:
                break
            time.sleep(0.1)
        assert done.returncode == 0, done.stderr
        assert [tuple(entry) for entry in json.loads(done.stdout)] == ids(alone)
    finally:
        server.stop()
