"""Pairs, threads and children for the tests of how a pair lives."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm

import colm_cpp as colm

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or sends signals")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models for all of these tests, made once."""
    folder = tmp_path_factory.getbasetemp() / "lifecycle"
    if folder.exists():
        return folder
    folder.mkdir()
    tm.make_model(folder / "base.gguf", seed=1, n_ctx_train=8192)
    tm.make_model(folder / "assistant.gguf", seed=2, n_embd=64, n_ctx_train=8192)
    # Reading some thousand tokens takes seconds.
    tm.make_model(folder / "slow.gguf", seed=3, n_embd=256, n_layer=8, n_ctx_train=8192)
    return folder


def load(folder: Path, base: str = "base", assistant: str = "assistant", **options: Any) -> colm.Pair:
    given = {"n_ctx": 8192, "n_batch": 64, "n_threads": 1, "n_threads_batch": 1, **options}
    return colm.load(folder / f"{base}.gguf", folder / f"{assistant}.gguf", "confidence", **given)


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[colm.Pair]:
    with load(folder, n_ctx=1024) as pair:
        yield pair


@pytest.fixture(scope="module")
def slow(folder: Path) -> Iterator[colm.Pair]:
    with load(folder, "slow") as pair:
        yield pair


def long_prompt(n: int = 4000) -> list[int]:
    return [(7 * i * i + 3 * i) % 256 for i in range(n)]


def in_thread(run: Callable[[], Any], timeout: float = 20) -> Any:
    """What `run` returns in a thread of its own; fails where it does not end."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run()), daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), "the thread still waits"
    assert results, "the thread raised"
    return results[0]


# -- threads --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def computing(pair: colm.Pair, end: float = 10) -> Iterator[colm.TokenStream]:
    """Another thread reads a long prompt meanwhile; it has its turn when this begins."""
    pair.forget()
    stream = pair.stream(long_prompt(), threshold=1, max_tokens=1)
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    while not stream.begun:
        time.sleep(0.005)
    yield stream
    stream.cancel()
    thread.join(end)
    assert not thread.is_alive()


# -- children -------------------------------------------------------------------------------------------------


_BEGIN = """
import contextlib, os, signal, sys, threading, time
folder, tests = sys.argv[1:3]
sys.path.insert(0, tests)
import colm_cpp as colm
PROMPT = [(7 * i * i + 3 * i) % 256 for i in range(4000)]
def load(base="base", assistant="assistant", **options):
    given = dict(n_ctx=8192, n_batch=64, n_threads=1, n_threads_batch=1)
    given.update(options)
    return colm.load(f"{folder}/{base}.gguf", f"{folder}/{assistant}.gguf", "confidence", **given)
"""


def run_child(folder: Path, code: str, *, begin: str = _BEGIN, timeout: float = 30, **env: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(code), str(folder), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "GGML_NO_BACKTRACE": "1", **env},
    )


def child_says(folder: Path, code: str, **how: Any) -> str:
    """What a child that succeeds and complains of nothing prints."""
    done = run_child(folder, code, **how)
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr)
    return str(done.stdout)
