"""A command on a pseudo-terminal: what is typed, and what the screen got."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from types import TracebackType

import pytest

# What a terminal draws rather than shows as text: colours, cursor, modes.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07]*\x07")


class Terminal:
    """``colm`` on a pseudo-terminal, as a context manager that ends it."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None, size: tuple[int, int] = (24, 80)) -> None:
        """``size``: lines and columns."""
        pty = pytest.importorskip("pty")  # POSIX only
        import fcntl
        import struct
        import termios

        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        environment |= {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **(env or {})}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "colm_cpp.cli", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,  # so that the terminal is its own, and Ctrl-C reaches it alone
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
        )
        os.close(slave)
        self.raw = ""
        self._seen = 0

    @property
    def screen(self) -> str:
        """All that was shown, without colours and cursor movements."""
        return re.sub("\r+\n", "\n", _CONTROL.sub("", self.raw))

    def wait_for(self, pattern: str, seconds: float = 60.0) -> str:
        """Reads until ``pattern`` is on the screen behind what the last call found, and returns what matched."""
        deadline = time.monotonic() + seconds
        while True:
            match = re.compile(pattern).search(self.screen, self._seen)
            if match:
                self._seen = match.end()
                return match[0]
            if time.monotonic() > deadline or not self._read():
                raise AssertionError(f"{pattern!r} did not come; the screen behind it: {self.screen[self._seen :]!r}")

    def type(self, text: str) -> None:
        """Types; ``\\r`` is Enter, ``\\x03`` Ctrl-C, ``\\x04`` Ctrl-D."""
        os.write(self._master, text.encode())

    def end(self, seconds: float = 60.0) -> int:
        """Reads to the end and returns the exit code."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self._read():
            pass
        return self.process.wait(timeout=60)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 0.2)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux: every process has closed the terminal
            return False
        self.raw += data.decode("utf-8", "replace")
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._master)
