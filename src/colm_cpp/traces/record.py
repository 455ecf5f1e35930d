"""The record of an answer: its tokens and counts as one line of JSON. docs/trace-format.md describes it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, get_args

from .._shown import shown
from ..files.reading import real, whole_number
from ..results import BASE, Completion, FinishReason, Token

__all__ = ["Record", "expert_digits", "is_record"]

_DIGITS = frozenset("0123456789")
_OF_LETTERS = str.maketrans("ba", "01")  # of a record of an older version
_REASONS = get_args(FinishReason)


@dataclass(frozen=True, slots=True)
class Record:
    """One answer of one arm.

    Attributes:
        problem: the problem's row in the task.
        finish_reason: why the answer ended.
        ids: token ids, an end-of-generation token included.
        pieces: the text that each token added; joined, they are the answer.
        experts: the model that wrote each token, one digit each: 0 base, 1 assistant (or the first expert), ...
        defer_logits: z_t at each token; None where it is infinite, or where the head was not asked.
        prompt_tokens: tokens in the prompt.
        base_steps: positions at which the base gave a distribution.
        assistant_calls: positions at which the assistant was asked.
        prefill_s: seconds of the prefill.
        decode_s: seconds after the prefill.
        n_parallel: answers that were written at a time. If more than 1, ``decode_s`` includes the work for the others.
        logprobs: log-probability of each token under the model that wrote it, in nats; None where it is infinite. The
            column is None in records of an older version.
        held: the tokens where the head was not asked, because the assistant held its turn: their places, ascending.
    """

    problem: int
    finish_reason: FinishReason
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    experts: str
    defer_logits: tuple[float | None, ...]
    prompt_tokens: int
    base_steps: int
    assistant_calls: int
    prefill_s: float
    decode_s: float
    n_parallel: int = 1
    logprobs: tuple[float | None, ...] | None = None
    held: tuple[int, ...] = ()

    @classmethod
    def of(cls, problem: int, completion: Completion, n_parallel: int = 1) -> Record:
        """The record of a finished text."""
        tokens: list[Token] = list(completion.tokens)
        if completion.end_token is not None:
            tokens.append(completion.end_token)
        stats = completion.stats
        return cls(
            problem=problem,
            finish_reason=completion.finish_reason,
            ids=tuple(token.id for token in tokens),
            pieces=tuple(token.text for token in tokens),
            experts=expert_digits(tokens),
            defer_logits=tuple(
                None if (z := token.defer_logit) is None or not math.isfinite(z) else round(z, 4) for token in tokens
            ),
            prompt_tokens=stats.prompt_tokens,
            base_steps=stats.base_steps,
            assistant_calls=stats.assistant_calls,
            prefill_s=round(stats.prefill_s, 4),
            decode_s=round(stats.decode_s, 4),
            n_parallel=n_parallel,
            logprobs=tuple(round(p, 4) if math.isfinite(p := token.logprob) else None for token in tokens),
            held=tuple(place for place, token in enumerate(tokens) if token.defer_logit is None),
        )

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(self.pieces)

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens, an end-of-generation token included. Their threshold is not recorded: NaN."""
        return self.tokens_by(())

    def tokens_by(self, experts: Sequence[str]) -> tuple[Token, ...]:
        """The same, with the names of the experts, which a record does not hold; without, they are numbered."""
        names = dict(enumerate(experts, start=BASE + 1))
        held = set(self.held)
        columns = zip(self.ids, self.pieces, map(int, self.experts), self.defer_logits, strict=True)
        logprobs = [math.nan] * len(self.ids) if self.logprobs is None else self.logprobs
        found = []
        for place, ((id_, piece, expert, z), logprob) in enumerate(zip(columns, logprobs, strict=True)):
            # A record has no sign for an infinite logit, and needs none: no threshold leaves the turn in doubt.
            known = (-math.inf if expert == BASE else math.inf) if z is None else float(z)
            likely = -math.inf if logprob is None else logprob
            asked = None if place in held else known
            found.append(Token(id_, piece, expert, asked, math.nan, likely, source=names.get(expert, "")))
        return tuple(found)

    @property
    def n_tokens(self) -> int:
        """Tokens generated."""
        return len(self.ids)

    @property
    def n_deferred(self) -> int:
        """Tokens deferred."""
        return len(self.experts) - self.experts.count(str(BASE))

    @property
    def n_runs(self) -> int:
        """Times that the turn went from the base to the assistant."""
        return sum(before == str(BASE) != now for before, now in pairwise(f"{BASE}{self.experts}"))

    def to_json(self) -> str:
        """One line."""
        value = asdict(self)
        if not self.held:  # as in every record of an older version
            del value["held"]
        return json.dumps(value, ensure_ascii=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Reads a line.

        Raises:
            ValueError: the line is not a complete record.
        """
        return cls.of_value(json.loads(line))

    @classmethod
    def of_value(cls, value: Any) -> Record:
        """Takes the value of a line. Raises ValueError as :meth:`from_json`."""
        if not isinstance(value, dict) or not is_record(value):
            raise ValueError("not a record")
        value = dict(value)
        if "sources" in value:
            letters = value.pop("sources")
            if not isinstance(letters, str) or set(letters) - set("ba"):
                raise ValueError(f"sources is {shown(letters)}; it must consist of the letters b and a")
            value["experts"] = letters.translate(_OF_LETTERS)
        value.setdefault("held", [])
        for name in ("ids", "pieces", "defer_logits", "logprobs", "held"):
            if name == "logprobs" and value.get(name) is None:
                continue
            if not isinstance(value[name], list):
                raise ValueError(f"{name} is {shown(value[name])}; it must be a list")
            value[name] = tuple(value[name])
        for name in ("problem", "prompt_tokens", "base_steps", "assistant_calls"):
            whole_number(name, value[name])
        whole_number("n_parallel", value["n_parallel"], 1)
        real("prefill_s", value["prefill_s"])
        real("decode_s", value["decode_s"])
        for id_ in value["ids"]:
            whole_number("an id", id_, 0, 2**31 - 1)
        for place in value["held"]:
            whole_number("a place of held", place, 0, len(value["ids"]) - 1)
        if value["finish_reason"] not in _REASONS:
            raise ValueError(f"finish_reason is {shown(value['finish_reason'])}; it must be one of {_REASONS}")
        if not isinstance(value["experts"], str) or set(value["experts"]) - _DIGITS:
            raise ValueError(f"experts is {shown(value['experts'])}; it must consist of digits")
        if not all(isinstance(piece, str) for piece in value["pieces"]):
            raise ValueError("an entry of pieces is not a text")
        for name in ("defer_logits", "logprobs"):
            numbers = [z for z in value.get(name) or () if z is not None]
            if not all(type(z) in (int, float) and abs(z) <= sys.float_info.max for z in numbers):
                raise ValueError(f"an entry of {name} is not a finite number")
        record = cls(**value)
        logprobs = record.ids if record.logprobs is None else record.logprobs
        columns = [record.ids, record.pieces, record.experts, record.defer_logits, logprobs]
        if len({len(column) for column in columns}) > 1:
            raise ValueError("columns of different lengths")
        return record


def expert_digits(tokens: Sequence[Token]) -> str:
    """Who wrote each token, one digit each: 0 base, 1 assistant (or the first expert), ..."""
    return "".join(str(token.expert) for token in tokens)


def is_record(value: Mapping[str, Any]) -> bool:
    """Whether the object has the names of a record, or those of an older version."""
    names = {"experts" if name == "sources" else name for name in value}
    return len(names) == len(value) and names | {"logprobs", "held"} == Record.__dataclass_fields__.keys()
