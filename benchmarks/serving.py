"""``colm serve`` in a process of its own and clients that cost little, for the programs beside this one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import psutil


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[tuple[psutil.Process, str]]:
    """A server on a free port with its first pair loaded: its process and its address. It must end with 0."""
    command = [sys.executable, "-m", "colm_cpp.cli", "serve", "--port", "0", "--load-now", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    errors = process.stderr
    assert errors is not None
    rest = threading.Thread(target=errors.read, daemon=True)
    try:
        said = []
        for line in errors:
            said.append(line)
            if found := re.search(r"(http://\S+)/v1", line):
                break
        else:
            raise RuntimeError("".join(said))
        # Nobody reads the rest, and a full pipe would stop the server.
        rest.start()
        yield psutil.Process(process.pid), found[1]
    finally:
        process.terminate()
        status = process.wait(60)
        if rest.ident is not None:
            rest.join()
        errors.close()
        assert status == 0


async def ask(address: str, body: dict[str, Any]) -> int:
    """One request to ``/v1/completions`` on a connection of its own. Returns how many tokens were written.

    A stream is read as bytes: a client that takes every piece apart would take as much of a core as the server.
    """
    host, _, port = address.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    if body["stream"]:
        body = {**body, "stream_options": {"include_usage": True}}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    answer = await reader.read(-1)
    writer.close()
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer.decode(errors="replace"))
    # The last one: pieces before it have none, or null.
    return int(re.findall(rb'"completion_tokens": ?(\d+)', answer)[-1])


async def ask_all(address: str, bodies: Sequence[dict[str, Any]], n_clients: int) -> int:
    """All requests, so many at a time. Returns the sum of the tokens."""
    left = list(bodies)[::-1]

    async def client() -> int:
        n = 0
        while left:
            n += await ask(address, left.pop())
        return n

    return sum(await asyncio.gather(*(client() for _ in range(n_clients))))
