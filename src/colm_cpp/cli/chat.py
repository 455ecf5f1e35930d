"""``colm chat``: a conversation in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..options import CHAT_TEMPERATURE
from . import Terminated
from ._experts import expert_arguments
from ._flags import in_flags
from ._help import SectionedCommand, option, path_option
from ._options import GENERATION, from_table
from ._own_prompts import own_template_arguments, read_own_prompts
from ._pair import (
    HEAD_HELP,
    chosen_models,
    color_option,
    loading,
    loading_arguments,
    model_arguments,
    slots,
    writing_options,
)

__all__ = ["chat", "prompt_of"]

NO_LIMIT = -1
# An answer ends where a model ends it.
_GENERATION = {
    **GENERATION,
    "max_tokens": replace(GENERATION["max_tokens"], default=NO_LIMIT),
    "temperature": replace(GENERATION["temperature"], default=CHAT_TEMPERATURE),
}


@click.command(cls=SectionedCommand)
@model_arguments
@expert_arguments
@option("Models", "--head", metavar="HEAD", help=HEAD_HELP)
@option("Conversation", "--system", metavar="TEXT", help="System message before the first message.")
@option("Conversation", "--chat-template", metavar="FILE", help="Jinja template to use instead of the base's.")
@own_template_arguments("Conversation")
@path_option(
    "Conversation", "--load", "file", metavar="FILE", help="Go on with the conversation that /save wrote to FILE."
)
@path_option(
    "Conversation",
    "--history",
    metavar="FILE",
    help="File that keeps your messages for the next time. [default: chat-history in the configuration folder]",
)
@option("Conversation", "--no-history", is_flag=True, help="Keep no messages.")
@from_table(_GENERATION)
@option("Text", "--grammar", metavar="TEXT", help="GBNF grammar that every answer must follow.")
@option("Text", "--grammar-file", metavar="FILE", help="File with a GBNF grammar that every answer must follow.")
@option("Text", "--json-schema", metavar="FILE", help="File with a JSON schema that every answer must follow.")
@color_option("Colour the tokens of the assistant, or of each expert.")
@option("Output", "--quiet", "-q", is_flag=True, help="Show no progress and no line about each answer.")
@option("Output", "--verbose", "-v", is_flag=True, help="Show llama.cpp's log on stderr.")
@loading_arguments
def chat(**values: Any) -> None:
    """Talk with a pair.

    Type a message and press Enter. /help lists the commands: /rate 20, /base, /assistant and /only NAME choose
    who answers, /compare shows the answers of all, /save and /load keep the conversation. Alt-Enter begins a new line.
    Ctrl-C stops an answer, Ctrl-D leaves.

    If standard input is no terminal, each line of it is a message, and a line that ends in a backslash goes on in the
    next one. The first error then ends the command.
    """
    from ..options import GenerationOptions
    from ._chat_commands import Chat
    from ._chat_input import messages_of_stdin
    from ._conversation import Conversation
    from ._loading import load_pair
    from ._output import is_terminal, log_to_stderr

    models = chosen_models(values)
    _, given, template = writing_options(models, values)
    options = {"temperature": CHAT_TEMPERATURE, "max_tokens": NO_LIMIT, **given}
    own = read_own_prompts(values, models.names).template(template)
    GenerationOptions.of(options)  # raises for a bad value now, not after minutes of loading
    typed = is_terminal("stdin") and is_terminal("stdout")
    ask = prompt_of(values) if typed else None
    looked_at = is_terminal("stdout") or is_terminal("stderr")

    with (
        log_to_stderr(values["verbose"]),
        load_pair(models, values["head"], **loading(values), **slots(values)) as pair,
    ):
        talk = Conversation(pair, options, system=values["system"], own_system=models.system, template=own)
        talk.check()
        pair.stream([0], **options).close()  # whether head and options go together
        quiet = values["quiet"] or not looked_at
        shown = Chat(talk, color=values["color"], quiet=quiet, stops=typed)
        if values["file"] is not None:
            shown.take(f"/load {values['file']}")
        if ask is None:
            _serve(shown, messages_of_stdin(), stops=False)
        else:
            shown.tell(f"{_names(pair)}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")
            _serve(shown, _typed(ask, shown), stops=True)


def prompt_of(values: dict[str, Any]) -> Callable[[str], str]:
    """What asks on the terminal."""
    from ._chat_commands import abouts, notice
    from ._chat_input import default_history, open_history, open_prompt

    history = None
    if not values["no_history"]:
        file = values["history"] or default_history()
        try:
            history = open_history(file)
        except OSError as error:
            notice(f"the history {file} cannot be used ({error.strerror or error}), so no messages are kept")
    return open_prompt(history, abouts())


def _names(pair: Any) -> str:
    models = [pair.base, *pair.experts.values()]
    return " and ".join(facts["name"] or Path(facts["path"]).name for facts in models)


def _typed(ask: Callable[[str], str], shown: Any) -> Iterator[str]:
    """The messages that are typed, until Ctrl-D. Ctrl-C drops what stands in the line."""
    while True:
        try:
            yield ask(f"{shown.conversation.way.name}> ")
        except EOFError:
            return
        except Terminated:
            raise
        except KeyboardInterrupt:
            continue


def _serve(shown: Any, messages: Iterator[str], *, stops: bool) -> None:
    """Takes messages until there are no more.

    Args:
        shown: the chat.
        messages: what to take.
        stops: whether Ctrl-C and errors end one message only, and not the command.
    """
    from ..errors import ColmError
    from ._chat_commands import Leave
    from ._output import echo, one_line

    command = click.get_current_context().command
    for message in messages:
        try:
            shown.take(message)
        except Leave:
            return
        except Terminated:
            raise
        except KeyboardInterrupt:
            if not stops:
                raise
            shown.tell("stopped")
        except ColmError as error:
            if not stops:
                raise
            echo(one_line(f"colm: error: {in_flags(str(error), command)}"), err=True)
