"""Conversations as templates take them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from .errors import ApiError
from .schemas import Message, TextPart

__all__ = ["for_template", "plain_text"]


def plain_text(content: str | Sequence[TextPart] | None, place: str) -> str | None:
    """Content as one text. ApiError 400: a part without text."""
    if content is None or isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if text is None:
            raise ApiError(400, f"{place}[{number}] has no text", param=f"{place}[{number}]")
        texts.append(text)
    return "".join(texts)


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages with plain content; arguments of calls as objects, which is what templates write as JSON."""
    plain: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        role = "system" if message.role == "developer" else message.role
        content = plain_text(message.content, f"{place}.content")
        if content is None and role == "assistant":
            content = message.refusal
        if content is None and not message.tool_calls:
            raise ApiError(400, f"{place}.content is missing; only a message with tool_calls needs none", param=place)
        if message.tool_calls is not None and role != "assistant":
            raise ApiError(400, f"{place}.tool_calls is for messages of the assistant", param=f"{place}.tool_calls")
        if role == "tool" and message.tool_call_id is None:
            raise ApiError(400, f"{place}.tool_call_id is missing; a result names its call", param=place)
        made: dict[str, Any] = {"role": role, "content": content}
        for name in ("name", "tool_call_id", "reasoning_content"):
            if (value := getattr(message, name)) is not None:
                made[name] = value
        if message.tool_calls:
            made["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": _arguments(call.function.arguments, place)},
                }
                for call in message.tool_calls
            ]
        plain.append(made)
    return plain


def _arguments(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ApiError(
            400, f"{place}.tool_calls has arguments that are not JSON; send what the model wrote", param=place
        ) from None
