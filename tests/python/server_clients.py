"""OpenAI's Python client, and the server that it asks in the conformance tests."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import TinyModels

if importlib.util.find_spec("openai") is None:
    pytest.skip("needs OpenAI's client: pip install openai", allow_module_level=True)
pytest.importorskip("prometheus_client")

from server_cases import MESSAGES, Answer
from server_world import World, demo, running, tiny

from colm_cpp.server import Settings
from colm_cpp.server.registry import Registry

KEY = "a-key"
_CLIENTS: dict[tuple[Any, ...], Any] = {}  # those that were made, until their server ends


@pytest.fixture(scope="module")
def world(tiny_model: TinyModels) -> Iterator[World]:
    registry = Registry(
        [demo(), tiny(tiny_model, n_ctx=1024), tiny(tiny_model, "endless", n_ctx=4096, endless=True)], queue=2
    )
    with running(registry, Settings(api_key=KEY, keep_alive=0.2)) as world:
        client(world).chat.completions.create(model="demo", messages=MESSAGES, max_tokens=1)
        client(world).completions.create(model="tiny", prompt="a", max_tokens=1)
        client(world).completions.create(model="endless", prompt="a", max_tokens=1)
        yield world
        while _CLIENTS:
            _CLIENTS.popitem()[1].close()


def openai() -> Any:
    """OpenAI's library. Its import takes long, and whoever only collects tests does without."""
    return importlib.import_module("openai")


def client(world: World, **options: Any) -> Any:
    """The official client, which would try again by itself. Making one takes long."""
    key = (world.address, *options.items())
    if key not in _CLIENTS:
        given = {"api_key": KEY, "max_retries": 0, "timeout": 30, **options}
        _CLIENTS[key] = openai().OpenAI(base_url=f"{world.address}/v1", **given)
    return _CLIENTS[key]


def chat(world: World, *, stream: bool, model: str = "demo", messages: Any = None, **fields: Any) -> Answer:
    """One request for a chat completion."""
    asked = {"model": model, "messages": MESSAGES if messages is None else messages, **fields}
    if not stream:
        answer = client(world).chat.completions.create(**asked)
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        return Answer(
            texts=[c.message.content or "" for c in choices],
            reasons=[c.finish_reason for c in choices],
            logprobs=[c.logprobs.content if c.logprobs else [] for c in choices],
            calls=[[(t.function.name, t.function.arguments) for t in c.message.tool_calls or []] for c in choices],
            tokens=[c.colm["tokens"] for c in choices],
            stats=[c.colm["stats"] for c in choices],
            usage=answer.usage,
        )
    n = fields.get("n") or 1
    made = Answer([""] * n, [None] * n, *([[] for _ in range(n)] for _ in range(3)), [{}] * n)  # type: ignore[arg-type]
    for chunk in client(world).chat.completions.create(stream=True, **asked):
        made.n_pieces += 1
        made.usage = chunk.usage or made.usage
        for choice in chunk.choices:
            at = choice.index
            made.texts[at] += choice.delta.content or ""
            made.reasons[at] = choice.finish_reason or made.reasons[at]
            made.logprobs[at] += choice.logprobs.content if choice.logprobs else []
            made.tokens[at] += choice.colm["tokens"]
            made.stats[at] = choice.colm.get("stats") or made.stats[at]
            for call in choice.delta.tool_calls or []:
                if call.id is not None:
                    made.calls[at].append((call.function.name, ""))
                name, arguments = made.calls[at][call.index]
                made.calls[at][call.index] = name, arguments + call.function.arguments
    return made


def post(world: World, path: str, body: Any) -> Any:
    answer = client(world)._client.post(f"{world.address}{path}", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(world: World, path: str) -> Any:
    return client(world)._client.get(f"{world.address}{path}", headers={"Authorization": f"Bearer {KEY}"})
