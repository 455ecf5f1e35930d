"""Options in sections, for commands with many of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["Command", "SectionedCommand", "option", "path_option"]

Command = TypeVar("Command", bound=Callable[..., Any])


class _Option(click.Option):
    """An option that belongs to a section of the help text."""

    def __init__(self, *args: Any, section: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose help lists its options by section, in the order of their first appearance; --help comes last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the sections."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(param, "section", "Other"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def option(section: str, *names: str, **kwargs: Any) -> Callable[[Command], Command]:
    """An option in a section of the help, which shows its default, unless it is a flag."""
    kwargs.setdefault("show_default", not isinstance(kwargs.get("default"), bool | None))
    return click.option(*names, cls=_Option, section=section, **kwargs)


def path_option(section: str, *names: str, **kwargs: Any) -> Callable[[Command], Command]:
    """An option whose value is a path."""
    return option(section, *names, type=click.Path(path_type=Path), **kwargs)
