"""A conversation with a pair: its turns, and who writes the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._numbers import real
from .._shown import shown
from ..errors import ContextFull, HeadError, OptionError
from ..options import DEFERRAL
from . import Terminated
from ._inputs import user_messages

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..results import Source, Stats, Token

__all__ = ["INTERRUPTED", "PAIR", "Answer", "Conversation", "Exchange", "Way", "alone"]

INTERRUPTED = "interrupted"
Piece = tuple["Source", str]


@dataclass(frozen=True)
class Way:
    """Who writes the answers.

    Attributes:
        name: ``pair``, ``base``, ``assistant``, or a rate such as ``20%``.
        options: what it needs of the options of a generation.
        without: the options of the command line that do not hold for it.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    without: frozenset[str] = frozenset()


PAIR = Way("pair")


def alone(names: Sequence[str]) -> dict[str, Way]:
    """One of the models by itself, by its name, whatever the command line says of deferral. The base is the first."""
    base, *experts = names
    heads = {base: "never", **{name: "always" if len(experts) == 1 else f"always:{name}" for name in experts}}
    return {name: Way(name, {"head": head}, DEFERRAL) for name, head in heads.items()}


_RATE_IS_SET_BY = frozenset({"threshold", "defer_rate", "target_rate", "schedule", "schedule_tokens"})


@dataclass(frozen=True)
class Answer:
    """What was written for a message.

    Attributes:
        pieces: the text in stretches of one writer each.
        finish_reason: as in :class:`colm_cpp.Completion`, or ``interrupted`` after Ctrl-C.
        stats: counts and times.
        context_full: whether it ended because the context was full.
    """

    pieces: tuple[Piece, ...]
    finish_reason: str
    stats: Stats
    context_full: bool


@dataclass(frozen=True)
class Exchange:
    """A message of the user, and the answer in stretches of one writer each."""

    question: str
    pieces: tuple[Piece, ...]

    @property
    def answer(self) -> str:
        """The whole answer."""
        return "".join(text for _, text in self.pieces)


class Conversation:
    """What was said so far.

    Attributes:
        exchanges: messages and their answers.
        system: the system message; None where the pair's own holds.
        own_system: that of the pair's file, if it has one.
        way: who writes the next answer.
        answers: every answer that was written here, those of comparisons too, for statistics.
    """

    def __init__(
        self,
        pair: Pair,
        options: Mapping[str, Any],
        *,
        system: str | None = None,
        own_system: str | None = None,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        self.pair = pair
        self.exchanges: list[Exchange] = []
        self.system = system
        self.own_system = own_system
        self.way = PAIR
        self.answers: list[Answer] = []
        self._options = dict(options)
        self._template = template or {}

    @property
    def seed(self) -> int | None:
        """The seed of every answer; None where each has its own."""
        seed: int | None = self._options.get("seed")
        return seed

    def check(self, system: str | None = None) -> None:
        """Renders a message, so that a template that is missing or allows no system message is found at once.

        Raises:
            ChatTemplateError: there is none, or it rejects the messages.
        """
        from ..engine.own_prompts import chat_prompt

        chat_prompt(self.pair, user_messages("?", system or self.system), **self._template)

    def messages(self, question: str, before: Sequence[Exchange] | None = None) -> list[dict[str, str]]:
        """All messages as the chat template takes them, ``question`` at the end.

        Args:
            question: the message to be answered.
            before: what was said before it; None: all exchanges.
        """
        said = [] if self.system is None else [{"role": "system", "content": self.system}]
        for exchange in self.exchanges if before is None else before:
            said.append({"role": "user", "content": exchange.question})
            said.append({"role": "assistant", "content": exchange.answer})
        return [*said, {"role": "user", "content": question}]

    def write(
        self,
        question: str,
        show: Callable[[Token], None],
        *,
        way: Way | None = None,
        seed: int | None = None,
        before: Sequence[Exchange] | None = None,
    ) -> Answer:
        """Writes an answer and does not keep it. After Ctrl-C it has what was written until then.

        Args:
            question: the message.
            show: gets each token as it comes.
            way: who writes. None: the conversation's way.
            seed: None: that of the options.
            before: what was said before; None: all exchanges.

        Raises:
            ContextFull: the conversation has no room in the context; the message says what to do.
            Everything else that :meth:`colm_cpp.Pair.stream_chat` raises.
        """
        options = self._of(way or self.way)
        if seed is not None:
            options["seed"] = seed
        pieces: list[Piece] = []
        try:
            stream = self.pair.stream_chat(self.messages(question, before), **self._template, **options)
            with closing(stream):
                try:
                    for token in stream:
                        _add(pieces, token.source, token.text)
                        show(token)
                    reason: str = stream.finish_reason or INTERRUPTED
                except Terminated:
                    raise
                except KeyboardInterrupt:
                    reason = INTERRUPTED
                stats = stream.stats
        except ContextFull as error:
            raise self._explained(error) from error
        full = reason == "length" and stats.prompt_tokens + stats.generated_tokens >= self.pair.n_ctx
        answer = Answer(tuple(pieces), reason, stats, full)
        self.answers.append(answer)
        return answer

    def ask(self, question: str, show: Callable[[Token], None], **more: Any) -> Answer:
        """:meth:`write`, and keeps message and answer, unless Ctrl-C came before the first token."""
        answer = self.write(question, show, **more)
        if answer.pieces or answer.finish_reason != INTERRUPTED:
            self.exchanges.append(Exchange(question, answer.pieces))
        return answer

    def way_named(self, name: str) -> Way:
        """The way of writing that goes by a name: ``pair``, ``base``, ``assistant``, or a rate in percent.

        Raises:
            OptionError: there is none.
        """
        if name == PAIR.name:
            return PAIR
        return self.alone[name] if name in self.alone else self.at_rate(name)

    @property
    def alone(self) -> dict[str, Way]:
        """The ways in which one model answers by itself."""
        return alone(self.pair.names)

    def at_rate(self, percent: str) -> Way:
        """The pair at a rate, given in percent as text.

        Raises:
            OptionError: it is no number from 0 to 100.
        """
        text = percent.strip().removesuffix("%").strip()
        try:
            number = real("the rate", float(text))
        except ValueError:
            number = -1.0
        if not 0.0 <= number <= 100.0:
            raise OptionError(f"the rate is {shown(percent)}; give 0 to 100, the percentage of tokens to defer")
        rate = number / 100.0
        name = f"{number:g}%"
        try:
            # A head with a calibration table knows the threshold of the rate. Nothing is computed here.
            way = Way(name, {"defer_rate": rate}, _RATE_IS_SET_BY)
            self.pair.stream([0], **self._of(way)).close()
        except HeadError:
            way = Way(name, {"target_rate": rate}, _RATE_IS_SET_BY)
            self.pair.stream([0], **self._of(way)).close()
        return way

    def _of(self, way: Way) -> dict[str, Any]:
        kept = {name: value for name, value in self._options.items() if name not in way.without}
        return {**kept, **way.options}

    def _explained(self, error: ContextFull) -> ContextFull:
        todo = "type /drop to forget the oldest messages, or /clear to begin again"
        explained = ContextFull(
            f"the conversation has {error.n_prompt} tokens with this message, and the context has room for "
            f"{error.n_ctx}; {todo if self.exchanges else 'shorten the message'}. A larger n_ctx at the start gives "
            "more room"
        )
        explained.n_prompt, explained.n_ctx = error.n_prompt, error.n_ctx
        return explained


def _add(pieces: list[Piece], source: Source, text: str) -> None:
    if not text:
        return
    if pieces and pieces[-1][0] == source:
        text = pieces.pop()[1] + text
    pieces.append((source, text))
