r"""Text that a model wrote, made safe to show.

A model may write anything: characters that drive a terminal, that reorder the text around them, or that no encoding
has. Shown as they are they would hide or forge what stands beside them, so they are escaped as Python would: ``\x1b``,
``\u202e``.
"""

from __future__ import annotations

import re

__all__ = ["HIDDEN", "on_one_line", "split_hidden", "visible"]

# Controls but newline and tab, format characters but the joiners that emoji and Indic scripts need, fillers that look
# like nothing, line separators, surrogates and noncharacters.
HIDDEN = re.compile(
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff])"
)
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
