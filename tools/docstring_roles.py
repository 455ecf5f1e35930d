"""Docstrings for the documentation site: Sphinx roles become plain code, as people say the name."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":[a-z]+:`~?\.?([^`]+)`")


class Roles(Extension):
    """Replaces ``:func:`load``` in every docstring by the name in code."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Called for each object that griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
