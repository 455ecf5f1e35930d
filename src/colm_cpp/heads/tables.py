"""Calibration tables of a head for runs: each holds for one ``hold`` and one leave threshold.

``Head.rates`` and ``Head.thresholds`` are the table for a hold of 1 without a leave threshold. Every version reads it.
The others lie in the JSON of ``Head.calibration``, in the list ``"runs"``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._numbers import integer, share
from ..errors import ColmError, HeadError, OptionError
from .checks import calibration, units

if TYPE_CHECKING:
    from .head import Head

__all__ = ["PLAIN", "Runs", "add_table", "find_table", "known_runs", "threshold_for"]


@dataclass(frozen=True, slots=True)
class Runs:
    """How long the assistant keeps its turn.

    Attributes:
        hold: tokens that it writes each time that the head defers, 1 or more.
        leave_threshold: the threshold after one of its tokens, 0 to 1. None: the same as before.

    Raises:
        OptionError: a value outside its range.
    """

    hold: int = 1
    leave_threshold: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hold", integer("hold", self.hold, 1, 2**31 - 1))
        if self.leave_threshold is not None:
            object.__setattr__(self, "leave_threshold", share("leave_threshold", self.leave_threshold))

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Runs:
        """Those of generation options."""
        return cls(options.get("hold", 1), options.get("leave_threshold"))

    def facts(self) -> dict[str, Any]:
        """The options by name, those at their default left out."""
        leave = {} if self.leave_threshold is None else {"leave_threshold": self.leave_threshold}
        return ({} if self.hold == 1 else {"hold": self.hold}) | leave

    def flags(self) -> str:
        """The same for a command line, with a space before each: `` --hold 4 --leave-threshold 0.2``."""
        return "".join(f" --{name.replace('_', '-')} {value:g}" for name, value in self.facts().items())

    def __str__(self) -> str:
        """``hold=4 and leave_threshold=0.2``; the message of an error says it so."""
        return " and ".join(f"{name}={value:g}" for name, value in (self.facts() or {"hold": 1}).items())

    def random_threshold(self, rate: float) -> float:
        """The threshold at which a head of random probabilities defers ``rate`` of the tokens."""
        if rate in (0.0, 1.0):
            return 1.0 - rate
        if self.leave_threshold is None:
            # Of tokens where it is asked, a share q begins a hold: hold q / (hold q + 1 - q) is the rate.
            return 1.0 - rate / (rate + self.hold * (1.0 - rate))
        # Stretches last 1 / q tokens for the base, and hold / leave_threshold for the assistant.
        q = rate * self.leave_threshold / (self.hold * (1.0 - rate))
        if q <= 1.0 - self.leave_threshold:
            return 1.0 - q
        return Runs(self.hold).random_threshold(rate)  # the leave threshold counts as the threshold


PLAIN = Runs()


def threshold_for(head: Head, runs: Runs, rate: float) -> float:
    """The threshold at which ``rate`` of the tokens are deferred: interpolated in the table for these runs.

    Raises:
        HeadError: the head has no table for these runs, or a damaged one.
    """
    table = find_table(head, runs)
    if table is not None:
        return float(np.interp(rate, *table))
    what = "" if runs == PLAIN else f" for {runs}"
    if known := "; ".join(map(str, known_runs(head))):
        what = f" for {runs}, only for {known}"
    command = "colm calibrate" if runs == PLAIN else f"'colm calibrate{runs.flags()}'"
    raise HeadError(
        f"head {head.name or '(unnamed)'} has no calibration table{what}, so no threshold is known for the deferral "
        f"rate {rate:.0%}; run {command} on it, or give threshold= or target_rate= instead"
    )


def find_table(head: Head, runs: Runs) -> tuple[Sequence[float], Sequence[float]] | None:
    """The table's rates and thresholds; None where the head has none for these runs.

    Raises:
        HeadError: it is damaged.
    """
    if runs == PLAIN:
        return (head.rates, head.thresholds) if head.rates else None
    for entry in _entries(head.calibration):
        if _runs_of(head, entry) == runs:
            return _columns(head, entry)
    return None


def known_runs(head: Head) -> list[Runs]:
    """The runs that the head has a table for. Raises HeadError where one is damaged."""
    return [PLAIN] * bool(head.rates) + [_runs_of(head, entry) for entry in _entries(head.calibration)]


def add_table(earlier: str | None, runs: Runs, table: Mapping[float, float], facts: Mapping[str, Any]) -> str:
    """``calibration`` with one more table, or with another in the place of the one for the same runs.

    Args:
        earlier: the head's ``calibration``. Damaged tables in it are dropped.
        runs: what the table holds for.
        table: rate -> threshold.
        facts: how it was measured.
    """
    kept = [entry for entry in _entries(earlier) if {k: entry.get(k) for k in _KEYS} != _key(runs)]
    if runs == PLAIN:
        whole = dict(facts)
    else:
        whole = _json(earlier)
        kept.append({**_key(runs), **facts, "rates": list(table), "thresholds": list(table.values())})
    whole.pop("runs", None)
    if kept:
        whole["runs"] = kept
    return json.dumps(whole, sort_keys=True)


_KEYS = ("hold", "leave_threshold")


def _key(runs: Runs) -> dict[str, Any]:
    return {"hold": runs.hold, "leave_threshold": runs.leave_threshold}


def _json(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):  # another program's text
        return {}
    return value if isinstance(value, dict) else {}


def _entries(text: str | None) -> list[dict[str, Any]]:
    entries = _json(text).get("runs")
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _runs_of(head: Head, entry: Mapping[str, Any]) -> Runs:
    try:
        return Runs.of(entry)
    except OptionError as error:
        raise HeadError(f"head {head.name or '(unnamed)'} has a damaged calibration table: {error}") from error


def _columns(head: Head, entry: Mapping[str, Any]) -> tuple[Sequence[float], Sequence[float]]:
    try:
        rates, thresholds = (units(name, entry.get(name)) for name in ("rates", "thresholds"))
        calibration(rates, thresholds)
        if not rates:
            raise HeadError("it is empty")
    except ColmError as error:
        raise HeadError(f"head {head.name or '(unnamed)'} has a damaged calibration table: {error}") from error
    return rates, thresholds
