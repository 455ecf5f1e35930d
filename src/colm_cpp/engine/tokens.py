"""Texts and conversations as token ids, and back."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypedDict

from .._shown import shown
from ..chat.messages import Message, begins_with_bos, render_chat
from ..chat.own import with_system
from ..errors import ChatTemplateError, OptionError, TokenizeError
from ..llama.busy import busy
from ..options import BASE, GenerationOptionsDict
from .facts import Facts
from .prompts import Prompt, refuse_messages

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["TEMPLATE_OPTIONS", "ChatOptionsDict", "ConversationOptionsDict", "TemplateOptionsDict", "Tokenizing"]

MAX_IDS = 1 << 24  # of one call of detokenize(), from an iterator


class TemplateOptionsDict(TypedDict, total=False):
    """Keyword arguments of ``render_chat``, wherever a conversation becomes a prompt."""

    chat_template: str | None
    system: str | None
    template_variables: Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    documents: Sequence[Mapping[str, Any]] | None


TEMPLATE_OPTIONS = tuple(TemplateOptionsDict.__annotations__)


class ConversationOptionsDict(GenerationOptionsDict, total=False):
    """Options of a conversation. Those of the template may be dicts by the names of models."""

    chat_template: str | Mapping[str, str | None] | None
    system: str | Mapping[str, str | None] | None
    template_variables: Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    documents: Sequence[Mapping[str, Any]] | None


class ChatOptionsDict(ConversationOptionsDict, total=False):
    """Keyword arguments of ``chat``."""

    queue_timeout: float | None


class Tokenizing(Facts):
    """The methods of :class:`Pair` between texts and token ids."""

    _system: str | None  # before conversations that have no system message

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        system: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt that :meth:`Pair.chat` would continue.

        Args:
            messages: as for :meth:`Pair.chat`.
            chat_template: Jinja2 source. None: the template in the base's file.
            system: system message in place of that of ``messages``. None: theirs, or the pair's own.
            template_variables: additional variables for the template.
            tools: JSON schemas of functions that the model may call, for templates with tools.
            documents: dicts with ``title`` and ``text``, for templates with documents.

        Raises:
            ChatTemplateError: there is no template, or the template rejected the messages.
        """
        given: dict[str, Any] = {} if system is None else {"system": system}
        return self._render(
            messages,
            BASE,
            chat_template,
            template_variables=template_variables,
            tools=tools,
            documents=documents,
            **given,
        )

    def _render(
        self,
        messages: Sequence[Message],
        model: str,
        chat_template: str | None,
        *,
        template_variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **system: str | None,
    ) -> str:
        """:meth:`render_chat` for a model. ``system``: that of the model, if it has one of its own; None is none."""
        self.open_core()
        facts = self._facts[model]
        template = facts["chat_template"] if chat_template is None else chat_template
        if not template:
            raise ChatTemplateError(
                f"{facts['path']} has no chat template; pass chat_template=, or call generate() with a finished prompt"
            )
        return render_chat(
            with_system(messages, system["system"]) if system else self._with_system(messages),
            template,
            bos_token=facts["bos_token"] or "",
            eos_token=facts["eos_token"] or "",
            tools=tools,
            documents=documents,
            variables=template_variables,
        )

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        """``messages``, behind the pair's system message where they have none."""
        if self._system is None or isinstance(messages, str) or not isinstance(messages, Sequence):
            return messages
        if any(isinstance(message, Mapping) and message.get("role") == "system" for message in messages):
            return messages
        return [{"role": "system", "content": self._system}, *messages]

    def tokenize_chat(self, messages: Sequence[Message], **template: Unpack[TemplateOptionsDict]) -> list[int]:
        """Token ids of :meth:`render_chat`'s prompt. BOS is added if the model asks for it and the template omits it.

        Arguments and errors are those of :meth:`render_chat`.
        """
        return self._tokenize_rendered(self.render_chat(messages, **template), BASE)

    def _tokenize_rendered(self, prompt: str, model: str) -> list[int]:
        add_special = not begins_with_bos(prompt, self._facts[model]["bos_token"])
        return self.tokenize(prompt, add_special=add_special, model=model)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = True, model: str = BASE
    ) -> list[int]:
        """Token ids of ``text``.

        Args:
            text: any Unicode text.
            add_special: add BOS if the model asks for it. EOS is never added, because generated text follows the last
                token. Append its id to a text that ends there.
            parse_special: recognise control tokens such as ``<|im_start|>``.
            model: whose tokens, by its name; that matters where the vocabularies are unlike.

        Raises:
            TokenizeError: ``text`` is not a str, holds lone surrogates, or holds bytes without a token.
            OptionError: there is no such model.
        """
        if not isinstance(text, str):
            raise TokenizeError(f"the text is of type {type(text).__name__}; give str or token ids")
        with busy():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise TokenizeError(
                    f"the text holds a lone surrogate ({text[error.start]!a} at character {error.start}); it is not "
                    "Unicode text. Decode its source with errors='replace'"
                ) from None
            return self.open_core().tokenize(text, add_special, parse_special, self._number_of(model))

    def detokenize(self, tokens: Sequence[int], *, special: bool = False, model: str = BASE) -> str:
        """The text of token ids. Control tokens appear only with ``special``. Bytes that are not UTF-8 become U+FFFD.

        ``model``: whose ids they are, by its name; that matters where the vocabularies are unlike.

        Some tokenizers (SPM) put a space before a text and after control tokens. After control tokens such as BOS this
        method removes that space, so the ids of a whole text give the same text. If the ids do not begin with a control
        token, they count as the middle of a text, like generated tokens, and the space stays.

        Raises:
            TokenizeError: an id that the models do not share, or more than 16,777,216 ids.
            OptionError: there is no such model.
        """
        with busy():
            ids = _to_ids(tokens, MAX_IDS)
            if len(ids) > MAX_IDS:
                raise TokenizeError(f"there are more than {MAX_IDS} token ids; detokenize them in parts")
            return self.open_core().detokenize(ids, special, self._number_of(model))

    def _number_of(self, model: str) -> int:
        if model not in self.names:
            raise OptionError(f"model is {shown(model)}, and the models of this pair are {', '.join(self.names)}")
        return self.names.index(model)

    def prompt_tokens(self, prompt: Prompt, model: str = BASE) -> list[int]:
        """The token ids of a prompt as :meth:`Pair.generate` takes it. Errors are those of its prompt."""
        core = self.open_core()
        refuse_messages(prompt)
        if isinstance(prompt, str):
            if not prompt:
                raise TokenizeError("the prompt is empty; give at least one character")
            return self.tokenize(prompt, model=model)
        return _to_ids(prompt, core.n_ctx)  # type: ignore[arg-type]  # messages were refused above


def _to_ids(tokens: Iterable[int], most: int) -> list[int]:
    """Token ids as integers. An iterator may be endless, so at most ``most`` + 1 of its items are read."""
    if isinstance(tokens, (bytes, bytearray)) or not hasattr(tokens, "__iter__"):
        raise TokenizeError(f"the prompt is of type {type(tokens).__name__}; give str or token ids")
    ids: list[int] = []
    for token in tokens:
        try:
            number = operator.index(token)
        except TypeError:
            raise TokenizeError(f"a prompt token is {shown(token)}; token ids are whole numbers") from None
        if isinstance(token, bool) or not -(2**31) <= number < 2**31:
            raise TokenizeError(f"a prompt token is {shown(token)}; token ids are whole numbers below 2147483648")
        ids.append(number)
        if len(ids) > most and not isinstance(tokens, Sized):
            break
    return ids
