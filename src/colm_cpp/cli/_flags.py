"""Messages of the Python API in the words of the command line: ``n_ctx=2048`` is ``--n-ctx 2048`` there."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

import click
from click.core import ParameterSource

__all__ = ["in_flags", "typed"]

# What the API calls otherwise than the command does.
_ALIASES = {"evaluate": {"rate": "rates"}, "export": {"default_threshold": "threshold"}}
_BEFORE_SUBJECT = ("; ", ": ", " and ")
# Values that only Python has.
_PYTHON_ONLY = ("a colm_cpp.Head, ",)


@dataclass(frozen=True)
class _Flag:
    on: str | None
    off: str | None
    takes_value: bool


def in_flags(message: str, command: click.Command) -> str:
    """``message`` with every option of ``command`` written as its flag. What stands in quotes stays.

    ``check_memory=False`` becomes ``--no-check-memory``, ``row=3`` ``--row 3``, ``head=`` ``--head``, ``n_ctx`` and a
    ``seed`` that is the subject of the sentence ``--n-ctx`` and ``--seed``.
    """
    flags = _flags(command)
    if not flags:
        return message
    for words in _PYTHON_ONLY:
        message = message.replace(words, "")
    names = "|".join(sorted(map(re.escape, flags), key=len, reverse=True))
    pattern = re.compile(
        rf"""(?<!\w)(?:'[^']*'|"[^"]*")(?!\w)"""  # quoted
        rf"""|(?<![\w./\\-])(?P<set>{names})=(?P<value>'[^']*'|"[^"]*"|[^\s;,()]*)"""
        rf"""|(?<![\w./\\-])(?P<name>{names})(?![\w/\\(=]|\.\w)(?P<verb>\ (?:is|holds|lies|both)\ )?"""
    )

    def replace(match: re.Match[str]) -> str:
        if match["set"] is not None:
            return _assigned(match[0], flags[match["set"]], match["value"])
        name = match["name"]
        # A word such as "head" is an option only as a subject, without "the" or "a" before it.
        before = message[: match.start()]
        if name is None or not ("_" in name or (match["verb"] and (not before or before.endswith(_BEFORE_SUBJECT)))):
            return match[0]
        flag = flags[name].on or flags[name].off
        return f"{flag}{match['verb'] or ''}"

    return pattern.sub(replace, message)


def typed(ctx: click.Context) -> str:
    """The command line that is being run, without options that change nothing but what is printed."""
    words = ["colm", str(ctx.info_name)]
    options = []
    for param in ctx.command.params:
        name = param.name or ""
        given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if not given or name in ("quiet", "verbose", "as_json"):
            continue
        value = ctx.params[name]
        if isinstance(param, click.Argument):
            words += map(str, value if isinstance(value, tuple) else (value,))
        elif isinstance(param, click.Option) and param.is_flag:
            options.append(param.opts[0] if value else param.secondary_opts[0])
        else:
            for each in value if param.multiple else (value,):
                options += [param.opts[0], str(each)]
    return shlex.join(words + options)


def _assigned(text: str, flag: _Flag, value: str) -> str:
    if flag.takes_value:
        return f"{flag.on} {value}" if value else str(flag.on)
    chosen = {"True": flag.on, "False": flag.off}.get(value, flag.on or flag.off)
    return text if chosen is None else chosen


def _flags(command: click.Command) -> dict[str, _Flag]:
    flags = {}
    for param in command.params:
        if not isinstance(param, click.Option) or param.name is None:
            continue
        on, off = param.opts[0], param.secondary_opts[0] if param.secondary_opts else None
        if param.is_flag and param.name.startswith("no_"):
            flags[param.name.removeprefix("no_")] = _Flag(None, on, False)
        else:
            flags[param.name] = _Flag(on, off, not param.is_flag)
    for alias, name in _ALIASES.get(command.name or "", {}).items():
        flags[alias] = flags[name]
    return flags
