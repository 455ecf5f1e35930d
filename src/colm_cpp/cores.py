"""How many threads are worth using."""

from __future__ import annotations

import os
import sys

import psutil

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """Physical cores that this process may use, at least 1.

    Two threads on the two halves of one core slow each other down in matrix products, and more threads than the
    process's affinity allows wait for each other.
    """
    allowed = os.cpu_count() or 1
    if sys.platform == "linux":
        allowed = len(os.sched_getaffinity(0))
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical))
