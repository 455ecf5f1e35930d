"""Which pairs are open, so that they end before the interpreter does."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from .. import _core
from ..llama.busy import wait_until_idle

if TYPE_CHECKING:
    from .pair import Pair

__all__ = ["add", "lock"]

_open: weakref.WeakSet[Pair] = weakref.WeakSet()
# A WeakSet may not grow while another thread lists it.
_lock = threading.RLock()  # a signal handler may close a pair


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def lock() -> AbstractContextManager[bool]:
    """Held while the open pairs, or the texts of one, are listed or change."""
    return _lock


def add(pair: Pair) -> None:
    """Adds a pair; it leaves when nobody holds it."""
    with lock():
        _open.add(pair)


def _listed() -> list[Pair]:
    with lock():
        return list(_open)


@atexit.register
def _close_all() -> None:
    # Models must be gone before the interpreter is: a daemon thread may still be computing on them.
    _core.stop_loading()

    def stop() -> None:
        for pair in _listed():
            pair._stop()

    wait_until_idle(stop, seconds=10)
    for pair in _listed():
        pair.close()
