"""One pair under pressure: threads that write, leave, cancel, save, load and forget at the same time."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import colm_cpp as colm

pytestmark = pytest.mark.slow

PROMPTS = [f"Question: {who} has {n} pens." for n, who in enumerate(("Tom", "Ann", "A shop", "The club", "Mia"), 3)]
N_THREADS = 5
# Nothing here depends on the seed, which each text of a batch has of its own.
OPTIONS: dict[str, Any] = {"head": "confidence", "threshold": 0.4, "max_tokens": 14, "temperature": 0.0}


def load() -> colm.Pair:
    # A cache that holds some of these texts and not all.
    return colm.load("demo", n_parallel=3, cache_mb=1, n_ctx=128, n_threads=1, batch_invariant=True)


@pytest.fixture(scope="module")
def pair() -> Iterator[colm.Pair]:
    with load() as pair:
        yield pair


@pytest.fixture(scope="module")
def alone(pair: colm.Pair) -> dict[str, list[tuple[int, str]]]:
    texts = {prompt: written(pair.generate(prompt, **OPTIONS)) for prompt in PROMPTS}
    assert {source for text in texts.values() for _, source in text} == {"base", "assistant"}
    return texts


def written(out: colm.Completion) -> list[tuple[int, str]]:
    return [(token.id, token.source) for token in out.tokens]


def together(work: Callable[[random.Random], None], n_threads: int = N_THREADS) -> None:
    """The same work in several threads; what one raises is raised here."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(random.Random(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    if errors:
        raise errors[0]


def test_nothing_that_threads_do_changes_a_text(
    pair: colm.Pair, alone: dict[str, list[tuple[int, str]]], tmp_path: Path
) -> None:
    counts: dict[str, int] = {}

    def work(rng: random.Random) -> None:
        path = tmp_path / f"{threading.get_ident()}.session"
        pair.save_session(path)
        for _ in range(16):
            prompt = rng.choice(PROMPTS)
            lookahead: Any = rng.choice((0, 3, "auto"))
            action = rng.choice(("generate", "generate", "leave", "cancel", "batch", "save", "load", "forget"))
            counts[action] = counts.get(action, 0) + 1
            if action == "generate":
                assert written(pair.generate(prompt, lookahead=lookahead, **OPTIONS)) == alone[prompt]
            elif action in ("leave", "cancel"):
                stream = pair.stream(prompt, lookahead=lookahead, **OPTIONS)
                tokens = [next(stream) for _ in range(rng.randrange(5))]
                if action == "leave":
                    stream.close()
                else:
                    stream.cancel()
                    tokens += list(stream)
                    assert stream.finish_reason in ("cancelled", "length", "eos")
                assert [(token.id, token.source) for token in tokens] == alone[prompt][: len(tokens)]
            elif action == "batch":
                chosen = rng.sample(PROMPTS, 3)
                outs = pair.generate_batch(chosen, n_parallel=rng.choice((2, 4)), lookahead=lookahead, **OPTIONS)
                assert [written(out) for out in outs] == [alone[text] for text in chosen]
            elif action == "save":
                pair.save_session(path)
            elif action == "load":
                pair.load_session(path)
            else:
                pair.forget()

    together(work)
    assert len(counts) == 7
    for prompt in PROMPTS:
        assert written(pair.generate(prompt, **OPTIONS)) == alone[prompt]


def test_a_pair_closed_under_pressure_ends_every_call(tmp_path: Path) -> None:
    for delay in (0.05, 0.15, 0.4):
        pair = load()
        ended: list[str] = []

        def work(rng: random.Random, pair: colm.Pair = pair, ended: list[str] = ended) -> None:
            try:
                for number in range(10_000):
                    if number % 5 == 1:
                        pair.save_session(tmp_path / f"{threading.get_ident()}.session")
                    elif number % 5 == 2:
                        pair.generate_batch(PROMPTS, n_parallel=4, **OPTIONS)
                    else:
                        pair.generate(rng.choice(PROMPTS), **OPTIONS)
            except colm.PairClosed:
                ended.append("closed")

        closer = threading.Timer(delay, pair.close)
        closer.start()
        together(work)
        closer.join()
        assert ended == ["closed"] * N_THREADS


class Stop(Exception):
    pass


def test_prompts_that_raise_end_their_batch_alone(pair: colm.Pair, alone: dict[str, list[tuple[int, str]]]) -> None:
    def prompts() -> Iterator[str]:
        yield from PROMPTS[:3]
        raise Stop

    def work(rng: random.Random) -> None:
        for _ in range(4):
            if rng.random() < 0.5:
                with pytest.raises(Stop):
                    for _ in pair.stream_batch(prompts(), n_parallel=2, **OPTIONS):
                        pass
            else:
                prompt = rng.choice(PROMPTS)
                assert written(pair.generate(prompt, **OPTIONS)) == alone[prompt]

    together(work, 3)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_a_signal_handler_that_raises_ends_its_own_text(
    pair: colm.Pair, alone: dict[str, list[tuple[int, str]]]
) -> None:
    def stop(*_: object) -> None:
        raise Stop

    def write_on() -> None:
        while True:
            pair.generate(PROMPTS[1], **OPTIONS)

    before = signal.signal(signal.SIGALRM, stop)
    results: list[bool] = []
    done = threading.Event()

    def beside() -> None:
        while not done.is_set():
            results.append(written(pair.generate(PROMPTS[0], **OPTIONS)) == alone[PROMPTS[0]])

    thread = threading.Thread(target=beside)
    thread.start()
    try:
        for delay in (0.02, 0.05, 0.1):
            signal.setitimer(signal.ITIMER_REAL, delay)
            with pytest.raises(Stop):
                write_on()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        done.set()
        thread.join(60)
    assert results
    assert all(results)
    assert written(pair.generate(PROMPTS[1], **OPTIONS)) == alone[PROMPTS[1]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_of_forks_under_pressure_say_so_or_write(
    pair: colm.Pair, alone: dict[str, list[tuple[int, str]]]
) -> None:
    done = threading.Event()

    def beside() -> None:
        while not done.is_set():
            assert written(pair.generate(PROMPTS[0], **OPTIONS)) == alone[PROMPTS[0]]

    threads = [threading.Thread(target=beside) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                try:
                    code = 0 if written(pair.generate(PROMPTS[1], **OPTIONS)) == alone[PROMPTS[1]] else 1
                except colm.ForkError:
                    code = 0
                except BaseException:
                    code = 2
                os._exit(code)
            end = time.monotonic() + 30
            while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < end:
                time.sleep(0.01)
            if not ended[0]:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail("the child waits for ever")
            assert os.waitstatus_to_exitcode(ended[1]) == 0
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
