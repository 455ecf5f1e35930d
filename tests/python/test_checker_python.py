"""The checker that runs code."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from checks import check

from colm_cpp.answers.checkers import Verdict, make_checker
from colm_cpp.answers.checkers._code import program
from colm_cpp.answers.checkers._python import _kill_descent

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has only the time limit")


ADD_TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\n"


ADD = "def add(a, b):\n    return a + b\n"


STUB = 'from math import *\n\n\ndef add(a: int, b: int) -> int:\n    """Adds.\n\n    >>> add(1, 2)\n    3\n    """\n'


def slow(*case: str) -> Any:
    """A case whose like is tried by default: each starts two interpreters."""
    return pytest.param(*case, marks=pytest.mark.slow)


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```\n"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (ADD, ""),
        (f"Here you are:\n\n{fenced(ADD)}\nIt adds.", "Write add."),
        (fenced(ADD, ""), ""),
        (fenced(ADD, "py"), ""),
        (fenced(ADD, "Python"), ""),
        (fenced(ADD).replace("```", "~~~"), ""),
        (fenced("def add(a, b):\n    return 0\n") + "Better:\n" + fenced(ADD), ""),
        (fenced(ADD) + "Output:\n" + fenced("3\n", "text"), ""),
        (fenced(ADD)[:-4], ""),  # the closing fence was cut off
        ("1. So:\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n", ""),
        (fenced(ADD).replace("\n", "\r\n"), ""),
        ("```python\nx = 1\n```python\n" + ADD + "```", ""),
        # continuations of a stub
        ("    return a + b\n", STUB),
        ("    return a + b", STUB.rstrip()),
        ("\n    return a + b\n", STUB.rstrip()),
        ("return a + b\n", STUB + "    "),
        ("return a + b\n", STUB),
        ("c = a + b\n    return c\n", STUB),
        ("c = a + b\nreturn c\n", STUB),
        ("    return a + b\n\n\nThis adds the numbers.", STUB),
        ("    return a + b\n\n\ndef other(x):\n    if", STUB),
        (fenced("    return a + b\n"), STUB),
        (fenced(ADD), STUB),
        (fenced(ADD) + "Call it:\n" + fenced("print(add(1, 2))\n"), STUB),
        ("    return a + b\n", "Complete the function:\n\n" + STUB),
        ("    return a + b\n```", STUB),
        ("    return a + b\n```\nDone.", "Complete:\n```python\n" + STUB),
        (fenced(ADD), "Complete:\n```python\n" + STUB),
        ("    return a + b\n", "Complete:\n" + fenced(STUB) + "Only code, please."),
        (fenced(ADD), "Complete:\n" + fenced(STUB) + "Only code, please."),
        ("\treturn a + b\n", "def add(a, b):\n\t'''Adds.'''\n"),
        ("  return a + b\n", "def add(a, b):\n  '''Adds.'''\n"),
        (" return a + b\n", "def add(\n    a,\n    b,\n):"),
        ("    return helper(a) + b\n", "def helper(x):\n    return x\n\n\n" + STUB),
        (fenced("def add(a, b):\n    return helper(a) + floor(b)\n"), "def helper(x):\n    return x\n\n\n" + STUB),
        (fenced("from __future__ import annotations\n" + ADD), STUB),
    ],
)
def test_code_is_found_in_the_text(text: str, prompt: str) -> None:
    code = program(text, prompt)
    assert code is not None
    exec(code + "\n" + ADD_TESTS, {})


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (ADD, ""),
        ("    return a + b\n", STUB),
        # what runs must not matter
        (fenced(ADD + "if __name__ == '__main__':\n    input()\n"), ""),
        slow(fenced("import sys\nsys.setrecursionlimit(5000)\n" + ADD), ""),
        slow(fenced("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\n" + ADD), ""),
        (fenced("print('x' * 1_000_000)\n" + ADD), ""),
        slow(fenced("import atexit\natexit.register(print, 'bye')\n" + ADD), ""),
        (fenced("import sys\nsys.stdout = None\n" + ADD), ""),
        slow(fenced("s = '\\d'\n" + ADD), ""),
    ],
)
def test_python_passed(text: str, prompt: str) -> None:
    assert check("python", text, ADD_TESTS, prompt) == Verdict(True, "passed")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("", "no code"),
        ("```python\n\n```", "no code"),
        ("```", "no code"),
        (fenced("def add(a, b):\n    return a - b\n"), "failed: AssertionError"),
        slow(fenced("def sub(a, b):\n    return a - b\n"), "failed: NameError"),
        ("I cannot do that.", "failed: SyntaxError"),
        slow(fenced('"""\n' + ADD), "failed: SyntaxError"),
        (fenced("x = '\ud800'\nraise LookupError\n"), "failed: LookupError"),
        slow(fenced(ADD + "add(1)\n"), "failed: TypeError"),
        (fenced(ADD + "input()\n"), "failed: EOFError"),
        (fenced("import sys\nsys.exit(0)\n"), "failed: SystemExit"),
        slow(fenced("raise SystemExit\n"), "failed: SystemExit"),
        (fenced("def add(a, b):\n    raise SystemExit(0)\n"), "failed: SystemExit"),
        slow(fenced("import os\nos._exit(0)\n"), "failed: ended before the tests"),
        (fenced("print('passed', flush=True)\nimport os\nos._exit(0)\n"), "failed: ended before the tests"),
        (fenced("def add(a, b):\n    import os\n    os._exit(0)\n"), "failed: ended before the tests"),
        slow(fenced("import os\nos.environ['TOKEN']\n"), "failed: KeyError"),
        slow(fenced("import sys\nprint(sys.argv[1])\n"), "failed: IndexError"),
        slow(fenced("def add(a, b):\n    return add(a, b)\n"), "failed: RecursionError"),
        (fenced("import builtins\nbuiltins.AssertionError = int\n"), "failed: NameError"),
    ],
)
def test_python_failed(text: str, outcome: str) -> None:
    assert check("python", text, ADD_TESTS) == Verdict(False, outcome)


@posix_only
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "failed: SIGSEGV"),
        ("open('big', 'wb').write(bytes(20 * 1024 * 1024))\n", "failed: OSError"),
    ],
)
def test_python_killed_or_limited(code: str, outcome: str) -> None:
    assert check("python", code, ADD_TESTS) == Verdict(False, outcome)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS may not enforce the limit")
def test_python_memory_limit() -> None:
    code = "data = bytearray(300 * 1024 * 1024)\n" + ADD
    assert make_checker("python", memory_limit_mb=256).check(code, ADD_TESTS, "").extracted == "failed: MemoryError"
    assert make_checker("python").check(code, ADD_TESTS, "").correct


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass\n",
        slow("import time\ntime.sleep(60)\n"),
        slow("while True:\n    print('x' * 10_000)\n"),
        "try:\n    import time\n    time.sleep(60)\nfinally:\n    time.sleep(60)\n",
    ],
)
def test_python_time_limit(code: str) -> None:
    started = time.monotonic()
    verdict = make_checker("python", time_limit=0.3).check(code, ADD_TESTS, "")
    assert verdict == Verdict(False, "timed out")
    assert time.monotonic() - started < 20


@posix_only
def test_python_leaves_no_process_behind(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n" + ADD
    )
    started = time.monotonic()
    assert check("python", code, ADD_TESTS).correct
    assert time.monotonic() - started < 60
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if _gone(pid):
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still there")


@posix_only
def test_python_does_not_wait_for_what_escapes() -> None:
    command = "[sys.executable, '-c', 'import time; time.sleep(20)']"
    code = f"import subprocess, sys\nsubprocess.Popen({command}, start_new_session=True)\n{ADD}"
    started = time.monotonic()
    assert check("python", code, ADD_TESTS).correct
    assert time.monotonic() - started < 18


def test_descendants_are_ended() -> None:
    """What ends an answer on Windows, which has no sessions."""
    child = "import time; print(1, flush=True); time.sleep(90)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"1"
        (descendant,) = psutil.Process(process.pid).children(recursive=True)
        started = time.monotonic()
        _kill_descent(process.pid)
        assert process.stdout.read() == b""  # nobody holds the pipe any more
        assert time.monotonic() - started < 60
        process.wait(timeout=30)
    # Nobody waits for it, so it may be listed until the system has cleared it away.
    psutil.wait_procs([descendant], timeout=30)
    assert not descendant.is_running() or descendant.status() == psutil.STATUS_ZOMBIE
    _kill_descent(process.pid)  # of one that has ended nothing is left to do


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")  # killed, but nobody has waited for it yet
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_python_environment_and_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLM_SECRET", "hidden")
    code = (
        "import os\nfound = os.environ.get('COLM_SECRET'), os.listdir()\nfolder = os.getcwd()\nopen('x', 'w').close()\n"
    )
    tests = f"assert found == (None, [])\nassert folder != {os.getcwd()!r}\n"
    assert check("python", code, tests).correct
    assert check("python", code, tests).correct  # a fresh folder every time


def test_python_tests_run_after_the_code_and_are_needed() -> None:
    assert check("python", ADD, "raise RuntimeError('no')").extracted == "failed: RuntimeError"
    assert check("python", ADD, "import solution\nassert solution.add is add").correct
