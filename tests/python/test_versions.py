"""Versions stand in one place, or in several that are compared here; the notes of a release come from the changelog."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import run
from programs import load_program

import colm_cpp as colm

ROOT = Path(__file__).parents[2]
NOTES = load_program(ROOT / "tools" / "release_notes.py")
SETTINGS = NOTES.settings(ROOT)
VERSION = SETTINGS["project"]["version"]
PYTHONS = tuple(f"3.{minor}" for minor in range(10, 15))
# Of results: with what they were made.
_OF_THEN = ("docs/results", "docs/demo")


def texts() -> dict[str, str]:
    """The files that may name a version that is used now."""
    listed = subprocess.run(
        ["git", "ls-files", "*.md", "*.toml", "*.yml", "*.py", "*.cpp", "*.h", ".ci/run"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    paths = [path for path in listed.stdout.splitlines() if not path.startswith((*_OF_THEN, "tests/"))]
    return {path: (ROOT / path).read_text(encoding="utf-8") for path in paths}


def test_the_package_and_the_command_have_the_version() -> None:
    """Otherwise the package was not installed since: pip install -e ."""
    assert colm.__version__ == VERSION
    result = run("--version")
    assert result.output == f"colm {VERSION} (llama-cpp-python {llama_cpp_python()})\n"


def test_the_changelog_begins_with_the_version() -> None:
    assert next(iter(NOTES.sections(ROOT))) == VERSION


def llama_cpp_python() -> str:
    """The version that the package needs."""
    (version,) = (
        one.split("==")[1] for one in SETTINGS["project"]["dependencies"] if one.startswith("llama-cpp-python")
    )
    return str(version)


def test_one_version_of_llama_cpp_python() -> None:
    named = re.compile(r"llama[-_]cpp[-_]python==([\d.]*\d)")
    found = {path: set(named.findall(text)) for path, text in texts().items()}
    found = {path: versions for path, versions in found.items() if versions}
    assert {"pyproject.toml", ".ci/run", "docs/install.md"} <= set(found)
    assert found == {path: {llama_cpp_python()} for path in found}
    (needed,) = (one for one in SETTINGS["build-system"]["requires"] if one.startswith("llama-cpp-python"))
    assert needed == f"llama-cpp-python=={llama_cpp_python()}"


def test_one_list_of_pythons() -> None:
    pythons = list(PYTHONS)
    project, tools = SETTINGS["project"], SETTINGS["tool"]
    assert project["requires-python"] == f">={pythons[0]}"
    assert [one.split(" :: ")[-1] for one in project["classifiers"] if re.search(r"Python :: 3\.\d", one)] == pythons
    assert tools["cibuildwheel"]["build"].split() == [f"cp{one.replace('.', '')}-*" for one in pythons]
    assert tools["ruff"]["target-version"] == f"py{pythons[0].replace('.', '')}"
    assert tools["mypy"]["python_version"] == pythons[0]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (of_run,) = re.findall(r"container: python:([\d.]+)-", workflow)
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    assert sorted([of_run, *re.findall(r"3\.\d+", matrix)]) == pythons


@pytest.mark.slow
def test_types_for_the_newest_python() -> None:
    """tools/lint has the oldest."""
    pytest.importorskip("mypy", reason="types need pip install 'colm-cpp[lint]'")
    command = [sys.executable, "-m", "mypy", "--python-version", PYTHONS[-1]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


CHANGELOG = """# Changelog

## 1.1.0 (2026-02-03)

* New.

## 1.0.0 (unreleased)

* Old.
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Any:
    """Writes a project whose version is `version`."""

    def write(version: str) -> Path:
        (tmp_path / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
        (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
        return tmp_path

    return write


def test_the_notes_are_a_section(checkout: Any) -> None:
    assert NOTES.notes(checkout("1.1.0"), "v1.1.0") == "* New.\n"


@pytest.mark.parametrize(
    ("version", "tag", "says"),
    [
        ("1.1.0", "1.1.0", "the tag must be 'v1.1.0'"),
        ("1.1.0", "v1.2.0", "the version in pyproject.toml '1.1.0'"),
        ("1.2.0", "v1.2.0", r"no section '## 1.2.0 \(date\)'; it has 1.1.0, 1.0.0"),
        ("1.0.0", "v1.0.0", r"says '## 1.0.0 \(unreleased\)'; put the day of the release there"),
    ],
)
def test_no_notes(checkout: Any, version: str, tag: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NOTES.notes(checkout(version), tag)


def test_the_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkout: Any) -> None:
    monkeypatch.setattr(NOTES, "ROOT", checkout("1.1.0"))
    monkeypatch.setattr(sys, "argv", ["release_notes.py", "v1.1.0"])
    assert NOTES.main() == 0
    assert capsys.readouterr().out == "* New.\n"
    monkeypatch.setattr(sys, "argv", ["release_notes.py", "v1.0.0"])
    assert NOTES.main() == 1
    assert "the tag must be" in capsys.readouterr().err
