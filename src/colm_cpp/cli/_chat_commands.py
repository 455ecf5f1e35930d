"""What can be typed behind a slash in ``colm chat``, and how answers are shown."""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .._numbers import integer
from .._shown import counted, shown
from ..errors import OptionError
from ..options import MAX_SEED
from . import _chat_file
from ._conversation import INTERRUPTED, PAIR, Answer, Conversation, Exchange
from ._output import echo, one_line, open_writer, print_legend

__all__ = ["COMMANDS", "Chat", "Leave", "abouts", "notice"]


_Run = Callable[["Chat", str], None]


class Leave(Exception):
    """The user wants to leave."""


@dataclass(frozen=True)
class Command:
    """What stands behind a slash."""

    run: _Run
    argument: str  # what it takes; "": nothing
    about: str


COMMANDS: dict[str, Command] = {}


def abouts() -> dict[str, str]:
    """The commands and what they do."""
    return {name: command.about for name, command in COMMANDS.items()}


def _command(name: str, argument: str, about: str) -> Callable[[_Run], _Run]:
    def add(run: _Run) -> _Run:
        COMMANDS[name] = Command(run, argument, about)
        return run

    return add


class Chat:
    """A conversation with somebody who reads it.

    Attributes:
        conversation: what was said.
        file: where the conversation was last saved to, or loaded from.
    """

    def __init__(self, conversation: Conversation, *, color: str, quiet: bool, stops: bool) -> None:
        """A chat without messages.

        Args:
            conversation: what was said.
            color: always, never or auto.
            quiet: nobody looks on, so only answers, what was asked for, and warnings are shown.
            stops: whether Ctrl-C ends an answer and not the command.
        """
        self.conversation = conversation
        self.file: Path | None = None
        self._color = color
        self._quiet = quiet
        self._stops = stops

    def tell(self, text: str) -> None:
        """A line for a person who looks on."""
        if not self._quiet:
            echo(one_line(text), err=True)

    def take(self, message: str) -> None:
        """Does what a message says: a command behind a slash, or else a message to be answered.

        Raises:
            Leave: ``/quit``.
            OptionError: an unknown command, or one that cannot be done.
            Everything that :meth:`Conversation.write` raises. The message was not added then.
        """
        if not message.strip():
            return
        if not message.startswith("/") or message.startswith("//"):
            self._answer(message.removeprefix("/") if message.startswith("//") else message)
            return
        name, _, rest = message.partition(" ")
        name, rest = name.strip(), rest.strip()
        command = COMMANDS.get(name)
        if command is None:
            close = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"did you mean {close[0]}? /help lists all" if close else "/help lists them"
            raise OptionError(
                f"there is no command {shown(name)}; {hint}. Write two slashes where a message begins with one"
            )
        if rest and not command.argument:
            raise OptionError(f"{name} takes no argument, and {shown(rest)} was given; remove it")
        command.run(self, rest)

    def _answer(self, question: str) -> None:
        with open_writer(self._color) as writer:
            answer = self.conversation.ask(question, writer.write)
        self._told(answer)

    def _told(self, answer: Answer) -> None:
        """Tells who wrote how much of an answer, and what to do where the context is full."""
        if answer.context_full:
            notice(
                "the context is full, so the answer ends here; type /drop to forget the oldest messages, or /clear to "
                "begin again. A larger --n-ctx at the start gives more room"
            )
        if not self._quiet:
            print_legend(answer.stats, answer.finish_reason, self._color)
        if answer.finish_reason == INTERRUPTED and not self._stops:
            raise KeyboardInterrupt

    @_command("/rate", "PERCENT", "defer this share of the tokens, such as /rate 20")
    def rate(self, rest: str) -> None:
        if not rest:
            raise OptionError("/rate needs the percentage of tokens to defer; type for example /rate 20")
        way = self.conversation.at_rate(rest)
        self.conversation.way = way
        how = "adjusted as a text is written" if "target_rate" in way.options else "by the head's calibration"
        self.tell(f"the pair defers {way.name} of the tokens, {how}")

    @_command("/base", "", "the base alone answers")
    def base(self, rest: str) -> None:
        self.conversation.way = self.conversation.alone["base"]
        self.tell("the base alone answers")

    @_command("/assistant", "[NAME]", "the assistant alone answers, or the expert of that name")
    def assistant(self, rest: str) -> None:
        experts = [name for name in self.conversation.alone if name != "base"]
        name = rest or experts[0] if len(experts) == 1 or rest else ""
        if name not in experts:
            raise OptionError(
                f"the experts of this pair are {', '.join(experts)}; type for example /assistant {experts[0]}"
            )
        self.only(name)

    @_command("/only", "NAME", "the model of that name alone answers, such as /only base")
    def only(self, rest: str) -> None:
        alone = self.conversation.alone
        if rest not in alone:
            raise OptionError(
                f"the models of this pair are {', '.join(alone)}; type for example /only {list(alone)[-1]}"
            )
        self.conversation.way = alone[rest]
        self.tell(f"{'the ' * (rest in ('base', 'assistant'))}{rest} alone answers")

    @_command("/pair", "", "the pair answers as the command line says")
    def pair(self, rest: str) -> None:
        self.conversation.way = PAIR
        self.tell("the pair answers as the command line says")

    @_command("/compare", "[MESSAGE]", "answer the last message, or a new one, by each model and the pair")
    def compare(self, rest: str) -> None:
        talk = self.conversation
        if not rest and not talk.exchanges:
            raise OptionError("there is no message to compare answers to; type /compare and a message")
        question = rest or talk.exchanges[-1].question
        before = talk.exchanges if rest else talk.exchanges[:-1]
        pair = PAIR if talk.way.name in talk.alone else talk.way
        answers: dict[str, Answer] = {}
        seed = secrets.randbelow(MAX_SEED + 1) if talk.seed is None else talk.seed
        for way in (*talk.alone.values(), pair):
            echo(f"-- {way.name}")
            with open_writer(self._color) as writer:
                answers[way.name] = talk.write(question, writer.write, way=way, seed=seed, before=before)
            self._told(answers[way.name])
            if answers[way.name].finish_reason == INTERRUPTED:
                return
        if rest:
            talk.exchanges.append(Exchange(question, answers[talk.way.name].pieces))

    @_command("/system", "[TEXT]", "set the system message; without TEXT show it; - removes it")
    def system(self, rest: str) -> None:
        talk = self.conversation
        if not rest:
            own = " (the pair's own)" if talk.system is None and talk.own_system else ""
            echo(f"system message{own}: {talk.system or talk.own_system or 'none'}")
            return
        system = None if rest == "-" else rest
        talk.check(system)
        talk.system = system
        self.tell("the system message is set" if system else "the system message is removed")

    @_command("/save", "[--force] [FILE]", "write the conversation to FILE, or to the last one")
    def save(self, rest: str) -> None:
        force = rest.split(" ")[0] == "--force"
        name = rest.removeprefix("--force").strip() if force else rest
        file = Path(name).expanduser() if name else self.file
        if file is None:
            raise OptionError("/save needs the name of a file; type for example /save chat.json")
        size = _chat_file.save(self.conversation, file, force=force or file == self.file)
        self.file = file
        session = _chat_file.session_of(file)
        read = f", and what the models have read to {session} ({size / 1e6:.1f} MB)" if size else ""
        self.tell(f"saved to {file}{read}")

    @_command("/load", "FILE", "go on with the conversation in FILE")
    def load(self, rest: str) -> None:
        if not rest:
            raise OptionError("/load needs the name of a file that /save wrote")
        file = Path(rest).expanduser()
        why = _chat_file.load(self.conversation, file)
        self.file = file
        if why:
            notice(f"the models will read the conversation again: {why}")
        talk = self.conversation
        self.tell(f"{counted(len(talk.exchanges), 'message')} with answers; who answers next: {talk.way.name}")
        if talk.exchanges and not self._quiet:
            self.tell(f"> {talk.exchanges[-1].question}")
            with open_writer(self._color) as writer:
                for source, text in talk.exchanges[-1].pieces:
                    writer.piece(text, talk.pair.names.index(source))

    @_command("/stats", "", "counts and speed of the last answer and of all")
    def stats(self, rest: str) -> None:
        talk = self.conversation
        if not talk.answers:
            echo(f"no answer yet; the context has room for {talk.pair.n_ctx} tokens")
            return
        last = talk.answers[-1].stats
        echo(_summed("last answer", talk.answers[-1:]))
        echo(_summed(counted(len(talk.answers), "answer"), talk.answers))
        used = last.prompt_tokens + last.generated_tokens
        read = ", ".join(f"{name} {work.tokens_read}" for name, work in last.experts.items())
        echo(f"context: {used} of {talk.pair.n_ctx} tokens; read for the last answer: {read}; seed {last.seed}")

    @_command("/drop", "[N]", "forget the oldest N messages and their answers, by default 1")
    def drop(self, rest: str) -> None:
        talk = self.conversation
        try:
            number = int(rest or "1")
        except ValueError:
            raise OptionError(f"/drop needs a whole number, and {shown(rest)} was given") from None
        if not talk.exchanges:
            raise OptionError("there is no message to forget")
        del talk.exchanges[: integer("the number after /drop", number, 1, len(talk.exchanges))]
        self.tell(f"left: {counted(len(talk.exchanges), 'message')} with answers")

    @_command("/clear", "", "begin again; the system message stays")
    def clear(self, rest: str) -> None:
        self.conversation.exchanges.clear()
        self.file = None
        self.tell("the conversation is empty")

    @_command("/help", "", "show this list")
    def help(self, rest: str) -> None:
        uses = {f"{name} {command.argument}".strip(): command.about for name, command in COMMANDS.items()}
        width = max(map(len, uses))
        echo("\n".join(f"{use:<{width}}  {about}" for use, about in uses.items()))

    @_command("/quit", "", "leave")
    def quit(self, rest: str) -> None:
        raise Leave


def notice(text: str) -> None:
    """A line on stderr, for quiet chats too."""
    echo(one_line(f"colm: {text}"), err=True)


def _summed(title: str, answers: list[Answer]) -> str:
    written = sum(answer.stats.generated_tokens for answer in answers)
    deferred = sum(round(answer.stats.deferral_rate * answer.stats.generated_tokens) for answer in answers)
    calls = sum(answer.stats.assistant_calls for answer in answers)
    seconds = sum(answer.stats.decode_s for answer in answers)
    share = f"{deferred / written:.1%}" if written else "0%"
    experts = [name for name in answers[-1].stats.experts if name != "base"]
    who = "the assistant" if experts == ["assistant"] else "an expert"
    per_deferred = f"{calls / deferred:.2f} calls of {who} for each" if deferred else f"no call of {who}"
    if len(experts) > 1:
        n_written = {name: sum(answer.stats.experts[name].tokens for answer in answers) for name in experts}
        per_deferred += f" ({', '.join(f'{name} {n}' for name, n in n_written.items())})"
    speed = f"{written / seconds:.1f}" if seconds > 0 else "0"
    return f"{title}: {written} tokens, {deferred} deferred ({share}), {per_deferred}; {speed} tokens/s"
