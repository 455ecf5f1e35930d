"""docs/architecture.md is a map that fits on two pages, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import colm_cpp as colm

ROOT = Path(__file__).resolve().parents[2]
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WALK = MAP.partition("## The walk of one token\n")[2].partition("\n## ")[0]
FUNCTIONS = re.findall(r"`(\w+::\w+)`", WALK)


def first_cells() -> list[str]:
    """The rooms that the tables name."""
    return [name.strip() for row in re.findall(r"^\| ([^|]+) \|", MAP, re.M) for name in row.split(",")]


def test_it_fits_on_two_pages() -> None:
    lines = MAP.splitlines()
    assert len(lines) <= 110
    # A long row of a table is broken on paper.
    assert sum(-(-len(line) // 120) or 1 for line in lines) <= 130


def test_the_walk_has_at_most_eight_hops() -> None:
    hops = [int(number) for number in re.findall(r"^(\d+)\. ", WALK, re.M)]
    assert hops == list(range(1, len(hops) + 1))
    assert 5 <= len(hops) <= 8
    assert len(FUNCTIONS) > 10


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_walk_names_functions_that_are_defined(function: str) -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "csrc").rglob("*.cpp")]
    # At the beginning of a definition, which a call never is.
    definition = re.compile(rf"^(?!\s)[^;\n]*\b{function}\(", re.M)
    assert sum(len(definition.findall(source)) for source in sources) >= 1


def test_the_walk_begins_at_the_api() -> None:
    (name,) = re.findall(r"`Pair\.(\w+)`", WALK)
    assert callable(getattr(colm.Pair, name))


def test_paths_exist() -> None:
    paths = re.findall(r"`((?:csrc|src|tests|python)\b[\w./]*)`", MAP)
    assert len(paths) > 5
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_room_is_on_the_map() -> None:
    names = {path.stem for room in ("colm", "llama") for path in (ROOT / "csrc" / room).glob("*.h")}
    names |= {path.stem for room in ("colm", "llama") for path in (ROOT / "csrc" / room).glob("*.cpp")}
    names |= {path.parent.name for path in (ROOT / "src" / "colm_cpp").glob("[a-z]*/__init__.py")}
    assert len(names) > 60
    shown = first_cells()
    assert sorted(names - set(shown)) == []
    assert sorted(set(shown) - names - {"room", "data"}) == []


def test_the_index_of_the_records_is_whole() -> None:
    folder = ROOT / "docs" / "decisions"
    linked = re.findall(
        r"^\| \[\d{4}\]\((\d{4}-[\w-]+\.md)\) \|", (folder / "README.md").read_text(encoding="utf-8"), re.M
    )
    assert linked == sorted(path.name for path in folder.glob("0*.md"))
    for name in linked:
        text = (folder / name).read_text(encoding="utf-8")
        assert re.match(rf"# {name[:4]} .+\n\n20\d\d-\d\d-\d\d\n\n", text), name
