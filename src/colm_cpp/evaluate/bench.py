"""Benchmarks: the seconds of a pair's decodes on this machine, and the speed of its texts.

Steps are timed as bare decodes, and texts as users write them. The arms take turns, so a change in the machine's speed
affects all of them. Medians are reported with quartiles.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import psutil

from ..engine.pair import Pair
from ..errors import ColmError, OptionError
from ..heads.head import Head
from ..results import Completion
from ._deferring import always, at_rate, calibrated, greedy, together
from .steps import PROMPT, Spread, StepCosts, check_room, costs_of, schedule, time_calls, with_assistant

__all__ = ["Arm", "Bench", "run_bench", "verdict"]

RATES = (0.0, 0.1, 0.2, 0.4, 1.0)
AT_ONCE = (1, 4, 8)
_LOOKAHEADS: tuple[int | Literal["auto"], ...] = (0, "auto")
_RATE_AT_ONCE = 0.2
_TEMPERATURE = 0.8
_CLEARLY = 1.05
_READING = 16  # tokens
_BATCHES_WELL = 2.0


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to write.

    Attributes:
        name: the arm's name: a model ``alone``, ``both``, with several experts ``base and NAME`` or ``all``.
        rate: the wanted deferral rate; None for a model alone.
        lookahead: as for generate().
        n_texts: texts at a time.
        tokens_per_s: tokens per second of all texts together.
        deferral_rate: the measured deferral rate, 0 to 1.
        assistant_calls: calls of the experts for each token. In a batch: the experts' decodes for each token.
        predicted: tokens/s predicted from the step times; None if they allow no prediction.
    """

    name: str
    rate: float | None
    lookahead: int | Literal["auto"]
    n_texts: int
    tokens_per_s: Spread
    deferral_rate: float
    assistant_calls: float
    predicted: float | None = None

    @property
    def title(self) -> str:
        """In a few words."""
        return _title(self.name, self.rate, self.lookahead, self.n_texts)


def _title(name: str, rate: float | None, lookahead: int | Literal["auto"], n_texts: int) -> str:
    of_rate = "" if rate is None else f", {rate:.0%}"
    texts = "" if n_texts == 1 else f", {n_texts} texts at once"
    ahead = "" if lookahead == 0 else ", look-ahead"
    return f"{name}{of_rate}{ahead}{texts}"


@dataclass(frozen=True, slots=True)
class Bench:
    """All measurements of a pair.

    Attributes:
        base: name of the base's file.
        experts: name of each expert -> name of its file.
        head: the head that decided; ``random`` if the pair's head has no calibration table.
        n_threads: threads of each model for single tokens.
        steps: step times.
        overhead: seconds of a text divided by the seconds of its bare decodes; 1 is no overhead.
        arms: the speed of each arm.
        peak_bytes: the most memory that the process used; None if the system does not tell.
        seconds: duration of the benchmark.
    """

    base: str
    experts: dict[str, str]
    head: str
    n_threads: int | None
    steps: StepCosts
    overhead: Spread
    arms: tuple[Arm, ...]
    peak_bytes: int | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields. Those of a pair with one assistant name its file under ``assistant``."""
        fields = {**asdict(self), "steps": self.steps.to_dict(), "verdict": verdict(self)}
        return with_assistant(fields)

    def arm(
        self, name: str, *, n_texts: int = 1, rate: float | None = None, lookahead: int | Literal["auto"] = 0
    ) -> Arm | None:
        """The arm of that description."""
        wanted = (name, n_texts, rate, lookahead)
        return next((arm for arm in self.arms if (arm.name, arm.n_texts, arm.rate, arm.lookahead) == wanted), None)


def run_bench(
    pair: Pair,
    *,
    prompt: str = PROMPT,
    n_tokens: int = 48,
    rounds: int = 5,
    n_threads: int | None = None,
    on_progress: Callable[[float, str], None] | None = None,
) -> Bench:
    """Measures a pair.

    Args:
        pair: a loaded pair. ``random`` replaces a head without a calibration table. With several experts each one
            beside the base is measured with ``random`` directed to it, and a calibrated head that chooses among
            them with all.
        prompt: the prompt of every text.
        n_tokens: tokens of each text, 4 or more. A model may end a text earlier.
        rounds: how often each arm is measured, 1 or more.
        n_threads: the number of threads, which is only reported in the result.
        on_progress: called with the finished share, 0 to 1, and the name of the current measurement.

    Raises:
        OptionError: ``n_tokens`` or ``rounds`` is too small, or the prompt is too long for the context.
    """
    prompt_ids = pair.tokenize(prompt)
    check_room(pair, prompt_ids, n_tokens, rounds)
    start = time.monotonic()
    head: Head | str = calibrated(pair.head, pair.names[1:]) or "random"
    say = on_progress or (lambda share, note: None)
    bench = _Bench(pair, prompt_ids, head, n_tokens)

    n_turns = rounds * (1 + len(bench.arms))
    done = 0
    steps: list[dict[str, list[float]]] = []
    overhead: list[float] = []
    for number in range(rounds):
        say(done / n_turns, "steps of the models")
        steps.append(bench.time_steps())
        overhead.append(bench.time_overhead())
        done += 1
        # Every second round backwards: no arm is always behind the same other one.
        order = bench.arms if number % 2 == 0 else bench.arms[::-1]
        for arm in order:
            say(done / n_turns, arm.describe())
            arm.turn(pair, prompt_ids, n_tokens)
            done += 1
    say(1.0, "done")
    costs = costs_of(steps)
    return Bench(
        base=str(pair.base["name"]),
        experts={name: str(facts["name"]) for name, facts in pair.experts.items()},
        head=head if isinstance(head, str) else head.name or "learned",
        n_threads=n_threads,
        steps=costs,
        overhead=Spread.of(overhead),
        arms=tuple(arm.result(costs) for arm in bench.arms),
        peak_bytes=_peak_bytes(),
        seconds=time.monotonic() - start,
    )


class _Bench:
    """The arms, and the bare decodes."""

    def __init__(self, pair: Pair, prompt_ids: list[int], head: Head | str, n_tokens: int) -> None:
        self._pair = pair
        self._prompt_ids = prompt_ids
        self._n_tokens = n_tokens
        experts = pair.names[1:]
        ways = together(head, experts)
        self._deciding = next(iter(ways.values()))
        self.arms = [
            _Arm("base alone", None, 0, 1, "never"),
            *(_Arm(f"{name} alone", None, 0, 1, always(name, experts)) for name in experts),
            *(_Arm(name, rate, 0, 1, own) for name, own in ways.items() for rate in RATES),
            *(_Arm(name, rate, "auto", 1, own) for name, own in ways.items() for rate in RATES if rate > 0),
            *(_Arm("base alone", None, 0, n, "never") for n in AT_ONCE[1:]),
            *(_Arm(name, _RATE_AT_ONCE, 0, n, own) for name, own in ways.items() for n in AT_ONCE[1:]),
        ]
        self._calls = schedule(prompt_ids, pair.names)

    def time_steps(self) -> dict[str, list[float]]:
        """Seconds of each decode that is of interest, by what it is."""
        return time_calls(self._pair, self._prompt_ids, self._calls)

    def time_overhead(self) -> float:
        """Of the engine with everything, over the decodes that it made."""
        self._pair.forget()
        start = time.perf_counter()
        stream = self._pair.stream(
            self._prompt_ids,
            head=self._deciding,
            **at_rate(self._deciding, _RATE_AT_ONCE),
            **greedy(self._n_tokens),
            lookahead=0,
        )
        stream.completion()
        engine = time.perf_counter() - start
        calls = stream.calls
        bare = sum(self._pair.replay(stream.token_ids, calls))
        return engine / bare


class _Arm:
    """One arm while it is being measured."""

    def __init__(
        self, name: str, rate: float | None, lookahead: int | Literal["auto"], n_texts: int, head: Head | str
    ) -> None:
        self._name, self._rate, self._lookahead, self._n_texts, self._head = name, rate, lookahead, n_texts, head
        self._speeds: list[float] = []
        self._n_tokens = self._n_deferred = self._n_calls = 0
        self._n_by: dict[str, int] = {}

    def describe(self) -> str:
        """In a few words."""
        return _title(self._name, self._rate, self._lookahead, self._n_texts)

    def turn(self, pair: Pair, prompt_ids: list[int], n_tokens: int) -> None:
        """Writes once."""
        options = {"head": self._head, **greedy(n_tokens)}
        if self._rate is not None:
            options |= at_rate(self._head, self._rate)
        if self._n_texts == 1:
            out = pair.generate(prompt_ids, lookahead=self._lookahead, **options)
            seconds, texts, n_calls = out.stats.decode_s, [out], out.stats.assistant_calls
            n_timed = out.stats.generated_tokens
        else:
            # Sampled, so that they are not the same text. What the prompt takes is in both, and is taken off.
            options |= {"temperature": _TEMPERATURE, "seed": 1}
            seconds, texts, n_calls = _at_once(pair, prompt_ids, self._n_texts, options)
            n_timed = _n_generated(texts)
            short_s, short, _ = _at_once(pair, prompt_ids, self._n_texts, {**options, "max_tokens": 2})
            if seconds > short_s and n_timed > _n_generated(short):
                seconds -= short_s
                n_timed -= _n_generated(short)
        if seconds > 0 and n_timed > 0:
            self._speeds.append(n_timed / seconds)
        self._n_tokens += _n_generated(texts)
        self._n_deferred += sum(round(text.stats.deferral_rate * text.stats.generated_tokens) for text in texts)
        self._n_calls += n_calls
        for text in texts:
            for expert, did in text.stats.experts.items():
                self._n_by[expert] = self._n_by.get(expert, 0) + did.tokens

    def result(self, costs: StepCosts) -> Arm:
        """What came of it."""
        if not self._speeds:
            raise OptionError("the models ended every text at its first token; give another prompt")
        measured = self._n_deferred / self._n_tokens
        predicted = None
        if self._n_texts == 1 and self._lookahead == 0:
            alone = self._name.removesuffix(" alone")
            if alone in costs.experts:
                predicted = 1 / costs.experts[alone][1].median
            else:
                rates = {name: self._n_by.get(name, 0) / self._n_tokens for name in costs.experts}
                predicted = costs.predicted(rates, hidden=isinstance(self._head, Head))
        return Arm(
            self._name,
            self._rate,
            self._lookahead,
            self._n_texts,
            Spread.of(self._speeds),
            measured,
            self._n_calls / self._n_tokens,
            predicted,
        )


def _at_once(
    pair: Pair, prompt_ids: list[int], n_texts: int, options: dict[str, Any]
) -> tuple[float, list[Completion], int]:
    """The seconds that some texts took, the texts, and the experts' decodes."""
    with pair.stream_batch([prompt_ids] * n_texts, n_parallel=n_texts, **options) as stream:
        start = time.perf_counter()
        results = [result for _, result in stream]
        seconds = time.perf_counter() - start
        n_calls = sum(stream.counts[f"{name}_decodes"] for name in pair.names[1:])
    texts = [result for result in results if isinstance(result, Completion)]
    for result in results:
        if isinstance(result, ColmError):
            raise result
    return seconds, texts, n_calls


def _n_generated(texts: Sequence[Completion]) -> int:
    return sum(text.stats.generated_tokens for text in texts)


def _peak_bytes() -> int | None:
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def verdict(bench: Bench) -> str:
    """The conclusion for a user, in plain words; with several experts a sentence for each."""
    one, eight = bench.arm("base alone"), bench.arm("base alone", n_texts=AT_ONCE[-1])
    said = [_of_expert(bench, name) for name in bench.experts]
    if one is None or eight is None or not all(said):
        return ""
    batching = eight.tokens_per_s.median / one.tokens_per_s.median
    words = f"{' '.join(said)} Eight texts at once are {batching:.1f}x as fast as one."
    if batching < _BATCHES_WELL:
        words += " On many CPUs, Q4_0 files gain more from batches than other files."
    return words


def _of_expert(bench: Bench, name: str) -> str:
    """How deferring to this expert compares with the expert alone; empty where that was not measured."""
    only = len(bench.experts) == 1
    whose, to = ("the assistant", "") if only else (name, f" to {name}")
    expert = bench.arm(f"{name} alone")
    together = [
        arm
        for lookahead in _LOOKAHEADS
        if (arm := bench.arm("both" if only else f"base and {name}", rate=_RATE_AT_ONCE, lookahead=lookahead))
        is not None
    ]
    if expert is None or not together:
        return ""
    best = max(together, key=lambda arm: arm.tokens_per_s.median)
    ratio = best.tokens_per_s.median / expert.tokens_per_s.median
    speeds = f"{best.tokens_per_s.median:.1f} and {expert.tokens_per_s.median:.1f} tokens/s"
    deferring = f"On this machine deferring {best.deferral_rate:.0%}{to}"
    if ratio >= _CLEARLY:
        return f"{deferring} is {ratio:.1f}x as fast as {whose} alone ({speeds})."
    step = bench.steps.experts[name][1].median
    reading = _READING * step / bench.steps.batch(name, _READING)
    return (
        f"{deferring} is no faster than {whose} alone ({speeds}). Prefill of {whose} is only {reading:.1f}x as fast as "
        f"its decoding, and the base needs {bench.steps.base[1].median / step:.0%} of "
        f"{'the assistant' if only else name}'s time per token."
    )
