"""What the random cases of several experts have in common, whatever their vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import expert_oracle as eo
import numpy as np

import colm_cpp as colm

# Engine and oracle agree to this. A text in which another outcome is nearer than the margin is drawn again.
TOLERANCE, MARGIN = 1e-3, 2e-3


class Step(Protocol):
    """What both oracles say of a token."""

    @property
    def margin(self) -> float: ...


Case = TypeVar("Case")
Text = TypeVar("Text")


def directed(rng: np.random.Generator, names: Sequence[str], kinds: Sequence[str]) -> tuple[str, eo.Head]:
    """A head that says when, for the engine and for the oracle, and one of the experts that it asks."""
    kind = str(rng.choice(kinds))
    who = int(rng.integers(1, len(names) + 1))
    return f"{kind}:{names[who - 1]}", ("to", who, kind)


def options(rng: np.random.Generator, holds: Sequence[int], n_tokens: tuple[int, int]) -> dict[str, Any]:
    """Of the options those that every case has."""
    return {
        "hold": int(rng.choice(holds)),
        "max_tokens": int(rng.integers(*n_tokens)),
        "seed": int(rng.integers(0, 2**31)),
        "temperature": float(rng.choice([0.0, 0.0, 0.7])),
    }


def certain(
    index: int, draw: Callable[[], Case], decide: Callable[[Case], Text], steps: Callable[[Text], Sequence[Step]]
) -> list[tuple[Case, Text]]:
    """1 to 4 texts of a group, drawn until rounding decides none of them."""
    n_texts = 1 + index % 4
    found: list[tuple[Case, Text]] = []
    for _ in range(20 * n_texts):
        case = draw()
        text = decide(case)
        if min(step.margin for step in steps(text)) > MARGIN:
            found.append((case, text))
        if len(found) == n_texts:
            return found
    raise AssertionError(f"group {index}: rounding would decide too many texts")


def write(pair: colm.Pair, prompts: Sequence[Any], each: Sequence[dict[str, Any]]) -> list[colm.Completion]:
    """The texts, alone or at once. A temperature draws from the whole distribution, as the oracles do."""
    every: list[Any] = [{**own, "top_k": 0, "top_p": 1.0, "min_p": 0.0} for own in each]
    if len(prompts) == 1:
        return [pair.generate(prompts[0], **every[0])]
    return pair.generate_batch(prompts, each=every, n_parallel=4)
