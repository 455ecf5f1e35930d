"""The notebooks of docs/notebooks run, and their pages on the site are what they show."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from programs import load_program

# Not imported: that takes a second of every process that collects tests.
if any(importlib.util.find_spec(package) is None for package in ("nbclient", "ipykernel", "matplotlib", "scipy")):
    pytest.skip("notebooks need pip install 'colm-cpp[docs,train,plot]'", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def without_numbers(page: str) -> list[str]:
    """Its lines. Other machines round differently, and a fit may then end elsewhere."""
    return re.sub(r"\s*\d[\d.]*%?", " #", page).splitlines()


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in found]


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["train-a-head", "what-is-deferred"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_without_outputs_and_told_on_the_page(path: Path) -> None:
    """Otherwise: python tools/notebook_pages.py"""
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    at = 0
    for cell in cells(path):
        source = cell["source"]
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            at = page.find(f"```python\n{source}\n```", at)
        else:
            at = page.find(source.partition("\n")[0].replace(".ipynb)", ".md)"), at)
        assert at >= 0, f"{path.stem}.md lacks {source!r}"
    for alt, file in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", page):
        assert alt
        assert (path.parent / file).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_shows_what_the_page_shows(path: Path) -> None:
    pages = load_program(ROOT / "tools" / "notebook_pages.py")
    text, pictures = pages.page(pages.run(path), path.stem)
    written = path.with_suffix(".md").read_text(encoding="utf-8")
    assert without_numbers(text) == without_numbers(written)
    assert {*pictures} == {file.name for file in path.parent.glob(f"{path.stem}-*.png")}
