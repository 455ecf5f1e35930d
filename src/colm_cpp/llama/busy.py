"""Counting the threads inside the extension, for the end of the interpreter and for forks.

If a daemon thread returns from C++ after the interpreter has ended, Python ends it inside a C++ frame, and the process
aborts. A forked child has none of its parent's threads, so their locks stay locked there.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import time
from collections.abc import Callable

from .. import _core
from ..errors import ForkError, PairClosed
from .libraries import compute_library

__all__ = ["busy", "check_usable", "wait_until_idle"]

_inside = _core.Inside()

# Why a forked child cannot compute; None if it can.
_obstacle: str | None = None


def busy() -> _core.Inside:
    """Marks a call into the extension that releases the GIL, as a context manager.

    A MemoryError of Python's own inside becomes OutOfMemory.

    Raises:
        PairClosed: the interpreter is ending.
        ForkError: this process was forked from one whose state cannot be used.
    """
    return _inside


def check_usable() -> None:
    """Raises what :func:`busy` would raise on entering."""
    _inside.check()


def wait_until_idle(stop: Callable[[], None], seconds: float) -> None:
    """Refuses new calls, asks the running ones to end by ``stop``, and waits up to ``seconds`` for them."""
    _inside.refuse(PairClosed, "the interpreter is ending; no more texts can be written")
    stop()
    end = time.monotonic() + seconds
    while _inside.count and time.monotonic() < end:
        time.sleep(0.002)


# -- forks ----------------------------------------------------------------------------------------------------


@functools.cache
def _openmp_pause() -> Callable[[int], int] | None:
    """OpenMP's omp_pause_resource_all() as ggml's CPU library uses it; None where it has no OpenMP.

    Raises:
        AttributeError: its OpenMP is too old for that.
    """
    path = compute_library()
    if path is None:
        return None
    library = ctypes.CDLL(str(path))  # looks a name up in what it depends on, too
    for entry in ("GOMP_parallel", "__kmpc_fork_call"):
        if hasattr(library, entry):
            pause = library.omp_pause_resource_all
            pause.argtypes, pause.restype = [ctypes.c_int], ctypes.c_int
            return pause
    return None


@functools.cache
def _has_gpu() -> bool:
    return any(device["gpu"] for device in _core.devices())


def _stop_workers() -> bool:
    """Ends this thread's OpenMP workers, which a child would wait for; the next decode makes new ones."""
    hard = 2  # omp_pause_hard
    try:
        pause = _openmp_pause()
    except (AttributeError, OSError):
        return False
    return pause is None or pause(hard) == 0


def _before_fork() -> None:
    global _obstacle
    _obstacle = None
    if not _inside.ever:
        return
    if _inside.count:
        _obstacle = "while one of its threads was computing or loading"
    elif _has_gpu():
        _obstacle = "after it had used a GPU"
    elif _core.RpcServer.n_connected():
        _obstacle = "while it was connected to RPC servers"
    elif sys.platform == "darwin" or not _stop_workers():
        _obstacle = "after it had computed, and its worker threads could not be ended first"


def _in_child() -> None:
    _inside.forget()
    if _obstacle is not None:
        _inside.refuse(
            ForkError,
            f"this process was forked from another {_obstacle}, so it cannot compute; start processes with "
            'multiprocessing.get_context("spawn"), or fork before using a pair',
        )


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
