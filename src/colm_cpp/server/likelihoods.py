"""How likely prompts are, for ``echo`` with ``logprobs``: the model's name says of whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import _core
from ..learn.likelihoods import Likelihoods, likelihoods
from ..options import BASE, GenerationOptions
from .answers import by_text, finite
from .errors import ApiError

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..learn.scoring import Scorer
    from .service import Job

__all__ = ["PromptLogprobs", "prompt_logprobs"]

# They depend on what was written before, and a prompt was not written by the pair.
_OF_TEXTS = ("target_rate", "leave_threshold")


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """One value for each token of a prompt; None for the first.

    Attributes:
        texts: what each token adds to the text.
        logprobs: natural log-probabilities.
        top: the likeliest tokens by their texts.
    """

    texts: list[str]
    logprobs: list[float | None]
    top: list[dict[str, float] | None]


async def prompt_logprobs(
    job: Job, options: GenerationOptions, prompts: Sequence[Sequence[int]], top: int
) -> list[PromptLogprobs]:
    """Reads the prompts with all models, or with the one that the model's name asks for.

    Raises:
        ApiError: 400, an option that says nothing of a text that is already written.
        ColmError: see :func:`.learn.likelihoods.likelihoods`.
    """
    changed = [name for name in _OF_TEXTS if getattr(options, name) is not None]
    changed += ["hold"] if options.hold != 1 else []
    changed += ["schedule"] if options.schedule != "constant" else []
    if options.strategy not in ("defer", "compose"):
        changed.append("strategy")
    if changed:
        raise ApiError(
            400,
            f"colm.{changed[0]} cannot be combined with echo and logprobs: it depends on what the pair wrote before; "
            "leave it out",
            param=f"colm.{changed[0]}",
        )
    entry = job.service.registry.entries[job.way.pair]
    alone = job.way.suffix.removeprefix(":")
    experts, head = entry.experts, None
    if len(experts) > 1 and alone in (BASE, *experts):
        # One model is asked, so one expert at most is read.
        experts = (alone,) if alone in experts else experts[:1]
        head = _core.training_free_head("always" if alone in experts else "never")
    async with entry.reading:  # one reader at a time
        return await asyncio.to_thread(_read, entry.scorer, job.pair, experts, head, options, prompts, top)


def _read(
    scorer: Callable[[Pair, Sequence[str]], Scorer],
    pair: Pair,
    experts: Sequence[str],
    head: _core.Head | None,
    options: GenerationOptions,
    prompts: Sequence[Sequence[int]],
    top: int,
) -> list[PromptLogprobs]:
    own, chosen = pair.heads().with_options(options)
    known = likelihoods(
        scorer(pair, experts),
        prompts,
        own if head is None else head,
        threshold=chosen.values["threshold"],
        strategy=options.strategy,
        seed=chosen.seed,
        top=top,
    )
    return [_of(pair, prompt, one, top) for prompt, one in zip(prompts, known, strict=True)]


def _of(pair: Pair, prompt: Sequence[int], known: Likelihoods, top: int) -> PromptLogprobs:
    texts = [pair.detokenize([token], special=True) for token in prompt]
    tops: list[dict[str, float] | None] = []
    for listed in known.top:
        named = by_text((pair.detokenize([token], special=True), logprob) for token, logprob in listed)
        tops.append(named if top else None)
    return PromptLogprobs(texts, [None, *map(finite, known.logprobs)], [None, *tops])
