"""Turning documents into tokens, and choosing the tokens that are scored and learned from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from ..chat.messages import begins_with_bos, render_chat
from ..chat.own import names_in, system_of, template_of, unknown_model, with_system
from ..errors import ChatTemplateError, TokenizeError
from ..options import BASE
from .documents import BadRow, Document

__all__ = [
    "Part",
    "Text",
    "TextMaker",
    "Tokenizer",
    "grouped",
    "prompt_messages",
    "runs",
    "unusable",
    "uses_chat",
]


class Tokenizer(Protocol):
    """Anything that turns text into token ids, such as a loaded pair."""

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids."""


@dataclass(frozen=True, slots=True)
class Text:
    """One text in tokens.

    Attributes:
        path: the file of its document.
        line: the document's line; 0 for a plain text file.
        tokens: ids.
        scored: for each token whether it is scored; never the first.
        truncated: whether the document was longer than the context.
        own_prompts: ids of the prompt that an expert reads instead of what stands before the first scored token.
    """

    path: str
    line: int
    tokens: tuple[int, ...]
    scored: tuple[bool, ...]
    truncated: bool = False
    own_prompts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def n_scored(self) -> int:
        """Tokens to score."""
        return sum(self.scored)

    @property
    def size(self) -> int:
        """Tokens that the model with the longest prompt reads."""
        return max([len(self.tokens), *(len(self.of(expert)[0]) for expert in self.own_prompts)])

    def of(self, model: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        """The tokens that a model reads, and which of them are scored."""
        own = self.own_prompts.get(model)
        if own is None:
            return self.tokens, self.scored
        begin = self.scored.index(True)
        return own + self.tokens[begin:], (False,) * len(own) + self.scored[begin:]


class Part(Protocol):
    """What is read together with others: a :class:`Text`, or one in the tokens of several vocabularies."""

    @property
    def size(self) -> int:
        """Tokens that the model with the most of them reads."""


P = TypeVar("P", bound=Part)


def runs(scored: Sequence[bool]) -> list[tuple[int, int]]:
    """The runs of scored tokens, each from its first token to behind its last."""
    edges = [at for at, (before, now) in enumerate(itertools.pairwise((False, *scored, False))) if before != now]
    return list(zip(edges[::2], edges[1::2], strict=True))


def unusable(document: Document, experts: Iterable[str], *, chat: bool) -> BadRow | None:
    """A document that names a model that is not there, or has a system message where there is no conversation."""
    reason = unknown_model(document.own_prompts, document.template, (BASE, *experts))
    if reason is None and document.template and not document.messages and not (chat and document.prompt):
        reason = f"{next(iter(document.template))} is for a conversation; give messages, or --chat with a prompt"
    return None if reason is None else BadRow(document.path, document.line, reason)


def uses_chat(base: Mapping[str, Any], chat: bool | None) -> bool:
    """``chat``, or if that is None, whether the base's file has a chat template."""
    return bool(base["chat_template"]) if chat is None else chat


def prompt_messages(document: Document, system: str | None) -> list[dict[str, str]]:
    """The document's conversation. The system message, if given, comes before a prompt without turns."""
    if document.messages:
        return [dict(message) for message in document.messages]
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": document.prompt}]


class TextMaker:
    """Turns documents into texts for one base."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        base: dict[str, Any],
        *,
        n_shared: int,
        n_ctx: int,
        chat: bool | None = None,
        system: str | None = None,
        other: str = "the assistant",
        experts: Mapping[str, Mapping[str, Any]] = MappingProxyType({"assistant": {}}),
        model: str = BASE,
        encode: Callable[[str], list[int]] | None = None,
        turn_ends: Sequence[str] = (),
    ) -> None:
        """Args:
        tokenizer: the pair.
        base: facts about the base: its chat template and special tokens.
        n_shared: ids from 0 that all models know.
        n_ctx: tokens that a text may have at most.
        chat: prompts and completions as a user's and the assistant's turn in the base's chat template. None:
            where the base has one. Conversations always need it.
        system: a system message before prompts.
        other: who lacks the other ids, for messages.
        experts: facts about the experts, which may have prompts of their own, by their names.
        model: whose prompts, system messages and templates make the tokens.
        encode: gives the tokens of a text that stands behind another one, with which it shares no token. None: those
            that it has alone.
        turn_ends: where the template is another model's, the texts of the tokens that end a turn for that model. To
            this one they may be plain text; a turn is then scored up to the first of them.

        Raises:
            ChatTemplateError: ``chat`` is asked for and the base's file has no template.
        """
        self._tokenizer = tokenizer
        self._base = base
        self._n_shared = n_shared
        self._other = other
        self._experts = tuple(experts)
        self._model = model
        self._facts: dict[str, Mapping[str, Any]] = {BASE: base, **experts}
        self._encode = encode or (lambda text: tokenizer.tokenize(text, False, True))
        self.n_ctx = n_ctx
        self._turn_ends = tuple(turn_ends)
        self._eog = frozenset(base["eog_tokens"])
        if chat and not base["chat_template"]:
            raise ChatTemplateError(f"{base['path']} has no chat template; score the texts without chat")
        self.chat = uses_chat(base, chat)
        self.bos = tokenizer.tokenize("", True, True)  # what stands before every text; [] where the model asks for none
        self._system = system

    def __call__(self, document: Document) -> Iterator[Text | BadRow]:
        """The texts of a document: one, or for a long plain text several, each as long as the context.

        Each begins with BOS where the model asks for it: without, models find the tokens of a text far less likely.
        """
        bad = unusable(document, self._experts, chat=self.chat)
        if bad is not None:
            yield bad
            return
        try:
            tokens, scored = self.read(document)
            own = self._own_prompts(document, n_answers=len(runs(scored)))
        except (ChatTemplateError, TokenizeError) as error:
            yield BadRow(document.path, document.line, str(error))
            return
        every = itertools.chain(tokens, *own.values())
        unknown = next((t for t in every if not 0 <= t < self._n_shared), None)
        if unknown is not None:
            yield BadRow(document.path, document.line, f"token {unknown} is one that {self._other} lacks")
            return
        plain = not document.messages and not document.prompt
        bos = self.bos if plain else []
        tokens, scored = tokens[len(bos) :], scored[len(bos) :]
        step = max(self.n_ctx - len(bos), 1) if plain else max(len(tokens), 1)
        # The model with the longest prompt has the least room for what follows.
        longer = [len(prompt) - scored.index(True) for prompt in own.values() if any(scored)]
        n_ctx = max(self.n_ctx - max([0, *longer]), 0)
        for begin in range(0, max(len(tokens), 1), step):
            part, marks = bos + tokens[begin : begin + step], [False] * len(bos) + scored[begin : begin + step]
            truncated = len(part) > n_ctx
            part, marks = part[:n_ctx], marks[:n_ctx]
            if marks:
                marks[0] = False  # nothing stands before it
            if any(marks):
                yield Text(document.path, document.line, tuple(part), tuple(marks), truncated, own)
            elif not begin:
                reason = f"its prompt alone fills the context of {self.n_ctx} tokens" if truncated else "too short"
                yield BadRow(document.path, document.line, reason)

    def read(self, document: Document) -> tuple[list[int], list[bool]]:
        """All tokens of a document, however many, and which of them are to be scored.

        Raises:
            ChatTemplateError: the template cannot render it, or does not go on with its own prompt.
            TokenizeError: a text that is no Unicode, or has no tokens in this vocabulary.
        """
        if document.messages or (document.prompt and self.chat):
            messages = self._messages(document)
            if not document.messages:
                messages.append({"role": "assistant", "content": document.completion})
            return self._conversation(messages, document)
        prompt = document.own_prompts.get(self._model, document.prompt)
        tokens = self._tokenizer.tokenize(prompt, True, True) if prompt else []
        if not document.prompt:
            tokens = self._tokenizer.tokenize(document.completion, True, True)
            # Without BOS the text's own first token is the one that nothing stands before.
            return tokens, [True] * len(tokens)
        completion = list(document.completion_ids) or self._behind(prompt, tokens, document.completion, True)
        if not document.completion_ids and self._base["eog_tokens"]:
            completion.append(self._end_token())
        return tokens + completion, [False] * len(tokens) + [True] * len(completion)

    def _messages(self, document: Document) -> list[dict[str, str]]:
        """What this model reads before the completion, or the whole conversation."""
        own = replace(document, prompt=document.own_prompts.get(self._model, document.prompt))
        return self._behind_system(prompt_messages(own, self._system), self._model, document)

    @staticmethod
    def _behind_system(messages: list[dict[str, str]], model: str, document: Document) -> list[dict[str, str]]:
        own = system_of(model, document.template.get("system"))
        return [dict(message) for message in with_system(messages, own["system"])] if own else messages

    def _own_prompts(self, document: Document, *, n_answers: int) -> dict[str, tuple[int, ...]]:
        """What experts read before the first answer, in place of what the base reads, made as that.

        Raises:
            ChatTemplateError: an expert has a template of its own, and there are several answers: what stands between
                them is in the base's tokens.
        """
        names = dict.fromkeys([*document.own_prompts, *names_in(document.template)])
        if not document.messages and not self.chat:
            return {name: tuple(self._tokenizer.tokenize(document.own_prompts[name], True, True)) for name in names}
        own: dict[str, tuple[int, ...]] = {}
        for name in names:
            if name == self._model:
                continue
            if n_answers > 1 and name in names_in({"": document.template.get("chat_template")}):
                raise ChatTemplateError(
                    f"chat_template has one for {name}, and the conversation has {n_answers} answers; make a row of "
                    "each answer, or leave chat_template out"
                )
            before = self._messages(document)
            before = before[: _first_answer([*before, {"role": "assistant"}])]
            if name in document.own_prompts:
                before[-1] = {"role": "user", "content": document.own_prompts[name]}
            opened = self._render(self._behind_system(before, name, document), True, document, name)
            bos = self._facts[name].get("bos_token", self._base["bos_token"])
            own[name] = tuple(self._tokenizer.tokenize(opened, not begins_with_bos(opened, bos), True))
        return own

    def _behind(self, before: str, tokens: list[int], text: str, add_special: bool) -> list[int]:
        """The tokens of ``text`` where it stands behind a text that has ``tokens``."""
        # SentencePiece would put a space before a text of its own.
        whole = self._tokenizer.tokenize(before + text, add_special, True)
        if whole[: len(tokens)] == tokens:
            return whole[len(tokens) :]
        return self._encode(text)  # the two texts share a token

    def _end_token(self) -> int:
        # The token named EOS; where a file names none that ends a text, any that does.
        eos = self._tokenizer.tokenize(self._base["eos_token"] or "", False, True)
        return eos[0] if len(eos) == 1 and eos[0] in self._eog else int(min(self._eog))

    def _conversation(self, messages: list[dict[str, str]], document: Document) -> tuple[list[int], list[bool]]:
        tokens: list[int] = []
        scored: list[bool] = []
        done = ""  # of the rendered conversation
        add_special = False
        reply_ids = document.completion_ids
        first = _first_answer(messages)
        if first == len(messages):
            raise ChatTemplateError("no assistant's message follows another message, so there is nothing to learn from")
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or i < first:
                continue
            opened = self._render(messages[:i], True, document, self._model)
            closed = self._render(messages[: i + 1], False, document, self._model)
            if not opened.startswith(done) or not closed.startswith(opened):
                raise ChatTemplateError(
                    "the chat template does not continue its own prompt with the assistant's turn, so the turn's "
                    "tokens cannot be found"
                )
            if done:
                prompt = self._behind(done, tokens, opened[len(done) :], add_special)
            else:
                add_special = not begins_with_bos(opened, self._base["bos_token"])
                prompt = self._tokenizer.tokenize(opened, add_special, True)
            if reply_ids and i == len(messages) - 1:
                reply = list(reply_ids)
            else:
                reply = self._behind(opened, tokens + prompt, closed[len(opened) :], add_special)
            # Behind the token that ends the turn, templates write what no model has to say.
            end = next((k + 1 for k, token in enumerate(reply) if token in self._eog), None)
            turn = closed[len(opened) :]
            ends = [at for text in self._turn_ends if (at := turn.find(text)) >= 0]
            if end is None and ends:
                reply = self._behind(opened, tokens + prompt, turn[: min(ends)], add_special)
                end = len(reply)
                reply += self._encode(turn[min(ends) :])
            end = len(reply) if end is None else end
            tokens += prompt + reply
            scored += [False] * len(prompt) + [k < end for k in range(len(reply))]
            done = closed
        return tokens, scored

    def _render(
        self, messages: list[dict[str, str]], add_generation_prompt: bool, document: Document, model: str
    ) -> str:
        template, whose = template_of(model, document.template.get("chat_template"))
        facts = self._facts[whose]
        template = facts.get("chat_template") if template is None else template
        if not template:
            raise ChatTemplateError(f"the file of the {whose} has no chat template, which a conversation needs")
        return render_chat(
            messages,
            template,
            bos_token=facts.get("bos_token") or "",
            eos_token=facts.get("eos_token") or "",
            add_generation_prompt=add_generation_prompt,
        )


def _first_answer(messages: Sequence[Mapping[str, str]]) -> int:
    """The place of the first message to learn from, or how many there are.

    A greeting answers nobody, so it is read with what follows.
    """
    opening = next((i for i, message in enumerate(messages) if message["role"] != "assistant"), len(messages))
    answers = (i for i, message in enumerate(messages) if message["role"] == "assistant" and i >= opening)
    return next(answers, len(messages))


def grouped(
    texts: Iterator[P | BadRow | None], *, n_tokens: int, n_texts: int
) -> Iterator[tuple[list[P], list[BadRow]]]:
    """Runs of texts that are read together, with the bad rows among them.

    The groups depend on the texts alone, so an interrupted scoring continues with the same groups.

    Args:
        texts: in the order of the corpus. None stands between two blocks, whose texts are not read together.
        n_tokens: the most tokens of a group, and of a single text.
        n_texts: the most texts of a group.
    """
    group: list[P] = []
    bad: list[BadRow] = []
    size = 0
    for text in texts:
        if text is None:
            if group or bad:
                yield group, bad
            group, bad, size = [], [], 0
            continue
        if isinstance(text, BadRow):
            bad.append(text)
            continue
        if group and (size + text.size > n_tokens or len(group) == n_texts):
            yield group, bad
            group, bad, size = [], [], 0
        group.append(text)
        size += text.size
    if group or bad:
        yield group, bad
