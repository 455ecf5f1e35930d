"""What answers cost, by counts and by the clock."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from made_answers import STEPS, record

from colm_cpp.errors import CorpusError
from colm_cpp.evaluate.costs import ROUTER_TOKENS, StepTimes, answer_costs, confidence
from colm_cpp.learn import Record

# --- records ----------------------------------------------------------------------------------------------------------


def test_records_without_log_probabilities_are_read() -> None:
    now = record()
    assert Record.from_json(now.to_json()) == now
    older = json.loads(now.to_json())
    del older["logprobs"]
    assert Record.from_json(json.dumps(older)) == dataclasses.replace(now, logprobs=None)
    with pytest.raises(ValueError, match="different lengths"):
        Record.from_json(json.dumps({**older, "logprobs": [-1.0]}))
    assert confidence([now, dataclasses.replace(now, logprobs=None)]) is None


def test_confidence_is_of_the_first_tokens() -> None:
    long = record(sources="b" * 40, logprobs=tuple(-float(i) for i in range(40)))
    found = confidence([long, record(logprobs=(-1.0, None, -3.0)), record(sources="", logprobs=())])
    assert found is not None
    assert found.tolist() == [-(ROUTER_TOKENS - 1) / 2, -2.0, -math.inf]


# --- costs ------------------------------------------------------------------------------------------------------------


def test_costs_by_counts() -> None:
    """The base reads 8 tokens and makes 5 more steps; the assistant reads 8 + 2, then 3, then 1."""
    made = answer_costs([record(sources="bbabbaa", base_steps=7)], STEPS, "mine.gguf")
    base_prompt = 0.020 + (0.080 - 0.020) * 4 / 28
    assistant_prompt = 0.060 + 0.100 * 6 / 28
    per_problem, per_token = made.of("steps per problem"), made.of("steps per token")
    assert per_problem is not None
    assert per_token is not None
    writing = 6 * 0.011 + (0.040 + 0.060) / 2 + 0.030
    assert per_token[0].tolist() == pytest.approx([writing])
    assert per_token[1].tolist() == [7]
    assert per_problem[0].tolist() == pytest.approx([base_prompt + assistant_prompt + writing])
    # A head that looks at nothing needs no hidden state; the models alone ask nothing of the other.
    alone = answer_costs([record(sources="bbbb")], STEPS, "never").of("steps per token")
    assert alone is not None
    assert alone[0].tolist() == pytest.approx([3 * 0.010])
    assistant = answer_costs([record(sources="aaaa")], STEPS, "always").of("steps per problem")
    assert assistant is not None
    assert assistant[0].tolist() == pytest.approx([0.060 + 0.100 * 4 / 28 + 3 * 0.030])
    # Beyond the largest batch the cost goes with the tokens.
    long = answer_costs([record(sources="b", prompt_tokens=320)], STEPS).of("steps per problem")
    assert long is not None
    assert long[0].tolist() == pytest.approx([0.8])
    # By counts it does not matter how fast the machine was, or how many were written at once.
    slow = answer_costs([record(sources="bbabbaa", base_steps=7, decode_s=99.0, n_parallel=8)], STEPS, "mine.gguf")
    assert slow.of("steps per token")[0].tolist() == per_token[0].tolist()  # type: ignore[index]


def test_costs_by_the_clock() -> None:
    records = [record(sources="bb"), record(sources="bbbb", decode_s=99.0, n_parallel=8)]
    made = answer_costs(records, None)
    assert made.of("steps per problem") is None
    per_token, per_problem = made.of("clock per token"), made.of("clock per problem")
    assert per_token is not None
    assert per_problem is not None
    assert per_token[0].tolist() == [1.0, 2.0]  # the second at the first one's speed
    assert per_problem[0].tolist() == [1.5, 2.5]
    assert answer_costs(records[1:], None).of("clock per token") is None


def test_step_times_are_kept() -> None:
    assert StepTimes.from_dict(json.loads(json.dumps(STEPS.to_dict()))) == STEPS
    good = STEPS.to_dict()
    for bad in (
        None, [], {}, {**good, "base_ms": {}}, {**good, "base_ms": {"1": -1}}, {**good, "base_ms": {"x": 1}},
        {**good, "base_hidden_ms": math.nan}, {**good, "assistant_ms": {"1": "fast"}},
        {**good, "base_ms": {"0": 1, "1": 1}}, {**good, "base_ms": {"1": 0}}, {**good, "assistant_ms": {"1": 1e400}},
    ):  # fmt: skip
        with pytest.raises(CorpusError, match="steps"):
            StepTimes.from_dict(bad)
