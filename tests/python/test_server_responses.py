"""OpenAI's Python client against ``colm serve``: responses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import server_clients
from server_cases import ADD, MESSAGES, QUESTION, SCHEMA, own
from server_clients import client
from server_world import World

world = server_clients.world


@pytest.mark.parametrize(
    ("fields", "stands_for"),
    [
        ({"input": QUESTION, "temperature": 0}, {"temperature": 0, "max_tokens": None}),
        ({"input": MESSAGES, "temperature": 0, "max_output_tokens": 4}, {"temperature": 0, "max_tokens": 4}),
        (
            {"input": QUESTION, "temperature": 0, **own(threshold=0.95)},
            {"temperature": 0, "threshold": 0.95, "max_tokens": None},
        ),
        (
            {
                "input": QUESTION,
                "temperature": 0,
                "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}},
            },
            {"temperature": 0, "grammar": SCHEMA, "max_tokens": None},
        ),
    ],
    ids=["text", "items", "own", "schema"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_responses(world: World, fields: dict[str, Any], stands_for: dict[str, Any], stream: bool) -> None:
    expected = world.pair("demo").chat(MESSAGES, **stands_for)
    answer = client(world).responses.create(model="demo", stream=stream, **fields)
    if stream:
        events = list(answer)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[0].type == "response.created"
        assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == expected.text
        assert next(e.text for e in events if e.type == "response.output_text.done") == expected.text
        answer = events[-1].response
    assert answer.output_text == expected.text
    complete = expected.finish_reason != "length"
    assert answer.status == ("completed" if complete else "incomplete")
    assert (answer.incomplete_details is None) == complete
    assert answer.usage.output_tokens == expected.stats.generated_tokens
    assert [token["source"] for token in answer.colm["tokens"]] == [token.source for token in expected.tokens]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_responses_with_tools(world: World, stream: bool) -> None:
    """A call, and its result in the next request."""
    tool = {"type": "function", **ADD["function"]}  # type: ignore[dict-item]
    asked: dict[str, Any] = {"model": "tiny", "tools": [tool], "max_output_tokens": 200, "temperature": 0}
    answer = client(world).responses.create(
        input="Add.", tool_choice={"type": "function", "name": "add"}, stream=stream, **asked
    )
    if stream:
        events = list(answer)
        done = next(e for e in events if e.type == "response.function_call_arguments.done")
        assert "".join(e.delta for e in events if e.type.endswith("arguments.delta")) == done.arguments
        answer = events[-1].response
    call = answer.output[0]
    assert (call.type, call.name) == ("function_call", "add")
    assert json.loads(call.arguments)["a"] in (1, 2, 3)
    items = [{"role": "user", "content": "Add."}, call.model_dump(exclude_none=True)]
    items.append({"type": "function_call_output", "call_id": call.call_id, "output": "3"})
    after = client(world).responses.create(input=items, instructions="Be brief.", tool_choice="none", **asked)
    assert after.status in ("completed", "incomplete")
    assert after.usage.input_tokens > answer.usage.input_tokens
