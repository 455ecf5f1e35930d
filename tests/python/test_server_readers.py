"""How streams get their tokens: written in one thread, taken in another, several at a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, Histogram, generate_latest

import colm_cpp as colm
from colm_cpp.server import metrics, readers

OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 40}


@pytest.fixture(scope="module")
def pair(tiny_model: TinyModels) -> Iterator[colm.Pair]:
    endless = {"row_scale": dict.fromkeys(("<|im_end|>", "<|endoftext|>"), 0.0), "n_ctx_train": 4096}
    files = tiny_model(**BASE, **endless), tiny_model(**ASSISTANT, **endless)
    with colm.load(*files, "confidence", n_parallel=4, **{**TINY_LOAD, "n_ctx": 4096}) as pair:
        yield pair


def test_what_is_taken_is_the_text(pair: colm.Pair) -> None:
    expected = pair.generate("The quick", logprobs=2, **OPTIONS)
    stream = pair.stream("The quick", logprobs=2, **OPTIONS)
    thread = threading.Thread(target=stream.write)
    thread.start()
    taken = []
    while thread.is_alive():
        taken += stream.take()
        time.sleep(0.001)
    taken += stream.take()
    assert taken == list(expected.tokens)
    assert stream.take() == []
    assert (stream.finish_reason, stream.completion().text) == (expected.finish_reason, expected.text)


def test_a_text_that_is_cancelled_while_it_is_written(pair: colm.Pair) -> None:
    stream = pair.stream("The quick", temperature=0, max_tokens=4000)
    thread = threading.Thread(target=stream.write)
    thread.start()
    while not stream.take():
        time.sleep(0.001)
    stream.cancel()
    thread.join(20)
    assert not thread.is_alive()
    assert stream.finish_reason == "cancelled"


def test_errors_come_to_whoever_reads(pair: colm.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    def fails(stream: colm.TokenStream) -> None:
        raise colm.GenerationError("llama.cpp failed")

    async def read() -> None:
        reader = readers.Readers().read(pair.stream("The quick", **OPTIONS), lambda: ended.append(1))
        async for _ in reader:
            pass

    monkeypatch.setattr(colm.TokenStream, "write", fails)
    with pytest.raises(colm.GenerationError):
        asyncio.run(read())
    assert ended == [1]


def test_tokens_are_taken_together(pair: colm.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three texts, one timer, which ends with them. Each text is whole, in far fewer pieces than tokens."""
    monkeypatch.setattr(readers, "TAKE_EVERY", 0.2)
    monkeypatch.setattr(readers, "TAKE_AT_LEAST_EVERY", 0.2)
    prompts = ["The quick", "and the dog", "One"]
    expected = [list(pair.generate(prompt, **OPTIONS).tokens) for prompt in prompts]
    ended: list[str] = []

    async def read(all_of_them: readers.Readers, prompt: str) -> list[list[colm.Token]]:
        reader = all_of_them.read(pair.stream(prompt, **OPTIONS), lambda: ended.append(prompt))
        return [bunch async for bunch in reader]

    async def read_all() -> list[list[list[colm.Token]]]:
        all_of_them = readers.Readers()
        bunches = await asyncio.gather(*(read(all_of_them, prompt) for prompt in prompts))
        assert sorted(ended) == sorted(prompts)
        await asyncio.sleep(0.3)
        assert all_of_them._timer is None
        return bunches

    for bunches, tokens in zip(asyncio.run(read_all()), expected, strict=True):
        assert [token.id for bunch in bunches for token in bunch] == [token.id for token in tokens]
        assert len(bunches) <= len(tokens) // 2


def test_slow_texts_are_looked_at_less_often(pair: colm.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until a token has come."""
    gives: list[list[Any]] = [["token"], [], [], [], [], ["token"], []]
    waited: list[float] = []  # before each look
    done = threading.Event()

    def take(stream: colm.TokenStream) -> list[Any]:
        waited.append(all_of_them._every)
        if len(waited) == len(gives):
            done.set()
        return gives[len(waited) - 1] if len(waited) <= len(gives) else []

    async def read() -> None:
        async for _ in all_of_them.read(pair.stream("The quick", **OPTIONS), lambda: None):
            pass

    monkeypatch.setattr(readers, "TAKE_EVERY", 0.01)
    monkeypatch.setattr(readers, "TAKE_AT_LEAST_EVERY", 0.04)
    monkeypatch.setattr(colm.TokenStream, "write", lambda stream: done.wait(20))
    monkeypatch.setattr(colm.TokenStream, "take", take)
    all_of_them = readers.Readers()
    asyncio.run(read())
    assert waited[: len(gives)] == [0.01, 0.01, 0.02, 0.04, 0.04, 0.04, 0.01]


def test_many_equal_times_count_as_so_many() -> None:
    """As prometheus_client's own histogram, told one by one."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    between = metrics._Between()
    ours.register(between)
    name, about = "colm_time_between_tokens_seconds", "Between tokens of a stream."
    told = Histogram(name, about, buckets=metrics._SECONDS, registry=theirs)
    for seconds, n in ((0.004, 3), (0.005, 1), (0.2, 7), (100.0, 2)):
        between.observe(seconds, n)
        for _ in range(n):
            told.observe(seconds)
    lines = [
        [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
        for registry in (ours, theirs)
    ]
    assert lines[0] == lines[1]
