"""The async forms: the same texts, and a task that is cancelled ends its text."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from conftest import TinyPairs, assert_same_text

import colm_cpp as colm

OPTIONS: dict[str, Any] = {"temperature": 0, "threshold": 0.65, "max_tokens": 16}
MESSAGES = [{"role": "user", "content": "The sun"}]
TEMPLATE = "{{ messages[0].content }}"


def test_the_same_texts(pair: colm.Pair) -> None:
    async def all_forms() -> list[colm.Completion]:
        streamed = pair.astream("The sun", **OPTIONS)
        tokens = [token async for token in streamed]
        assert "".join(token.text for token in tokens) == (await pair.agenerate("The sun", **OPTIONS)).text
        assert streamed.finish_reason is not None
        assert streamed.stats.generated_tokens >= len(tokens)
        return [
            await pair.agenerate("The sun", **OPTIONS),
            await pair.achat(MESSAGES, chat_template=TEMPLATE, **OPTIONS),
            await pair.astream_chat(MESSAGES, chat_template=TEMPLATE, **OPTIONS).completion(),
            *(c for c in await pair.agenerate_batch(["The sun"] * 3, **OPTIONS) if isinstance(c, colm.Completion)),
        ]

    expected = pair.generate("The sun", **OPTIONS)
    results = asyncio.run(all_forms())
    assert len(results) == 6
    for written in results:
        assert_same_text(written, expected)


def test_many_at_once(tiny_pair: TinyPairs) -> None:
    """They share the slots, and the event loop goes on meanwhile."""
    pair = tiny_pair(n_parallel=3)
    prompts = ["The sun", "a", "Hello", "12 + 7 =", "b c d"]
    expected = [pair.generate(prompt, **OPTIONS) for prompt in prompts]
    beats = 0

    async def write() -> list[colm.Completion]:
        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        heart = asyncio.create_task(beat())
        results = await asyncio.gather(*(pair.agenerate(prompt, **OPTIONS) for prompt in prompts))
        heart.cancel()
        return list(results)

    for written, plain in zip(asyncio.run(write()), expected, strict=True):
        assert_same_text(written, plain)
    assert beats > 1


def test_batches_as_they_end(pair: colm.Pair) -> None:
    async def write() -> list[int]:
        each: list[Any] = [{"max_tokens": 12}, {"max_tokens": 3}, {"threshold": 2}]
        async with pair.astream_batch(["a", "b", "c"], n_parallel=3, each=each, temperature=0, head="never") as stream:
            results = {number: result async for number, result in stream}
        assert isinstance(results[2], colm.OptionError)
        return list(results)

    assert sorted(asyncio.run(write())) == [0, 1, 2]


def test_errors_are_those_of_the_other_form(pair: colm.Pair) -> None:
    async def wrong() -> None:
        with pytest.raises(colm.OptionError):
            await pair.agenerate("a", threshold=2)
        with pytest.raises(colm.GenerationError):
            await pair.agenerate("a", logit_bias={token: float("-inf") for token in range(pair.n_shared)})
        with pytest.raises(colm.OptionError) as error:
            await pair.agenerate_batch(["a", "b"], each=[{}, {"threshold": 2}], max_tokens=2)
        assert error.value.index == 1  # type: ignore[attr-defined]

    asyncio.run(wrong())


def test_a_cancelled_task_cancels_its_text(tiny_pair: TinyPairs) -> None:
    """Whether it is computed or waits, and the pair goes on."""
    pair = tiny_pair(n_ctx=4096)
    banned = {token: float("-inf") for token in pair.base["eog_tokens"]}
    endless: dict[str, Any] = {"max_tokens": None, "temperature": 0, "logit_bias": banned}

    async def cancel() -> None:
        tasks = [asyncio.create_task(pair.agenerate(prompt, **endless)) for prompt in ("a", "b")]
        await asyncio.sleep(0.1)
        start = time.monotonic()
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in done)
        assert time.monotonic() - start < 4
        stream = pair.astream("c", **endless)
        await anext(stream)
        await stream.aclose()
        assert [token async for token in stream] == []
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(pair.agenerate("a", **endless), 0.1)

    asyncio.run(cancel())
    assert pair.generate("a", **OPTIONS).tokens
