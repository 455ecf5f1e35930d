"""Calls of functions: what a template knows of them, and the grammar and the reading of what a model writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.pair import Pair
from .errors import ApiError
from .schemas import Tool

__all__ = ["Call", "Calls", "Splitter", "calls_of", "tools_of"]


@dataclass
class Call:
    """A call that the model made."""

    id: str
    name: str
    arguments: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As chat completions have it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass
class Calls:
    """How calls are written by a template."""

    grammar: str


@dataclass
class Splitter:
    """Splits a text into content and calls, piece by piece."""

    calls_form: Calls | None
    content: str = ""
    calls: list[Call] = field(default_factory=list)

    def feed(self, text: str) -> list[dict[str, Any]]:
        """The deltas that a further piece of text brings."""
        self.content += text
        return [{"content": text}] if text else []

    def end(self) -> list[dict[str, Any]]:
        """What was held back."""
        return []


def tools_of(tools: Sequence[Tool] | None) -> list[dict[str, Any]]:
    """Tools as templates take them."""
    return [tool.model_dump(exclude_none=True) for tool in tools or ()]


def calls_of(
    pair: Pair, tools: Sequence[Mapping[str, Any]], choice: Any, parallel: bool, variables: Mapping[str, Any] | None
) -> Calls | None:
    """How calls are written; None where there are none."""
    if not tools:
        return None
    raise ApiError(400, "tools are not supported by the chat template of this pair", param="tools")
