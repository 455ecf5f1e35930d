"""What every command that loads a pair has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from ..pair import MAX_PARALLEL
from ._help import Option
from ._options import LOAD, Command, collect, from_table, model_options, read_model_options

__all__ = ["loading", "option", "pair_arguments", "parallel_option"]


def option(section: str, *names: str, **kwargs: Any) -> Callable[[Command], Command]:
    """An option in a section of the help."""
    return click.option(*names, cls=Option, section=section, **kwargs)


def parallel_option(section: str, help: str) -> Callable[[Command], Command]:
    """Adds ``--parallel``."""
    return option(
        section,
        "--parallel",
        "n_parallel",
        type=click.IntRange(1, MAX_PARALLEL),
        default=1,
        show_default=True,
        help=help,
    )


def pair_arguments(command: Command) -> Command:
    """Adds ``--base``, ``--assistant`` and the options of loading."""
    command = option("Loading", "--no-check-memory", is_flag=True, help="Load even if memory seems too small.")(command)
    command = model_options(command)
    command = from_table(LOAD, "Loading")(command)
    command = option("Output", "--verbose", "-v", is_flag=True, help="Show llama.cpp's log on stderr.")(command)
    command = option("Output", "--quiet", "-q", is_flag=True, help="No progress.")(command)
    command = option("Models", "--assistant", required=True, metavar="MODEL", help="The assistant, likewise.")(command)
    return option(
        "Models", "--base", required=True, metavar="MODEL", help="The base: a GGUF file or hf:org/repo/file.gguf."
    )(command)


def loading(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of :func:`._loading.load_pair` behind the two models and the head."""
    return {
        "options": collect(LOAD, values),
        "base_options": read_model_options(values["base_option"]),
        "assistant_options": read_model_options(values["assistant_option"]),
        "check_memory": not values["no_check_memory"],
        "show_progress": not (values["quiet"] or values["verbose"]),
    }
