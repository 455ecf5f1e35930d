"""Benchmarks in fresh processes: what lies where in memory, and what was loaded before, is another matter each time.

A script that measures so runs itself as ``script.py --worker ARM ...``, whose last line is one JSON document.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Spread", "clock", "in_turns", "run"]


def clock(n_threads: int) -> Callable[[], float]:
    """Seconds of this process's own work where one thread does it all, so that other work beside it does not count."""
    return time.process_time if n_threads == 1 else time.perf_counter


def run(arm: str, arguments: Sequence[str]) -> Any:
    """What the script's worker for this arm printed last."""
    command = [sys.executable, sys.argv[0], "--worker", arm, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def in_turns(arms: Sequence[str], arguments: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """What each arm's process found, in each round. Every second round runs backwards."""
    found: list[dict[str, Any]] = []
    for number in range(rounds):
        order = arms if number % 2 == 0 else arms[::-1]
        found.append({arm: run(arm, arguments) for arm in order})
        print(f"round {number + 1} of {rounds}: {json.dumps(found[-1])[:2000]}", file=sys.stderr, flush=True)
    return found


class Spread:
    """Median, least and most of some ratios or times."""

    def __init__(self, values: Sequence[float]) -> None:
        self.median, self.least, self.most = statistics.median(values), min(values), max(values)

    def show(self, digits: int = 3) -> str:
        return f"{self.median:.{digits}f} ({self.least:.{digits}f} to {self.most:.{digits}f})"
