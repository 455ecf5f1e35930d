"""``colm patterns``: which tokens are deferred."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..errors import OptionError
from ._files import check, force_option, write_result
from ._help import SectionedCommand, option, path_option
from ._pair import color_option

__all__ = ["patterns"]

_PIPE_WIDTH = 160


@click.command(cls=SectionedCommand)
@click.argument("paths", nargs=-1, required=True)
@option(
    "Texts",
    "--arm",
    metavar="NAME",
    help="The arm (configuration) to read from evaluations. Unset: every arm with a head, one section each.",
)
@option(
    "Texts",
    "--min-count",
    type=click.IntRange(min=1),
    default=5,
    help="List a token only if it occurs at least this often.",
)
@path_option(
    "Output",
    "--html",
    "page",
    metavar="FILE",
    help="Write a web page with the numbers and the texts of one arm. Each token is shaded by its defer probability.",
)
@force_option("Replace the file of --html if it exists.")
@option(
    "Output",
    "--max-texts",
    type=click.IntRange(min=0),
    default=50,
    help="Maximum number of texts on the page. The numbers always cover all texts.",
)
@option("Output", "--json", "as_json", is_flag=True, help="Print one JSON object.")
@option(
    "Output",
    "--text",
    "number",
    type=click.IntRange(min=1),
    metavar="N",
    help="Also print text number N. Deferred tokens are coloured, or in brackets if there is no colour.",
)
@color_option("Colour deferred tokens.")
def patterns(
    paths: tuple[str, ...],
    arm: str | None,
    min_count: int,
    page: Path | None,
    force: bool,
    max_texts: int,
    as_json: bool,
    number: int | None,
    color: str,
) -> None:
    """Show which tokens were deferred in generated texts.

    PATHS are folders made by 'colm evaluate', records files in them, or files made by 'colm generate --trace'. Each arm
    (configuration) of an evaluation is counted separately, because arms defer differently.
    """
    from ..report.html import render_page
    from ..report.patterns import find_patterns
    from ..report.terminal import print_patterns, print_text
    from ..report.traces import read_arms
    from ._output import echo, is_terminal, one_line, open_console, print_json, wants_color

    if as_json and number is not None:
        raise click.UsageError("--text cannot be used with --json; remove one of them")
    if arm is not None and not any(os.path.isdir(path) for path in paths):
        raise click.UsageError("--arm needs the folder of an evaluation; give it as one of PATHS, or remove --arm")
    check("--html", page, force=force, inputs=paths)
    arms = read_arms(paths, arm) or {"": []}
    texts = [text for read in arms.values() for text in read]
    if number is not None and number > len(texts):
        raise OptionError(f"--text is {number}, but the number of texts is {len(texts)}; give a number up to that")
    if page is not None and len(arms) > 1:
        names = ", ".join(name or "traces" for name in arms)
        raise OptionError(f"--html shows one arm, but there are {len(arms)}: {names}; choose one with --arm")
    found = {name: find_patterns(read, min_count=min_count) for name, read in arms.items()}
    if as_json:
        counted = [{"arm": name or None, **counts.to_dict()} for name, counts in found.items()]
        print_json({"paths": list(paths), **(counted[0] if len(counted) == 1 else {"arms": counted})})
    else:
        width = None if is_terminal("stdout") else _PIPE_WIDTH
        console = open_console("stdout", wants_color(color, "stdout"), width=width)
        for name, counts in found.items():
            print_patterns(console, counts, "" if len(found) == 1 else name or "none (traces)")
        if number is not None:
            print_text(console, texts[number - 1], number)
    if page is not None:
        write_result("--html", page, render_page(texts, *found.values(), max_texts=max_texts, sources=paths).encode())
        echo(one_line(f"wrote {page}"), err=True)
