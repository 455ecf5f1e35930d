"""The pages of the documentation, and the blocks of commands and Python in them."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GUIDES", "NEEDS", "PAGES", "ROOT", "SETUP", "Block", "bash", "blocks"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))]
# What the line before a block may say that the reader needs. Tests stand in for the first two.
NEEDS = (
    "files of your own",
    "PyTorch",
    "PyTorch and minutes",
    "a browser",
    "minutes",
    "network",
    "other machines",
    "real models and hours",
)
SETUP = ("pip install", "pip download", "CMAKE_ARGS=")  # .ci/run does what they do
BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[^\n]*?) -->\n)?^```(?P<language>console|python)\n(?P<body>.*?)^```$", re.M | re.S
)


def _guides() -> list[str]:
    """README, and the pages of Start and How to, in the order of the site."""
    nav = (
        (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("  - Start:\n")[2].partition("  - Understand:\n")[0]
    )
    return ["README.md", *(f"docs/{page}" for page in re.findall(r"(\S+\.md)$", nav, re.M))]


GUIDES = _guides()


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it stands.
        line: of its first line.
        language: console or python.
        needs: what the reader needs for it; "" for nothing.
        body: its text.
    """

    page: str
    line: int
    language: str
    needs: str
    body: str

    @property
    def commands(self) -> str:
        """The lines that are typed: those behind ``$``, or all where there is none."""
        return "\n".join(line.removeprefix("$ ") for line in self._lines(True)) + "\n"

    @property
    def printed(self) -> list[str]:
        """The lines that the page shows as output."""
        return self._lines(False)

    def _lines(self, typed: bool) -> list[str]:
        lines = self.body.splitlines()
        if not any(line.startswith("$ ") for line in lines):
            return lines if typed else []
        chosen = []
        going_on = False
        for line in lines:
            of_command = going_on or line.startswith("$ ")
            going_on = of_command and line.endswith("\\")
            if of_command == typed:
                chosen.append(line)
        return chosen


def blocks(page: str) -> list[Block]:
    """The blocks of a page, a path from the checkout's root."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page, text.count("\n", 0, found.start("body")) + 1, found["language"], found["needs"] or "", found["body"]
        )
        for found in BLOCK.finditer(text)
    ]


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script, with the environment's commands, in a folder that is its home, too."""
    scripts = shlex.quote(str(Path(sys.executable).parent))
    command = ["bash", "-c", f"export PATH={scripts}:$PATH\n{script}"]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=1800)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, said)
