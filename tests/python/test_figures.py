"""The figures of the documentation: what the programs draw now, readable in both modes, and true to the reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.figures.__main__ import figures  # noqa: E402
from tools.figures.accuracy import PANELS, SERIES, points  # noqa: E402
from tools.figures.drawing import COLOURS  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"
NAMES = ("accuracy-over-cost.svg", "loop.svg", "look-ahead.svg")
BOXES = {"paper", "rule", "base-box", "assistant-box"}  # no text has their colour


def report(folder: str) -> dict[str, list[dict[str, float | str]]]:
    text = (ROOT / "docs" / "results" / folder / "report.json").read_text(encoding="utf-8")
    loaded: dict[str, list[dict[str, float | str]]] = json.loads(text)
    return loaded


def test_they_are_drawn_from_what_is_here() -> None:
    """Otherwise: python -m tools.figures"""
    kept = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "docs" / "figures").iterdir()}
    assert kept == figures()
    assert {*kept} == {*NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_whoever_cannot_see_them_is_told(name: str) -> None:
    svg = ElementTree.fromstring(figures()[name])
    assert svg.findtext(f"{SVG}title")
    assert len(svg.findtext(f"{SVG}desc") or "") > 100
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    assert any(f"figures/{name})" in page.read_text(encoding="utf-8") for page in pages)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_every_text_stands_out(mode: int) -> None:
    """A contrast of at least 4.5 on the paper, and of ink on every box (WCAG AA)."""

    def contrast(first: str, second: str) -> float:
        light, dark = sorted((luminance(COLOURS[first][mode]), luminance(COLOURS[second][mode])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    low = {name: contrast(name, "paper") for name in COLOURS if name not in BOXES and contrast(name, "paper") < 4.5}
    low |= {box: contrast("ink", box) for box in BOXES - {"rule"} if contrast("ink", box) < 4.5}
    assert low == {}


@pytest.mark.parametrize("folder", [panel[0] for panel in PANELS])
def test_points_are_the_report(folder: str) -> None:
    """Each arm that answered all problems, at the cost that the report itself compares it at, on the chord's line."""
    found = {point.arm: point for point in points(report(folder))}
    arms = {str(arm["name"]): arm for arm in report(folder)["arms"]}
    most = max(arm["n_problems"] for arm in arms.values())
    assert {*found} == {name for name, arm in arms.items() if arm["n_problems"] == most}
    assert {arm.split("@")[0] for arm in found} <= {*SERIES}
    base, assistant = found["base"], found["assistant"]
    timed = "steps per problem" if arms["base"]["s_per_problem"] is not None else "clock per problem"
    for row in report(folder)["above"]:
        if row["measure"] != timed or row["arm"] not in found:
            continue
        point = found[str(row["arm"])]
        assert point.accuracy == arms[point.arm]["accuracy"]
        assert point.seconds == pytest.approx(row["cost"])
        share = (point.seconds - base.seconds) / (assistant.seconds - base.seconds)
        assert share == pytest.approx(row["share_of_problems"], abs=1e-6)
        assert base.accuracy + share * (assistant.accuracy - base.accuracy) == pytest.approx(row["chord"], abs=1e-6)
