"""The command's start, and where its output cannot be written."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from colm_cpp.llama import compatibility

START = "from colm_command import main; main()"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and pipes")


def colm(*arguments: str, **streams: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", START, *arguments], text=True, stdin=subprocess.DEVNULL, stderr=-1, **streams
    )


@pytest.mark.parametrize(
    "module",
    [
        "colm_cpp._core",
        "numpy",
        *(pytest.param(f"colm_cpp.{m}", marks=pytest.mark.slow) for m in ("cli", "cli.generate")),
    ],
)
def test_ctrl_c_while_modules_are_imported(module: str) -> None:
    """The signal comes at one known point of the start."""
    code = f"""
import os, signal, sys, time
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["generate", "x", "--pair", "demo"]
{START}
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr, result.stdout) == (130, "", "")


def test_ctrl_c_while_the_command_runs() -> None:
    process = colm("generate", "Problem: At the market", "--pair", "demo", "-q", "--max-tokens", "-1", stdout=-1)
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode in (0, 130)  # 0: the text had ended
    assert stderr == ""


def test_an_interrupt_in_the_extension_is_no_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def stopped(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if "_core" in (fromlist or ()):
            raise ImportError("initialization failed") from KeyboardInterrupt()
        return found(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", stopped)
    with pytest.raises(KeyboardInterrupt):
        compatibility.check()


def test_the_import_brings_two_packages() -> None:
    """Those that something asks for later (scipy, httpx, huggingface_hub, ...) are imported then."""
    code = (
        "import sys; before = set(sys.modules); import colm_cpp\n"
        "names = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(name for name in names - sys.stdlib_module_names if not name.startswith('_')))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["colm_cpp", "numpy", "psutil"]


def test_a_command_imports_no_other_and_nothing_that_only_others_need() -> None:
    code = (
        "import sys; from colm_cpp.cli import main; main(['generate', '--help'], standalone_mode=False)\n"
        "others = {'asyncio', 'jinja2', 'colm_cpp.tune', 'colm_cpp.cli.tune', 'colm_cpp.cli.score'}\n"
        "print(sorted(others & sys.modules.keys()))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        *(pytest.param(a, marks=pytest.mark.slow) for a in (["--version"], ["--help"], ["generate", "--help"])),
    ],
)
def test_a_full_disk_under_stdout(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        process = colm(*arguments, stdout=full)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert len(stderr.splitlines()) == 1
    assert "No space left on device" in stderr


@pytest.mark.slow  # test_cli_text.py has one of `generate`
@pytest.mark.parametrize("arguments", [["demo", "--sample", "0", "-q"], ["models"]])
def test_a_reader_that_leaves(arguments: list[str]) -> None:
    process = colm(*arguments, stdout=-1)
    assert process.stdout is not None
    assert process.stdout.buffer.raw.read(1)  # type: ignore[attr-defined]
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(30) == 0
    process.stderr.close()
