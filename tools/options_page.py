"""Writes docs/options.md: the tables of all options, out of the dataclasses in colm_cpp.options.

python tools/options_page.py > docs/options.md
"""

from __future__ import annotations

import dataclasses
from typing import Any

from colm_cpp.cli._options import flag_of
from colm_cpp.options import Flag, GenerationOptions, LoadOptions, SlotOptions, option_of

# Options whose flags are not made from the table.
OWN_FLAGS = {"head": "`--head`", "grammar": "`--grammar`, `--grammar-file`", "response_format": "`--json-schema`"}

_HEAD = """# Options

The same names hold in Python, in `pair.toml`, in the rows of `--batch` and in C++. This page is written by
`python tools/options_page.py` out of `src/colm_cpp/options/`; a test compares all four.
"""


def _flag(field: dataclasses.Field[Any]) -> str:
    if field.name in OWN_FLAGS:
        return OWN_FLAGS[field.name]
    flag = flag_of(field.name)
    return f"`{flag}`, `--no-{flag[2:]}`" if isinstance(option_of(field).kind, Flag) else f"`{flag}`"


def table(options: type) -> list[str]:
    """Its options, a line each."""
    lines = ["| option | flag | default | values | meaning |", "|---|---|---|---|---|"]
    for field in dataclasses.fields(options):
        known = option_of(field)
        default = "-" if field.default in (None, ()) else f"`{field.default!r}`".replace("'", '"')
        meaning = f"{known.help} {known.more}".strip().replace("``", "`").replace("|", "\\|")
        lines.append(f"| `{field.name}` | {_flag(field)} | {default} | {known.kind} | {meaning} |")
    return lines


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, says, options in (
        ("Writing a text", "`generate`, `stream`, `chat` and the batch methods take them.", GenerationOptions),
        (
            "Loading a model",
            "`load` takes them; `base_options` and `assistant_options` are for one model.",
            LoadOptions,
        ),
        ("Slots of a pair", "`load` takes them.", SlotOptions),
    ):
        parts.append("\n".join([f"## {title}", "", says, "", *table(options), ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
