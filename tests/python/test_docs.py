"""What README and docs tell people to type: run here, or at least understood by the command that it names.

A block of commands or Python runs as it stands, unless the line before it says ``<!-- needs: ... -->``: files of the
reader's own, the network, real models, or hours. Of such a block every command must still parse: ``colm`` with these
options, a benchmark with this name. The guides (Start and How to) run as a whole in ``test_guides.py``.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import click
import pytest
from doc_pages import GUIDES, NEEDS, PAGES, ROOT, SETUP, Block, bash, blocks

from colm_cpp.cli import main

# Reports that a command wrote; they hold no commands of their own.
WRITTEN = ("docs/demo/report.md", "docs/results/csqa/report.md", "docs/results/gsm8k/report.md", "docs/transcript.md")
# Pages whose blocks have a test of their own.
OWN_TESTS = (
    "docs/serving.md",
    "docs/batch-format.md",
    "docs/notebooks/what-is-deferred.md",
    "docs/notebooks/train-a-head.md",
)

ALL = [block for page in PAGES if page not in WRITTEN for block in blocks(page)]


def test_every_page_is_looked_at() -> None:
    assert {block.page for block in ALL} >= {"README.md", "docs/start.md", "docs/training.md", "docs/performance.md"}
    for block in ALL:
        assert block.needs in ("", *NEEDS), f"{block.page}:{block.line} needs {block.needs!r}"


def test_every_page_has_a_place_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    docs = ROOT / "docs"
    pages = [*docs.glob("*.md"), *docs.glob("results/*.md"), *docs.glob("results/*/report.md")]
    assert not [page.name for page in pages if f" {page.relative_to(docs).as_posix()}\n" not in navigation]


def problem(arguments: list[str]) -> str:
    """What ``colm`` says against these arguments; empty if it takes them. Files need not exist."""
    name, *others = arguments
    if name.startswith("-"):
        return ""
    command = main.commands.get(name)
    if command is None:
        return f"there is no command colm {name}"
    try:
        command.make_context(f"colm {name}", others)
    except click.exceptions.Exit:
        return ""
    except click.UsageError as error:
        if not (isinstance(error, click.BadParameter) and "does not exist" in error.message):
            return f"colm {shlex.join(arguments)}: {error.format_message()}"
    return ""


@pytest.mark.parametrize("page", sorted({b.page for b in ALL if b.language == "console" and b.page not in OWN_TESTS}))
def test_commands_are_understood(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every ``colm`` line of the page parses, and every script that it runs exists."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    lines = [
        f": line {block.line}\n{block.commands}" for block in ALL if block.page == page and block.language == "console"
    ]
    root = shlex.quote(str(ROOT))
    stubs = textwrap.dedent(
        f"""
        set -eu -o pipefail
        B="--base b.gguf --assistant a.gguf" BASE=b.gguf ASSISTANT=a.gguf SLURM_ARRAY_TASK_ID=1 SLURM_ARRAY_TASK_COUNT=2
        read_all() {{ while read -r _; do :; done; }}  # else who writes into the pipe may get SIGPIPE
        colm() {{ printf '%s\\0' "$@" $'\\n' >> {shlex.quote(str(tmp_path / "typed"))}; read_all; }}
        python() {{ case "$1" in -*) ;; *) test -f {root}/"$1" || {{ echo "no file $1"; exit 1; }};; esac; }}
        pip() {{ :; }}; pytest() {{ :; }}; head() {{ :; }}; sed() {{ :; }}; cp() {{ :; }}; cat() {{ :; }}
        curl() {{ :; }}; cmake() {{ :; }}; ctest() {{ :; }}; uvicorn() {{ :; }}; sbatch() {{ :; }}; ray() {{ :; }}
        mkdocs() {{ :; }}; tar() {{ :; }}; python3() {{ :; }}; cd() {{ :; }}
        """
    )
    # Tools of the checkout are called by their path.
    script = stubs + re.sub(
        r"^(tools/lint|benchmarks/gpu\.sh|\./rpc/bin/)", r": \1", "".join(lines), flags=re.MULTILINE
    )
    done = bash(script, tmp_path)
    assert done.returncode == 0, f"{page}:\n{done.stdout}"
    monkeypatch.chdir(tmp_path)
    typed = (tmp_path / "typed").read_text(encoding="utf-8") if (tmp_path / "typed").exists() else ""
    commands = [arguments.rstrip("\0").split("\0") for arguments in typed.split("\n\0") if arguments]
    assert [said for arguments in commands if (said := problem(arguments))] == []
    assert len(commands) >= "".join(lines).count("\ncolm ")


RUN = sorted(
    {b.page for b in ALL if not b.needs and b.language == "console"} - {*OWN_TESTS, *GUIDES, "CONTRIBUTING.md"}
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
    done = bash("set -eux -o pipefail\n" + "\n".join(lines) + "\n", tmp_path)
    assert done.returncode == 0, f"{page}:\n{done.stdout[-4000:]}"


PYTHON = [block for block in ALL if block.language == "python" and not block.needs and block.page not in OWN_TESTS]


@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=() if block.page == "README.md" else pytest.mark.slow) for block in PYTHON],
    ids=lambda block: f"{block.page}:{block.line}",
)
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
