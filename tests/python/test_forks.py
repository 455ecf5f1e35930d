"""Forked children, and subinterpreters: they write, or say why they cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny_models as tm
from lifecycle import child_says, linux_only


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forks")
    tm.make_model(folder / "base.gguf", seed=1, n_ctx_train=8192)
    tm.make_model(folder / "assistant.gguf", seed=2, n_embd=64, n_ctx_train=8192)
    tm.make_model(folder / "slow.gguf", seed=3, n_embd=256, n_layer=8, n_ctx_train=8192)
    return folder


_FORK = """
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
processes = multiprocessing.get_context("fork")
OPTIONS = dict(n_ctx=256, n_threads=2, n_threads_batch=2)
def write(pair):
    return pair.generate("the fox jumps", max_tokens=2, temperature=0).text
def in_child(run):
    def work(queue):
        try:
            queue.put(run())
        except Exception as error:
            queue.put(f"{type(error).__name__} {error}")
    queue = processes.Queue()
    child = processes.Process(target=work, args=(queue,))
    child.start()
    try:
        return queue.get(timeout=15)
    except Exception:
        child.kill()
        return "hangs"
    finally:
        child.join()
def fresh():
    with load(**OPTIONS) as pair:
        return write(pair)
"""


@linux_only
def test_a_child_of_a_fork_writes(folder: Path) -> None:
    """With the parent's pair and with one of its own, with two threads, whatever the parent has done before."""
    output = child_says(
        folder,
        _FORK
        + """
text = in_child(fresh)  # the parent has only imported the package
pair = load(**OPTIONS)
print(text == in_child(lambda: write(pair)) == write(pair))
print(text == in_child(lambda: write(pair)) == in_child(fresh))
thread = threading.Thread(target=write, args=(pair,))
thread.start()
thread.join()
stream = pair.stream("the", max_tokens=4, temperature=0)
next(stream)
print(text == in_child(lambda: in_child(lambda: write(pair))) == write(pair))
""",
        timeout=120,
        OMP_WAIT_POLICY="passive",  # workers that spin slow each other down on a busy machine
    )
    assert output.split() == ["True"] * 3


@linux_only
def test_a_child_that_cannot_write_says_so(folder: Path) -> None:
    """A thread of the parent was computing: what it had locked stays locked in the child."""
    output = child_says(
        folder,
        _FORK
        + """
pair = load("slow")
stream = pair.stream(PROMPT, threshold=1, max_tokens=1)
thread = threading.Thread(target=lambda: list(stream))
thread.start()
while not stream.begun:
    time.sleep(0.005)
anew = lambda: colm.generate("a", pair="demo")
for run in (lambda: write(pair), fresh, lambda: pair.tokenize("a"), pair.forget, anew):
    print(in_child(run))
stream.cancel()
thread.join()
print(in_child(lambda: write(pair)) == write(pair))
""",
        timeout=60,
    )
    *refused, after = output.splitlines()
    assert len(refused) == 5
    for line in refused:
        assert line.startswith("ForkError")
        assert "spawn" in line
    assert after == "True"


@pytest.mark.slow
@linux_only
def test_a_child_of_a_process_that_used_a_gpu(folder: Path) -> None:
    output = child_says(
        folder,
        _FORK
        + """
from colm_cpp.llama import busy
busy._has_gpu = lambda: True
print(in_child(fresh)[:4] != "Fork")  # nothing was loaded yet
pair = load("slow")
print(in_child(lambda: write(pair)))
""",
        timeout=60,
        OMP_WAIT_POLICY="passive",
    )
    first, second = output.splitlines()
    assert first == "True"
    assert second.startswith("ForkError")
    assert "spawn" in second


@linux_only
def test_a_child_ends_at_once(folder: Path) -> None:
    """It does not wait for threads that only its parent has."""
    output = child_says(
        folder,
        """
        pair = load("slow")
        stream = pair.stream(PROMPT, threshold=1, max_tokens=1)
        thread = threading.Thread(target=lambda: list(stream))
        thread.start()
        while not stream.begun:
            time.sleep(0.005)
        begin = time.monotonic()
        child = os.fork()
        if child == 0:
            sys.exit(3)  # runs what is registered with atexit
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), time.monotonic() - begin < 4)
        stream.cancel()
        thread.join()
        """,
        timeout=30,
    )
    assert output == "3 True\n"


_SUBINTERPRETER = """
import _xxsubinterpreters as interpreters
inner = interpreters.create()
try:
    interpreters.run_string(inner, "import colm_cpp")
except interpreters.RunFailedError as error:
    print(error)
import colm_cpp
print(colm_cpp.__version__ != "")
"""


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the module has another name in every version")
def test_subinterpreter(folder: Path) -> None:
    first, second = child_says(folder, _SUBINTERPRETER, begin="", timeout=20).splitlines()
    assert "ImportError" in first
    assert "subinterpreter" in first
    assert second == "True"
