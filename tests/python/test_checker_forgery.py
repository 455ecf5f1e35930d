"""The python checker: code cannot make itself pass."""

from __future__ import annotations

import pytest
from python_checks import verdict

from colm_cpp.answers.checkers import Verdict

ALL_EQUAL = """
class All:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    __le__ = __gt__ = __ge__ = __contains__ = __lt__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __mod__ = __sub__
    def __abs__(self): return 0
    def __hash__(self): return 0
    __class__ = int
def add(a, b): return All()
"""

FORGERIES = {
    # what once was enough: the last line of the output, with the secret from the command line or a frame
    "the command line": """
        import os, sys
        secrets = open("/proc/self/cmdline").read().split("\\0") + getattr(sys, "orig_argv", [])
        for secret in secrets:
            for fd in range(64 if len(secret) == 32 else 0):
                try: os.write(fd, ("\\n" + secret + " passed\\n").encode())
                except OSError: pass
        os._exit(0)
    """,
    "frames and gc": """
        import gc, os, sys
        def strings():
            frame = sys._getframe()
            while frame:
                yield from (v for v in {**frame.f_globals, **frame.f_locals}.values() if isinstance(v, str))
                frame = frame.f_back
            for item in gc.get_objects():
                if isinstance(item, (dict, list, tuple)):
                    yield from (v for v in (item.values() if isinstance(item, dict) else item) if isinstance(v, str))
        for secret in set(strings()):
            if len(secret) == 32 and not set(secret) - set("0123456789abcdef"):
                for fd in range(1, 16):
                    try: os.write(fd, ('{"' + secret + '": "passed"}\\n' + secret + " passed\\n").encode())
                    except OSError: pass
        os._exit(0)
    """,
    "every open file of every process": """
        import glob, os
        for path in glob.glob("/proc/[0-9]*/fd/*"):
            pid = int(path.split("/")[2])
            if pid == os.getppid() or pid == os.getpid():
                try:
                    with open(path, "wb", buffering=0) as file: file.write(b'{"passed": "passed"}')
                except OSError: pass
        os._exit(0)
    """,
    "exit": "import sys\nsys.exit(0)",
    "exit in the call": "import os\ndef add(a, b): os._exit(0)",
    "exit handler": "import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)",
    "the parent killed": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos._exit(0)",
    # the tests themselves
    "equal to everything": ALL_EQUAL,
    "equal to everything, and an int": ALL_EQUAL.replace("class All:", "class All(int):"),
    "equal to everything, made by a class": ALL_EQUAL.replace("def add(a, b): return All()", "add = lambda *_: All"),
    "a class in place of the function": ALL_EQUAL.replace(
        "def add(a, b): return All()", "class add(All):\n    def __init__(self, *_): pass"
    ),
    "built-ins replaced": """
        import builtins
        builtins.AssertionError = type("E", (Exception,), {})
        builtins.compile = builtins.exec = lambda *_: None
        def add(a, b): return 0
    """,
    "the module replaced": """
        import sys
        class Module(dict):
            def __getitem__(self, key): return lambda *_: 3
        sys.modules["solution"].__dict__["exec"] = lambda *_: None
        sys.modules["solution"] = Module()
        def add(a, b): return 0
    """,
    "tracing": """
        import sys
        def trace(frame, event, arg):
            frame.f_trace_lines = False
            return trace
        sys.settrace(trace)
        sys.setprofile(trace)
        def add(a, b): return 0
    """,
    "the exchange rewritten": """
        import sys
        peers = [m for m in sys.modules.values() if hasattr(m, "Peer")]
        for module in peers:
            module.Peer.do = lambda self, what, *given: 3
            module._Memo.pack = lambda self, value: ["single", "Ellipsis"]
        def add(a, b): return 0
    """,
    "an answer that is no value": """
        import sys
        for module in [m for m in sys.modules.values() if hasattr(m, "Peer")]:
            module._Memo.pack = lambda self, value: ["value", "os.system", ["true"]]
        def add(a, b): return 0
    """,
    "an answer that is no message": """
        import os
        def add(a, b):
            for fd in range(3, 16):
                try: os.write(fd, b"\\xff" * 8)
                except OSError: pass
    """,
    "the judge's memory": """
        import os
        try: open(f"/proc/{os.getppid()}/mem", "r+b")
        except OSError: pass
        else: add = lambda a, b: a + b
    """,
    "what the judge was given": """
        import os
        for name in ("mem", "fd/0", "fd/1", "fd/3", "fd/5"):
            try: open(f"/proc/{os.getppid()}/{name}", "rb", buffering=0)
            except OSError: pass
            else: add = lambda a, b: a + b
        if os.listdir(): add = lambda a, b: a + b
    """,
}


# Each takes two interpreters; the others of each kind run with the slow tests.
QUICK = (
    "frames and gc",
    "exit in the call",
    "equal to everything",
    "the exchange rewritten",
    "what the judge was given",
)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FORGERIES])
def test_code_cannot_make_itself_pass(name: str) -> None:
    found = verdict(FORGERIES[name])
    assert not found.correct
    assert found.extracted is not None
    assert found.extracted.startswith("failed: ")


CLOSE = "assert abs(add(1, 2) - 3) < 1e-6\n"


# One program tries them all: each has to raise.
NO_WAY_OUT = """
import math, unittest
for attempt in (
    "assert add(1, 2) == 3", "assert not add(1, 2) != 3", "assert abs(add(1, 2) - 3) < 1", "assert add(1, 2) in (3,)",
    "assert 3 in add(1, 2)", "assert add(1, 2) <= 3", "assert [add(1, 2)] == [3]", "assert add(1, 2) % 3 == 0",
    "assert math.isclose(add(1, 2), 3)", "unittest.TestCase().assertEqual(add(1, 2), 3)", "assert 3 == add(1, 2)",
    "assert isinstance(add(1, 2), int)", "assert {3: 1}[add(1, 2)]", "assert add(1, 2) + 0 == 3",
):
    try:
        exec(attempt)
    except Exception:
        continue
    raise LookupError(attempt)
"""


def test_an_object_that_is_equal_to_everything_is_equal_to_nothing() -> None:
    assert verdict(ALL_EQUAL, NO_WAY_OUT) == Verdict(True, "passed")


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        # names that the tests take for the language's own
        ("def abs(x): return 0\ndef add(a, b): return 0\n", CLOSE),
        ("def all(x): return True\ndef add(a, b): return 0\n", "assert all(add(i, 1) == i + 1 for i in range(3))\n"),
        (
            "import math\nmath.isclose = lambda *_: True\ndef add(a, b): return 0\n",
            "assert math.isclose(add(1, 2), 3)\n",
        ),
        # swallowed, and nothing is asked afterwards
        ("import os\ndef add(a, b): os._exit(0)\n", "try:\n    add(1, 2)\nexcept BaseException:\n    pass\n"),
        # a test's own function, and what hangs on it
        (
            "def add(f, b):\n    f.__globals__['expected'] = b\n    return b\n",
            "expected = 3\nassert add(lambda: None, 5) == expected\n",
        ),
        (
            "def add(f, b):\n    for name in ('__self__', '__func__', 'gi_frame', '__class__', '__dict__'):\n"
            "        try: getattr(f, name).__globals__['expected'] = b\n        except Exception: pass\n    return b\n",
            "expected = 3\nclass Own:\n    def f(self): pass\nassert add(Own(), 5) == expected\n",
        ),
    ],
)
def test_nor_by_what_it_gives_the_tests(code: str, tests: str) -> None:
    assert not verdict(code, tests).correct
