"""What README and docs tell people to type: run here, or at least understood by the command that it names.

A block of commands or Python runs as it stands, unless the line before it says ``<!-- needs: ... -->``: files of the
reader's own, the network, real models, or hours. Of such a block every command must still parse: ``colm`` with these
options, a benchmark with this name.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from colm_cpp.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))]
NEEDS = (
    "files of your own",
    "minutes",
    "network",
    "PyTorch",
    "PyTorch and minutes",
    "real models and hours",
)
# Reports that a command wrote; they hold no commands of their own.
WRITTEN = ("docs/demo/report.md", "docs/results/csqa/report.md", "docs/results/gsm8k/report.md", "docs/transcript.md")
# Pages whose blocks have a test of their own.
OWN_TESTS = ("docs/serving.md", "docs/batch-format.md")

BLOCK = re.compile(
    r"(?:<!-- needs: (?P<needs>[^\n]*?) -->\n)?^```(?P<language>console|python)\n(?P<body>.*?)^```$", re.M | re.S
)


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
        lines = self.body.splitlines()
        if not any(line.startswith("$ ") for line in lines):
            return self.body
        typed = []
        going_on = False
        for line in lines:
            if going_on or line.startswith("$ "):
                typed.append(line.removeprefix("$ "))
                going_on = line.endswith("\\")
        return "\n".join(typed) + "\n"


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(
            page, text.count("\n", 0, found.start("body")) + 1, found["language"], found["needs"] or "", found["body"]
        )
        for found in BLOCK.finditer(text)
    ]


ALL = [block for page in PAGES if page not in WRITTEN for block in blocks(page)]
SETUP = ("pip install", "pip download", "CMAKE_ARGS=")  # .ci/run does what they do


def test_every_page_is_looked_at() -> None:
    assert {block.page for block in ALL} >= {"README.md", "docs/start.md", "docs/training.md", "docs/performance.md"}
    for block in ALL:
        assert block.needs in ("", *NEEDS), f"{block.page}:{block.line} needs {block.needs!r}"


def complaint(name: str, arguments: list[str]) -> str:
    """What the command line has against a call of ``colm``; empty where it understands it."""
    if name.startswith("-"):
        return ""
    command = main.commands.get(name)
    if command is None:
        return f"there is no command colm {name}"
    try:
        command.make_context(f"colm {name}", arguments)
    except click.exceptions.Exit:
        return ""
    except click.UsageError as error:
        if not isinstance(error, click.BadParameter) or "does not exist" not in error.message:
            return f"colm {name} {arguments}: {error.format_message()}"
    return ""


@pytest.mark.parametrize("page", sorted({b.page for b in ALL if b.language == "console" and b.page not in OWN_TESTS}))
def test_commands_are_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ``colm`` line of the page parses, and every script that it runs exists."""
    lines = [
        f"line={block.line}\n{block.commands}" for block in ALL if block.page == page and block.language == "console"
    ]
    root, calls = shlex.quote(str(ROOT)), tmp_path / "calls"
    calls.touch()
    # A start of the command for each line would take minutes, so `colm` notes its words: how many, then each.
    stubs = textwrap.dedent(
        f"""
        set -eu -o pipefail
        B="--base b.gguf --assistant a.gguf" BASE=b.gguf ASSISTANT=a.gguf SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_COUNT=2
        colm() {{ printf '%s\\0' "$#" "$line" "$@" >> {shlex.quote(str(calls))}; }}
        python() {{ case "$1" in -*) ;; *) test -f {root}/"$1" || {{ echo "no file $1"; exit 1; }};; esac; }}
        pip() {{ :; }}; pytest() {{ :; }}; head() {{ :; }}; sed() {{ :; }}; cp() {{ :; }}; cat() {{ :; }}
        curl() {{ :; }}; cmake() {{ :; }}; ctest() {{ :; }}; uvicorn() {{ :; }}; sbatch() {{ :; }}; ray() {{ :; }}
        mkdocs() {{ :; }}; tar() {{ :; }}
        """
    )
    # Tools of the checkout are called by their path.
    script = stubs + "".join(lines).replace("tools/lint", ": tools/lint").replace("./rpc/bin/", ": ./rpc/bin/")
    done = _bash(script, tmp_path)
    assert done.returncode == 0, f"{page}:\n{done.stdout}"
    monkeypatch.chdir(tmp_path)
    words = iter(calls.read_bytes().decode().split("\0")[:-1])
    for n in words:
        line, name, *arguments = itertools.islice(words, 1 + int(n))
        assert complaint(name, arguments) == "", f"{page}, the block of line {line}"


RUN = sorted(
    {b.page for b in ALL if not b.needs and b.language == "console" and b.page not in (*OWN_TESTS, "CONTRIBUTING.md")}
)


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN)
def test_commands_run(page: str, tmp_path: Path) -> None:
    """The page's commands, one after another in one folder, beside the checkout's files."""
    for name in ("src", "tools", "benchmarks", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    lines = [
        line
        for block in ALL
        if block.page == page and block.language == "console" and not block.needs
        for line in [f": line {block.line}", *block.commands.splitlines()]
        if not line.startswith(SETUP)
    ]
    scripts = Path(sys.executable).parent
    done = _bash(
        f"set -eux -o pipefail\nexport PATH={shlex.quote(str(scripts))}:$PATH\n" + "\n".join(lines) + "\n", tmp_path
    )
    assert done.returncode == 0, f"{page}:\n{done.stdout[-4000:]}"


PYTHON = [block for block in ALL if block.language == "python" and not block.needs and block.page not in OWN_TESTS]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page}:{block.line}")
def test_python_runs(block: Block, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block.body], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")


def test_links_lead_somewhere() -> None:
    """Every relative link of every page names a file of the checkout."""
    missing = [
        f"{page}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
        if "://" not in target and not ((ROOT / page).parent / target).exists()
    ]
    assert missing == []


def _bash(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        timeout=900,
    )
