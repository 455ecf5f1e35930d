"""Steps of the models: seconds of bare decodes, alone and in batches."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .._shown import shown
from ..engine.pair import Pair
from ..errors import OptionError
from ..options import ASSISTANT, BASE

__all__ = [
    "BATCH_SIZES",
    "PROMPT",
    "Call",
    "Spread",
    "StepCosts",
    "can_time",
    "check_room",
    "costs_of",
    "schedule",
    "time_calls",
    "time_steps",
    "with_assistant",
]

Call = tuple[str, int, int, bool, bool]  # as the pair repeats them: model, place, tokens, logits, hidden state
PROMPT = (
    "Question: A baker sells 24 loaves in the morning at 3 dollars each and a third as many in the afternoon at half "
    "the price. How much money does the baker take in that day? Explain step by step.\nAnswer:"
)
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_ROUNDS = 3  # of :func:`time_steps`
_HIDDEN = "with its hidden state"  # no name of an expert
_BEHIND = max(BATCH_SIZES) + 8  # tokens behind the prompt that bare decodes need room for
_N_CTX = _BEHIND + 1  # the smallest context size that :func:`time_steps` needs


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements of one quantity.

    Attributes:
        median: their median.
        low: their first quartile.
        high: their third quartile.
        n: their number.
    """

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high, len(values))


@dataclass(frozen=True, slots=True)
class StepCosts:
    """Seconds of bare decodes.

    Attributes:
        base: tokens in the batch -> seconds of the base. The last token has an output.
        experts: name -> tokens in the batch -> seconds of that expert.
        base_hidden: seconds of the base for one token with its hidden state, which learned heads need.
    """

    base: dict[int, Spread]
    experts: dict[str, dict[int, Spread]]
    base_hidden: Spread

    def batch(self, expert: str, n_tokens: float) -> float:
        """Seconds of an expert's batch of ``n_tokens``, between the sizes that were measured."""
        measured = self.experts[expert]
        sizes = sorted(measured)
        if n_tokens >= sizes[-1]:
            return measured[sizes[-1]].median * n_tokens / sizes[-1]
        return float(np.interp(n_tokens, sizes, [measured[size].median for size in sizes]))

    def predicted(self, rates: Mapping[str, float], *, hidden: bool) -> float:
        """Tokens per second of one text without look-ahead, where each expert writes such a share of the tokens. Each
        of its calls then reads 1 / rate tokens."""
        base = self.base_hidden.median if hidden else self.base[1].median
        calls = (rate * self.batch(expert, 1 / rate) for expert, rate in rates.items() if rate > 0.0)
        return 1 / (base + sum(calls))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields. Those of a pair with one assistant lie under ``assistant``."""
        return with_assistant(asdict(self))


def with_assistant(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with ``assistant`` in place of ``experts`` where that is the only one, as earlier versions had it."""
    if tuple(fields["experts"]) != (ASSISTANT,):
        return fields
    return {
        (ASSISTANT if name == "experts" else name): value[ASSISTANT] if name == "experts" else value
        for name, value in fields.items()
    }


def can_time(pair: Pair) -> bool:
    """Whether :func:`time_steps` can measure the pair: its context is large enough, and all models are here."""
    return pair.n_ctx >= _N_CTX and not pair.remote


def time_steps(*pairs: Pair) -> list[StepCosts]:
    """Measures the seconds of bare decodes of all models, after a prompt that fits the context.

    Several pairs are measured in turns, so that a change in the machine's speed affects all alike.

    Args:
        pairs: loaded pairs.

    Raises:
        OptionError: a context is too small, or an expert is on another machine.
    """
    prompts = [pair.tokenize(PROMPT)[: max(1, pair.n_ctx - _BEHIND)] for pair in pairs]
    for pair, prompt_ids in zip(pairs, prompts, strict=True):
        check_room(pair, prompt_ids, 4, _ROUNDS)
    rounds = [
        [time_calls(pair, ids, schedule(ids, pair.names)) for pair, ids in zip(pairs, prompts, strict=True)]
        for _ in range(_ROUNDS)
    ]
    return [costs_of(of_pair) for of_pair in zip(*rounds, strict=True)]


def check_room(pair: Pair, prompt_ids: Sequence[int], n_tokens: int, rounds: int) -> None:
    """Raises OptionError where the context has no room for what is measured, or too little is to be measured."""
    if n_tokens < 4:
        raise OptionError(f"n_tokens is {shown(n_tokens)}; it must be a whole number, 4 or more")
    if rounds < 1:
        raise OptionError(f"rounds is {shown(rounds)}; it must be 1 or more")
    needed = max(len(prompt_ids) + n_tokens, len(prompt_ids) + _BEHIND)
    if needed > pair.n_ctx:
        raise OptionError(
            f"the prompt of {len(prompt_ids)} tokens and the measured tokens after it need n_ctx={needed}; the pair "
            f"has n_ctx={pair.n_ctx}; shorten the prompt or load with a larger n_ctx"
        )


def time_calls(pair: Pair, prompt_ids: Sequence[int], calls: Sequence[tuple[str, Call]]) -> dict[str, list[float]]:
    """Seconds of each decode that is of interest, by what it is."""
    seconds = pair.replay(_text(prompt_ids, _BEHIND), [call for _, call in calls])
    found: dict[str, list[float]] = {}
    for (what, _), value in zip(calls, seconds, strict=True):
        if what:
            found.setdefault(what, []).append(value)
    return found


def schedule(prompt_ids: Sequence[int], names: Sequence[str]) -> list[tuple[str, Call]]:
    """Decodes with the prompt in the cache: single tokens and batches of each model, each some times."""
    n = len(prompt_ids)
    calls: list[tuple[str, Call]] = []
    for model in names:
        calls.append(("", (model, 0, n, False, False)))
        for size in BATCH_SIZES:
            calls += [(f"{model} {size}", (model, n, size, True, False))] * 3
            if (model, size) == (BASE, 1):  # right behind, because the two are compared
                calls += [(_HIDDEN, (BASE, n, 1, True, True))] * 3
    return calls


def _text(prompt_ids: Sequence[int], n_more: int) -> list[int]:
    """The prompt and some of it again."""
    return [*prompt_ids, *(prompt_ids[i % len(prompt_ids)] for i in range(n_more))]


def costs_of(rounds: Sequence[dict[str, list[float]]]) -> StepCosts:
    """The costs, from the seconds of each round."""
    # Of each round the best of three: what the decode takes, not what else the machine was doing.
    values = {what: [min(found[what]) for found in rounds] for what in rounds[0]}
    return StepCosts(
        base={size: Spread.of(values[f"{BASE} {size}"]) for size in BATCH_SIZES},
        experts={
            name: {size: Spread.of(values[f"{name} {size}"]) for size in BATCH_SIZES}
            for name in dict.fromkeys(what.partition(" ")[0] for what in values if what != _HIDDEN)
            if name != BASE
        },
        base_hidden=Spread.of(values[_HIDDEN]),
    )
