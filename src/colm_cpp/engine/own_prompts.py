"""Prompts of their own: what each model reads before the text that all write together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from .._shown import shown
from ..chat.messages import Message
from ..chat.own import ROW_KEYS, names_in, system_of, template_of, unknown_model
from ..errors import ChatTemplateError, ContextFull, OptionError, TokenizeError
from ..options import BASE
from .prompts import Prompt
from .tokens import TEMPLATE_OPTIONS

if TYPE_CHECKING:
    from .tokens import TemplateOptionsDict, Tokenizing

__all__ = [
    "PromptTokens",
    "chat_prompt",
    "chat_tokens",
    "is_by_model",
    "prompts_tokens",
    "split_template",
    "unlike_with_template",
]

# The base's tokens, and those of experts that have a prompt of their own, by their numbers.
PromptTokens = tuple[list[int], dict[int, list[int]]]


def is_by_model(prompt: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether this is a dict with a prompt for each model, and not a message, not even half of one."""
    return isinstance(prompt, Mapping) and (BASE in prompt or "role" not in prompt)


def prompts_tokens(pair: Tokenizing, prompt: Prompt) -> PromptTokens:
    """The tokens of a prompt: one for all models, or a dict with one for each.

    Raises:
        TokenizeError: a prompt is none, the dict has none for the base, or it names a model that the pair has not.
        ContextFull: an expert's prompt is longer than the context.
    """
    if not is_by_model(prompt):
        return pair.prompt_tokens(prompt), {}
    if BASE not in prompt:
        raise TokenizeError(
            f"prompt names {', '.join(map(shown, prompt)) or 'no model'} and not the base; give 'base', too"
        )
    _check_names(pair, prompt, {})
    read = {name: partial(pair.prompt_tokens, model=name) for name in prompt}
    return _tokens_of_each(pair, read, prompt)


def _tokens_of_each(pair: Tokenizing, read: Mapping[str, Any], prompts: Mapping[str, Any]) -> PromptTokens:
    own: dict[int, list[int]] = {}
    for number, name in enumerate(pair.names):
        if name not in prompts:
            continue
        try:
            own[number] = read[name](prompts[name])
        except TokenizeError as error:
            raise TokenizeError(f"prompt of {name}: {error}") from None
        if len(own[number]) > pair.n_ctx and name != BASE:
            full = ContextFull(
                f"the prompt of {name} has {len(own[number])} tokens and the context holds {pair.n_ctx}; shorten it or "
                "load the pair with a larger n_ctx"
            )
            full.n_prompt, full.n_ctx = len(own[number]), pair.n_ctx
            raise full
    base = own.pop(0)
    return base, {number: tokens for number, tokens in own.items() if tokens != base or not pair.one_vocabulary}


def _check_names(pair: Tokenizing, prompts: Mapping[str, Any], template: Mapping[str, Any]) -> None:
    wrong = unknown_model(prompts, template, pair.names)
    if wrong is not None:
        raise OptionError(wrong)


def split_template(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of the template, and all others."""
    template = {name: options[name] for name in TEMPLATE_OPTIONS if name in options}
    return template, {name: value for name, value in options.items() if name not in template}


def chat_tokens(
    pair: Tokenizing,
    messages: Sequence[Message],
    template: Mapping[str, Any],
    begun: str = "",
    own: Mapping[str, Sequence[Message]] = MappingProxyType({}),
) -> PromptTokens:
    """The prompts of a conversation, by the template and behind the system message of each model.

    A model with another vocabulary than the base has the template in its own file, where there is one and none is
    given. ``template``: keyword arguments of :meth:`Pair.chat`. ``begun``: what the answer begins with, as text.
    ``own``: conversations that models read in place of ``messages``, by their names. Errors are those of
    :meth:`Pair.chat`.
    """
    unlike = unlike_with_template(pair)
    given = template.get("chat_template")
    if unlike and (given is None or (isinstance(given, Mapping) and BASE not in given)):
        template = {**template, "chat_template": {BASE: None, **dict.fromkeys(unlike), **(given or {})}}
    by_model = {key: template[key] for key in ROW_KEYS if isinstance(template.get(key), Mapping)}
    if not by_model and not own:
        prompt = pair.render_chat(messages, **cast("TemplateOptionsDict", template))
        return pair._tokenize_rendered(prompt + begun, BASE), {}
    _check_names(pair, own, by_model)
    named = {BASE, *own, *names_in(by_model)}
    rendered = {
        name: _rendered(pair, name, own.get(name, messages), template) + begun for name in pair.names if name in named
    }
    return _tokens_of_each(pair, {name: _tokenizer(pair, name) for name in rendered}, rendered)


def chat_prompt(
    pair: Tokenizing,
    messages: Sequence[Message],
    *,
    begun: str = "",
    own: Mapping[str, Sequence[Message]] = MappingProxyType({}),
    **template: Any,
) -> Prompt:
    """The prompt of a conversation as :meth:`Pair.generate` takes it: ids, or a dict of them by the names of models.

    Arguments and errors are those of :func:`chat_tokens`.
    """
    base, others = chat_tokens(pair, messages, template, begun, own)
    return {BASE: base, **{pair.names[number]: ids for number, ids in others.items()}} if others else base


def unlike_with_template(pair: Tokenizing) -> list[str]:
    """The models with another vocabulary than the base and a chat template of their own."""
    numbers = zip(pair.names, pair.open_core().vocabularies, strict=True)
    return [name for name, number in numbers if number and pair.experts[name]["chat_template"]]


def _tokenizer(pair: Tokenizing, name: str) -> Any:
    return lambda prompt: pair._tokenize_rendered(prompt, name)


def _rendered(pair: Tokenizing, name: str, messages: Sequence[Message], template: Mapping[str, Any]) -> str:
    given = dict(template)
    source, model = template_of(name, given.pop("chat_template", None))
    given.update(system_of(name, given.pop("system", None)))
    try:
        return pair._render(messages, model, source, **given)
    except ChatTemplateError as error:
        raise ChatTemplateError(f"prompt of {name}: {error}") from error
