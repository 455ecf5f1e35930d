"""OpenAI's Python client against ``colm serve``: errors, clients that leave, and a full queue."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import server_clients
from server_cases import CHAT_ERRORS, COMPLETION_ERRORS, MESSAGES, RESPONSES_ERRORS
from server_clients import KEY, client, openai
from server_world import World

world = server_clients.world


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "status", "param"), CHAT_ERRORS, ids=lambda value: json.dumps(value)[:60])
def test_errors(world: World, fields: dict[str, Any], status: int, param: str | None) -> None:
    with pytest.raises(openai().APIStatusError) as raised:
        client(world).chat.completions.create(**{"model": "demo", "messages": MESSAGES, "max_tokens": 4, **fields})
    assert raised.value.status_code == status
    error = raised.value.body
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    if param is not None:
        assert error["param"] == param


@pytest.mark.parametrize(("fields", "param"), COMPLETION_ERRORS, ids=lambda value: json.dumps(value)[:60])
def test_completion_errors(world: World, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai().BadRequestError) as raised:
        client(world).completions.create(**{"model": "demo", "prompt": "a", **fields})
    if param:
        assert raised.value.body["param"] == param


@pytest.mark.parametrize(("fields", "param"), RESPONSES_ERRORS, ids=lambda value: json.dumps(value)[:50])
def test_responses_errors(world: World, fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai().BadRequestError) as raised:
        client(world).responses.create(**{"model": "demo", "input": "a", **fields})
    if param is not None:
        assert raised.value.body["param"] == param


@pytest.mark.parametrize(
    ("path", "field", "said"),
    [
        ("chat/completions", "thresold", "did you mean colm.threshold?"),
        ("chat/completions", "temprature", "did you mean temperature?"),
        ("chat/completions", "threshold", "give it as colm.threshold"),
        ("responses", "seed", "/v1/chat/completions has it"),
        ("responses", "max_tokens", "max_output_tokens"),
        ("completions", "max_completion_tokens", "max_tokens"),
    ],
)
def test_what_to_write_in_place_of_an_unknown_field(world: World, path: str, field: str, said: str) -> None:
    """The advice is right: who follows it is not refused for that."""
    body = {"model": "demo", "messages": MESSAGES, "input": "a", "prompt": "a"}
    needed = {"chat/completions": "messages", "responses": "input", "completions": "prompt"}[path]
    url, key = f"{world.address}/v1/{path}", {"Authorization": f"Bearer {KEY}"}
    asked = {"model": "demo", needed: body[needed], field: 0.5}
    answer = client(world)._client.post(url, json=asked, headers=key)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert said in error["message"]
    assert error["param"] == field


@pytest.mark.parametrize("key", ["wrong", ""])
def test_keys(world: World, key: str) -> None:
    with pytest.raises(openai().AuthenticationError) as raised:
        client(world, api_key=key or "x").models.list(extra_headers={} if key else {"Authorization": ""})
    assert raised.value.body["code"] == "invalid_api_key"
    assert client(world)._client.get(f"{world.address}/health").json() == {"status": "ok"}


# -- clients that leave, and a full queue ------------------------------------------------------------------------------


def writing(world: World, name: str = "endless") -> tuple[int, int]:
    turns = world.registry.entries[name].turns
    assert turns is not None
    return turns.writing, turns.waiting


def wait_for(world: World, wanted: tuple[int, int], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while writing(world) != wanted:
        assert time.monotonic() < end, writing(world)
        time.sleep(0.005)


LONG: dict[str, Any] = {"model": "endless", "messages": MESSAGES, "max_tokens": 3000, "stream": True}


@pytest.mark.parametrize("chunks", [1, 3])
def test_a_client_that_leaves_frees_its_slot(world: World, chunks: int) -> None:
    wait_for(world, (0, 0))
    stream = client(world).chat.completions.create(**LONG)
    for _ in zip(range(chunks), stream, strict=False):
        pass
    wait_for(world, (1, 0))  # the first chunk leaves before the text has its slot
    start = time.monotonic()
    stream.close()
    wait_for(world, (0, 0))
    assert time.monotonic() - start < 1.0  # a step of these models takes a millisecond
    assert len(world.service.texts) == 0


def test_a_client_that_does_not_wait_for_the_whole(world: World) -> None:
    wait_for(world, (0, 0))
    with pytest.raises(openai().APITimeoutError):
        client(world, timeout=0.5).chat.completions.create(**{**LONG, "stream": False})
    wait_for(world, (0, 0))


def test_a_full_queue(world: World) -> None:
    """Four slots and two that wait; the next one is told to come again, and those that wait are told that they do."""
    wait_for(world, (0, 0))
    streams = [client(world).chat.completions.create(**LONG) for _ in range(6)]
    try:
        wait_for(world, (4, 2))
        with pytest.raises(openai().APIStatusError) as raised:
            client(world).chat.completions.create(**LONG)
        assert raised.value.status_code == 503
        assert raised.value.body["code"] == "queue_full"
        assert int(raised.value.response.headers["retry-after"]) >= 1
        time.sleep(0.5)
        raw = streams[-1].response.iter_raw()
        assert b": waiting for a slot" in next(raw) + next(raw)
    finally:
        for stream in streams:
            stream.close()
    wait_for(world, (0, 0))
    assert client(world).completions.create(model="endless", prompt="a", max_tokens=2).usage.completion_tokens == 2


def test_an_async_client(world: World) -> None:
    """Six at a time, each as if it were alone."""
    import asyncio

    async def ask(number: int) -> str:
        async with openai().AsyncOpenAI(base_url=f"{world.address}/v1", api_key=KEY, max_retries=0) as one:
            answer = await one.completions.create(model="tiny", prompt=f"{number} dogs", max_tokens=20, temperature=0)
            text: str = answer.choices[0].text
            return text

    async def ask_all() -> list[str]:
        return list(await asyncio.gather(*map(ask, range(6))))

    pair = world.pair("tiny")
    assert asyncio.run(ask_all()) == [pair.generate(f"{i} dogs", max_tokens=20, temperature=0).text for i in range(6)]
