"""docs/commands.md has every command and every option, as the argument parsers have them."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import click
import pytest
from programs import load_program

from colm_cpp.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    return load_program(ROOT / "tools" / "commands_page.py")


def without_values(page: str) -> list[str]:
    """Its lines. How an option's value and range are shown depends on the version of click."""
    lines = re.sub(r" \\\[(?:default|required|\d|x)[^\]]*\]", "", page).split("\n")
    return [
        re.sub(r"^\| `([^`]*)`", lambda cell: " ".join(re.findall(r"-{1,2}[a-z-]+", cell[1])), line) for line in lines
    ]


def test_the_page_is_the_parsers(writer: ModuleType) -> None:
    """Otherwise: python tools/commands_page.py > docs/commands.md"""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert without_values(page) == without_values(writer.page())


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_option_is_there(name: str, writer: ModuleType) -> None:
    command = main.commands[name]
    text = writer.section(name, command)
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            assert all(f"{flag}" in text for flag in (*param.opts, *param.secondary_opts)), param.name


def test_what_is_not_to_be_wrapped_is_a_block(writer: ModuleType) -> None:
    command = click.Command("x", help="One\ntwo.\n\n\b\na\nb\n\nThree | four.")
    text = writer.section("x", command)
    assert "One two.\n\n```\na\nb\n```\n\nThree | four.\n" in text
