"""Connections to machines that hold part of a model: ggml's RPC backend, and what is checked before it is used.

ggml ends the process where a server does not answer as it expects, and waits without limit for one that has another
client. So each server is asked for its version first, by a connection of our own.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable

from .. import _core
from ..errors import MissingDependency, RpcError
from .libraries import rpc_library

__all__ = ["BUILD", "check_server", "connect"]

# Of the version that this package was built for; another one is refused.
BUILD = (
    'CMAKE_ARGS="-DGGML_RPC=ON" pip install --force-reinstall --no-binary llama-cpp-python '
    f"llama-cpp-python=={_core.BUILT_FOR_LLAMA_CPP_PYTHON}"
)
# The longest wait for an answer, in seconds.
PATIENCE = 5.0
# As all versions of the protocol send it: a byte for the command and a length, then as many bytes.
_HELLO, _CAPABILITIES = 14, 24
_HEADER, _LENGTH = struct.Struct("<BQ"), struct.Struct("<Q")
_VERSION = struct.Struct("<BBBx")
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # struct linger: on, 0 seconds

_connecting = threading.Lock()


def connect(servers: Iterable[str]) -> list[_core.RpcServer]:
    """The connections to ``servers``, HOST:PORT. Each is open as long as the object or a model that uses it lives.

    Raises:
        MissingDependency: the installed llama.cpp has no RPC backend.
        RpcError: a server does not answer, or speaks another version of the protocol.
    """
    found = []
    for server in dict.fromkeys(servers):
        _require_backend()
        with _connecting:  # a server answers one client at a time
            if not _core.RpcServer.is_connected(server):
                check_server(server)
            found.append(_core.RpcServer(server))
    return found


def _require_backend() -> None:
    library = rpc_library()
    if not _core.has_rpc("" if library is None else os.fsencode(library)):
        raise MissingDependency(
            f"rpc_servers needs llama.cpp's RPC backend, which the installed llama-cpp-python lacks; build it: {BUILD}"
        )


def check_server(server: str, patience: float = PATIENCE) -> None:
    """Asks a server for its version, within ``patience`` seconds.

    Raises:
        RpcError: there is no answer, or not the one of this llama.cpp's protocol.
    """
    try:
        version = _version(server, patience)
    except TimeoutError as error:
        raise _error(
            server, f"does not answer within {patience:g} s; it may have another client, and it serves one at a time"
        ) from error
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that no machine can have
        why = getattr(error, "strerror", None) or error
        raise _error(server, f"cannot be reached ({why}); is ggml-rpc-server running there?") from error
    if version is None:
        raise _error(server, "does not answer as a ggml-rpc-server of this version of llama.cpp does")
    major, minor = version
    known = _core.RPC_PROTOCOL
    if major != known[0] or minor > known[1]:
        raise _error(
            server,
            f"speaks version {major}.{minor} of the protocol, and this llama.cpp version {known[0]}.{known[1]}; build "
            "the server from the same version of llama.cpp",
        )


def _version(server: str, patience: float) -> tuple[int, int] | None:
    """The version that a server says it speaks; None where its answer is no version. Raises OSError, UnicodeError."""
    host, _, port = server.rpartition(":")
    end = time.monotonic() + patience
    # ggml takes the first IPv4 address, too.
    family, kind, _, _, address = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as connection:
        # Reset rather than closed: a server that finds a question of one who has left would answer, and die of SIGPIPE.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.settimeout(patience)
        connection.connect(address)
        connection.sendall(_HEADER.pack(_HELLO, _CAPABILITIES) + bytes(_CAPABILITIES))
        length = _LENGTH.unpack(_receive(connection, _LENGTH.size, end))[0]
        if length != _VERSION.size + _CAPABILITIES:
            return None
        major, minor, _ = _VERSION.unpack(_receive(connection, _VERSION.size, end))
    return major, minor


def _receive(connection: socket.socket, n: int, end: float) -> bytes:
    """``n`` bytes. Raises OSError; TimeoutError after the time ``end``."""
    received = b""
    while len(received) < n:
        connection.settimeout(max(end - time.monotonic(), 1e-3))
        part = connection.recv(n - len(received))
        if not part:
            raise ConnectionResetError("it closed the connection")
        received += part
    return received


def _error(server: str, what: str) -> RpcError:
    error = RpcError(f"the RPC server {server} {what}")
    error.server = server
    return error
