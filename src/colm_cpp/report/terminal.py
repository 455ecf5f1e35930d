"""Which tokens are deferred, as tables for a terminal or a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .parts import LABELS
from .patterns import Example, Patterns, expert_names, interval, percent
from .traces import TracedText
from .visible import on_one_line, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["DEFERRED_STYLE", "append_token", "mark_of", "print_patterns", "print_text", "safe"]

DEFERRED_STYLE = "bold cyan"
# Of several experts in turn.
EXPERT_STYLES = tuple(
    f"bold {color}"
    for color in ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta", "bright_yellow")
)
# The same in the demo: told apart by more than colour, and by brackets where there is none.
_MARKS = (
    (DEFERRED_STYLE, "[", "]"),
    ("underline magenta", "{", "}"),
    ("italic yellow", "<", ">"),
    ("reverse green", "(", ")"),
)

_BAR_CELLS = 20
_NUMBERS = frozenset(
    {"tokens", "deferred", "rate", "95% interval", "lift", "share of deferrals", "mean p", "runs", "share"}
)


def print_patterns(console: Console, patterns: Patterns, arm: str = "") -> None:
    """Shows all statistics.

    Args:
        console: where to; deferred tokens are coloured where it has colours, and stand in brackets where not.
        patterns: what to show.
        arm: who wrote the texts, for a line above; empty: no such line.
    """
    if arm:
        _line(console, f"arm {arm}")
    rate, mean = percent(patterns.rate), percent(patterns.mean_defer_prob)
    _line(
        console,
        f"{patterns.texts} texts, {patterns.tokens} tokens, {patterns.deferred} deferred ({rate}); "
        f"mean defer probability {mean}",
    )
    if patterns.experts:
        _line(console, "written by " + ", ".join(f"{name} {n}" for name, n in patterns.experts.items()))
    _print_parts(console, patterns)
    _print_runs(console, patterns)
    _print_tokens(console, patterns)
    _print_tenths(console, patterns)


def print_text(console: Console, text: TracedText, number: int) -> None:
    """Shows one text with its deferred tokens coloured, or in brackets where the console has no colours."""
    from rich.text import Text

    _line(console, f"text {number}: {text.title}; {text.n_deferred} of {len(text.tokens)} tokens deferred")
    shown = Text()
    experts = expert_names([text])
    before = None
    for i, token in enumerate(text.tokens):
        end = text.ended and i == len(text.tokens) - 1
        piece = "<end>" if end and token.deferred else visible(token.text)
        style, name = DEFERRED_STYLE, ""
        if experts and token.deferred:
            style = EXPERT_STYLES[experts.index(token.source) % len(EXPERT_STYLES)]
            name = token.source if token.source != before else ""  # where a run begins
        before = token.source
        append_token(console, shown, piece, token.deferred, style=style, name=name)
    console.print(shown, soft_wrap=True)
    if experts and not console.no_color:
        legend = [(f"{name} ", EXPERT_STYLES[i % len(EXPERT_STYLES)]) for i, name in enumerate(experts)]
        console.print(Text.assemble(*((safe(console, on_one_line(name)), style) for name, style in legend)))


def safe(console: Console, text: str) -> str:
    """``text`` without what the console's encoding lacks."""
    encoding = console.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _line(console: Console, text: str) -> None:
    console.print(safe(console, on_one_line(text)), style="bold", soft_wrap=True)


def mark_of(expert: int) -> tuple[str, str, str]:
    """How the demo marks an expert's tokens: a style, and brackets where the console has no colours. 1 is the first."""
    return _MARKS[(expert - 1) % len(_MARKS)]


def append_token(
    console: Console,
    shown: Text,
    piece: str,
    deferred: bool,
    *,
    style: str = DEFERRED_STYLE,
    name: str = "",
    brackets: str = "[]",
) -> None:
    """Adds a token; a deferred one in colour, or in brackets where the console has no colours.

    ``name``: of the expert that wrote it, which the brackets then hold.
    """
    if deferred and console.no_color:
        marked = piece.rstrip("\n")  # a bracket at the beginning of the next line would be hard to read
        who = f"{on_one_line(name)}:" if name else ""
        inside = f"{who}{marked or on_one_line(piece)}"
        shown.append(safe(console, f"{brackets[0]}{inside}{brackets[1]}{piece[len(marked) :]}"))
    else:
        shown.append(safe(console, piece), style=style if deferred else "")


def _bar(console: Console, share: float | None) -> str:
    cells = round(_BAR_CELLS * (share or 0.0))
    return ("█" if console.encoding.startswith("utf") else "#") * cells


def _table(columns: tuple[str, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in _NUMBERS else "left", overflow="fold")
    return table


def _print_parts(console: Console, patterns: Patterns) -> None:
    _line(console, "By kind of token (lift: rate divided by the overall rate; mean p: mean defer probability)")
    titles = ("kind", "tokens", "deferred", "rate", "95% interval", "", "lift", "share of deferrals", "mean p")
    table = _table((*titles, *patterns.experts))
    for count in patterns.parts:
        if count.tokens:
            table.add_row(
                LABELS[count.part],
                str(count.tokens),
                str(count.deferred),
                percent(count.rate),
                interval(count),
                _bar(console, count.rate),
                "-" if count.lift is None else f"{count.lift:.2f}",
                percent(count.share),
                percent(count.mean_defer_prob),
                *(str(n) for n in count.experts.values()),
            )
    console.print(table)


def _print_runs(console: Console, patterns: Patterns) -> None:
    runs = patterns.runs
    if runs.mean is None:
        _line(console, "Runs of deferred tokens: none")
        return
    _line(console, f"Runs of deferred tokens: {runs.runs}, mean length {runs.mean:.2f}, longest {runs.longest}")
    table = _table(("length", "runs", "share", ""))
    for name, n in runs.lengths.items():
        table.add_row(name, str(n), percent(n / runs.runs), _bar(console, n / runs.runs))
    console.print(table)


def _print_tokens(console: Console, patterns: Patterns) -> None:
    from rich.text import Text

    if not patterns.most_deferred:
        _line(console, f"Most deferred tokens: no token with at least {patterns.min_count} occurrences was deferred")
        return
    _line(console, f"Most deferred tokens (with at least {patterns.min_count} occurrences)")
    table = _table(("token", "tokens", "deferred", "rate", "95% interval", "in context"))
    for token in patterns.most_deferred:
        # As Text, what models wrote is no markup.
        text = Text(safe(console, f"'{on_one_line(token.text)}'"))
        context = Text("\n").join(_example(console, example) for example in token.examples)
        table.add_row(text, str(token.tokens), str(token.deferred), percent(token.rate), interval(token), context)
    console.print(table)


def _example(console: Console, example: Example) -> Text:
    from rich.text import Text

    shown = Text()
    append_token(console, shown, on_one_line(example.before), False)
    append_token(console, shown, on_one_line(example.token), True)
    append_token(console, shown, on_one_line(example.after), False)
    return shown


def _print_tenths(console: Console, patterns: Patterns) -> None:
    _line(console, "By tenth of the text (1 is the beginning)")
    table = _table(("tenth", "tokens", "deferred", "rate", ""))
    for i, tenth in enumerate(patterns.tenths, start=1):
        row = (str(i), str(tenth.tokens), str(tenth.deferred), percent(tenth.rate), _bar(console, tenth.rate))
        table.add_row(*row)
    console.print(table)
