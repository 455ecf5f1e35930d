"""Start and every How to, as somebody goes through them who has only the repository: by copying.

Each page runs from its first block to its last, commands and Python, in a folder that ``examples/practice.py`` made. A
server goes on in the background until the page starts another one. Blocks are left out that need the network, other
machines, a browser, real models or many minutes, and those with PyTorch where it is not installed.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from doc_pages import GUIDES, ROOT, SETUP, Block, bash, blocks

pytestmark = pytest.mark.slow

STAND_INS = {"", "files of your own"}
OWN_TESTS = ("docs/serving.md", "docs/notebooks/what-is-deferred.md", "docs/notebooks/train-a-head.md")
ADDRESS = "127.0.0.1:8080"

WAIT = """
import sys, time, urllib.request
for _ in range(300):
    try:
        sys.exit(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/health", timeout=5).status != 200)
    except OSError:
        time.sleep(0.1)
sys.exit("colm serve does not answer")
"""

# `colm serve` gets a free port and goes on in the background.
SERVE = """
set -eu -o pipefail
served=
colm() {
    if [ "$1" != serve ]; then command colm "$@"; return; fi
    if [ -n "$served" ]; then kill "$served"; wait "$served" || true; fi
    command colm "$@" --port PORT > serve.log 2>&1 &
    served=$!
    python wait.py PORT || { cat serve.log; return 1; }
}
trap '[ -z "$served" ] || kill "$served"' EXIT
"""


@pytest.fixture(scope="module")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guides") / "practice"
    subprocess.run([sys.executable, str(ROOT / "examples" / "practice.py"), str(folder)], check=True, timeout=120)
    return folder


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def runs_here(block: Block) -> bool:
    with_torch = block.needs == "PyTorch" and importlib.util.find_spec("peft") is not None
    return block.page not in OWN_TESTS and (block.needs in STAND_INS or with_torch)


def script_of(page: list[Block], folder: Path, port: int) -> str:
    """The page's blocks as one script; Python goes into files beside it."""
    lines = [SERVE.replace("PORT", str(port))]
    for block in page:
        lines.append(f"echo '== line {block.line}'")
        if block.language == "python":
            (folder / f"line_{block.line}.py").write_text(block.body.replace(ADDRESS, f"127.0.0.1:{port}"))
            lines.append(f"python line_{block.line}.py")
        else:
            typed = block.commands.replace(ADDRESS, f"127.0.0.1:{port}").splitlines()
            lines += [line for line in typed if not line.startswith(SETUP)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("page", [page for page in GUIDES if any(runs_here(block) for block in blocks(page))])
def test_guide(page: str, practice: Path, tmp_path: Path, port: int) -> None:
    folder = tmp_path / "practice"
    shutil.copytree(practice, folder)
    for name in ("src", "tools", "benchmarks", "docs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "wait.py").write_text(WAIT)
    chosen = [block for block in blocks(page) if runs_here(block)]
    done = bash(script_of(chosen, folder, port), folder)
    assert done.returncode == 0, f"{page}:\n{done.stdout[-6000:]}"
    # Processors round differently, and a digit of which a tiny model is not sure may then be another one.
    printed = re.sub(r"\d", "#", done.stdout).splitlines()
    for block in chosen:
        shown = re.sub(r"\d", "#", "\n".join(block.printed)).splitlines()
        assert [line for line in shown if line not in printed] == [], f"{page}:{block.line}\n{done.stdout[-6000:]}"


def test_every_how_to_runs_something() -> None:
    """Only these guides have no command that can run without a network, other machines or hours."""
    silent = {page for page in GUIDES if not any(runs_here(block) for block in blocks(page))} - {*OWN_TESTS}
    names = ("index", "install", "own-expert", "private-domain", "rpc")
    assert silent == {f"docs/{name}.md" for name in names}
