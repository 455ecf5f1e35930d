"""How many threads are worth using."""

from __future__ import annotations

import os
import sys

import psutil

from .limits import cpu_quota

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """Physical cores that this process may use, at least 1.

    Two threads on the two halves of one core slow each other down in matrix products, and more threads than the
    process's affinity allows wait for each other. A control group's CPU quota is rounded down: a thread that exceeds
    it is stopped, and all others wait for it.
    """
    allowed = os.cpu_count() or 1
    if sys.platform == "linux":
        allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    if quota is not None:
        allowed = min(allowed, int(quota))
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical))
