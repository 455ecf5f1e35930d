"""What the clients of ``colm serve`` send in the conformance tests: fields, and requests that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

QUESTION = "Tom brings 5 crates of 143 eggs to the farm and sells 266 eggs. How many eggs are left?"
MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]
PROMPT = f"Problem: {QUESTION}\nSolution:"


@dataclass
class Answer:
    """What came, streamed or not, choice by choice."""

    texts: list[str]
    reasons: list[str | None]
    logprobs: list[list[Any]]
    calls: list[list[tuple[str, str]]]
    tokens: list[list[dict[str, Any]]]
    stats: list[dict[str, Any]]
    usage: Any = None
    n_pieces: int = 0


@dataclass(frozen=True)
class Field:
    """A field of the request.

    Attributes:
        name: of the case.
        sent: what the client sends.
        stands_for: the house's options; compared with the pair's own answer.
        check: anything more.
    """

    name: str
    sent: dict[str, Any]
    stands_for: dict[str, Any] | None = None
    check: Callable[[Answer], object] = field(default=lambda answer: None)


def own(**options: Any) -> dict[str, Any]:
    return {"extra_body": {"colm": options}}


GREEDY: dict[str, Any] = {"temperature": 0}
WARM: dict[str, Any] = {"temperature": 1.5, "seed": 7}
SHORT: dict[str, Any] = {"max_tokens": 12}
# The demo is so sure that at usual temperatures no sampler of the chain changes its answer.
HOT: dict[str, Any] = {"temperature": 20, "top_p": 1.0, "seed": 7, **SHORT}
SCHEMA = {
    "type": "object",
    "properties": {"eggs": {"enum": [448, 449]}, "sure": {"type": "boolean"}},
    "required": ["eggs", "sure"],
    "additionalProperties": False,
}


def who(*sources: str) -> Callable[[Answer], None]:
    def check(answer: Answer) -> None:
        assert {token["source"] for token in answer.tokens[0]} == set(sources)

    return check


def is_json(answer: Answer) -> None:
    value = json.loads(answer.texts[0])
    assert list(value) == ["eggs", "sure"]
    assert value["eggs"] in (448, 449)


def looks_ahead(answer: Answer) -> None:
    assert answer.stats[0]["lookahead"]


def no_nine(answer: Answer) -> None:
    assert answer.tokens[0]
    assert 25 not in [token["id"] for token in answer.tokens[0]]


CHAT = [
    Field("nothing", GREEDY, GREEDY, who("base", "assistant")),
    Field("seed", WARM, {**WARM, "max_tokens": None}),
    Field("temperature", {"temperature": 0.9, "seed": 3}, {"temperature": 0.9, "seed": 3}),
    Field("default temperature", {"seed": 5}, {"seed": 5}),
    Field("top_p", {**WARM, "top_p": 0.3}, {**WARM, "top_p": 0.3}),
    Field("max_tokens", {**GREEDY, "max_tokens": 5}, {**GREEDY, "max_tokens": 5}),
    Field("max_completion_tokens", {**GREEDY, "max_completion_tokens": 5}, {**GREEDY, "max_tokens": 5}),
    Field("stop", {**GREEDY, "stop": "After"}, {**GREEDY, "stop": "After"}),
    Field("stop list", {**GREEDY, "stop": ["zzz", ". "]}, {**GREEDY, "stop": ["zzz", ". "]}),
    Field(
        "frequency_penalty",
        {**GREEDY, "frequency_penalty": 1.5},
        {**GREEDY, "frequency_penalty": 1.5, "penalty_last_n": 512},
    ),
    Field(
        "presence_penalty",
        {**GREEDY, "presence_penalty": 1.5},
        {**GREEDY, "presence_penalty": 1.5, "penalty_last_n": 512},
    ),
    Field("logit_bias", {**GREEDY, "logit_bias": {"25": -100}}, {**GREEDY, "logit_bias": {25: -100}}, no_nine),
    Field("logprobs", {**GREEDY, **SHORT, "logprobs": True}, {**GREEDY, **SHORT, "logprobs": 0}),
    Field("top_logprobs", {**GREEDY, **SHORT, "logprobs": True, "top_logprobs": 3}, {**GREEDY, **SHORT, "logprobs": 3}),
    Field(
        "json_schema",
        {
            **GREEDY,
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
        },
        {**GREEDY, "grammar": SCHEMA},
        is_json,
    ),
    Field(
        "json_object",
        {**GREEDY, **SHORT, "response_format": {"type": "json_object"}},
        {**GREEDY, **SHORT, "grammar": {"type": "object"}},
    ),
    Field("format text", {**GREEDY, **SHORT, "response_format": {"type": "text"}}, {**GREEDY, **SHORT}),
    Field("base", {**GREEDY, "model": "demo:base"}, {**GREEDY, "head": "never"}, who("base")),
    Field(
        "assistant",
        {**GREEDY, **SHORT, "model": "demo:assistant"},
        {**GREEDY, **SHORT, "head": "always"},
        who("assistant"),
    ),
    Field(
        "mixture",
        {**GREEDY, **SHORT, "model": "demo:mixture"},
        {**GREEDY, **SHORT, "strategy": "compose", "threshold": 0.0},
    ),
    Field("rate", {**GREEDY, "model": "demo@20%"}, {**GREEDY, "defer_rate": 0.2}),
    Field("small rate", {**GREEDY, "model": "demo@2.5%"}, {**GREEDY, "defer_rate": 0.025}),
    Field("colm.threshold", {**GREEDY, **own(threshold=0.9)}, {**GREEDY, "threshold": 0.9}),
    Field("colm.defer_rate", {**GREEDY, **own(defer_rate=0.3)}, {**GREEDY, "defer_rate": 0.3}),
    Field("colm.target_rate", {**GREEDY, **own(target_rate=0.3)}, {**GREEDY, "target_rate": 0.3}),
    Field(
        "colm.strategy",
        {**GREEDY, **own(strategy="contrastive", beta=0.2)},
        {**GREEDY, "strategy": "contrastive", "beta": 0.2},
    ),
    Field("colm.lookahead", {**GREEDY, **own(lookahead=4)}, GREEDY, looks_ahead),
    Field("colm.hold", {**GREEDY, **own(hold=3)}, {**GREEDY, "hold": 3}),
    Field("colm.head", {**GREEDY, **own(head="entropy")}, {**GREEDY, "head": "entropy"}),
    *(
        Field(f"colm.{', '.join(options)}", {**HOT, **own(**options)}, {**HOT, **options})
        for options in (
            {"top_k": 3, "min_p": 0.0},
            {"top_k": 0, "min_p": 0.0, "typical_p": 0.9},
            {"top_k": 0, "min_p": 0.0, "top_n_sigma": 2.0},
        )
    ),
    Field(
        "colm.grammar",
        {**GREEDY, **own(grammar='root ::= "yes" | "no"')},
        {**GREEDY, "grammar": 'root ::= "yes" | "no"'},
    ),
    Field(
        "accepted",
        {
            **GREEDY,
            "user": "me",
            "store": False,
            "service_tier": "auto",
            "prompt_cache_key": "k",
            "parallel_tool_calls": True,
            "modalities": ["text"],
        },
        GREEDY,
    ),
]


ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"$ref": "#/$defs/digit"}, "op": {"enum": ["+", "-"]}},
            "required": ["a", "op"],
            "additionalProperties": False,
            "$defs": {"digit": {"enum": [1, 2, 3]}},
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}

CHAT_ERRORS: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": "nobody"}, 404, "model"),
    ({"model": "demo@120%"}, 404, "model"),
    ({"temperature": -1}, 400, "temperature"),
    ({"temperature": "hot"}, 400, "temperature"),
    ({"top_p": 2}, 400, "top_p"),
    ({"n": 0}, 400, "n"),
    ({"seed": -1}, 400, "seed"),
    ({"max_tokens": 1.5}, 400, "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 3}, 400, "max_tokens"),
    ({"top_logprobs": 3}, 400, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs"),
    ({"logit_bias": {"9999": 1}}, 400, "logit_bias"),
    ({"logit_bias": {"x": 1}}, 400, "logit_bias"),
    ({"stop": [""]}, 400, "stop"),
    ({"extra_body": {"thresold": 0.1}}, 400, "thresold"),
    ({"response_format": {"type": "yaml"}}, 400, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"unknown": 1}}}}, 400, None),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, None),
    ({"messages": [{"role": "user", "content": "many words " * 400}]}, 400, "messages"),
    ({"tools": [NOW]}, 400, "tools"),  # the demo's template knows none
    ({"tool_choice": "auto"}, 400, "tool_choice"),
    ({"audio": {"voice": "a", "format": "wav"}}, 400, "audio"),
    ({"metadata": {"a": "b"}}, 400, "metadata"),
    ({"store": True}, 400, "store"),
    ({"reasoning_effort": "high"}, 400, "reasoning_effort"),
    ({"extra_body": {"min_p": 0.1}}, 400, "min_p"),
    ({"extra_body": {"colm": {"thresold": 0.1}}}, 400, "colm"),
    ({"extra_body": {"colm": {"threshold": 3}}}, 400, "colm.threshold"),
    ({"extra_body": {"colm": {"top_n_sigma": -1}}}, 400, "colm.top_n_sigma"),
    ({"extra_body": {"colm": {"threshold": 0.5, "defer_rate": 0.5}}}, 400, "colm.defer_rate"),
    ({"extra_body": {"colm": {"head": "/etc/passwd"}}}, 400, "colm.head"),
    ({"extra_body": {"colm": {"temperature": 1}}}, 400, "colm.temperature"),
    ({"model": "demo:base", "extra_body": {"colm": {"threshold": 0.5}}}, 400, "colm.threshold"),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options"),
]


COMPLETION_ERRORS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, ""),
    ({"prompt": []}, "prompt"),
    ({"prompt": [99999]}, ""),
    ({"prompt": [[1], []]}, "prompt"),
    ({"prompt": ["a"] * 1025, "n": 2}, "n"),
    ({"suffix": "end"}, "suffix"),
    ({"extra_body": {"max_completion_tokens": 3}}, "max_completion_tokens"),
    ({"best_of": 3}, "best_of"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"logprobs": 21}, "logprobs"),
    ({"echo": True, "logprobs": 1, "extra_body": {"colm": {"hold": 3}}}, "colm.hold"),
    ({"echo": True, "logprobs": 1, "extra_body": {"colm": {"target_rate": 0.2}}}, "colm.target_rate"),
]


RESPONSES_ERRORS: list[tuple[dict[str, Any], str | None]] = [
    ({"extra_body": {"max_tokens": 3}}, "max_tokens"),
    ({"extra_body": {"seed": 3}}, "seed"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"background": True}, "background"),
    ({"store": True}, "store"),
    ({"truncation": "auto"}, "truncation"),
    ({"tools": [{"type": "web_search"}]}, None),
    ({"input": []}, "input"),
    ({"input": [{"type": "function_call_output", "output": "3"}]}, "input[0]"),
    ({"top_logprobs": 2}, "top_logprobs"),
]
