"""Whose text a pair writes: readers that are slow or gone, timeouts, signals, closing."""

from __future__ import annotations

import random
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import lifecycle
import pytest
from conftest import ids
from lifecycle import GREEDY, child_says, computing, in_thread, linux_only, load, run_child

import colm_cpp as colm
from colm_cpp import errors

# A reader that is gone blocks others for a second at most; machines may be busy.
SOON = 4.0


folder = lifecycle.folder
pair = lifecycle.pair
slow = lifecycle.slow


def no_end(pair: colm.Pair) -> dict[int, float]:
    return dict.fromkeys(pair.base["eog_tokens"], float("-inf"))


# -- readers --------------------------------------------------------------------------------------------------


def test_a_stream_that_nobody_reads_blocks_nobody(pair: colm.Pair) -> None:
    expected = pair.generate("The fox", **GREEDY).text
    whole = pair.generate("the", **GREEDY).text
    left = [pair.stream("the", **GREEDY) for _ in range(3)]
    pieces = [next(stream).text for stream in left]
    start = time.monotonic()
    for _ in range(3):
        assert in_thread(lambda: pair.generate("The fox", **GREEDY).text) == expected
    assert time.monotonic() - start < SOON
    for stream, piece in zip(left, pieces, strict=True):  # they go on where they stood
        assert piece + stream.completion().text[len(piece) :] == whole


def test_a_reader_that_comes_back_at_once_keeps_the_pair(slow: colm.Pair) -> None:
    """Nothing is read twice: waiting for it pays, since its text takes long to read again."""
    slow.forget()
    prompt = [(5 * i) % 256 for i in range(400)]
    stream = slow.stream(prompt, threshold=1, max_tokens=20, logit_bias=no_end(slow))
    next(stream)
    order: list[str] = []

    def other() -> None:
        slow.generate("a", max_tokens=2, temperature=0)
        order.append("other")

    thread = threading.Thread(target=other)
    thread.start()
    for _ in stream:
        pass
    order.append("stream")
    thread.join(20)
    assert order == ["stream", "other"]
    calls = [call for call in stream.calls if call[0] == "base"]
    assert all(after[1] == before[1] + before[2] for before, after in pairwise(calls))


def test_a_slow_reader_shares_the_pair(pair: colm.Pair) -> None:
    """Its pauses are short, but there are many: others do not wait for them all."""
    expected = pair.generate("the", max_tokens=400, temperature=0, logit_bias=no_end(pair)).text
    done = threading.Event()
    thread = threading.Thread(target=lambda: (pair.generate("The fox", **GREEDY), done.set()))
    pieces = []
    n_alone = 0
    for i, token in enumerate(pair.stream("the", max_tokens=400, temperature=0, logit_bias=no_end(pair))):
        pieces.append(token.text)
        if i == 0:
            thread.start()
        if not done.is_set():
            time.sleep(0.004)
            n_alone += 1
    thread.join(20)
    assert "".join(pieces) == expected
    assert n_alone < 390


def test_two_streams_in_one_loop(pair: colm.Pair) -> None:
    """The same texts, and neither waits for the patience of the other."""
    one, two = (pair.generate(prompt, **GREEDY).text for prompt in ("The fox", "and then"))
    start = time.monotonic()
    pieces = list(zip(pair.stream("The fox", **GREEDY), pair.stream("and then", **GREEDY), strict=False))
    assert time.monotonic() - start < SOON
    assert len(pieces) >= 3
    assert one.startswith("".join(a.text for a, _ in pieces))
    assert two.startswith("".join(b.text for _, b in pieces))


def test_one_stream_read_by_many_threads_at_once(pair: colm.Pair) -> None:
    options: dict[str, Any] = {"max_tokens": 200, "temperature": 0, "logit_bias": no_end(pair)}
    expected = sorted(token.id for token in pair.generate("the", **options).tokens)
    stream = pair.stream("the", **options)
    read: list[int] = []
    threads = [threading.Thread(target=lambda: read.extend(token.id for token in stream)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(read) == expected


# -- timeouts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.15])
def test_queue_timeout(slow: colm.Pair, timeout: float) -> None:
    message = [{"role": "user", "content": "a"}]
    chat = {"chat_template": "{{ messages[0].content }}"}
    with computing(slow):
        waiting = slow.stream("and", queue_timeout=timeout, **GREEDY)
        for call in (
            lambda: slow.generate("and", queue_timeout=timeout, **GREEDY),
            lambda: slow.chat(message, queue_timeout=timeout, **chat, **GREEDY),
            lambda: next(slow.stream_chat(message, queue_timeout=timeout, **chat, **GREEDY)),
            lambda: next(waiting),
            lambda: next(waiting),
        ):
            start = time.monotonic()
            with pytest.raises(errors.QueueTimeout, match="queue_timeout") as error:
                call()
            assert timeout <= error.value.waited <= time.monotonic() - start
            assert error.value.waited < timeout + SOON
            assert error.value.timeout == timeout
            assert isinstance(error.value, (colm.ColmError, TimeoutError))
    # It stands where it stood.
    assert waiting.completion().text == slow.generate("and", queue_timeout=0, **GREEDY).text


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "5", [1], True + 0j])
def test_queue_timeout_is_a_time(pair: colm.Pair, wrong: Any) -> None:
    with pytest.raises(colm.OptionError, match="queue_timeout"):
        pair.stream("a", queue_timeout=wrong)


def test_cancel_reaches_a_text_that_waits(slow: colm.Pair) -> None:
    waiting = slow.stream("and", **GREEDY)
    with computing(slow):
        thread = threading.Thread(target=lambda: list(waiting))
        thread.start()
        time.sleep(0.05)
        waiting.cancel()
        thread.join(SOON)
        assert not thread.is_alive()
    assert waiting.finish_reason == "cancelled"
    assert waiting.stats.base_steps == 0


# -- signals --------------------------------------------------------------------------------------------------


@linux_only
def test_a_signal_handler_writes_while_the_main_thread_waits(folder: Path) -> None:
    output = child_says(
        folder,
        """
        with load("slow") as pair:
            def handler(number, frame):
                print("handler", pair.generate("and", max_tokens=2, seed=1).finish_reason)
            signal.signal(signal.SIGALRM, handler)
            thread = threading.Thread(target=lambda: pair.generate(PROMPT[:1200], threshold=1, max_tokens=1))
            thread.start()
            time.sleep(0.1)
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            print("main", pair.generate("the", max_tokens=2, seed=1).finish_reason)
            thread.join()
        """,
        timeout=20,
    )
    assert [line.split()[0] for line in output.splitlines()] == ["handler", "main"]


@linux_only
def test_ctrl_c_at_any_moment_leaves_nothing_behind(folder: Path) -> None:
    """No count of who is inside (exit would wait for it), and no turn (other threads would).

    Python drops an interrupt that comes in a destructor, and says so on stderr.
    """
    done = run_child(
        folder,
        """
        from colm_cpp.llama import busy
        pair = load(n_ctx=256)
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        ids = pair.tokenize("a")
        n, end = 0, time.monotonic() + 0.8
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00002 * (n % 60))
                for _ in range(100):
                    pair.tokenize("a")
                    pair.forget()
                    pair.generate(ids, max_tokens=2, temperature=0)
            except KeyboardInterrupt:
                n += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(n > 40, busy._inside.count)
        thread = threading.Thread(target=lambda: print(pair.generate(ids, max_tokens=2, queue_timeout=5).finish_reason))
        thread.start()
        thread.join()
        """,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "True 0"
    assert second in ("length", "eos")


# -- closing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_closing_while_others_write(n: int, folder: Path) -> None:
    """PairClosed, whatever they were at, or the whole text."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    outcomes: list[object] = []

    def use(pair: colm.Pair, kind: int) -> None:
        try:
            while True:
                if kind == 0:
                    pair.generate("the fox", max_tokens=3, temperature=0)
                elif kind == 1:
                    pair.generate("the fox", head="entropy", max_tokens=3, temperature=0)
                elif kind == 2:
                    assert all(isinstance(c, colm.Completion) for c in pair.generate_batch(["a", "b"], max_tokens=3))
                else:
                    for token in pair.stream("the", max_tokens=5, temperature=0):
                        assert token.text is not None
        except BaseException as error:
            outcomes.append(error)

    try:
        for i in range(n):
            pair = load(folder, n_ctx=128)
            threads = [threading.Thread(target=use, args=(pair, kind)) for kind in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.02 + 0.004 * i)
            pair.close()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
    finally:
        sys.setswitchinterval(interval)
    assert [type(outcome) for outcome in outcomes] == [errors.PairClosed] * (4 * n), outcomes


def test_closing_ends_a_text_under_way_with_pair_closed(folder: Path) -> None:
    pair = load(folder, "slow")
    outcome: list[object] = []

    def write() -> None:
        try:
            outcome.append(pair.generate([3] * 4000, threshold=1, max_tokens=1))
        except errors.ColmError as error:
            outcome.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    while not any(stream.begun for stream in pair._live_streams()):
        time.sleep(0.005)
    pair.close()
    thread.join(20)
    assert [type(o) for o in outcome] == [errors.PairClosed]


# -- everything at once ---------------------------------------------------------------------------------------


def exercise(pair: colm.Pair, n_operations: int, n_threads: int = 8) -> None:
    """Random calls of several threads: each whole text is the one that is written alone."""
    prompts = ["The quick fox", "and then", "What is it?", "a", "Question: how"]
    options = {"max_tokens": 10, "temperature": 0}
    whole = {prompt: pair.generate(prompt, **options) for prompt in prompts}
    expected = {prompt: completion.text for prompt, completion in whole.items()}
    failed: list[BaseException] = []
    n_done = [0] * n_threads

    def run(seed: int) -> None:
        rng = random.Random(seed)
        kept: list[tuple[str, colm.TokenStream, str]] = []
        try:
            while n_done[seed] < n_operations // n_threads:
                n_done[seed] += 1
                prompt = rng.choice(prompts)
                action = rng.randrange(9)
                if action <= 2:
                    assert pair.generate(prompt, **options).text == expected[prompt]
                elif action == 3:
                    try:
                        text = pair.generate(prompt, queue_timeout=rng.choice([0, 0.001, 0.01]), **options).text
                        assert text == expected[prompt]
                    except errors.QueueTimeout:
                        pass
                elif action == 4:
                    stream = pair.stream(prompt, **options)
                    kept.append((prompt, stream, next(stream).text))  # left open
                elif action == 5 and kept:
                    prompt, stream, text = kept.pop(rng.randrange(len(kept)))
                    assert stream.completion().text == expected[prompt]
                elif action == 6 and kept:
                    kept.pop()[1].close()
                elif action == 7:
                    stream = pair.stream(prompt, **options)
                    timer = threading.Timer(rng.random() * 0.01, stream.cancel)
                    timer.start()
                    written = ids(stream.completion())  # its text may end within a character
                    assert written == ids(whole[prompt])[: len(written)]
                    timer.join()
                else:
                    for n, token in enumerate(pair.stream(prompt, **options)):
                        assert token.text is not None
                        if n == rng.randrange(5):
                            break
                del kept[4:]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(n_threads)]
    for thread in threads:
        thread.start()
    done, seen = -1, time.monotonic()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.05)
        if sum(n_done) != done:
            done, seen = sum(n_done), time.monotonic()
        # A busy machine takes minutes for all operations, but not for one.
        assert time.monotonic() < seen + 100, f"a thread waits for ever, after {n_done} operations"
    assert failed == []
    assert sum(n_done) == n_operations


def test_random_calls_of_eight_threads(pair: colm.Pair) -> None:
    exercise(pair, 160)


@pytest.mark.slow
def test_many_random_calls_of_eight_threads(pair: colm.Pair) -> None:
    exercise(pair, 8000)
