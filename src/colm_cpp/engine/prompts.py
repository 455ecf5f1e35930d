"""Checks of prompts: texts, token ids and conversations, one or many."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeAlias

from ..chat.messages import Message, is_conversation
from ..errors import OptionError, TokenizeError

__all__ = ["Prompt", "check_prompts", "refuse_messages", "with_own"]

# Text, token ids, or messages; or texts and token ids by the names of models.
Prompt: TypeAlias = "str | Sequence[int] | Sequence[Message] | Mapping[str, str | Sequence[int]]"


def refuse_messages(prompt: object) -> None:
    """Raises TokenizeError for a prompt that is made of messages."""
    if isinstance(prompt, Mapping) or is_conversation(prompt):
        raise TokenizeError(
            "the prompt is a list of messages, which generate() does not take; pass it to chat() or stream_chat(), or "
            "several such lists to generate_batch()"
        )


def check_prompts(prompts: object, each: object) -> None:
    """Checks the types of ``prompts`` and ``each``, and their lengths where both are known.

    Raises:
        TokenizeError: ``prompts`` is a single text, or cannot be iterated.
        OptionError: ``each`` is a single value, cannot be iterated, or has another length than ``prompts``.
    """
    if isinstance(prompts, (str, bytes, bytearray, Mapping)) or not isinstance(prompts, Iterable):
        raise TokenizeError(
            f"prompts is of type {type(prompts).__name__}; give a list of prompts, or call generate() with a single one"
        )
    if each is None:
        return
    if isinstance(each, (str, bytes, Mapping)) or not isinstance(each, Iterable):
        raise OptionError(f"each is of type {type(each).__name__}; give a list with a dict of options for each prompt")
    if isinstance(prompts, Sized) and isinstance(each, Sized) and len(prompts) != len(each):
        raise OptionError(f"each has {len(each)} entries for {len(prompts)} prompts; give one for each prompt")


def with_own(prompts: Iterable[Prompt], each: Iterable[Any] | None) -> Iterator[tuple[Prompt, Any]]:
    """Each prompt with its entry of ``each``; OptionError where one ends before the other."""
    own = itertools.repeat({}) if each is None else iter(each)
    n_prompts, nothing = 0, object()
    for prompt in prompts:
        extra = next(own, nothing)
        if extra is nothing:
            raise OptionError(f"each has {n_prompts} entries, but there are more prompts; give one for each prompt")
        n_prompts += 1
        yield prompt, extra
    if each is not None and next(own, nothing) is not nothing:
        raise OptionError(f"each has more than {n_prompts} entries for {n_prompts} prompts; give one for each prompt")
