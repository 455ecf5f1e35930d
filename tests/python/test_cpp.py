"""The C++ unit tests of csrc/colm (tests/cpp), each a test of its own. One build serves all; ctest runs them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from xml.etree import ElementTree

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "cpp"
BUILD = ROOT / "build"
# The tools that pip installed beside this interpreter come first.
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
CASES = [
    name
    for path in sorted(SOURCES.glob("*_test.cpp"))
    for name in re.findall(r'^TEST_CASE\("(.+?)"\)', path.read_text(encoding="utf-8"), re.MULTILINE)
]


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


def built_and_run(build: Path, *options: str) -> dict[str, str | None]:
    """What each case that ctest ran has printed, if it failed. The folder stays for the next time."""
    # On Windows the default generator finds the compiler by itself; Ninja would need its environment.
    generator = [] if sys.platform == "win32" else ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    build.mkdir(parents=True, exist_ok=True)
    report = build / "junit.xml"
    with FileLock(build / "pytest.lock"):
        run_or_fail(tool("cmake"), "-S", SOURCES, "-B", build, *generator, *options)
        run_or_fail(tool("cmake"), "--build", build)
        report.unlink(missing_ok=True)
        done = run(tool("ctest"), "--test-dir", build, "-C", "Debug", "--no-tests=error", "--output-junit", report)
        if not report.exists():
            pytest.fail(done.stdout, pytrace=False)
        cases = [(case.attrib["name"], case) for case in ElementTree.parse(report).iter("testcase")]
    found = {name: None if case.get("status") == "run" else case.findtext("system-out", "") for name, case in cases}
    assert len(found) == len(cases), "two cases have one name"
    return found


@pytest.fixture(scope="session")
def results() -> dict[str, str | None]:
    return built_and_run(BUILD / "cpp-tests")


@pytest.mark.parametrize("case", CASES)
def test_cpp(results: dict[str, str | None], case: str) -> None:
    assert case in results, "ctest has not run it"
    printed = results[case]
    if printed is not None:
        pytest.fail(printed, pytrace=False)


def test_every_cpp_case_is_one_of_these(results: dict[str, str | None]) -> None:
    assert len(CASES) > 100
    assert set(results) == set(CASES)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the sanitizers of GCC or Clang")
def test_no_sanitizer_finds_anything() -> None:
    """Addresses and undefined behaviour, in the method and in its tests, with all rounds of the random ones."""
    found = built_and_run(BUILD / "cpp-sanitized", "-DCOLM_SANITIZER=all", "-DCOLM_ALL_ROUNDS=ON")
    assert {name: printed for name, printed in found.items() if printed is not None} == {}
    assert set(found) == set(CASES)
