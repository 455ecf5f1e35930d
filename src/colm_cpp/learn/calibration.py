"""Calibration: which threshold makes a pair defer, say, 20% of its tokens?

The distribution of z_t over texts of the base gives a first table. Deferring changes the text, and so the hidden states
that the head sees. The rates are therefore measured again while deferring, and the table is corrected until the
measured rates are the wanted ones.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..answers.answering import Arm, Counts, answers
from ..answers.problems import Problem
from ..errors import CorpusError, OptionError
from ..heads.head import Head
from ..heads.tables import PLAIN, Runs, add_table, find_table
from ..options import ANSWER_OPTIONS, BASE, GenerationOptions
from ..sources.identity import models_identity
from ..traces.record import Record
from .runs import eta_of, logit_of, runs_table

if TYPE_CHECKING:
    from ..engine.pair import Pair

__all__ = ["CHECKED_RATES", "RATES", "Calibrated", "Measurement", "calibrate", "threshold_table"]

RATES = tuple(round(0.05 * i, 2) for i in range(21))
CHECKED_RATES = (0.1, 0.2, 0.4, 0.6)
TOLERANCE = 0.03
MAX_ROUNDS = 4
_ROUNDING = 1e-3  # more than a record's z is rounded by


@dataclass(frozen=True, slots=True)
class Measurement:
    """Texts written at one threshold.

    Attributes:
        threshold: eta.
        wanted: the deferral rate that the threshold should give.
        measured: share of the tokens that were deferred.
        n_tokens: tokens written.
        n_deferred: tokens deferred.
        written: False if no text was written, because an earlier threshold gives the same texts.
        experts: tokens of each of several experts, by its name; empty for one.
    """

    threshold: float
    wanted: float
    measured: float
    n_tokens: int
    n_deferred: int
    written: bool = True
    experts: Mapping[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {name: value for name, value in asdict(self).items() if name != "experts" or value}


@dataclass(frozen=True)
class Calibrated:
    """A calibrated head.

    Attributes:
        head: the head with its calibration table.
        first: the table before correction: rate -> threshold.
        measurements: all measurements, in order.
        off: rates whose best measurement misses the wanted rate by more than 3 points -> that measurement.
        stuck: rates in ``off`` whose search ended early, because the next threshold gives texts that were measured
            already. No other threshold would come nearer.
        runs: how long the assistant kept its turn. The table holds for these runs.
    """

    head: Head
    first: dict[float, float]
    measurements: tuple[Measurement, ...]
    off: dict[float, float]
    stuck: tuple[float, ...] = ()
    runs: Runs = PLAIN

    @property
    def table(self) -> dict[float, float]:
        """The calibration table: rate -> threshold."""
        return dict(zip(*(find_table(self.head, self.runs) or ((), ())), strict=True))


@dataclass(frozen=True)
class _Texts:
    """The texts of one threshold, to find other thresholds that would give the same."""

    threshold: float
    z: npt.NDArray[np.float64]  # of every token where the head was asked
    by_text: tuple[npt.NDArray[np.float64], ...]
    counts: Counts
    experts: dict[str, int]

    @classmethod
    def of(cls, threshold: float, records: Sequence[Record], names: Sequence[str]) -> _Texts:
        by_text = tuple(_logits([record]) for record in records)
        written = Counter(digit for record in records for digit in record.experts)
        experts = {name: written[str(number)] for number, name in enumerate(names, start=1)} if len(names) > 1 else {}
        return cls(threshold, _logits(records), by_text, Counts.of(records), experts)

    def threshold_for(self, rate: float, runs: Runs) -> float:
        """The threshold that would have deferred ``rate`` of the tokens, had the texts stayed the same."""
        if runs == PLAIN:
            return threshold_table(self.z, [rate])[0]
        return runs_table(self.by_text, [rate], runs, every_token=False)[0]

    def stay_with(self, threshold: float) -> bool:
        """Whether ``threshold`` gives the same texts, because it decides every token alike."""
        if threshold == self.threshold:
            return True
        low, high = sorted((logit_of(threshold), logit_of(self.threshold)))
        # Records round z: a token that near to one of the two might be on its other side.
        return not bool(np.any((self.z >= low - _ROUNDING) & (self.z <= high + _ROUNDING)))


def threshold_table(z: npt.NDArray[np.float64], rates: Sequence[float]) -> list[float]:
    """The threshold in [0, 1] above which each share of ``z`` lies.

    Args:
        z: deferral logits, ``[n]``.
        rates: shares, 0 to 1. Rate 0 always has threshold 1, and rate 1 has threshold 0.
    """
    thresholds = []
    for rate in rates:
        if rate <= 0.0:
            thresholds.append(1.0)
        elif rate >= 1.0:
            thresholds.append(0.0)
        else:
            at = float(np.quantile(z, 1.0 - rate))
            thresholds.append(eta_of(at))
    return thresholds


def calibrate(
    pair: Pair,
    head: Head,
    problems: Sequence[Problem],
    options: Mapping[str, Any],
    *,
    chat: bool = True,
    rates: Sequence[float] = CHECKED_RATES,
    default_rate: float | None = None,
    n_parallel: int = 1,
    on_text: Callable[[str, int, int, Record], None] | None = None,
) -> Calibrated:
    """Measures the deferral rates of a head's thresholds and makes its calibration table.

    Args:
        pair: the loaded pair.
        head: the head. A table that it already has for the same runs is replaced; others stay.
        problems: prompts that neither the head's training nor an evaluation uses.
        options: generation options; the defaults are :data:`colm_cpp.options.ANSWER_OPTIONS`. The table holds for their
            ``hold`` and ``leave_threshold``.
        chat: apply the base's chat template.
        rates: the deferral rates to measure, each above 0 and below 1. The table has these and :data:`RATES`, whose
            thresholds are shifted as those of the nearest measured rates.
        default_rate: also make this rate's threshold the head's default threshold. None: keep the default.
        n_parallel: texts that are written at a time.
        on_text: called after every text with the name of the measurement, the number of texts done, the number of
            texts in all, and the text.

    Raises:
        HeadMismatch: the head was made for another base.
        OptionError: ``default_rate`` outside [0, 1]; a rate to measure that is not between 0 and 1, or none at all.
        CorpusError: there are no prompts, or the base wrote no token for them.
    """
    options = GenerationOptions.checked({**ANSWER_OPTIONS, **options})
    runs = Runs.of(options)
    if not problems:
        raise CorpusError("there are no prompts to calibrate on; give a file with at least one")
    if default_rate is not None and not 0.0 <= default_rate <= 1.0:
        raise OptionError(f"default_rate is {default_rate}; it must be from 0 to 1")
    if not rates:
        raise OptionError("there is no rate to measure; give at least one, such as 0.2")
    for rate in rates:
        if not 0.0 < rate < 1.0:
            raise OptionError(f"a rate to measure is {rate}; it must be above 0 and below 1")

    def write(what: str, threshold: float) -> list[Record]:
        arm = Arm(what, head, threshold, None, {})
        asked = [(problem, arm) for problem in problems]
        records: list[Record] = []
        with closing(answers(pair, asked, options, chat=chat, n_parallel=n_parallel)) as written:
            for _, record in written:
                records.append(record)
                if on_text is not None:
                    on_text(what, len(records), len(problems), record)
        return records

    alone = write("base alone", 1.0)
    z = _logits(alone)
    if not z.size:
        raise CorpusError("the base wrote no token for these prompts; give other prompts, or a larger max_tokens")
    grid = sorted({*RATES, *rates})
    if runs == PLAIN:
        at_first = threshold_table(z, grid)
    else:
        at_first = runs_table([_logits([record]) for record in alone], grid, runs, every_token=True)
    first = dict(zip(grid, at_first, strict=True))
    measurements: list[Measurement] = []
    nearest: dict[float, Measurement] = {}  # to each checked rate
    texts: list[_Texts] = []
    stuck: list[float] = []
    for rate in sorted(set(rates)):
        threshold = first[rate]
        met: list[_Texts] = []  # those that this rate's thresholds gave
        for _ in range(MAX_ROUNDS):
            found = next((known for known in texts if known.stay_with(threshold)), None)
            if found is None:
                written = _Texts.of(threshold, write(f"{rate:.0%}", threshold), pair.names[1:])
                texts.append(written)
            elif any(found is known for known in met):
                stuck.append(rate)
                break
            now = found or written
            met.append(now)
            counts, measured = now.counts, now.counts.deferral_rate
            measurements.append(
                Measurement(threshold, rate, measured, counts.n_tokens, counts.n_deferred, found is None, now.experts)
            )
            if abs(measured - rate) <= TOLERANCE:
                break
            # The states seen while deferring at about this rate say which threshold would have given it.
            threshold = now.threshold_for(rate, runs)
            if runs != PLAIN:  # a hold moves the rate in steps, and such a guess may jump to and fro
                threshold = _between(measurements, rate) or threshold
        nearest[rate] = min((m for m in measurements if m.wanted == rate), key=lambda m: abs(m.measured - m.wanted))
    thresholds = _corrected(first, {rate: m.threshold for rate, m in nearest.items()})
    off = {rate: m.measured for rate, m in nearest.items() if abs(m.measured - rate) > TOLERANCE}
    prompts = hashlib.sha256(json.dumps([list(p.messages) for p in problems]).encode()).hexdigest()
    facts = {
        "n_prompts": len(problems),
        "prompts_sha256": prompts,
        "chat": chat,
        "options": dict(options),
        **models_identity({BASE: pair.base, **pair.experts}, pair.vocab_fingerprint),
        "measurements": [measurement.facts() for measurement in measurements],
    }
    table = dict(zip(grid, thresholds, strict=True))
    changes: dict[str, Any] = {"calibration": add_table(head.calibration, runs, table, facts)}
    if runs == PLAIN:
        changes |= {"rates": tuple(grid), "thresholds": tuple(thresholds)}
    if default_rate is not None:
        changes["default_threshold"] = float(np.interp(default_rate, grid, thresholds))
    return Calibrated(head.replace(**changes), first, tuple(measurements), off, tuple(stuck), runs)


def _between(measurements: Sequence[Measurement], rate: float) -> float | None:
    """The threshold for ``rate`` on a line, in logits, between the nearest measurements above and below it."""
    above = [m for m in measurements if m.measured > rate]
    below = [m for m in measurements if m.measured <= rate]
    if not above or not below:
        return None
    high, low = min(above, key=lambda m: m.measured), max(below, key=lambda m: m.measured)
    share = (rate - low.measured) / (high.measured - low.measured)
    return eta_of(logit_of(low.threshold) + share * (logit_of(high.threshold) - logit_of(low.threshold)))


def _logits(records: Sequence[Record]) -> npt.NDArray[np.float64]:
    return np.array([z for record in records for z in record.defer_logits if z is not None], np.float64)


def _corrected(first: Mapping[float, float], settled: Mapping[float, float]) -> list[float]:
    """The first table, shifted in logits so that it passes through the measurements.

    The shift is interpolated between measured rates. Beyond them it is that of the nearest one. Both ends stay.
    """
    at = sorted(settled)
    shifts = [logit_of(settled[rate]) - logit_of(first[rate]) for rate in at]
    thresholds = []
    for rate in first:
        if rate in (0.0, 1.0):
            thresholds.append(first[rate])
            continue
        z = logit_of(first[rate]) + float(np.interp(rate, at, shifts))
        # A larger rate never has a larger threshold, whatever the noise of the measurements.
        thresholds.append(min(eta_of(z), thresholds[-1]))
    return thresholds
