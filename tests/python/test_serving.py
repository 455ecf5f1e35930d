"""The programs of docs/serving.md, with clients that leave."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from conftest import ASSISTANT, BASE, TinyModels

import colm_cpp as colm

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"
# A pair that has been left is free again after a second at most; machines may be busy.
SOON = 5.0
LONG = 6000

Program = Callable[[str], ModuleType]


@pytest.fixture
def endless(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    """A pair whose texts do not end by themselves."""
    options: dict[str, Any] = {"n_ctx_train": 8192}
    files = tiny_model(**BASE, **options), tiny_model(**ASSISTANT, **options)
    with colm.load(*files, "confidence", n_ctx=8192, n_threads=1, n_threads_batch=1) as pair:
        banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
        stream = pair.stream
        pair.stream = lambda prompt, **given: stream(prompt, logit_bias=banned, **given)  # type: ignore[method-assign]
        yield pair


@pytest.fixture
def program(endless: colm.Pair, monkeypatch: pytest.MonkeyPatch) -> Program:
    """`program(name)`: that program of the page as a module, with that pair."""
    programs = dict(re.findall(r"<!-- program: (\w+) -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S))
    monkeypatch.setattr(colm, "load", lambda name, **_: endless if name == "demo" else pytest.fail(name))

    def run(name: str) -> ModuleType:
        module = ModuleType(name)
        exec(compile(programs[name], f"{PAGE.name}: {name}", "exec"), module.__dict__)
        return module

    return run


@contextlib.contextmanager
def uvicorn_server(app: Any) -> Iterator[str]:
    uvicorn = pytest.importorskip("uvicorn")
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def werkzeug_server(app: Any) -> Iterator[str]:
    serving = pytest.importorskip("werkzeug.serving")

    class Quiet(serving.WSGIRequestHandler):  # type: ignore[misc, name-defined]
        def log(self, *_: object) -> None:
            pass

    server = serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join(20)
        server.server_close()
        assert not thread.is_alive()


NATURAL = """
@app.get("/natural")
def natural(prompt: str, max_tokens: int = 128):
    return StreamingResponse(token.text for token in pair.stream(prompt, max_tokens=max_tokens))
"""


@contextlib.contextmanager
def served(program: Program, name: str) -> Iterator[str]:
    module = program(name)
    if name == "fastapi":
        exec(NATURAL, module.__dict__)
    serve = uvicorn_server if name == "fastapi" else werkzeug_server
    gc.collect()
    gc.disable()  # a collection would close what was left, sooner or later
    try:
        with serve(module.app) as address:
            yield address
    finally:
        gc.enable()


def leave(address: str, chunks: int) -> None:
    """A client that reads some pieces of a long text and is gone."""
    parameters: dict[str, Any] = {"prompt": "The quick fox", "max_tokens": LONG}
    with httpx.stream("GET", address, params=parameters, timeout=20) as answer:
        assert answer.status_code == 200
        pieces = answer.iter_raw()
        for _ in range(chunks):
            next(pieces)


WAYS = [
    pytest.param("fastapi", "/stream", id="fastapi/stream"),
    pytest.param("fastapi", "/natural", id="fastapi/natural", marks=pytest.mark.slow),
    pytest.param("flask", "/stream", id="flask/stream", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "path"), WAYS)
def test_clients_that_leave(program: Program, endless: colm.Pair, name: str, path: str) -> None:
    pytest.importorskip(name)
    with served(program, name) as address:
        for chunks in (1, 3, 2):
            leave(address + path, chunks)
        if path == "/stream":  # those are closed at once
            end = time.monotonic() + SOON
            while not all(isinstance(s, colm.TokenStream) and s._done for s in endless._live_streams()):
                assert time.monotonic() < end
                time.sleep(0.01)
        for _ in range(3):
            start = time.monotonic()
            answer = httpx.get(f"{address}/complete", params={"prompt": "and", "max_tokens": 3}, timeout=20)
            assert answer.status_code == 200
            assert answer.json()["stats"]["generated_tokens"] >= 1
            assert time.monotonic() - start < SOON
        with httpx.stream("GET", address + path, params={"prompt": "a", "max_tokens": 5}, timeout=20) as last:
            assert last.read()


@pytest.mark.parametrize("name", ["fastapi", pytest.param("flask", marks=pytest.mark.slow)])
def test_what_cannot_be_answered_has_a_status(program: Program, endless: colm.Pair, name: str) -> None:
    pytest.importorskip(name)
    with served(program, name) as address:
        for path in ("complete", "stream"):
            for parameters in ({"prompt": ""}, {"prompt": "a", "max_tokens": -2}, {"prompt": "x" * 9000}):
                answer = httpx.get(f"{address}/{path}", params=parameters, timeout=20)
                assert answer.status_code == 400, answer.text
                assert answer.json()["error"]


@pytest.mark.parametrize("name", ["fastapi", pytest.param("flask", marks=pytest.mark.slow)])
def test_a_queue_that_is_too_long_has_a_status(
    program: Program, endless: colm.Pair, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(name)
    begin = endless.begin
    long_text = begin([1] * 3000, colm.GenerationOptions(max_tokens=None))

    def hasty(tokens: Any, options: Any, queue_timeout: float | None, own_prompts: Any) -> colm.TokenStream:
        assert queue_timeout == 10
        return begin(tokens, options, 0.05, own_prompts)

    monkeypatch.setattr(endless, "begin", hasty)
    thread = threading.Thread(target=long_text.completion)
    with served(program, name) as address:
        thread.start()
        try:
            while not long_text.begun:
                time.sleep(0.005)
            for path in ("complete", "stream"):
                answer = httpx.get(f"{address}/{path}", params={"prompt": "a"}, timeout=20)
                assert answer.status_code == 503
                assert "0.05" in answer.json()["error"]
        finally:
            long_text.cancel()
            thread.join(20)


def test_asyncio(program: Program) -> None:
    """Readers that are cancelled, that break off, and that go on."""
    module = program("asyncio")

    async def read(n: int | None, pieces: list[str]) -> None:
        async for piece in module.written("The quick fox", max_tokens=LONG if n is None else n):
            pieces.append(piece)

    async def run() -> None:
        left: list[str] = []
        tasks = [asyncio.create_task(read(None, left)) for _ in range(3)]
        while not left:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
        async for _ in module.written("a", max_tokens=LONG):
            break
        start = time.monotonic()
        assert await module.answer("and", max_tokens=3, temperature=0)
        assert time.monotonic() - start < SOON
        whole: list[str] = []
        await read(8, whole)
        assert 0 < len(whole) <= 8

    asyncio.run(asyncio.wait_for(run(), 40))
