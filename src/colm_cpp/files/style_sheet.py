"""The style sheet that all pages share: colours, and how tokens look."""

from __future__ import annotations

from pathlib import Path

__all__ = ["PATH", "TOKENS"]

PATH = Path(__file__).parents[1] / "data" / "style" / "tokens.css"
TOKENS = PATH.read_text(encoding="utf-8")
