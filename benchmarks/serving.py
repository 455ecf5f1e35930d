"""``colm serve`` in a process of its own, for the programs beside this one."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[tuple[psutil.Process, str]]:
    """A server on a free port with its first pair loaded: its process and its address. It must end with 0."""
    command = [sys.executable, "-m", "colm_cpp.cli", "serve", "--port", "0", "--load-now", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"(http://\S+)/v1", line):
                break
        else:
            raise RuntimeError("".join(said))
        # Nobody reads the rest, and a full pipe would stop the server.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield psutil.Process(process.pid), found[1]
    finally:
        process.terminate()
        assert process.wait(60) == 0
