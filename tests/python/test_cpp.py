"""The C++ unit tests of csrc/colm (tests/cpp): they are built and run once, into build/cpp-tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "cpp"
BUILD = ROOT / "build" / "cpp-tests"
# The tools that pip installed beside this interpreter come first.
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])


def tool(name: str) -> str:
    found = shutil.which(name, path=PATH)
    assert found, f"{name} is neither in the environment nor on PATH (pip install {name})"
    return found


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PATH": PATH},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


def run_or_fail(*command: str | Path) -> None:
    done = run(*command)
    if done.returncode != 0:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}", pytrace=False)


@pytest.fixture(scope="session")
def output() -> tuple[int, str]:
    """Exit code and output of all C++ tests."""
    # On Windows the default generator finds the compiler by itself; Ninja would need its environment.
    generator = [] if sys.platform == "win32" else ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    run_or_fail(tool("cmake"), "-S", SOURCES, "-B", BUILD, *generator)
    run_or_fail(tool("cmake"), "--build", BUILD)
    done = run(BUILD / ("colm_tests.exe" if sys.platform == "win32" else "colm_tests"))
    return done.returncode, done.stdout


def test_cpp_unit_tests_pass(output: tuple[int, str]) -> None:
    code, text = output
    # Lines that are no "ok": failures, and what a sanitizer printed before it ended the process.
    rest = [line for line in text.splitlines() if not line.startswith("ok ")]
    assert (code, rest) == (0, []), "\n".join(rest)


def test_cpp_unit_tests_are_all_run(output: tuple[int, str]) -> None:
    written = [
        name
        for path in sorted(SOURCES.glob("*_test.cpp"))
        for name in re.findall(r"^TEST\((\w+)\)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    run_names = re.findall(r"^(?:ok|FAILED) (\w+)", output[1], re.MULTILINE)
    assert len(written) > 100
    assert sorted(set(written) - set(run_names)) == []
    assert len(run_names) == len(written)
