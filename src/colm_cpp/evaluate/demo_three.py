"""The demo's three models on problems that need a story, a fact and a sum. No part of ``import colm_cpp``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..answers.answering import Arm
from ..engine.pair import DEFAULT_THRESHOLD
from ..errors import HeadError
from ..heads.head import Head
from ..heads.restricted import for_one
from .demo import Answer, own_arm

if TYPE_CHECKING:
    from ..engine.pair import Pair

__all__ = ["arms_of_several", "shares"]


def arms_of_several(pair: Pair) -> tuple[Arm, ...]:
    """Who solves: each model alone (``base`` or an expert's name), the base with each one expert (``base+NAME``), and
    all ``together``.

    With one expert the pair's own head decides, without the scores of the others and at the same threshold.

    Raises:
        HeadError: the pair's head does not choose among its experts.
    """
    together, experts = own_arm(pair), pair.names[1:]
    if not isinstance(together.head, Head) or sorted(together.head.expert_names) != sorted(experts):
        raise HeadError(f"the head does not choose among {' and '.join(experts)}; load the models with one that does")
    alone = [Arm("base", "never", DEFAULT_THRESHOLD, None, {})]
    alone += [Arm(name, f"always:{name}", DEFAULT_THRESHOLD, None, {}) for name in experts]
    pairs = [replace(together, name=f"base+{name}", head=for_one(together.head, name)) for name in experts]
    return (*alone, *pairs, together)


def shares(answered: Sequence[Answer], n_experts: int) -> tuple[float, ...]:
    """The share of the tokens that each expert wrote in one arm's answers, 0 to 1."""
    written = "".join(answer.record.experts for answer in answered)
    return tuple(written.count(str(expert)) / max(len(written), 1) for expert in range(1, n_experts + 1))
