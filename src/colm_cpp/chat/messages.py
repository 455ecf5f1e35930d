"""Turning chat messages into a prompt, with the Jinja template in a model's file."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._shown import shortened, shown
from ..errors import ChatTemplateError

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = ["MAX_DEPTH", "Message", "begins_with_bos", "is_conversation", "is_message", "render_chat"]

Message = Mapping[str, Any]
MAX_DEPTH = 100
"""Lists, tuples and dicts inside each other."""

# Names under which a message's reasoning is given. The first is what templates read.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def _plain(value: Any, depth: int = 0) -> Any:
    """``value`` rebuilt from plain types. Other types may have methods that do harm, such as writing files."""
    if depth > MAX_DEPTH:
        raise ChatTemplateError(
            f"a value for the chat template nests lists and dicts more than {MAX_DEPTH} deep, or contains itself"
        )
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item, depth + 1) for item in value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name), depth + 1) for field in dataclasses.fields(value)}
    if callable(dump := getattr(value, "model_dump", None)):  # pydantic, and so the messages of OpenAI's client
        return _plain(dump(), depth + 1)
    raise ChatTemplateError(
        f"a value for the chat template is of type {type(value).__name__}; give text, numbers, lists and dicts"
    )


def is_message(value: object) -> bool:
    """Whether ``value`` is a message: a dict with a role, and with content (which may be None) or tool calls."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("role"), str)
        and ("content" in value or bool(value.get("tool_calls")))
    )


def _message(i: int, given: Any) -> dict[str, Any]:
    message = _plain(given) if hasattr(given, "model_dump") else given
    if not is_message(message):
        raise ChatTemplateError(f'message {i} is {shown(given)}; a message needs "role", and "content" or "tool_calls"')
    # Services send null for missing values, but templates test whether the key exists.
    checked = {_plain(key): _plain(value) for key, value in message.items() if value is not None}
    reasoning = next((checked[name] for name in _REASONING if name in checked), None)
    if reasoning is not None:
        checked = {"thinking": reasoning, **checked, "reasoning_content": reasoning}
    return checked


def _check(messages: Sequence[Message]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ChatTemplateError(
            f'messages is of type {type(messages).__name__}; give a list such as [{{"role": "user", "content": "..."}}]'
        )
    if not messages:
        raise ChatTemplateError("messages is empty; give at least one message")
    return [_message(i, message) for i, message in enumerate(messages)]


def _listed(name: str, given: Any) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Sequence):
        raise ChatTemplateError(f"{name} is of type {type(given).__name__}; give a list of dicts")
    for i, item in enumerate(given):
        if not isinstance(item, Mapping):
            hint = "; describe a function by its JSON schema" if callable(item) else ""
            raise ChatTemplateError(f"{name}[{i}] is of type {type(item).__name__}; give a dict{hint}")
    return [_plain(item) for item in given]


def is_conversation(prompt: object) -> TypeGuard[Sequence[Message]]:
    """Whether ``prompt`` is a list of messages rather than a text or token ids."""
    return isinstance(prompt, (list, tuple)) and bool(prompt) and isinstance(prompt[0], Mapping)


def begins_with_bos(prompt: str, bos_token: str | None) -> bool:
    """Whether a rendered prompt begins with BOS, perhaps after white space. A second BOS would harm the model."""
    return bool(bos_token) and prompt.lstrip().startswith((bos_token or "").lstrip())


def render_chat(
    messages: Sequence[Message],
    template: str,
    *,
    bos_token: str = "",
    eos_token: str = "",
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """Renders ``messages`` as the prompt for the next reply, as Hugging Face's ``apply_chat_template`` does.

    A template is a program from a file, so it has limits: 1.5 seconds of processor time; 4 million characters plus
    four times the input for each value and for the output; 100 nested calls.

    Args:
        messages: dicts with ``role`` (``"system"``, ``"user"``, ``"assistant"``, ``"tool"``, ...) and ``content``: a
            str, or another value that the template accepts. None counts as no content. A message with ``tool_calls``
            needs no content. Pydantic models of such dicts are accepted.
        template: Jinja2 source.
        bos_token: text of the BOS token, for templates that write it.
        eos_token: text of the EOS token, for templates that write it.
        add_generation_prompt: end with the opening of the assistant's turn.
        tools: JSON schemas of the functions that the model may call.
        documents: dicts with ``title`` and ``text``, for templates with documents.
        variables: additional variables for the template.

    Raises:
        ChatTemplateError: the messages have the wrong form; or the template cannot be parsed, rejects the messages,
            fails, or exceeds a limit.
    """
    import jinja2  # a tenth of the package's import, which few texts need

    from .environment import compiled
    from .limits import limited

    names: dict[str, Any] = {
        "messages": _check(messages),
        "tools": _listed("tools", tools),
        "documents": _listed("documents", documents),
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    if not isinstance(template, str):
        raise ChatTemplateError(f"the chat template is of type {type(template).__name__}; give Jinja source")
    names |= _variables(variables, reserved=names.keys() - {"bos_token", "eos_token"})
    with limited() as budget:
        try:
            budget.allow(names)
            program = compiled(template)
            text = "".join(program.root_render_func(program.new_context(names)))
            budget.room(len(text))
        except jinja2.TemplateSyntaxError as error:
            reason = f"cannot be parsed: line {error.lineno}: {shortened(error.message or '')}"
            raise ChatTemplateError(f"the chat template {reason}") from error
        except jinja2.TemplateError as error:
            raise ChatTemplateError(f"the chat template rejected the messages: {shortened(str(error))}") from error
        except Exception as error:
            # A template is a program: on messages it was not written for it can fail like any other.
            if isinstance(error, TypeError):
                for i, message in enumerate(names["messages"]):
                    if isinstance(message.get("content"), list):
                        raise ChatTemplateError(
                            f"content of message {i} is a list; this template takes text ({shown(error)})"
                        ) from error
            raise ChatTemplateError(f"the chat template failed on these messages: {shown(error)}") from error
    return text


def _variables(given: Any, reserved: set[str]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ChatTemplateError("template_variables must be a dict whose keys are str")
    for name in sorted(reserved & set(given)):
        raise ChatTemplateError(f"template_variables cannot set {name!r}, which is reserved; use another name")
    return {name: _plain(value) for name, value in given.items()}
