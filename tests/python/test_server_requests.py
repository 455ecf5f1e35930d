"""Requests that the description of the server allows, and some that it does not (schemathesis): no server error."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import TinyModels

if importlib.util.find_spec("schemathesis") is None:  # its import takes seconds, which only these tests need
    pytest.skip("needs schemathesis: pip install schemathesis", allow_module_level=True)
pytest.importorskip("prometheus_client")

from server_world import World, running, tiny

from colm_cpp.server import Settings
from colm_cpp.server.registry import Registry

MANY = int(os.environ.get("COLM_REQUESTS", "1000"))
OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/colm/distributions"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("GET", "/tokenizer_info"),
    ("GET", "/v1/models/{model}"),
]
# Allowed, and not. Of the GET requests any is allowed: any text is a name.
KINDS = [(*operation, negative) for operation in OPERATIONS for negative in (False, True)]
KINDS = [kind for kind in KINDS if kind[0] == "POST" or not kind[2]]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def world(tiny_model: TinyModels) -> Iterator[World]:
    # What a schema cannot say: texts end soon.
    with running(Registry([tiny(tiny_model, "demo", n_ctx=64)]), Settings(max_tokens=4)) as world:
        yield world


def requests(world: World, method: str, path: str, n: int, *, negative: bool) -> None:
    """So many requests, made from the description; all answers are whole, and none says that the server failed."""
    import httpx
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, seed, settings

    description = httpx.get(f"{world.address}/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description)
    mode = schemathesis.GenerationMode.NEGATIVE if negative else schemathesis.GenerationMode.POSITIVE
    operation = schema[path][method]

    @seed(1)
    @settings(
        max_examples=n,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "demo"
        answer = case.call(base_url=world.address, timeout=60)
        assert answer.status_code < 500 or answer.status_code == 503, answer.text
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    ask()


@pytest.mark.parametrize(("method", "path", "negative"), KINDS, ids=str)
def test_requests(world: World, method: str, path: str, negative: bool) -> None:
    requests(world, method, path, -(-MANY // len(KINDS)), negative=negative)
