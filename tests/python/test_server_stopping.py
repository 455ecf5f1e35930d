"""Signals while a pair loads: the load ends, whoever waits for it is told, and the server exits soon."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

import httpx
import psutil
import pytest
from conftest import TinyModels

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from server_world import running, tiny

import colm_cpp as colm
from colm_cpp.server.registry import Registry

BODY = {"model": "demo", "prompt": "a", "max_tokens": 1}
# The demo pair, as if its files were large: llama.cpp reports each tensor, of which the pair has 80.
SLOW = """
import sys, time
import colm_cpp.server.sources as sources
from colm_cpp.cli import main

load = sources.load

def slow(*, progress, **options):
    def told(fraction):
        print("loaded", fraction, file=sys.stderr, flush=True)
        time.sleep(0.2)
        return progress(fraction)

    pair = load(progress=told, **options)
    print("loaded to its end", file=sys.stderr, flush=True)
    return pair

sources.load = slow
main()
"""


@contextmanager
def slow_server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    command = [sys.executable, "-c", SLOW, "serve", "--pair", "demo", "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        yield process, process.stderr
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


def read_until(stream: IO[str], pattern: str) -> re.Match[str]:
    lines = []
    for line in stream:
        lines.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError("".join(lines))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_during_load_now(number: int, code: int) -> None:
    with slow_server("--load-now") as (process, said):
        read_until(said, "loaded 0")
        process.send_signal(number)
        begin = time.monotonic()
        assert process.wait(30) == code
        assert time.monotonic() - begin < 10
        rest = said.read()
        assert "loaded to its end" not in rest
        assert "/v1" not in rest  # it never said that it serves
        assert "Traceback" not in rest


def test_sigterm_while_a_request_waits_for_the_load() -> None:
    with slow_server() as (process, said), ThreadPoolExecutor() as pool:
        address = read_until(said, r"(http://\S+)/v1")[1]
        asked = [pool.submit(httpx.post, f"{address}/v1/completions", json=BODY, timeout=60) for _ in range(2)]
        read_until(said, "loaded 0")
        server = psutil.Process(process.pid)
        while sum(connection.status == psutil.CONN_ESTABLISHED for connection in server.net_connections()) < 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        for answer in asked:
            assert answer.result().status_code == 503
            assert answer.result().json()["error"]["code"] == "unavailable"
        assert process.wait(30) == 0
        assert time.monotonic() - begin < 10
        assert "loaded to its end" not in said.read()


def test_a_download_that_hangs_holds_nobody(tiny_model: TinyModels) -> None:
    """Nothing can end it but the end of the process, which does not wait for it."""
    entry, begun, goes_on = tiny(tiny_model, "demo"), threading.Event(), threading.Event()

    def hanging(progress: Callable[[float], bool]) -> colm.Pair:
        begun.set()
        goes_on.wait(60)
        raise colm.DownloadError("cut off")

    entry.load = hanging
    with ThreadPoolExecutor() as pool:
        try:
            with running(Registry([entry])) as world:
                asked = pool.submit(httpx.post, f"{world.address}/v1/completions", json=BODY, timeout=60)
                assert begun.wait(10)
                world.server.should_exit = True
                assert asked.result(10).status_code == 503
            loads = [thread for thread in threading.enumerate() if thread.name == "colm-load"]
            assert loads
            assert all(thread.daemon for thread in loads)
        finally:
            goes_on.set()


def test_nothing_is_loaded_once_it_stops(tiny_model: TinyModels) -> None:
    entry = tiny(tiny_model, "demo")
    with running(Registry([entry])) as world:
        world.registry.stop_loading()
        answer = httpx.post(f"{world.address}/v1/completions", json=BODY, timeout=20)
        assert answer.status_code == 503
        assert entry.pair is None
