"""The texts of a batch as the extension takes them, made when a place is free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .._shown import shown
from ..chat.messages import is_conversation
from ..errors import OptionError
from ..options import GenerationOptions, seed_of
from .batch import Request
from .own_prompts import PromptTokens, chat_tokens, prompts_tokens, split_template
from .prompts import Prompt, with_own

if TYPE_CHECKING:
    from .prepared import Heads
    from .tokens import Tokenizing

__all__ = ["requests"]


def requests(
    pair: Tokenizing,
    prompts: Iterable[Prompt],
    each: Iterable[Any] | None,
    options: GenerationOptions,
    heads: Heads,
    of_chats: Mapping[str, Any],
    template: Mapping[str, Any],
) -> Iterator[Callable[[], Request]]:
    """What makes each text. Calling it raises a ColmError where the text cannot be written.

    Args:
        pair: will write them.
        prompts: texts, token ids or conversations.
        each: the own options of each.
        options: those of all.
        heads: of this call.
        of_chats: options of conversations that have none of these names of their own.
        template: options of the template of conversations, which those of ``each`` go before.
    """
    for number, (prompt, extra) in enumerate(with_own(prompts, each)):

        def make(number: int = number, prompt: Prompt = prompt, extra: Any = extra) -> Request:
            if not isinstance(extra, Mapping):
                raise OptionError(f"the entry of each= for this prompt is {shown(extra)}; give a dict of options")
            own: dict[str, Any] = {} if options.seed is None else {"seed": seed_of(options.seed, number)}
            own_template, extra = split_template(extra)
            if is_conversation(prompt):
                own |= of_chats
                read: PromptTokens = chat_tokens(pair, prompt, {**template, **own_template})
            elif own_template:
                name = next(iter(own_template))
                raise OptionError(f"{name} is for conversations, and this prompt is a text; leave it out")
            else:
                read = prompts_tokens(pair, prompt)
            try:
                checked = options.replaced({**own, **extra})
            except TypeError as error:  # an unknown name in each=; in options it was refused before
                raise OptionError(str(error)) from None
            tokens, own_prompts = read
            return (tokens, *heads.with_options(checked), own_prompts)

        yield make
