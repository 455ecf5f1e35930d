"""Answers that are code: it runs in a process of its own, against the tests of the reference."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ._code import program
from ._verdict import Verdict

__all__ = ["Python"]

_OUTPUT_KEPT = 64 * 1024
_FILE_LIMIT = 16 * 1024 * 1024

# Runs code and tests and writes its last line itself: the code may leave early, whatever its exit status, but it cannot
# write this line by accident. Leaving by os._exit keeps the code's exit handlers and threads from having the last word.
_RUNNER = """
import os, sys, types
token, seconds, memory, file_size = sys.argv[1:]
del sys.argv[1:]
try:
    import resource
except ImportError:
    resource = None
for name, limit in (("AS", int(memory)), ("CPU", int(seconds)), ("FSIZE", int(file_size)), ("CORE", 0)):
    try:
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        # At the hard limit of CPU time the kernel kills without saying why.
        most = limit if name != "CPU" or limit == hard else limit + 1
        resource.setrlimit(kind, (limit, most))
    except (AttributeError, ValueError, OSError):
        pass
def run(token, leave=os._exit, write=os.write, out=os.dup(1), run_code=exec, make=compile, stdout=sys.stdout):
    try:
        sources = []
        for file in ("code.py", "tests.py"):
            with open(os.path.join(os.pardir, file), encoding="utf-8") as stream:
                sources.append(stream.read())
        module = types.ModuleType("solution")
        sys.modules["solution"] = module  # dataclasses and typing look modules up by name
        for source in sources:
            run_code(make(source, "solution.py", "exec", dont_inherit=True), module.__dict__)
        outcome = "passed"
    except BaseException as error:
        outcome = "failed " + type(error).__name__
    try:
        stdout.flush()
    except BaseException:
        pass
    write(out, ("\\n" + token + " " + outcome + "\\n").encode("utf-8", "replace"))
    leave(0)
run(token)
"""


@dataclass(frozen=True, slots=True)
class Python:
    """Runs the code of a text and then the reference, both under limits."""

    time_limit: float
    memory_limit_mb: int

    @property
    def name(self) -> str:
        return "python"

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        code = program(text, prompt)
        if code is None:
            return Verdict(False, "no code")
        outcome = self._run(code, answer)
        return Verdict(outcome == "passed", outcome)

    def _run(self, code: str, tests: str) -> str:
        token = secrets.token_hex(16)
        with tempfile.TemporaryDirectory(prefix="colm-check-", ignore_cleanup_errors=True) as folder:
            work = Path(folder, "work")
            work.mkdir()
            for name, source in (("code.py", code), ("tests.py", tests), ("runner.py", _RUNNER)):
                # Lone surrogates, which a model's broken bytes may become, have no UTF-8.
                Path(folder, name).write_bytes(source.encode("utf-8", "replace"))
            limits = (math.ceil(self.time_limit) + 1, self.memory_limit_mb * 1024 * 1024, _FILE_LIMIT)
            command = [sys.executable, "-I", "-B", str(Path(folder, "runner.py")), token, *map(str, limits)]
            with subprocess.Popen(
                command,
                cwd=work,
                env=_environment(str(work)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # of no effect on Windows
            ) as process:
                assert process.stdout is not None
                tail = bytearray()
                reader = threading.Thread(target=_read_tail, args=(process.stdout, tail), daemon=True)
                reader.start()
                timed_out = False
                try:
                    process.wait(timeout=self.time_limit)
                except subprocess.TimeoutExpired:
                    timed_out = True
                finally:
                    _kill(process)
                # A grandchild in a session of its own survives and holds the pipe open: its output is not awaited.
                reader.join(timeout=2.0)
                if reader.is_alive():
                    process.stdout = None  # closing it would wait for the reader, which closes it in the end
        last = bytes(tail).decode("utf-8", "replace").rstrip("\n").rpartition("\n")[2]
        found, _, outcome = last.partition(" ")
        if found == token:
            return outcome.replace("failed ", "failed: ", 1)
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
    """Ends the process and, except on Windows, whatever it started in its session."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(home: str) -> dict[str, str]:
    kept = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    for name in ("HOME", "TMPDIR", "TEMP", "TMP"):
        environment[name] = home
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # each thread takes address space
        environment[name] = "1"
    return environment
