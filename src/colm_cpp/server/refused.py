"""Fields of the published API that this server refuses, and why. No field is ignored."""

from __future__ import annotations

import difflib
from typing import Any

from .._shown import shown
from ..options import GenerationOptions

__all__ = ["KNOWN_OPTIONS", "PUBLISHED", "REFUSED", "why_refused", "without_nulls"]

_HOSTED = "it is an agreement with a hosted service"
_TEXT_ONLY = "this server writes text only"
_NOT_STORED = "this server stores nothing"
_NO_EFFORT = "these models have no such setting; what their template knows goes into colm.template_variables"

REFUSED: dict[str, dict[str, str]] = {
    "/v1/chat/completions": {
        "audio": _TEXT_ONLY,
        "functions": "it is deprecated; give tools",
        "function_call": "it is deprecated; give tool_choice",
        "metadata": _NOT_STORED,
        "prediction": "drafts are the pair's own; colm.lookahead turns them on",
        "reasoning_effort": _NO_EFFORT,
        "verbosity": _NO_EFFORT,
        "web_search_options": "this server reaches nothing else",
        "prompt_cache_options": _HOSTED,
        "prompt_cache_retention": _HOSTED,
        "moderation": _HOSTED,
    },
    "/v1/completions": {
        "max_completion_tokens": "in completions its name is max_tokens",
        "suffix": "a pair writes at the end of a text only",
    },
    "/v1/responses": {
        "background": "answers are written while the client waits",
        "context_management": "the client keeps the conversation",
        "conversation": _NOT_STORED,
        "max_completion_tokens": "in responses its name is max_output_tokens",
        "max_tokens": "in responses its name is max_output_tokens",
        "max_tool_calls": "this server runs no tools",
        "metadata": _NOT_STORED,
        "moderation": _HOSTED,
        "previous_response_id": f"{_NOT_STORED}; send the whole conversation as input",
        "prompt": f"{_NOT_STORED}; send input and instructions",
        "prompt_cache_options": _HOSTED,
        "prompt_cache_retention": _HOSTED,
        "reasoning": _NO_EFFORT,
    },
}
KNOWN_OPTIONS = set(GenerationOptions.__dataclass_fields__)
"""Names of the house's options."""
PUBLISHED = frozenset(
    ("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty", "logit_bias", "response_format")
) | {"logprobs", "max_tokens"}
"""Those of them that are fields of the published API, and so not of ``colm``."""


def without_nulls(path: str, given: Any) -> Any:
    """A request without the refused fields that are null, which is what clients send for a field that is not set."""
    if not isinstance(given, dict):
        return given
    refused = REFUSED[path]
    return {name: value for name, value in given.items() if not (value is None and name in refused)}


def why_refused(path: str, field: str, place: str) -> str:
    """The message for a field that a request must not have."""
    reason = REFUSED.get(path, {}).get(field) if place == field else None
    if reason is not None:
        return f"{field} is not supported: {reason}"
    hint = ""
    if field in PUBLISHED:
        hint = "; /v1/chat/completions has it"
    elif field in KNOWN_OPTIONS:
        hint = f"; give it as colm.{field}"
    elif close := difflib.get_close_matches(field, ["colm", *KNOWN_OPTIONS], n=1):
        name = close[0] if close[0] in (*PUBLISHED, "colm") else f"colm.{close[0]}"
        hint = f"; did you mean {name}?"
    return f"there is no field {shown(place or field)}{hint}"
