"""Several threads and one pair."""

from __future__ import annotations

import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import lifecycle
from lifecycle import GREEDY, computing, in_thread, load, long_prompt

import colm_cpp as colm

folder = lifecycle.folder
pair = lifecycle.pair
slow = lifecycle.slow


def write(pair: colm.Pair, prompt: str, **options: Any) -> tuple[str, list[Any], list[str]]:
    """The text, the calls of llama_decode, and who wrote each token."""
    stream = pair.stream(prompt, **{**GREEDY, "lookahead": 0, **options})
    result = stream.completion()
    return result.text, stream.calls, [token.source for token in result.tokens]


def test_texts_of_several_threads_queue(pair: colm.Pair) -> None:
    prompts = ["The quick fox", "and then", "What is it?", "Question: how"]
    alone = {}
    for prompt in prompts:
        pair.forget()
        alone[prompt] = write(pair, prompt)
    assert {source for _, _, sources in alone.values() for source in sources} == {"base", "assistant"}
    assert len({text for text, _, _ in alone.values()}) == len(prompts)

    pair.forget()
    barrier = threading.Barrier(len(prompts))
    together: dict[str, list[Any]] = {prompt: [] for prompt in prompts}

    def run(prompt: str) -> None:
        barrier.wait()
        for _ in range(3):
            together[prompt].append(write(pair, prompt))

    threads = [threading.Thread(target=run, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for prompt in prompts:
        assert len(together[prompt]) == 3
        for text, calls, sources in together[prompt]:
            assert (text, sources) == (alone[prompt][0], alone[prompt][2])
            # Step by step in turns, each text would displace the other and be read again from its beginning.
            for model in ("base", "assistant"):
                own = [call for call in calls if call[0] == model]
                assert all(after[1] == before[1] + before[2] for before, after in pairwise(own))


def test_turns_are_taken_in_the_order_of_asking(slow: colm.Pair) -> None:
    order: list[int] = []

    def run(i: int) -> None:
        slow.generate(f"{i} apples", **GREEDY)
        order.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    with computing(slow):
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        assert order == []
    for thread in threads:
        thread.join(20)
    assert order == [0, 1, 2, 3]


def test_other_threads_run_while_models_compute(slow: colm.Pair) -> None:
    slow.forget()
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.002)

    stream = slow.stream(long_prompt(400), threshold=1, max_tokens=1, temperature=0)
    thread = threading.Thread(target=tick)
    thread.start()
    begin = time.perf_counter()
    list(stream)
    end = time.perf_counter()
    done.set()
    thread.join()
    inside = [t for t in ticks if begin < t < end]
    assert end - begin > 0.1
    assert len(inside) > (end - begin) / 0.05
    assert max(b - a for a, b in pairwise(inside)) < (end - begin) / 2


def test_pairs_compute_independently(folder: Path, pair: colm.Pair) -> None:
    expected = [pair.generate(f"text {i}", **GREEDY).text for i in range(2)]
    with load(folder, n_ctx=512) as other:
        begun = pair.stream("the", **GREEDY)
        next(begun)  # this pair is taken, the other is not
        assert in_thread(lambda: other.generate("text 1", **GREEDY).text) == expected[1]
        begun.close()
        assert in_thread(lambda: pair.generate("text 0", **GREEDY).text) == expected[0]


def test_stream_advanced_from_several_threads(pair: colm.Pair) -> None:
    expected = [token.text for token in pair.generate("The fox", **GREEDY).tokens]
    stream = pair.stream("The fox", **GREEDY)
    pieces = [next(stream).text]
    pieces += [in_thread(lambda: next(stream).text) for _ in range(5)]
    pieces += [token.text for token in stream]
    assert pieces == expected
    assert stream.finish_reason is not None


def test_stream_begun_by_a_thread_that_is_gone(pair: colm.Pair) -> None:
    expected = pair.generate("The fox", **GREEDY)
    stream = pair.stream("The fox", **GREEDY)
    in_thread(lambda: next(stream))
    assert stream.completion().text == expected.text
    assert in_thread(lambda: pair.generate("The fox", **GREEDY)).text == expected.text


def test_text_inside_a_stream(pair: colm.Pair) -> None:
    outer = pair.generate("The quick fox", **GREEDY)
    inner = pair.generate("and then", **GREEDY)
    pieces = []
    for token in pair.stream("The quick fox", **GREEDY):
        assert pair.generate("and then", **GREEDY).text == inner.text
        pieces.append(token.text)
    assert "".join(pieces) == outer.text


def test_streams_started_and_cancelled_at_the_same_time(pair: colm.Pair) -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    failed: list[BaseException] = []
    done = threading.Event()

    def start() -> None:
        kept = []
        while not done.is_set():
            kept.append(pair.stream("a", max_tokens=1))

    thread = threading.Thread(target=start)
    try:
        thread.start()
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            pair.cancel()
    except RuntimeError as error:
        failed.append(error)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert failed == []
