"""Rules of a grammar for JSON while they are made, and as GBNF."""

from __future__ import annotations

from ..errors import GrammarError
from ._json_text import SHARED_RULES

__all__ = ["Name", "Symbols", "written"]


class Name(str):
    """The name of a rule, among pieces of GBNF; ``*`` or ``{m,n}`` may follow it."""

    __slots__ = ()


# One alternative of a rule: pieces of GBNF and names of rules.
Symbols = list["str | Name"]


def written(rules: dict[str, list[Symbols]]) -> str:
    """GBNF of the rules, without alternatives that no text ends."""
    ending = set(SHARED_RULES)
    kept: dict[str, list[Symbols]] = {name: [] for name in rules}

    # What an alternative still waits for, until all of it ends.
    open_names = {
        (name, i): {_plain(s) for s in symbols if type(s) is Name and s not in ending and _must(s)} - ending
        for name, alternatives in rules.items()
        for i, symbols in enumerate(alternatives)
    }
    users: dict[str, list[tuple[str, int]]] = {}
    for key, names in open_names.items():
        for n in names:
            users.setdefault(n, []).append(key)
    todo = [name for (name, _), names in open_names.items() if not names]
    while todo:
        name = todo.pop()
        if name in ending:
            continue
        ending.add(name)
        for key in users.get(name, ()):
            open_names[key].discard(name)
            if not open_names[key]:
                todo.append(key[0])
    if "root" not in ending:
        raise GrammarError("the JSON schema cannot be satisfied by any value")
    for (name, i), names in open_names.items():
        if not names:
            kept[name].append(_without_dead(rules[name][i], ending))
    lines: dict[str, str] = {}
    reach = ["root"]
    while reach:
        name = reach.pop()
        if name in lines:
            continue
        if name in SHARED_RULES:
            lines[name] = SHARED_RULES[name]
            reach += [other for other in SHARED_RULES if other in SHARED_RULES[name]]
            continue
        lines[name] = " | ".join(" ".join(symbols) or '""' for symbols in kept[name])
        reach += [n for symbols in kept[name] for s in symbols if type(s) is Name and (n := _plain(s)) not in lines]
    return "\n".join(f"{name} ::= {body}" for name, body in lines.items()) + "\n"


def _plain(name: Name) -> str:
    return name.rstrip("*").partition("{")[0] if name[-1] in "*}" else name


def _must(name: Name) -> bool:
    """Whether the rule occurs at least once."""
    return name[-1] not in "*}" or not (name[-1] == "*" or "{0," in name)


def _without_dead(symbols: Symbols, ending: set[str]) -> Symbols:
    return [s for s in symbols if type(s) is not Name or _must(s) or _plain(s) in ending]
