"""A real browser for tests: Debian's Chromium, driven over a pipe in its own DevTools protocol, without a library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Tab", "browse", "find_chromium"]

_TIMEOUT = 60.0  # seconds for one answer: a busy machine's first page takes some
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
]


def find_chromium() -> str | None:
    """The program; None where there is none, or where file descriptors cannot be handed on as they are here."""
    if os.name != "posix":
        return None
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Tab:
    """One page in the browser."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._read = b""
        self._number = 0
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + _TIMEOUT
        while True:
            while b"\0" not in self._read:
                if not select.select([self._from], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise TimeoutError(f"Chromium did not answer {method} within {_TIMEOUT:g} s")
                more = os.read(self._from, 1 << 16)
                if not more:
                    raise ConnectionError(f"Chromium ended before it answered {method}")
                self._read += more
            line, _, self._read = self._read.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False, script: bool = True) -> None:
        """Shows a file on a screen of a width, in CSS pixels."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setScriptExecutionDisabled", value=not script)
        self.send("Emulation.setFocusEmulationEnabled", enabled=True)
        self.send("Page.navigate", url=page.as_uri())
        end = time.monotonic() + _TIMEOUT
        while self.value("[location.href, document.readyState]") != [page.as_uri(), "complete"]:
            assert time.monotonic() < end
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is worth."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, *keys: str) -> None:
        """Presses keys, as a keyboard would."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}
        for key in keys:
            for kind in ("rawKeyDown", "keyUp"):
                self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def point(self, x: float, y: float) -> None:
        """Moves the mouse."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def tap(self, x: float, y: float) -> None:
        """Taps with a finger."""
        self.send("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Writes a PNG of the page."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browse(program: str, folder: Path) -> Iterator[Tab]:
    """A browser with one page, closed at the end.

    Args:
        program: from :func:`find_chromium`.
        folder: for its profile.
    """
    read_commands, to_browser = os.pipe()
    from_browser, write_answers = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4; the shell puts ours there, whatever numbers they have.
    shell = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
    arguments = [*_FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", shell, program, *arguments],
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        os.close(to_browser)  # which ends it
        os.close(from_browser)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
