"""Ctrl-C, signal handlers and the end of the interpreter, in children."""

from __future__ import annotations

from pathlib import Path

import lifecycle
import pytest
from lifecycle import child_says, linux_only, run_child

folder = lifecycle.folder
pair = lifecycle.pair
slow = lifecycle.slow


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
        for i in range(30):
            done = [0.0]
            timer = threading.Timer(0.002 * i, os.kill, (os.getpid(), signal.SIGINT))
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
            signal.setitimer(signal.ITIMER_REAL, 0.15)
            result = pair.generate(PROMPT[:1000], threshold=1, max_tokens=1)
            print("text", result.finish_reason)
        """,
        timeout=20,
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
            for i in range(2):
                stream = pair.stream(PROMPT[i : i + 350], threshold=1, max_tokens=1)
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


@pytest.mark.parametrize(
    ("left", "n"),
    [
        ("a daemon thread that computes", 1),
        *(pytest.param(left, 5, marks=pytest.mark.slow) for left in EXITS),
    ],
)
def test_interpreter_ends_quietly(folder: Path, left: str, n: int) -> None:
    """A daemon thread may be anywhere at the end, so once is not always enough to see it fail."""
    for _ in range(n):
        done = run_child(folder, EXITS[left])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
