"""JSON text in which nothing hides, for files that people read as well."""

from __future__ import annotations

import json
import math
import re
from typing import Any

__all__ = ["HIDDEN", "dump_json"]

# Controls but newline and tab, format characters but the joiners that emoji and Indic scripts need, fillers that look
# like nothing, line separators, surrogates and noncharacters.
HIDDEN = re.compile(
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff])"
)


def _finite(value: Any) -> Any:
    """JSON has no infinities: null stands for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def dump_json(value: Any, indent: int | None = None) -> str:
    """JSON text in which nothing hides and nothing could drive a terminal."""
    text = json.dumps(_finite(value), ensure_ascii=False, indent=indent, allow_nan=False)
    # What json leaves as it is can only stand in strings. json's own escapes of it are ASCII.
    return HIDDEN.sub(lambda match: json.dumps(match[0])[1:-1], text)
