"""``colm completion``: what the Tab key offers, asked of the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from commands import run, succeed

import colm_cpp as colm
from colm_cpp.cli import main


def offered(*words: str) -> list[str]:
    *before, last = words
    complete = ShellComplete(main, {}, "colm", "_COLM_COMPLETE")
    return [item.value for item in complete.get_completions(before, last)]


def test_commands_options_and_names() -> None:
    assert offered("ch") == ["chat"]
    assert "--temperature" in offered("chat", "--te")
    assert offered("chat", "--pair", "de") == ["demo", "demo-three"]
    assert offered("pull", "qwen3") == [known.name for known in colm.presets() if known.name.startswith("qwen3")]
    assert offered("completion", "z") == ["zsh"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_the_script(shell: str, tmp_path: Path) -> None:
    result = succeed("completion", shell)
    assert f"_COLM_COMPLETE={shell}_complete" in result.stdout
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    script = tmp_path / "script"
    script.write_text(result.stdout)
    assert subprocess.run([shell, "-n", script], timeout=60).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None or os.name != "posix", reason="there is no bash")
def test_bash_completes() -> None:
    script = run("completion", "bash").stdout
    asked = 'COMP_WORDS=(colm chat --pair de); COMP_CWORD=3; _colm_completion colm; echo "${COMPREPLY[@]}"'
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PATH": path},
    )
    assert (done.stdout, done.stderr) == ("demo demo-three\n", "")


def test_an_unknown_shell() -> None:
    result = run("completion", "tcsh")
    assert result.exit_code == 2
    assert "bash" in result.stderr
