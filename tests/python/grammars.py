"""Random grammars: ordinary ones, and ones in which the ways of reading a text multiply."""

from __future__ import annotations

import random

__all__ = ["hostile_grammar", "small_grammar"]

_LETTERS = "abAB01 é日😀"


def small_grammar(rng: random.Random) -> str:
    """A grammar without left recursion over the letters a to d: each rule begins with a letter or uses later rules."""
    n_rules = rng.randrange(1, 5)
    lines = []
    for i in range(n_rules):
        names = [f"r{k}" for k in range(i + 1, n_rules)]
        choices = [
            _small_sequence(rng, names, ["root", *(f"r{k}" for k in range(n_rules))])
            for _ in range(rng.randrange(1, 4))
        ]
        lines.append(f"{'root' if i == 0 else f'r{i}'} ::= {' | '.join(choices)}")
    return "\n".join([*lines, 'r0 ::= "d"'])


def _small_sequence(rng: random.Random, later: list[str], any_rule: list[str]) -> str:
    parts = []
    safe = False  # something was read, so that any rule may follow
    for _ in range(rng.randrange(1, 4)):
        kind = rng.random()
        if kind < 0.5:
            part = rng.choice(('"a"', '"b"', '"ab"', "[a-c]", "[^a]", '"d"'))
        elif kind < 0.7:
            part = f"({_small_sequence(rng, later, later)} | {rng.choice(('[bc]', '[ad]'))})"
        else:
            names = any_rule if safe else later
            part = rng.choice(names) if names else "[ab]"
        if kind < 0.5 and rng.random() < 0.5:
            part += rng.choice("?*+") if rng.random() < 0.7 else rng.choice(("{2}", "{0,2}", "{1,3}"))
        else:
            safe = safe or kind < 0.5
        parts.append(part)
    return " ".join(parts)


def hostile_grammar(rng: random.Random) -> str:
    """A grammar whose stacks would be beyond counting, or one of random parts, some of them no GBNF."""
    n = rng.choice((5, 30, 300, 2000))
    a = rng.choice(('"a"', "[a-z]", ".", '"aa"', "[^b]"))
    match rng.randrange(12):
        case 0:  # a deep alternation
            rules = "\n".join(f'r{i} ::= r{i + 1} {a} | r{i + 1} "b"' for i in range(n))
            return f'root ::= r0\n{rules}\nr{n} ::= "a"'
        case 1:  # optional chains
            return f"root ::= {(a + rng.choice('?*') + ' ') * n}"
        case 2:  # nested repetition
            for _ in range(rng.choice((2, 3, 5, 8))):
                a = f"({a}{rng.choice('?*+')}){rng.choice(('{0,50}', '{1,50}', '{0,200}', '*', '+', '{2,}'))}"
            return f"root ::= {a}"
        case 3:  # ambiguous recursion
            other = rng.choice(("more more", "", f"{a} root", "more root root"))
            return f'root ::= {a} root root | {a} | {other}\nmore ::= {a} more | ""'
        case 4:
            return f"root ::= s\ns ::= {a} s {a}? s? | {a}? t\nt ::= {a} (s | t)? (s | t)?"
        case 5:  # left recursion, plain and behind what may be empty
            return rng.choice((f'root ::= root {a} | "b"', f"root ::= b root {a} | {a}\nb ::= c\nc ::= {a}?"))
        case 6:  # many groups
            depth = min(2 * n, 1000)
            return f"root ::= {'(' * depth}{a}{''.join(')' + rng.choice(('', '?', '*')) for _ in range(depth))}"
        case 7:  # alternatives that begin alike
            ways = " | ".join(" ".join([a] * rng.randrange(1, 6)) for _ in range(min(n, 300)))
            return f"root ::= ({ways}){rng.choice(('*', '{0,500}', '+'))}"
        case 8:
            return f"root ::= (x y z)*\nx ::= {a}* {a}*\ny ::= x? x? {a}?\nz ::= (x | y)*"
        case _:
            rules = [f"r{i} ::= {_alternatives(rng, rng.choice((1, 2, 4)))}" for i in range(4)]
            return "\n".join([f"root ::= {_alternatives(rng, 3)}", *rules])


def _alternatives(rng: random.Random, depth: int) -> str:
    sequences = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        parts = (_part(rng, depth) for _ in range(rng.choice((1, 2, 3, 6))))
        sequences.append(
            " ".join(p + rng.choice(("", "", "?", "*", "+", "{0,50}", "{3,}", "{0,2000}", "{7}")) for p in parts)
        )
    return " | ".join(sequences)


def _part(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth <= 0 or kind < 0.35:
        return f'"{"".join(rng.choice(_LETTERS) for _ in range(rng.choice((1, 1, 1, 2, 5, 30))))}"'
    if kind < 0.5:
        huge = "".join(chr(rng.randrange(0x4E00, 0x9FFF)) for _ in range(rng.choice((5, 500, 5000))))
        return rng.choice(("[a-z]", "[^a-z]", f"[{huge}]", f"[^{huge}]", "[\\U00000020-\\U0010FFFF]", ".", "[]", "<a>"))
    if kind < 0.8:
        return f"({_alternatives(rng, depth - 1)})"
    return rng.choice(("r0", "r1", "r2", "r3", "root"))
