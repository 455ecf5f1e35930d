"""From chat messages to a prompt, with the Jinja template that a model's file carries."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ._shown import shown
from .errors import ChatTemplateError

__all__ = ["Message", "render_chat"]

Message = Mapping[str, Any]


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    # Jinja's own filter escapes HTML, which would change the prompt.
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _environment() -> ImmutableSandboxedEnvironment:
    # trim_blocks, lstrip_blocks and the helpers are what templates are written against (Hugging Face's
    # apply_chat_template). Sandboxed and immutable, because a template is a program out of a downloaded file.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _check(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ChatTemplateError(
            f'messages is of type {type(messages).__name__}; give a list such as [{{"role": "user", "content": "..."}}]'
        )
    if not messages:
        raise ChatTemplateError("messages is empty; give at least one")
    checked = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise ChatTemplateError(f'message {i} is {shown(message)}; each needs a "role" and a "content"')
        checked.append(dict(message))
    return checked


def render_chat(
    messages: Sequence[Message],
    template: str,
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Renders ``messages`` as the prompt for the next reply.

    Args:
        messages: dicts with ``role`` (``"system"``, ``"user"``, ``"assistant"``, ...) and ``content``.
        template: Jinja2 source.
        bos_token: text of the BOS token, for templates that write it.
        eos_token: text of the EOS token, likewise.
        add_generation_prompt: end with the opening of the assistant's turn.
        variables: further names for the template.

    Raises:
        ChatTemplateError: messages of the wrong form, a template that cannot be parsed, or one that refuses them.
    """
    checked = _check(messages)
    try:
        return (
            _environment()
            .from_string(template)
            .render(
                messages=checked,
                add_generation_prompt=add_generation_prompt,
                bos_token=bos_token,
                eos_token=eos_token,
                **(variables or {}),
            )
        )
    except jinja2.TemplateSyntaxError as error:
        raise ChatTemplateError(f"the chat template cannot be parsed: line {error.lineno}: {error.message}") from error
    except jinja2.TemplateError as error:
        raise ChatTemplateError(f"the chat template refused the messages: {error}") from error
    except (
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        ArithmeticError,
        RecursionError,
        MemoryError,
    ) as error:
        # A template is a program: on messages it was not written for it can fail like any other.
        raise ChatTemplateError(f"the chat template failed on these messages: {error!r}") from error
