"""What each model of a pair reads of a conversation: a system message and a template of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .._shown import shown
from ..errors import ChatTemplateError
from ..options import BASE
from .messages import Message, is_conversation

__all__ = [
    "ROW_KEYS",
    "by_model",
    "names_in",
    "row_template",
    "system_of",
    "template_of",
    "unknown_model",
    "with_system",
]

ROW_KEYS = ("system", "chat_template")


def row_template(row: Mapping[str, Any]) -> dict[str, Any] | str:
    """``system`` and ``chat_template`` of a row of a file, each for all models or by their names; or what is wrong.

    A key whose value is null is as if it were not there. Within an object null is a value: no system message, or the
    template in that model's own file.
    """
    given = {key: row[key] for key in ROW_KEYS if row.get(key) is not None}
    for key, value in given.items():
        if not isinstance(value, str) and not by_model(value, none=True):
            return f"{key} must be a string, or an object of them by the names of models"
    return given


def by_model(value: object, *, none: bool = False) -> bool:
    """Whether this is an object of texts, and with ``none`` of nulls, too. An empty one is not."""
    kinds = (str, type(None)) if none else (str,)
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, kinds) for entry in value.values())


def names_in(template: Mapping[str, Any]) -> list[str]:
    """The models that ``system`` and ``chat_template`` name, each once."""
    return list(dict.fromkeys(name for value in template.values() if isinstance(value, Mapping) for name in value))


def unknown_model(prompts: Iterable[str], template: Mapping[str, Any], models: Sequence[str]) -> str | None:
    """Says which name of ``prompts`` or in ``template`` is none of the models; None where all are."""
    named = [("prompt", name) for name in prompts]
    named += [(key, name) for key, value in template.items() for name in names_in({key: value})]
    for what, name in named:
        if name not in models:
            return f"{what} names {shown(name)}, and the models of this pair are {', '.join(models)}"
    return None


def system_of(model: str, system: object) -> dict[str, Any]:
    """``{"system": ...}`` of one model; ``{}`` where nobody says, so that the messages' own stays."""
    if not isinstance(system, Mapping):
        return {} if system is None else {"system": system}
    return next(({"system": system[name]} for name in (model, BASE) if name in system), {})


def template_of(model: str, template: object) -> tuple[Any, str]:
    """The template of one model, and whose file has it where that is None, and its BOS and EOS."""
    if not isinstance(template, Mapping):
        return template, BASE
    return (template[model], model) if model in template else (template.get(BASE), BASE)


def with_system(messages: Sequence[Message], system: str | None) -> Sequence[Message]:
    """``messages`` with this system message in place of theirs; None: without one."""
    if not is_conversation(messages):
        return messages
    if system is not None and not isinstance(system, str):
        raise ChatTemplateError(f"system is {shown(system)}; give the text of a system message, or None")
    others = [message for message in messages if not (isinstance(message, Mapping) and message.get("role") == "system")]
    return others if system is None else [{"role": "system", "content": system}, *others]
