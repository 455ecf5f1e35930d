"""Seeded damage to files: flipped bytes, files cut short, JSON values that nobody wrote."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DEEP = "[" * 100_000

# As JSON text, since some of them no Python value is written as.
HOSTILE = (
    "-1",
    "0",
    "1",
    "17",
    "1.5",
    "-0.0",
    "1e999",
    "NaN",
    "2147483648",
    "9223372036854775808",
    "1" + "0" * 400,
    "9" * 5000,
    "true",
    "false",
    "null",
    '""',
    '"7"',
    '"\\ud800"',
    '"\\u0000/../x"',
    json.dumps("x" * 1_000_000),
    "[]",
    "[[]]",
    "{}",
    '{"a": 1}',
    DEEP,
    DEEP + "]" * 100_000,
)
_MARK = "@@hostile@@"


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container within a value, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def replaced(text: str, rng: random.Random) -> str:
    """JSON with one value replaced, or one key left out."""
    value = json.loads(text)
    found = list(places(value))
    hostile = rng.choice(HOSTILE)
    if not found or rng.random() < 0.02:
        return hostile
    container, key = rng.choice(found)
    if isinstance(container, dict) and rng.random() < 0.1:
        del container[key]
        return json.dumps(value)
    container[key] = _MARK
    return json.dumps(value).replace(json.dumps(_MARK), hostile, 1)


def damage(path: Path, rng: random.Random, *, flips_below: int | None = None) -> str:
    """Damages a file in one of several ways and says how. Bytes are flipped among the first ``flips_below`` alone."""
    data = path.read_bytes()
    textual = path.suffix in (".json", ".jsonl")
    kind = rng.choice(["flip", "cut"] + ["value"] * 4 * textual + ["line"] * (path.suffix == ".jsonl"))
    if kind == "flip":
        end = min(len(data), flips_below or len(data))
        flipped = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 16])):
            flipped[rng.randrange(end)] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        return f"{path.name}: flipped"
    if kind == "cut":
        n = rng.choice([0, 1, len(data) - 1, rng.randrange(len(data))])
        path.write_bytes(data[:n])
        return f"{path.name}: cut to {n} of {len(data)} bytes"
    lines = data.decode().splitlines(keepends=True) if path.suffix == ".jsonl" else [data.decode()]
    i = rng.randrange(len(lines))
    if kind == "line":
        lines[i : i + 1] = rng.choice([[], [lines[i]] * 2, [lines[i].rstrip("\n")], ["\n"], [lines[i][:-9] + "\n"]])
    else:
        lines[i] = replaced(lines[i], rng) + "\n"
    path.write_text("".join(lines), newline="")
    return f"{path.name}: line {i + 1} of {len(lines)}, {kind}, now {lines[i][:80] if i < len(lines) else ''!r}"
