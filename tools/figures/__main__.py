"""Writes the figures of the documentation into docs/figures: python -m tools.figures

The loop and the timeline are drawings. Accuracy over cost comes from docs/results/*/report.json.
"""

from __future__ import annotations

from pathlib import Path

from .accuracy import accuracy
from .loop import loop
from .timeline import timeline

DOCS = Path(__file__).resolve().parents[2] / "docs"


def figures() -> dict[str, str]:
    """Each figure's text by the name of its file."""
    return {
        "loop.svg": loop().svg(),
        "look-ahead.svg": timeline().svg(),
        "accuracy-over-cost.svg": accuracy(DOCS / "results").svg(),
    }


if __name__ == "__main__":
    folder = DOCS / "figures"
    folder.mkdir(exist_ok=True)
    for name, text in figures().items():
        (folder / name).write_text(text, encoding="utf-8")
