"""``--prompt-for``, ``--system-for`` and ``--template-for``: what one model reads in place of what all others read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from ..options import BASE
from ._help import Command, option
from ._inputs import read_text

__all__ = [
    "OwnPrompts",
    "own_prompt_arguments",
    "own_prompt_files",
    "own_template_arguments",
    "read_own_prompts",
]


@dataclass(frozen=True, slots=True)
class OwnPrompts:
    """What models read of their own, by their names.

    Attributes:
        prompts: texts in place of the prompt.
        systems: system messages.
        templates: Jinja source of templates; None is the one in that model's own file.
    """

    prompts: Mapping[str, str] = field(default_factory=dict)
    systems: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, str | None] = field(default_factory=dict)

    def prompt(self, text: str) -> str | dict[str, str]:
        """The prompt of all models, ``text`` for those that have none of their own."""
        return {BASE: text, **self.prompts} if self.prompts else text

    def template(self, of_all: str | None) -> dict[str, Any]:
        """The options of a conversation's template, ``of_all`` for the models that have none of their own."""
        given: dict[str, Any] = {"chat_template": {BASE: of_all, **self.templates} if self.templates else of_all}
        return {**given, "system": self.systems} if self.systems else given

    def facts(self) -> dict[str, Any]:
        """What was given, for a record."""
        given = {"prompt": self.prompts, "system": self.systems, "chat_template": self.templates}
        own = {what: dict(values) for what, values in given.items() if values}
        return {"own": own} if own else {}


def own_prompt_arguments(command: Command) -> Command:
    """Adds the three options."""
    help = (
        "What one model, such as an expert, reads in place of PROMPT. TEXT may be @FILE. The text that is written is "
        "the same for all. Repeatable."
    )
    command = own_template_arguments("Prompt", " Implies --chat.")(command)
    return option("Prompt", "--prompt-for", metavar="NAME=TEXT", multiple=True, help=help)(command)


def own_template_arguments(section: str, more: str = "") -> Callable[[Command], Command]:
    """Adds ``--system-for`` and ``--template-for``. ``more``: what their help says besides."""

    def decorate(command: Command) -> Command:
        for flag, metavar, help in (
            (
                "--template-for",
                "NAME[=FILE]",
                "Jinja template for one model; NAME alone: the template in that model's own file.",
            ),
            ("--system-for", "NAME=TEXT", "System message for one model."),
        ):
            more_help = f"{help}{more} Repeatable."
            command = option(section, flag, metavar=metavar, multiple=True, help=more_help)(command)
        return command

    return decorate


def own_prompt_files(values: Mapping[str, Any]) -> list[str]:
    """The files that the three options name."""
    prompts = [text[1:] for _, _, text in (value.partition("=") for value in values["prompt_for"]) if text[:1] == "@"]
    return [*prompts, *(file for _, _, file in (value.partition("=") for value in values["template_for"]) if file)]


def read_own_prompts(values: Mapping[str, Any], names: Sequence[str]) -> OwnPrompts:
    """The values of these options. ``names``: those of the models.

    Raises:
        click.UsageError: a model that is not there, or twice; or no text.
        OptionError: a file that cannot be read.
    """
    prompts = {
        name: read_text(text[1:], f"prompt of {name}").removesuffix("\n") if text[:1] == "@" else text
        for name, text in _by_name("--prompt-for", values.get("prompt_for") or (), names)
        if text is not None
    }
    if prompts and (values["system_for"] or values["template_for"]):
        raise click.UsageError("--prompt-for is a finished prompt; remove it, or --system-for and --template-for")
    systems = {name: text for name, text in _by_name("--system-for", values["system_for"], names) if text is not None}
    templates = {
        name: None if file is None else read_text(file, f"chat template of {name}")
        for name, file in _by_name("--template-for", values["template_for"], names, alone=True)
    }
    return OwnPrompts(prompts, systems, templates)


def _by_name(
    flag: str, given: Sequence[str], names: Sequence[str], *, alone: bool = False
) -> list[tuple[str, str | None]]:
    found: dict[str, str | None] = {}
    for value in given:
        name, equals, text = value.partition("=")
        name = name.strip()
        if not alone and not text:
            raise click.UsageError(
                f"{flag} {value!a} has no text; give the name of a model and a text, as {flag} {names[-1]}=TEXT"
            )
        if name not in names:
            raise click.UsageError(f"{flag} names {name!a}, and the models are {', '.join(names)}")
        if name in found:
            raise click.UsageError(f"{flag} {name} is given twice; remove one")
        found[name] = text if equals else None
    return list(found.items())
