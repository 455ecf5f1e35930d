"""Heads that come with the package, by name. Each has a card beside it: data, commands, numbers."""

from __future__ import annotations

from pathlib import Path

__all__ = ["shipped_head", "shipped_heads"]

FOLDER = Path(__file__).parents[1] / "data" / "heads"


def shipped_heads() -> tuple[str, ...]:
    """The names that ``head=`` takes for heads in the package, in alphabetical order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.gguf")))


def shipped_head(name: str) -> Path | None:
    """The file of a shipped head; None where there is none of that name."""
    return FOLDER / f"{name}.gguf" if name in shipped_heads() else None
