"""Writes docs/commands.md: every command with its options, out of the argument parsers.

python tools/commands_page.py > docs/commands.md
"""

from __future__ import annotations

import re

import click

from colm_cpp.cli import main

_HEAD = """# Commands

Every command and its options, as `colm COMMAND --help` shows them. This page is written by
`python tools/commands_page.py` out of the argument parsers; a test compares it with them.
"""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def _meaning(text: str) -> str:
    """Help in which Markdown finds no tags and no links."""
    return _cell(text).replace("<", "&lt;").replace("[", "\\[")


def _paragraphs(text: str) -> str:
    """Help as Markdown: what click must not wrap (behind ``\\b``) is a block of its own."""
    parts = []
    for part in re.split(r"\n\s*\n", text.strip()):
        kept = part.lstrip().startswith("\b")
        lines = [line for line in part.splitlines() if line.strip() != "\b"]
        parts.append("```\n" + "\n".join(lines) + "\n```" if kept else " ".join(line.strip() for line in lines))
    return "\n\n".join(parts)


def section(name: str, command: click.Command) -> str:
    """One command."""
    ctx = click.Context(command, info_name=f"colm {name}")
    usage = " ".join(command.collect_usage_pieces(ctx))
    lines = [f"## colm {name}", "", _paragraphs(command.help or ""), "", f"```\ncolm {name} {usage}\n```"]
    titles: dict[str, list[str]] = {}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None and "--help" not in record[0]:
            row = f"| `{_cell(record[0])}` | {_meaning(record[1])} |"
            titles.setdefault(getattr(param, "section", "Options"), []).append(row)
    for title, rows in titles.items():
        lines += ["", f"**{title}**", "", "| option | meaning |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(section(name, main.commands[name]) for name in sorted(main.commands))])


if __name__ == "__main__":
    print(page(), end="")
