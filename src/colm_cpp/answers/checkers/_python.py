"""Answers that are code: it runs in a process of its own, against the tests of the reference."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

import psutil

from ._code import program
from ._verdict import Verdict

__all__ = ["Python"]

_OUTPUT_KEPT = 64 * 1024
_FILE_LIMIT = 16 * 1024 * 1024

# Names of functions that a prompt asks for.
_ASKED = re.compile(r"(?:\bdef|\bclass|\bfunction|\bmethod|\bnamed|\bcalled)\s+[`'\"]*([^\W\d]\w*)")
_PROGRAM = Path(__file__).with_name("_two_sides.py")


@dataclass(frozen=True, slots=True)
class Python:
    """Runs the code of a text and the tests of the reference, in a process each, under limits.

    The verdict is that of the process of the tests, which gets plain values from the code and compares them itself.
    Code that ends early, prints, replaces built-in functions or returns objects that equal everything does not pass.
    See :func:`colm_cpp.answers.checkers.make_checker` for what this does not cover.
    """

    name: ClassVar[str] = "python"
    time_limit: float
    memory_limit_mb: int

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        code = program(text, prompt)
        if code is None:
            return Verdict(False, "no code")
        outcome = self._run(code, answer, sorted(set(_ASKED.findall(prompt))))
        return Verdict(outcome == "passed", outcome)

    def _run(self, code: str, tests: str, asked: list[str]) -> str:
        token = secrets.token_hex(16)
        given = {
            "token": token,
            # Lone surrogates, which a model's broken bytes may become, are in no source.
            "code": code.encode("utf-8", "replace").decode(),
            "tests": tests.encode("utf-8", "replace").decode(),
            "asked": asked,
            "limits": (math.ceil(self.time_limit) + 1, self.memory_limit_mb * 1024 * 1024, _FILE_LIMIT),
        }
        with (
            tempfile.TemporaryDirectory(prefix="colm-check-", ignore_cleanup_errors=True) as work,
            subprocess.Popen(
                [sys.executable, "-I", "-B", str(_PROGRAM), "judge"],
                cwd=work,
                env=_environment(work),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # of no effect on Windows
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            tail = bytearray()
            reader = threading.Thread(target=_read_tail, args=(process.stdout, tail), daemon=True)
            reader.start()
            timed_out = False
            try:
                with contextlib.suppress(OSError):  # it has ended already
                    process.stdin.write(json.dumps(given).encode())
                    process.stdin.close()
                process.wait(timeout=self.time_limit)
            except subprocess.TimeoutExpired:
                timed_out = True
            finally:
                _kill(process)
            # A grandchild in a session of its own survives and holds the pipe open: its output is not awaited.
            reader.join(timeout=2.0)
            if reader.is_alive():
                process.stdout = None  # closing it would wait for the reader, which closes it in the end
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(bytes(tail))[token])
        if timed_out:
            return "timed out"
        if process.returncode < 0:
            with contextlib.suppress(ValueError):
                killer = signal.Signals(-process.returncode).name
                return "timed out" if killer == "SIGXCPU" else f"failed: {killer}"
        return "failed: ended before the tests"


def _read_tail(stream: IO[bytes], tail: bytearray) -> None:
    """Reads to the end and keeps the last part, where the outcome is."""
    with contextlib.suppress(OSError, ValueError), stream:
        while chunk := os.read(stream.fileno(), _OUTPUT_KEPT):
            tail += chunk
            del tail[:-_OUTPUT_KEPT]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and whatever it started: on Windows its descendants, elsewhere all in its session."""
    if sys.platform == "win32":
        _kill_descent(process.pid)
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _kill_descent(pid: int) -> None:
    """Ends a process that still runs and all that descend from it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


def _environment(home: str) -> dict[str, str]:
    kept = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    for name in ("HOME", "TMPDIR", "TEMP", "TMP"):
        environment[name] = home
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # each thread takes address space
        environment[name] = "1"
    return environment
