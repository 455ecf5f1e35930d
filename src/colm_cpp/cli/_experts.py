"""``--expert`` and ``--expert-option``: several experts beside the base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ..options import ExpertModel, read_experts
from ._help import Command, option
from ._options import ModelOption, ParamType, read_model_options

if TYPE_CHECKING:
    from ..sources.pair_file import Preset

__all__ = ["chosen_experts", "expert_arguments", "expert_files", "refuse_experts"]


class _Named(ParamType):
    """``NAME=MODEL``."""

    name = "NAME=MODEL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        name, equals, model = value.partition("=")
        if not equals or not model:
            self.fail(f"{value!r} is not NAME=MODEL; give a name and a model, such as code=code.gguf", param, ctx)
        return name.strip(), model


class _Own(ParamType):
    """``NAME:OPTION=VALUE``."""

    name = "NAME:OPTION=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, colon, option = value.partition(":")
        if not colon:
            self.fail(f"{value!r} names no expert; give for example code:n_ctx=2048", param, ctx)
        return name.strip(), ModelOption().convert(option, param, ctx)


def expert_arguments(command: Command) -> Command:
    """Adds ``--expert`` and ``--expert-option``."""
    command = option(
        "Loading",
        "--expert-option",
        type=_Own(),
        multiple=True,
        help="A loading option for one expert only, such as law:lora=law.gguf. Repeatable.",
    )(command)
    return option(
        "Models",
        "--expert",
        type=_Named(),
        multiple=True,
        help="An expert by a name of your own, instead of --assistant: code=code.gguf, or code=http://host:port. "
        "Repeatable.",
    )(command)


def chosen_experts(values: Mapping[str, Any]) -> tuple[ExpertModel, ...]:
    """The experts of ``--expert`` with their own options; none where the option was not given.

    Raises:
        click.UsageError: a name is given twice, or an option is for an expert that is not there.
        OptionError: a name cannot be used.
    """
    given: dict[str, Any] = {}
    for name, model in values.get("expert") or ():
        if name in given:
            raise click.UsageError(f"--expert {name} is given twice; give each expert a name of its own")
        given[name] = {"model": model}
    for name, _ in values.get("expert_option") or ():
        if name not in given:
            raise click.UsageError(f"--expert-option names {name}, and there is no --expert {name}=MODEL")
    for name, entry in given.items():
        entry.update(read_model_options(option for owner, option in values["expert_option"] if owner == name))
    return read_experts(given) if given else ()


def expert_files(values: Mapping[str, Any]) -> list[str]:
    """Models and adapters that ``--expert`` and ``--expert-option`` name."""
    adapters = [value[0] for _, (name, value) in values.get("expert_option") or () if name == "lora"]
    return [*(model for _, model in values.get("expert") or ()), *adapters]


def refuse_experts(chosen: Preset, values: Mapping[str, Any]) -> None:
    """Raises OptionError where a pair's file has experts and the command knows none."""
    if "expert" not in values:
        command = click.get_current_context().command.name
        chosen.refuse_experts(f"colm {command}", "give --base and --assistant")
