r"""Text that a model wrote, made safe to show.

A model may write anything: characters that drive a terminal, that reorder the text around them, or that no encoding
has. Shown as they are they would hide or forge what stands beside them, so they are escaped as Python would: ``\x1b``,
``\u202e``.
"""

from __future__ import annotations

from ..files.json_text import HIDDEN

__all__ = ["on_one_line", "split_hidden", "visible"]

_LINE_SIGNS = str.maketrans({"\n": "↵", "\t": "⇥"})


def visible(text: str) -> str:
    """``text`` with hidden characters escaped; newlines and tabs stay."""
    return HIDDEN.sub(lambda match: _escape(match[0]), text)


def on_one_line(text: str) -> str:
    """The same on one line, with signs for newline and tab."""
    return visible(text).translate(_LINE_SIGNS)


def split_hidden(text: str) -> list[tuple[str, bool]]:
    """``text`` in stretches: as :func:`visible` shows it, and whether the stretch is an escaped character."""
    pieces = HIDDEN.split(text)
    return [(_escape(piece) if i % 2 else piece, i % 2 == 1) for i, piece in enumerate(pieces) if piece]


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
