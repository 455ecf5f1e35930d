"""Costs of answers: by counts with step times, and by the clock.

Counts do not depend on the load of the machine. The base makes one decode for each step and reads the tokens of a hold
in it. An expert reads all unread tokens in one batch each time that it is asked. Each decode is weighted with its
seconds, measured alone on the machine when the evaluation began, and kept in ``meta.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import CorpusError
from ..options import ASSISTANT, STRATEGIES

if TYPE_CHECKING:
    from ..traces.record import Record
    from .steps import StepCosts

__all__ = ["ROUTER_TOKENS", "AnswerCosts", "Measure", "StepTimes", "answer_costs", "confidence"]

Floats = npt.NDArray[np.float64]
Measure = Literal["steps per problem", "steps per token", "clock per problem", "clock per token", "assistant tokens"]

ROUTER_TOKENS = 16
"""Tokens of its own answer that the base writes before a question router decides."""

_NO_HIDDEN = ("never", "always", "random")  # heads that do not look at the hidden state


@dataclass(frozen=True)
class StepTimes:
    """Seconds of decodes, measured.

    Attributes:
        base: tokens in a batch -> seconds of the base.
        experts: name -> tokens in a batch -> seconds of that expert; in the pair's order.
        base_hidden: seconds of the base for one token with its hidden state, which learned heads need.
    """

    base: Mapping[int, float]
    experts: Mapping[str, Mapping[int, float]]
    base_hidden: float

    @classmethod
    def of(cls, costs: StepCosts) -> StepTimes:
        """The medians of :func:`colm_cpp.evaluate.steps.time_steps`."""
        base, *experts = (
            {size: spread.median for size, spread in model.items()} for model in (costs.base, *costs.experts.values())
        )
        return cls(base, dict(zip(costs.experts, experts, strict=True)), costs.base_hidden.median)

    def scaled(self, now: StepTimes, then: StepTimes) -> StepTimes:
        """These times, measured beside ``now``, at the speed that the machine had when ``then`` was measured.

        ``now`` and ``then`` are of one pair.
        """

        def seconds(times: StepTimes) -> float:
            return times.base[1] + sum(model[1] for model in times.experts.values())

        factor = seconds(then) / seconds(now)

        def scaled(model: Mapping[int, float]) -> dict[int, float]:
            return {size: factor * of_batch for size, of_batch in model.items()}

        experts = {name: scaled(model) for name, model in self.experts.items()}
        return StepTimes(scaled(self.base), experts, factor * self.base_hidden)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, in milliseconds. Those of a pair with one assistant lie under ``assistant_ms``."""

        def ms(model: Mapping[int, float]) -> dict[str, float]:
            return {str(size): round(1000 * seconds, 4) for size, seconds in model.items()}

        experts = {name: ms(model) for name, model in self.experts.items()}
        alone = tuple(experts) == (ASSISTANT,)
        return {
            "base_ms": ms(self.base),
            **({"assistant_ms": experts[ASSISTANT]} if alone else {"experts_ms": experts}),
            "base_hidden_ms": round(1000 * self.base_hidden, 4),
        }

    @classmethod
    def from_dict(cls, value: Any, names: Sequence[str] = (ASSISTANT,)) -> StepTimes:
        """Reads the result of :meth:`to_dict`. ``names``: the experts in the pair's order, which JSON does not keep.

        Raises:
            CorpusError: ``given`` has another form, or times of other experts.
        """
        try:
            given = value["experts_ms"] if "experts_ms" in value else {ASSISTANT: value["assistant_ms"]}
            models = [
                {int(size): float(ms) / 1000 for size, ms in model.items()}
                for model in (value["base_ms"], *(given[name] for name in names))
            ]
            experts = dict(zip(names, models[1:], strict=True))
            made = cls(models[0], experts, float(value["base_hidden_ms"]) / 1000)
            times = np.array([*(ms for model in models for ms in model.values()), made.base_hidden])
            sizes = [size for model in models for size in model]
            if not (all(1 in model for model in models) and min(sizes) > 0 and np.all(np.isfinite(times))):
                raise ValueError("it lacks a batch of one token, or has an impossible size or time")
            if not np.all(times > 0):
                raise ValueError("it has a time that is not positive")
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise CorpusError(
                f"'steps' in meta.json is damaged ({error}); delete that entry to measure the step times again"
            ) from error
        return made


def _batches(times: Mapping[int, float], sizes: Floats) -> Floats:
    """Seconds of batches: between the measured sizes by a line, beyond the largest by its seconds for a token."""
    known = np.array(sorted(times), np.float64)
    seconds = np.array([times[int(size)] for size in known])
    beyond = sizes * (seconds[-1] / known[-1])
    batches: Floats = np.where(sizes > known[-1], beyond, np.interp(sizes, known, seconds))
    return batches


@dataclass(frozen=True)
class AnswerCosts:
    """Costs of one arm's answers, one entry for each problem.

    Attributes:
        n_tokens: tokens written.
        n_deferred: tokens deferred.
        prompt_s: prefill seconds of all models that were asked, by step times; None without step times.
        writing_s: seconds after the prefill, by step times; None without step times.
        prompt_clock: prefill seconds by the clock. For an answer that was not written alone: estimated from the
            seconds per token of the arm's other answers. None if no answer was written alone.
        writing_clock: seconds after the prefill by the clock, estimated in the same way; None in the same case.
    """

    n_tokens: Floats
    n_deferred: Floats
    prompt_s: Floats | None
    writing_s: Floats | None
    prompt_clock: Floats | None
    writing_clock: Floats | None

    def of(self, measure: Measure) -> tuple[Floats, Floats] | None:
        """Numerators and denominators of the cost: its sum over the problems is divided by that of the others.

        Returns:
            None where the cost is not known.
        """
        if measure == "assistant tokens":
            return self.n_deferred, self.n_tokens
        by_clock = measure.startswith("clock")
        prompt, writing = (self.prompt_clock, self.writing_clock) if by_clock else (self.prompt_s, self.writing_s)
        if prompt is None or writing is None:
            return None
        if measure.endswith("token"):
            return writing, self.n_tokens
        return prompt + writing, np.ones_like(writing)


def answer_costs(
    records: Sequence[Record], steps: StepTimes | None, head: str = "never", strategy: str = STRATEGIES[0]
) -> AnswerCosts:
    """What answers cost.

    Args:
        records: the answers of one arm.
        steps: step times; None: not known.
        head: what ``meta.json`` says of the arm's head: a learned one needs the base's hidden state at every step.
        strategy: the arm's. ``compose`` asks all experts at each deferred token, others ask the one that writes it.
    """
    n_tokens = np.array([record.n_tokens for record in records], np.float64)
    n_deferred = np.array([record.n_deferred for record in records], np.float64)
    prompt_clock, writing_clock = _by_clock(records, n_tokens)
    prompt_s = writing_s = None
    if steps is not None:
        step = steps.base[1] if head.partition(":")[0] in _NO_HIDDEN else steps.base_hidden
        parts = [_by_steps(record, steps, step, all_asked=strategy == "compose") for record in records]
        prompt_s, writing_s = (np.array(column, np.float64) for column in zip(*parts, strict=True))
    return AnswerCosts(n_tokens, n_deferred, prompt_s, writing_s, prompt_clock, writing_clock)


def _by_steps(record: Record, steps: StepTimes, base_step: float, *, all_asked: bool) -> tuple[float, float]:
    """Seconds of the prefill, and seconds after it."""
    prompt = writing = 0.0
    if record.base_steps:
        prompt += float(_batches(steps.base, np.array([record.prompt_tokens], np.float64))[0])
        if record.held:  # where it is asked next, it reads the run in one batch
            sizes = np.diff(np.setdiff1d(np.arange(record.n_tokens), record.held)).astype(np.float64)
            writing += float(np.sum(_batches(steps.base, sizes))) * base_step / steps.base[1]
        else:
            writing += (record.base_steps - 1) * base_step  # the prompt's last token gave the first
    wrote = np.frombuffer(record.experts.encode(), np.uint8) - ord("0")
    for number, times in enumerate(steps.experts.values(), start=1):
        asked = np.flatnonzero(wrote != 0 if all_asked else wrote == number)
        if asked.size:
            # When it is first asked, an expert reads the prompt too; then what was written since it was last asked.
            first = np.array([record.prompt_tokens + asked[0]], np.float64)
            prompt += float(_batches(times, first)[0])
            writing += float(np.sum(_batches(times, np.diff(asked).astype(np.float64))))
    return prompt, writing


def _by_clock(records: Sequence[Record], n_tokens: Floats) -> tuple[Floats | None, Floats | None]:
    alone = np.array([record.n_parallel == 1 for record in records], bool)
    writing = np.array([record.decode_s for record in records])
    prompt = np.array([record.prefill_s for record in records])
    lengths = np.array([record.prompt_tokens for record in records], np.float64)
    if not alone.any() or not writing[alone].sum() > 0:
        return None, None
    per_token = writing[alone].sum() / max(n_tokens[alone].sum(), 1.0)
    per_prompt_token = prompt[alone].sum() / max(lengths[alone].sum(), 1.0)
    return np.where(alone, prompt, per_prompt_token * lengths), np.where(alone, writing, per_token * n_tokens)


def confidence(records: Sequence[Record]) -> Floats | None:
    """The base's mean log-probability of the first tokens of its own answers. A question router decides by it.

    Args:
        records: the base's answers.

    Returns:
        ``[n]``; None if a record was made by a version that kept no log-probabilities.
    """
    means = []
    for record in records:
        if record.logprobs is None:
            return None
        known = [p for p in record.logprobs[:ROUTER_TOKENS] if p is not None]
        means.append(sum(known) / len(known) if known else -np.inf)
    return np.array(means, np.float64)
