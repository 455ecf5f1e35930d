"""How likely prompts are: of the base, the assistant, their mixture, and the pair as it routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.pair import Pair
from .errors import ApiError
from .names import Way

__all__ = ["PromptLogprobs", "prompt_logprobs"]


@dataclass(frozen=True)
class PromptLogprobs:
    """One value for each token of a prompt; None for the first."""

    texts: list[str]
    logprobs: list[float | None]
    top: list[dict[str, float] | None]


def prompt_logprobs(
    pair: Pair, way: Way, own: Mapping[str, Any], prompts: Sequence[Sequence[int]], k: int
) -> list[PromptLogprobs]:
    """Reads the prompts with both models."""
    raise ApiError(400, "echo with logprobs is not supported yet", param="logprobs")
