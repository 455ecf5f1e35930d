"""Threads, cancelling, Ctrl-C, the end of the interpreter, the libraries in the process, its log and its memory."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm

import colm_cpp as colm
from colm_cpp import errors

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
# How long something may take that is asked to stop at once; generous, since machines may be busy.
AT_ONCE = 1.5
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc or sends signals")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lifecycle")
    tm.make_model(folder / "base.gguf", seed=1, n_ctx_train=8192)
    tm.make_model(folder / "assistant.gguf", seed=2, n_embd=64, n_ctx_train=8192)
    # Reading some thousand tokens takes seconds.
    tm.make_model(folder / "slow.gguf", seed=3, n_embd=256, n_layer=8, n_ctx_train=8192)
    return folder


def load(folder: Path, base: str = "base", assistant: str = "assistant", **options: Any) -> colm.Pair:
    given = {"n_ctx": 8192, "n_batch": 64, "n_threads": 1, "n_threads_batch": 1, **options}
    return colm.load(folder / f"{base}.gguf", folder / f"{assistant}.gguf", "confidence", **given)


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[colm.Pair]:
    with load(folder, n_ctx=512) as pair:
        yield pair


@pytest.fixture(scope="module")
def slow(folder: Path) -> Iterator[colm.Pair]:
    with load(folder, "slow") as pair:
        yield pair


def long_prompt(n: int = 4000) -> list[int]:
    return [(7 * i * i + 3 * i) % 256 for i in range(n)]


def write(pair: colm.Pair, prompt: str, **options: Any) -> tuple[str, list[Any], list[str]]:
    """The text, the calls of llama_decode, and who wrote each token."""
    stream = pair.stream(prompt, **{**GREEDY, "lookahead": 0, **options})
    result = stream.completion()
    return result.text, stream.calls, [token.source for token in result.tokens]


def tokens_read(stream: colm.TokenStream, model: str) -> int:
    return sum(call[2] for call in stream.calls if call[0] == model)


def in_thread(run: Callable[[], Any], timeout: float = 20) -> Any:
    """What `run` returns in a thread of its own; fails where it does not end."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(run()), daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), "the thread still waits"
    assert results, "the thread raised"
    return results[0]


# -- threads --------------------------------------------------------------------------------------------------


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


@contextlib.contextmanager
def computing(pair: colm.Pair, end: float = 10) -> Iterator[colm.TokenStream]:
    """Another thread reads a long prompt meanwhile; it has its turn when this begins."""
    pair.forget()
    stream = pair.stream(long_prompt(), threshold=1, max_tokens=1)
    thread = threading.Thread(target=lambda: list(stream))
    thread.start()
    while not stream._begun:
        time.sleep(0.005)
    yield stream
    stream.cancel()
    thread.join(end)
    assert not thread.is_alive()


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

    stream = slow.stream(long_prompt(800), threshold=1, max_tokens=1, temperature=0)
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
        end = time.perf_counter() + 1
        while time.perf_counter() < end:
            pair.cancel()
    except RuntimeError as error:
        failed.append(error)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert failed == []


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
        asked.append(time.perf_counter())
        stop()

    timer = threading.Timer(after, ask)
    timer.start()
    list(stream)
    end = time.perf_counter()
    timer.join()
    return end - asked[0]


@pytest.mark.parametrize(
    ("base", "assistant", "threshold"), [("slow", "assistant", 1), ("base", "slow", 0)], ids=["base", "assistant"]
)
@pytest.mark.parametrize("batch", [64, 1024])
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


# -- children -------------------------------------------------------------------------------------------------

_BEGIN = """
import contextlib, os, signal, sys, threading, time
folder, tests = sys.argv[1:3]
sys.path.insert(0, tests)
import colm_cpp as colm
PROMPT = [(7 * i * i + 3 * i) % 256 for i in range(4000)]
def load(base="base", assistant="assistant", **options):
    given = dict(n_ctx=8192, n_batch=64, n_threads=1, n_threads_batch=1)
    given.update(options)
    return colm.load(f"{folder}/{base}.gguf", f"{folder}/{assistant}.gguf", "confidence", **given)
"""


def run_child(folder: Path, code: str, *, begin: str = _BEGIN, timeout: float = 30, **env: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", begin + textwrap.dedent(code), str(folder), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "GGML_NO_BACKTRACE": "1", **env},
    )


def child_says(folder: Path, code: str, **how: Any) -> str:
    """What a child that succeeds and complains of nothing prints."""
    done = run_child(folder, code, **how)
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr)
    return str(done.stdout)


@linux_only
def test_ctrl_c(folder: Path) -> None:
    output = child_says(
        folder,
        """
        def interrupted(after, run):
            begin = []
            def kill():
                begin.append(time.perf_counter())
                os.kill(os.getpid(), signal.SIGINT)
            timer = threading.Timer(after, kill)
            timer.start()
            try:
                run()
            except KeyboardInterrupt:
                return time.perf_counter() - begin[0]
            raise SystemExit("no KeyboardInterrupt")

        def same_as_new(pair, base):
            with load(base) as fresh:
                expected = fresh.generate(PROMPT[:100], temperature=0, max_tokens=8).text
            return pair.generate(PROMPT[:100], temperature=0, max_tokens=8).text == expected

        with load("slow") as pair:
            late = interrupted(0.4, lambda: pair.generate(PROMPT, threshold=1))
            print("prefill", late < 1.5, same_as_new(pair, "slow"))
            stream = pair.stream(PROMPT, threshold=1)
            late = interrupted(0.2, lambda: list(stream))
            try:
                next(stream)
            except StopIteration:
                print("stream", late < 1.5)
            no_end = {384: -100.0, 386: -100.0}
            late = interrupted(0.3, lambda: pair.generate("the", max_tokens=None, logit_bias=no_end))
            print("decode", late < 1.5, same_as_new(pair, "slow"))
            # In a thread nobody listens to signals, and the main thread waits in Python.
            thread = threading.Thread(target=lambda: pair.generate(PROMPT[:1500], threshold=1, max_tokens=1))
            thread.start()
            time.sleep(0.1)
            late = interrupted(0.1, lambda: pair.generate("the"))
            print("queue", late < 1.5)
            thread.join()
            print("after", same_as_new(pair, "slow"))
        """,
    )
    assert output.splitlines() == [
        "prefill True True",
        "stream True",
        "decode True True",
        "queue True",
        "after True",
    ]


@linux_only
def test_stream_interrupted_while_it_waits(folder: Path) -> None:
    """Its turn never came, and Ctrl-C ended it: it never computes beside another."""
    output = child_says(
        folder,
        """
        with load("slow") as pair:
            first = pair.stream(PROMPT, threshold=1, max_tokens=1)
            thread = threading.Thread(target=lambda: list(first))
            thread.start()
            time.sleep(0.1)
            second = pair.stream("and", max_tokens=5, temperature=0)
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                next(second)
            except KeyboardInterrupt:
                print("interrupted")
            print(first.finish_reason, second.stats.base_steps, list(second), second.stats.base_steps)
            first.cancel()
            thread.join()
        """,
    )
    assert output.splitlines() == ["interrupted", "None 0 [] 0"]


@linux_only
def test_ctrl_c_while_loading(folder: Path) -> None:
    output = child_says(
        folder,
        """
        inside = 0
        for i in range(60):
            done = [0.0]
            timer = threading.Timer(0.001 * i, os.kill, (os.getpid(), signal.SIGINT))
            try:
                timer.start()
                # A callback without bytecode, in which Python would see to signals by itself.
                with load("slow", "slow", n_ctx=256, use_mmap=False, progress=done.append):
                    pass
                timer.join()
                time.sleep(0.01)
            except KeyboardInterrupt:
                inside += 0 < done[-1] < 1
            timer.join()
        print("inside", inside > 0)
        with load() as pair:
            print(len(pair.generate("the", max_tokens=3, seed=1).tokens))
        """,
    )
    assert output.splitlines() == ["inside True", "3"]


@linux_only
def test_signal_handler_that_uses_the_pair(folder: Path) -> None:
    output = child_says(
        folder,
        """
        with load("slow") as pair:
            def handler(number, frame):
                try:
                    print("handler", len(pair.generate("and", max_tokens=2, seed=1).tokens) >= 0)
                except colm.ColmError:
                    print("handler", True)
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            result = pair.generate(PROMPT[:2000], threshold=1, max_tokens=1)
            print("text", result.finish_reason)
        """,
        timeout=8,
    )
    assert "handler True" in output
    assert "text" in output


@linux_only
def test_signal_handler_that_closes_the_pair(folder: Path) -> None:
    output = child_says(
        folder,
        """
        pair = load("slow")
        signal.signal(signal.SIGALRM, lambda *_: pair.close())
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        begin = time.perf_counter()
        try:
            print(pair.generate(PROMPT, threshold=1, max_tokens=1).finish_reason)
        except colm.PairClosed:
            print("cancelled")
        print(time.perf_counter() - begin < 2, pair.closed)
        """,
        timeout=20,
    )
    assert output.splitlines() == ["cancelled", "True True"]


EXITS = {
    "an open pair": """
        pair = load()
        pair.generate("the", max_tokens=2)
    """,
    "an open stream": """
        pair = load()
        stream = pair.stream("the")
        next(stream)
    """,
    "a daemon thread that computes": """
        pair = load("slow")
        threading.Thread(target=lambda: pair.generate(PROMPT, threshold=1), daemon=True).start()
        time.sleep(0.3)
    """,
    "a daemon thread that writes": """
        pair = load()
        def run():
            with contextlib.suppress(colm.PairClosed):  # CPython itself may abort while a daemon thread prints an error
                while True:
                    pair.generate("the", max_tokens=20)
        threading.Thread(target=run, daemon=True).start()
        time.sleep(0.2)
    """,
    "a daemon thread that loads": """
        def run():
            with contextlib.suppress(colm.PairClosed):
                while True:
                    load().close()
        threading.Thread(target=run, daemon=True).start()
        time.sleep(0.2)
    """,
    "a reference cycle": """
        pair = load()
        cycle = [pair, pair.stream("the")]
        cycle.append(cycle)
        next(cycle[1])
    """,
    "an error": """
        pair = load()
        sys.excepthook = lambda *_: None
        stream = pair.stream("the")
        next(stream)
    """,
}


@linux_only
def test_progress_of_a_stream_seen_from_another_thread(folder: Path) -> None:
    """`calls` and `stats` are read while the thread that computes writes them."""
    output = child_says(
        folder,
        """
        with load(n_batch=1) as pair:
            for i in range(4):
                stream = pair.stream(PROMPT[i : i + 700], threshold=1, max_tokens=1)
                thread = threading.Thread(target=list, args=(stream,))
                thread.start()
                while thread.is_alive():
                    calls = stream.calls
                    assert all(m in ("base", "assistant") and 0 <= p < 8192 and n == 1 for m, p, n, *_ in calls)
                    assert 0 <= stream.stats.base_tokens_read <= 4001
                    stream.finish_reason
                thread.join()
            print("done")
        """,
        timeout=60,
    )
    assert output == "done\n"


@pytest.mark.parametrize("left", EXITS)
def test_interpreter_ends_quietly(folder: Path, left: str) -> None:
    for _ in range(5 if "daemon" in left else 2):
        done = run_child(folder, EXITS[left])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- libraries ------------------------------------------------------------------------------------------------

_MAPS = """
import importlib.util, os, re, sys
{imports}
libraries = set()
for line in open("/proc/self/maps"):
    found = re.search(r"(\\S+:\\S+) (\\d+) +(/.*/lib(?:llama|ggml)[^/]*)$", line.strip())
    if found:
        libraries.add(found.groups())
for device, inode, path in sorted(libraries):
    print(re.match(r"lib[a-z-]+", os.path.basename(path)).group(), os.path.dirname(path), device, inode)
"""


@linux_only
@pytest.mark.parametrize(
    "imports",
    [
        "import colm_cpp",
        "import llama_cpp, colm_cpp",
        "import colm_cpp, llama_cpp",
        "import colm_cpp; from colm_cpp.grammar.gbnf import to_gbnf; to_gbnf({'type': 'string'})",
        "import llama_cpp; llama_cpp.llama_backend_init(); import colm_cpp; colm_cpp._core.devices()",
    ],
)
def test_one_llama_cpp_in_the_process(folder: Path, imports: str) -> None:
    import llama_cpp

    wanted_folder = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
    lines = child_says(folder, _MAPS.format(imports=imports), begin="").splitlines()
    stems = [line.split()[0] for line in lines]
    assert {"libllama", "libggml", "libggml-base", "libggml-cpu"} <= set(stems)
    assert len(stems) == len(set(stems)), lines
    assert {line.split()[1] for line in lines} == {wanted_folder}


_IMPORT = """
import importlib.metadata, sys
real = importlib.metadata.version
{patch}
try:
    import colm_cpp
    print("imported")
except ImportError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("patch", "parts"),
    [
        (
            "importlib.metadata.version = lambda name: '9.9.9' if name == 'llama-cpp-python' else real(name)",
            ["9.9.9 is installed", "built against llama-cpp-python {built}", "llama-cpp-python=={built}"],
        ),
        (
            "from colm_cpp.llama import libraries; sys.exit",  # a control: nothing is wrong
            None,
        ),
    ],
    ids=["installed version", "control"],
)
def test_other_llama_cpp_python(folder: Path, patch: str, parts: list[str] | None) -> None:
    output = child_says(folder, _IMPORT.format(patch=patch), begin="")
    if parts is None:
        assert output == "imported\n"
        return
    built = colm._core.BUILT_FOR_LLAMA_CPP_PYTHON  # type: ignore[attr-defined]
    assert output.startswith("ImportError")
    for part in [*parts, "pip install"]:
        assert part.format(built=built) in output


def test_other_build_of_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    from colm_cpp import _core
    from colm_cpp.llama import compatibility

    compatibility.check()
    monkeypatch.setattr(_core, "BUILT_FOR_LLAMA_CPP_PYTHON", "0.0.1")
    with pytest.raises(ImportError, match=r'0\.0\.1.*pip install "llama-cpp-python==0\.0\.1"'):
        compatibility.check()


def test_other_llama_cpp_in_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from colm_cpp import _core
    from colm_cpp.llama import compatibility

    monkeypatch.setattr(_core, "llama_version", lambda: "9.9.9")
    with pytest.raises(ImportError, match=r"9\.9\.9.*LLAMA_CPP_LIB_PATH.*pip install"):
        compatibility.check()


def test_missing_libraries(folder: Path, tmp_path: Path) -> None:
    output = child_says(folder, _IMPORT.format(patch=""), begin="", LLAMA_CPP_LIB_PATH=str(tmp_path))
    assert output.startswith("ImportError")
    assert str(tmp_path) in output
    assert "reinstall llama-cpp-python" in output


# -- log ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", ["", "import llama_cpp", "colm.grammar.to_gbnf({'type': 'string'})"])
def test_quiet_by_default(folder: Path, between: str) -> None:
    output = child_says(
        folder,
        f"""
        with load(n_ctx=256) as pair:
            {between or "pass"}
            pair.generate("the", max_tokens=3, seed=1)
            with load(n_ctx=256) as another:
                another.generate("the", max_tokens=3, seed=1, grammar={{"type": "string"}})
        for path in ("/nowhere.gguf", __file__ if "__file__" in globals() else sys.executable):
            try:
                colm.load(path, path)
            except colm.LoadError:
                pass
        """,
    )
    assert output == ""


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
def test_log_reaches_the_logger(folder: Path, caplog: pytest.LogCaptureFixture, level: int) -> None:
    caplog.set_level(level, logger="colm_cpp.llama")
    with load(folder, n_ctx=256) as pair:
        pair.generate("the", max_tokens=1, seed=1)
    levels = {record.levelno for record in caplog.records if record.name == "colm_cpp.llama"}
    if level == logging.ERROR:
        assert levels == set()
    else:
        assert min(levels) == level
        assert any("llama" in record.getMessage() for record in caplog.records)
        assert not any(record.getMessage().endswith("\n") for record in caplog.records)


def test_log_of_a_failed_load(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 4)
    with pytest.raises(errors.LoadError):
        colm.load(path, path)
    caplog.clear()
    with load(folder, n_ctx=256):
        pass
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


# -- memory ---------------------------------------------------------------------------------------------------


_MEMORY = (
    _BEGIN
    + """
import gc, psutil
def grown(before=0):
    gc.collect()
    return (psutil.Process().memory_info().rss - before) / 2**20
def steady(use, rounds):
    for _ in range(5):
        use()
    before = psutil.Process().memory_info().rss
    for _ in range(rounds):
        use()
    return grown(before)
"""
)


def megabytes(folder: Path, code: str) -> list[float]:
    # Without the fixed threshold glibc keeps freed blocks of this size for itself.
    output = child_says(folder, code, begin=_MEMORY, MALLOC_MMAP_THRESHOLD_="65536")
    return [float(line) for line in output.split()]


@linux_only
def test_pairs_leave_no_memory_behind(folder: Path) -> None:
    (grown,) = megabytes(
        folder,
        """
        def use():
            with load(n_ctx=2048, use_mmap=False) as pair:
                pair.generate("the fox", max_tokens=3, seed=1, grammar='root ::= "a"+')
        print(steady(use, 20))
        """,
    )
    assert grown < 4  # a pair takes 2.5 MB


@linux_only
def test_failed_loads_leave_no_memory_behind(folder: Path) -> None:
    other = tm.make_model(folder / "other.gguf", vocab=tm.Vocab().replace_token(100, "zzz"))
    (grown,) = megabytes(
        folder,
        f"""
        def use():
            try:
                load("slow", {other.stem!r}, n_ctx=256, use_mmap=False)
            except colm.VocabMismatch:
                pass
        print(steady(use, 8))
        """,
    )
    assert grown < 10  # the base takes 20 MB


@linux_only
def test_closing_and_dropping_free(folder: Path) -> None:
    taken, closed, again, dropped = megabytes(
        folder,
        """
        load(n_ctx=256).close()
        before = psutil.Process().memory_info().rss
        pair = load("slow", "slow", use_mmap=False)
        pair.generate("the", max_tokens=2, threshold=0, seed=1)
        stream = pair.stream("the")
        next(stream)
        print(grown(before))
        pair.close()
        print(grown(before))  # pair and stream still exist; what they held does not
        pair = load("slow", "slow", use_mmap=False)
        print(grown(before))
        del pair
        print(grown(before))
        """,
    )
    assert min(taken, again) > 40
    assert max(closed, dropped) < 10


def test_not_enough_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Memory", (), {"available": 1_000_000})()
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    with pytest.raises(errors.NotEnoughMemory) as error:
        load(folder)
    assert error.value.available == 1_000_000
    assert error.value.needed > 1_000_000
    assert isinstance(error.value, (errors.LoadError, MemoryError))
    for part in ("1 MB", "n_ctx", "check_memory=False"):
        assert part in str(error.value)
    with load(folder, check_memory=False, n_ctx=256) as pair:
        assert pair.generate("the", max_tokens=1, seed=1).stats.generated_tokens == 1
