"""Texts, records and traces for the tests of what is deferred."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from colm_cpp.evaluate.records import KIND
from colm_cpp.report.traces import TracedText
from colm_cpp.results import Completion, Source, Stats, Token, Tokens, TopLogprob, expert_of
from colm_cpp.traces.record import Record
from colm_cpp.traces.trace import Trace, write_trace


def plain_token(text: str, id_: int, expert: int, p: float | None, other: tuple[TopLogprob, ...] = ()) -> Token:
    """A token with probability p of deferral."""
    z = None if p is None else math.log(p / (1 - p)) if 0 < p < 1 else math.copysign(math.inf, p - 0.5)
    return Token(id_, text, expert, z, 0.5, -0.5, other)


def make_text(pieces: list[str], sources: str = "", *, ended: bool = False, title: str = "t") -> TracedText:
    """A text with a source letter a token; p is 0.9 where deferred and 0.1 elsewhere."""
    letters = sources or "b" * len(pieces)
    tokens = tuple(
        plain_token(piece, i, int(letter == "a"), 0.9 if letter == "a" else 0.1)
        for i, (piece, letter) in enumerate(zip(pieces, letters, strict=True))
    )
    return TracedText(title, None, tokens, ended)


def make_record(problem: int, pieces: list[str], sources: str, reason: str = "length", **other: Any) -> dict[str, Any]:
    """A record's fields."""
    made = Record(
        problem=problem,
        finish_reason=reason,  # type: ignore[arg-type]
        ids=tuple(range(len(pieces))),
        pieces=tuple(pieces),
        experts=sources.translate(str.maketrans("ba", "01")),
        defer_logits=tuple(1.0 if letter == "a" else -1.0 for letter in sources),
        prompt_tokens=3,
        base_steps=len(pieces),
        assistant_calls=sources.count("a"),
        prefill_s=0.1,
        decode_s=0.1,
    )
    return {**asdict(made), **other}


def write_lines(path: Path, values: list[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def make_evaluation(path: Path, arms: dict[str, list[dict[str, Any]]]) -> Path:
    """An evaluation's folder."""
    (path / "records").mkdir(parents=True)
    meta = {"format": KIND.format, "version": KIND.version, "arms": {arm: {} for arm in arms}}
    (path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    for arm, records in arms.items():
        write_lines(path / "records" / f"{arm}.jsonl", records)
    return path


def make_token(text: str, id_: int, source: Source = "base", **other: Any) -> Token:
    return Token(id=id_, text=text, expert=expert_of(source), defer_logit=0.0, threshold=0.5, logprob=-0.5, **other)


def make_trace(path: Path, *, end: bool = True) -> Path:
    """A trace of a text."""
    likely = (TopLogprob(1, " 4", -0.5), TopLogprob(2, " 5", -1.5), TopLogprob(3, "<b>", float("-inf")))
    last = make_token("<|im_end|>", 9)
    tokens = Tokens((make_token("It is", 0), make_token(" 4", 1, "assistant", top_logprobs=likely)))
    stats = Stats(1, 3, 1 / 3, 3, 1, True, 1, 1, 1, 1, 0.1, 0.1, 20.0, 1)
    whole = Completion("It is 4", tokens, "eos", stats, last)
    write_trace(path, whole if end else Trace({"seed": 1}, tokens), prompt="2+2=")
    return path
