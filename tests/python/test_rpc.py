"""`rpc_servers` before any machine computes: addresses, who answers, and memory (docs/rpc.md)."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels
from doc_pages import ROOT
from loopback import free_port

import colm_cpp as colm
from colm_cpp import _core
from colm_cpp.cli._options import LOAD, flag_of
from colm_cpp.engine.memory import MemoryEstimate, PairMemory
from colm_cpp.llama import rpc
from colm_cpp.options import LoadOptions

# -- options


@pytest.mark.parametrize(
    "given",
    [
        ["host"],
        ["host:0"],
        ["host:65536"],
        [":50052"],
        ["a b:50052"],
        ["http://host:50052"],
        ["::1:50052"],
        ["host:50052", "host:50052"],
        ["host:50052\n"],
        [50052],
        "host",
        b"host:50052",
        5,
    ],
)
def test_what_is_no_address(given: Any) -> None:
    with pytest.raises(colm.OptionError, match="rpc_servers"):
        LoadOptions(rpc_servers=given)


def test_addresses() -> None:
    assert LoadOptions().servers() == []
    assert LoadOptions(rpc_servers="a:1,b.c:2").servers() == ["a:1", "b.c:2"]
    assert LoadOptions(rpc_servers=("10.0.0.2:50052",)).servers() == ["10.0.0.2:50052"]
    assert LOAD["rpc_servers"].type.convert("a:1,b:2", None, None) == ["a:1", "b:2"]
    assert flag_of("rpc_servers") == "--rpc"
    with pytest.raises(colm.OptionError, match="n_gpu_layers is 0"):
        LoadOptions(rpc_servers=["a:1"], n_gpu_layers=0)
    # They are of one model: the other one's options are its own.
    base, assistant = LoadOptions.of_both({}, None, {"rpc_servers": ["a:1"]})
    assert (base.servers(), assistant.servers()) == ([], ["a:1"])
    assert assistant.to_core("m", 8, 1, []).values["rpc_servers"] == ["a:1"]


@pytest.mark.parametrize("table", ["options", "base_options", "assistant_options", "experts.math"])
def test_a_file_of_a_pair_names_no_machines(table: str, tmp_path: Path) -> None:
    """It may come from anywhere, and would say where prompts are sent."""
    experts = table == "experts.math"
    models = 'base = "b.gguf"\n' + ("" if experts else 'assistant = "a.gguf"\n')
    model = 'model = "m.gguf"\n' if experts else ""
    (tmp_path / "pair.toml").write_text(f'version = 1\n{models}[{table}]\n{model}rpc_servers = ["host:50052"]\n')
    with pytest.raises(colm.OptionError, match="rpc_servers"):
        colm.load(pair=tmp_path)


# -- before ggml is asked


def test_without_the_backend(tiny_model: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "has_rpc", lambda library: False)
    with pytest.raises(colm.MissingDependency) as raised:
        colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), rpc_servers=["127.0.0.1:1"], **TINY_LOAD)
    assert rpc.BUILD in str(raised.value)
    assert rpc.BUILD in (ROOT / "docs" / "rpc.md").read_text("utf-8")


@contextlib.contextmanager
def answering(answer: bytes | None, *, after: float = 0.0, slowly: bool = False) -> Iterator[str]:
    """The address of something that answers a client with these bytes; None: never."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    done.wait(after)
                    if answer is None:
                        done.wait()
                    elif slowly:
                        for byte in answer:
                            connection.sendall(bytes([byte]))
                            done.wait(0.05)
                    else:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            done.set()
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join()


def hello(major: int, minor: int, length: int = 28) -> bytes:
    return length.to_bytes(8, "little") + bytes([major, minor, 0, 0]) + bytes(24)


def test_a_server_that_answers_as_it_should() -> None:
    major, minor = _core.RPC_PROTOCOL
    with answering(hello(major, minor)) as address:
        rpc.check_server(address, 5)
    with answering(hello(major, minor), after=0.1, slowly=True) as address:
        rpc.check_server(address, 5)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (hello(_core.RPC_PROTOCOL[0] + 1, 0), "version"),
        (hello(_core.RPC_PROTOCOL[0] - 1, 0), "version"),
        (hello(_core.RPC_PROTOCOL[0], _core.RPC_PROTOCOL[1] + 1), "version"),
        (hello(*_core.RPC_PROTOCOL, length=3), "does not answer as"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer as"),
        (hello(*_core.RPC_PROTOCOL)[:9], "closed"),
        (b"", "closed"),
        (None, "within"),
    ],
)
def test_a_server_that_answers_otherwise(answer: bytes | None, said: str) -> None:
    with answering(answer) as address, pytest.raises(colm.RpcError, match=said) as raised:
        rpc.check_server(address, 0.3)
    assert raised.value.server == address
    assert address in str(raised.value)


def test_a_server_that_is_too_slow() -> None:
    """The limit is for the whole answer, not for each byte."""
    begin = time.monotonic()
    with answering(hello(*_core.RPC_PROTOCOL), slowly=True) as address, pytest.raises(colm.RpcError, match="within"):
        rpc.check_server(address, 0.2)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b"])
def test_nobody_listens(host: str) -> None:
    with pytest.raises(colm.RpcError, match="cannot be reached"):
        rpc.check_server(f"{host}:{free_port()}")


# -- memory


def test_memory_of_other_machines_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What servers hold is compared with what they have, together with the GPUs of this machine."""
    free = {"a:1": 700, "b:1": 200}

    class Server:
        def __init__(self, address: str) -> None:
            self.free_bytes = free[address]

    monkeypatch.setattr(_core, "RpcServer", Server)
    monkeypatch.setattr(_core, "devices", list)
    local = MemoryEstimate(10, 0, 0, 0)
    remote = MemoryEstimate(900, 0, 5, 900, ("a:1", "b:1"))
    PairMemory._check({"base": local, "assistant": remote}, "loading", "less")
    free["b:1"] = 199
    with pytest.raises(colm.NotEnoughMemory, match="a:1, b:1") as raised:
        PairMemory._check({"base": local, "assistant": remote}, "loading", "less")
    assert (raised.value.needed, raised.value.available) == (900, 899)
