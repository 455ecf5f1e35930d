"""How many threads are inside the extension, so that the interpreter does not end under them.

A daemon thread that returns from C++ after the interpreter has ended is ended by Python in the middle of a C++ frame,
which aborts the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import PairClosed

__all__ = ["busy", "wait_until_idle"]

_lock = threading.Lock()
_inside = 0
_exiting = False


@contextmanager
def busy() -> Iterator[None]:
    """Marks a call into the extension that releases the GIL.

    Raises:
        PairClosed: the interpreter is ending.
    """
    global _inside
    with _lock:
        if _exiting:
            raise PairClosed("the interpreter is ending; no more texts can be written")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1


def wait_until_idle(seconds: float) -> None:
    """Lets nobody in any more, and waits up to ``seconds`` for those inside to come out."""
    global _exiting
    _exiting = True
    end = time.monotonic() + seconds
    while _inside and time.monotonic() < end:
        time.sleep(0.002)
