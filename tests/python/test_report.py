"""tools/report.py: what it counts, and that nothing in the checkout is too long or without a docstring."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from programs import load_program

ROOT = Path(__file__).parents[2]
REPORT = load_program(ROOT / "tools" / "report.py")

MODULE = '''"""A module."""
from typing import overload

__all__ = ["Shown", "constant", "shown", "without"]
constant = 1


def shown() -> None:
    """What it does."""


def without() -> None:
    pass


def internal() -> None:
    pass


class Shown:
    """What it is."""

    def method(self) -> None:
        pass

    @overload
    def given(self, x: int) -> int: ...
    @overload
    def given(self, x: str) -> str: ...
    def given(self, x):
        """What it does."""

    def _internal(self) -> None:
        pass
'''


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        "src/colm_cpp/room/module.py": MODULE,
        "src/colm_cpp/room/_private.py": MODULE,
        "src/colm_cpp/__init__.py": "__all__ = ['f']\ndef f():\n    pass\n",
        "tests/python/test_it.py": "x = 1\n" * 401,
        "csrc/colm/loop.cpp": "int x;\n\n   \n" + "int y;\n" * 397,
        "docs/commands.md": "x\n" * 500,
        "docs/pairs.md": "x\n\n",
        "docs/demo/report.html": "x\n" * 500,
        "data.jsonl": "{}\n" * 500,
        ".ci/run": "pytest\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def paths(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_what_is_wrong(checkout: Path) -> None:
    text, wrong = REPORT.report(checkout, paths(checkout))
    assert wrong == [
        "tests/python/test_it.py: 401 lines, 400 at most",
        "src/colm_cpp/__init__.py:2: f has no docstring",
        "src/colm_cpp/room/module.py:12: without has no docstring",
        "src/colm_cpp/room/module.py:23: Shown.method has no docstring",
    ]
    assert text.splitlines()[-len(wrong) :] == wrong


def test_lines_by_language_and_room(checkout: Path) -> None:
    text, _ = REPORT.report(checkout, paths(checkout))
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if re.search(r"\d$", line.rstrip())}
    lines = sum(bool(line.strip()) for line in MODULE.splitlines())
    assert rows["src/colm_cpp"] == ["3"]
    assert rows["src/colm_cpp/room"] == [str(2 * lines)]
    assert rows["csrc/colm"] == ["398"]
    assert rows["tests/python"] == ["401"]
    assert rows["docs"] == ["501"]
    assert rows["all"] == [str(404 + 2 * lines), "398", "0", "0", "1", "501"]


@pytest.mark.parametrize(("wrong", "status"), [(True, 1), (False, 0)])
def test_the_exit_status(
    wrong: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(REPORT, "report", lambda root, files: ("The report", ["a file"] if wrong else []))
    assert REPORT.main() == status
    assert "The report" in capsys.readouterr().out


def test_this_checkout(capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise: split the file, write the docstring."""
    assert REPORT.main() == 0, capsys.readouterr().out
