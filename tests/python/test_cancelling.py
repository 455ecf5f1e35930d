"""Texts that are left, cancelled or closed give their turn back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lifecycle
import pytest
from lifecycle import GREEDY, computing, in_thread, load, long_prompt

import colm_cpp as colm
from colm_cpp import errors

folder = lifecycle.folder
pair = lifecycle.pair
slow = lifecycle.slow


# How long something may take that is asked to stop at once; generous, since machines may be busy.
AT_ONCE = 1.5


def tokens_read(stream: colm.TokenStream, model: str) -> int:
    return sum(call[2] for call in stream.calls if call[0] == model)


# -- turns are given back -------------------------------------------------------------------------------------


def leave_by_break(pair: colm.Pair) -> object:
    for _ in pair.stream("the", **GREEDY):
        break
    return None


def leave_by_close(pair: colm.Pair) -> object:
    stream = pair.stream("the", **GREEDY)
    next(stream)
    stream.close()
    assert list(stream) == []
    return stream


def leave_by_with(pair: colm.Pair) -> object:
    with pair.stream("the", **GREEDY) as stream:
        next(stream)
    return stream


def leave_by_with_and_error(pair: colm.Pair) -> object:
    stream = pair.stream("the", **GREEDY)
    with pytest.raises(ZeroDivisionError), stream:
        _ = next(stream).id / 0
    return stream


def leave_by_del(pair: colm.Pair) -> object:
    stream = pair.stream("the", **GREEDY)
    next(stream)
    del stream
    return None


def leave_by_cancel(pair: colm.Pair) -> object:
    stream = pair.stream("the", **GREEDY)
    next(stream)
    stream.cancel()
    assert list(stream) == []
    assert stream.finish_reason == "cancelled"
    return stream


def leave_by_failure(pair: colm.Pair) -> object:
    banned = dict.fromkeys(range(pair.n_shared), float("-inf"))
    stream = pair.stream("the", logit_bias=banned)
    with pytest.raises(errors.GenerationError):
        next(stream)
    return stream


def leave_by_another_thread(pair: colm.Pair) -> object:
    stream = pair.stream("the", **GREEDY)
    next(stream)
    in_thread(stream.close)
    return stream


def never_begun(pair: colm.Pair) -> object:
    return pair.stream("the", **GREEDY)


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_close,
        leave_by_with,
        leave_by_with_and_error,
        leave_by_del,
        leave_by_cancel,
        leave_by_failure,
        leave_by_another_thread,
        never_begun,
    ],
    ids=lambda leave: leave.__name__,
)
def test_left_stream_gives_its_turn_back(pair: colm.Pair, leave: Callable[[colm.Pair], object]) -> None:
    expected = pair.generate("The fox", **GREEDY).text
    kept = leave(pair)
    assert in_thread(lambda: pair.generate("The fox", **GREEDY).text) == expected
    del kept


def test_stream_closed_while_it_waits_never_takes_a_turn(slow: colm.Pair) -> None:
    waiting = slow.stream("and", **GREEDY)
    thread = threading.Thread(target=lambda: list(waiting))
    with computing(slow):
        thread.start()
        time.sleep(0.1)
        waiting.close()
        thread.join(20)  # it does not wait for the other
        assert not thread.is_alive()
    assert waiting.stats.base_steps == 0
    # `waiting` still exists, but holds nothing.
    assert in_thread(lambda: slow.generate("The fox", **GREEDY).tokens)


def test_pair_closed_while_a_stream_waits(folder: Path) -> None:
    pair = load(folder, "slow")
    outcome: list[object] = []

    def wait() -> None:
        try:
            outcome.append(pair.generate("and", **GREEDY))
        except errors.ColmError as error:
            outcome.append(error)

    def read() -> None:
        try:
            outcome.append(pair.generate(long_prompt(), threshold=1, max_tokens=1))
        except errors.ColmError as error:
            outcome.append(error)

    reader = threading.Thread(target=read)
    thread = threading.Thread(target=wait)
    reader.start()
    time.sleep(0.1)
    thread.start()
    time.sleep(0.1)
    pair.close()
    thread.join(20)
    reader.join(20)
    assert not thread.is_alive()
    assert not reader.is_alive()
    assert [type(o) for o in outcome] == [errors.PairClosed] * 2


# -- cancelling -----------------------------------------------------------------------------------------------


def assert_usable_like_new(pair: colm.Pair, folder: Path, base: str, assistant: str, **options: Any) -> None:
    """What a stopped text left behind must not change the next one."""
    prompt = long_prompt(200)  # begins like the text that was stopped
    wanted = {**GREEDY, "logprobs": 2}
    with load(folder, base, assistant, **options) as fresh:
        expected = fresh.generate(prompt, **wanted)
    got = pair.generate(prompt, **wanted)
    assert got.text == expected.text
    assert [t.source for t in got.tokens] == [t.source for t in expected.tokens]
    for a, b in zip(got.tokens, expected.tokens, strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-2)


def stop_from_a_thread(stream: colm.TokenStream, stop: Callable[[], None], after: float) -> float:
    """Runs the stream, and returns the seconds that it went on behind the call of `stop`."""
    asked: list[float] = []

    def ask() -> None:
        for _ in range(4000):
            if stream.begun:  # a pair cancels nothing else
                break
            time.sleep(0.005)
        asked.append(time.perf_counter())
        stop()

    timer = threading.Timer(after, ask)
    timer.start()
    list(stream)
    end = time.perf_counter()
    timer.join()
    return end - asked[0]


@pytest.mark.parametrize(
    ("base", "assistant", "threshold", "batch"),
    [
        pytest.param(*models, batch, id=f"{batch}-{name}", marks=pytest.mark.slow if late else ())
        for name, models, batch, late in (
            ("base", ("slow", "assistant", 1), 64, False),
            ("base", ("slow", "assistant", 1), 1024, True),
            ("assistant", ("base", "slow", 0), 64, True),
            ("assistant", ("base", "slow", 0), 1024, False),
        )
    ],
)
def test_cancel_while_the_prompt_is_read(folder: Path, base: str, assistant: str, threshold: float, batch: int) -> None:
    options = {"n_batch": 4096, "n_ubatch": batch} if batch > 64 else {"n_batch": batch}
    with load(folder, base, assistant, **options) as pair:
        if assistant == "slow":  # the base has read the prompt before
            pair.generate(long_prompt(), threshold=1, max_tokens=1)
        stream = pair.stream(long_prompt(), threshold=threshold, max_tokens=1)
        overrun = stop_from_a_thread(stream, pair.cancel, 0.4)
        assert stream.finish_reason == "cancelled"
        assert overrun < AT_ONCE
        slow_one = "base" if base == "slow" else "assistant"
        assert stream.stats.generated_tokens == 0
        if batch == 64:
            assert 0 < tokens_read(stream, slow_one) < 4000
        else:
            assert [call[2] for call in stream.calls if call[0] == slow_one] == [4000]  # stopped inside it
        assert_usable_like_new(pair, folder, base, assistant, **options)


def test_cancel_while_tokens_are_written(slow: colm.Pair, folder: Path) -> None:
    stream = slow.stream(long_prompt(20), max_tokens=None, seed=1, logit_bias={384: -100.0, 386: -100.0})
    overrun = stop_from_a_thread(stream, slow.cancel, 0.3)
    assert stream.finish_reason == "cancelled"
    assert overrun < AT_ONCE
    assert 0 < stream.stats.generated_tokens < 8000
    assert_usable_like_new(slow, folder, "slow", "assistant")


def test_cancelled_text_keeps_what_was_written(slow: colm.Pair) -> None:
    stream = slow.stream("the", max_tokens=50, seed=1)
    first = next(stream)
    slow.cancel()
    result = stream.completion()
    assert result.finish_reason == "cancelled"
    assert result.text.startswith(first.text)
    assert list(stream) == []
    assert slow.generate("the", max_tokens=3, seed=1).finish_reason == "length"


def test_pair_closed_while_it_computes(folder: Path) -> None:
    pair = load(folder, "slow")
    stream = pair.stream(long_prompt(), threshold=1, max_tokens=1)
    try:
        overrun = stop_from_a_thread(stream, pair.close, 0.3)
    except errors.PairClosed:
        overrun = 0.0
    assert overrun < AT_ONCE
    with pytest.raises(errors.PairClosed):
        pair.generate("the")
