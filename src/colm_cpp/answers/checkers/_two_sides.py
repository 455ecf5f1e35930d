"""Runs code and the tests of it in two processes, so that the code cannot tell the tests what to think.

Started as a program, twice: the judge runs the tests and knows the verdict, the worker runs the code that is judged.
What the tests take from the code (``add``, ``solution.add``) stands for something in the worker. Calling it sends the
arguments there and brings the result back *as a value*: numbers, texts, containers and a few classes of the standard
library and numpy are rebuilt in the judge, whose own ``==`` compares them. Whatever else the worker has stays there,
and the judge has a ``Proxy`` for it (:mod:`._travel`). Nothing that arrives is executed or unpickled.
"""

from __future__ import annotations

import builtins
import importlib
import json
import os
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from ._travel import BINARY, UNARY, Memo
else:  # a program, which knows no package; what it runs finds no more modules than without this line
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from _travel import BINARY, UNARY, Memo

    del sys.path[0]

_MOST = 2**32  # bytes of a message


class Ended(BaseException):
    """The other side has gone, or said something that is no message. Not an Exception, which a test may expect."""


class Peer:
    """One side: sends what it wants of the other, and serves the other until the answer is there."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, judge: bool) -> None:
        self.source, self.sink, self.judge = source, sink, judge
        self.mine: list[Any] = []  # what the other side knows by number
        self.number: dict[int, int] = {}
        self.theirs: dict[int, Any] = {}
        self.globals: dict[str, Any] = {}
        self.ended = False

    # -- messages --

    def end(self) -> Ended:
        self.ended = True  # remembered, whatever a test does with the exception
        return Ended()

    def send(self, message: list[Any]) -> None:
        data = json.dumps(message).encode()
        try:
            self.sink.write(len(data).to_bytes(8, "little") + data)
            self.sink.flush()
        except (OSError, ValueError):
            raise self.end() from None

    def receive(self) -> list[Any]:
        start = self.source.read(8)
        size = int.from_bytes(start, "little")
        if len(start) < 8 or size > _MOST:
            raise self.end()
        try:
            message = json.loads(self.source.read(size))
        except (ValueError, RecursionError):
            raise self.end() from None
        if not isinstance(message, list) or len(message) not in (2, 3) or not isinstance(message[0], str):
            raise self.end()
        return message

    def ask(self, what: str, *given: Any) -> Any:
        """What the other side answers; raises what it raises. Arguments that it changed are changed here too."""
        memo = Memo(self)
        self.send([what, memo.pack(list(given))])
        while True:
            message = self.receive()
            if len(message) == 2:
                self.serve(message)
                continue
            kind, packed, after = message
            try:
                taken = Memo(self, memo.kept)
                value = taken.unpack(packed)
                taken.restore(after)
            except Exception:
                raise self.end() from None
            if kind == "gives":
                return value
            raise value if isinstance(value, BaseException) else self.end()

    def serve(self, message: list[Any]) -> None:
        what, packed = message
        memo = Memo(self)
        try:
            # The code may use what a test handed it, and nothing else that the judge has.
            if self.judge and packed[2][0][0] != "yours":
                raise ValueError("not handed to the code")
            given = memo.unpack(packed)
        except Exception:
            raise self.end() from None
        n_given = len(memo.kept)
        try:
            answer = ["gives", memo.pack(self.do(what, *given))]
        except Ended:
            raise
        except BaseException as error:
            memo = Memo(self, memo.kept[:n_given])  # without what was half packed
            answer = ["raises", memo.pack(error)]
        try:
            after = [memo.contents(memo.kept[k]) for k in range(1, n_given)]  # 0 is the list of arguments itself
        except Exception:  # what the code left in an argument cannot be looked at
            after = []
        try:
            self.send([*answer, after])
        except MemoryError as error:
            self.send(["raises", memo.pack(error), []])

    def do(self, what: str, *given: Any) -> Any:
        item = given[0]
        if what == "call":
            return item(*given[1], **dict(given[2]))
        # Through attributes such as __globals__ the code would come to everything.
        if what in ("get", "set") and self.judge and (given[1][0] == "_" or type(item).__module__ != "tests"):
            raise AttributeError(f"{given[1]} is not for the code")
        if what == "get":
            return getattr(item, given[1])
        if what == "set":
            return setattr(item, given[1], given[2])
        if what in UNARY:
            return UNARY[what](*given)
        if what in BINARY:
            return BINARY[what](*given)
        if self.judge:
            raise TypeError(f"{what} is not for the code")
        if what == "code":
            exec(compile(item, "solution.py", "exec", dont_inherit=True), self.globals)
            return None
        if what == "global":
            return self.globals[item]
        if what == "del":
            return delattr(item, given[1])
        return importlib.import_module("asyncio").run(item)

    # -- what stays where it is --

    def name(self, item: Any) -> int:
        """A number for something of this side, the same one every time."""
        if id(item) not in self.number:
            self.number[id(item)] = len(self.mine)
            self.mine.append(item)  # kept, so that no other object gets its id
        return self.number[id(item)]


class Names(dict[str, Any]):
    """What the tests see: their own names, and behind them those of the code.

    A built-in name is the code's only where the prompt asked for a function of that name: with ``abs`` the code could
    have any difference be 0.
    """

    def __init__(self, peer: Peer, asked: list[str]) -> None:
        super().__init__(__name__="tests")
        self.peer = peer
        self.asked = asked

    def __missing__(self, name: str) -> Any:
        if name in vars(builtins) and name not in self.asked:
            raise KeyError(name)
        return self.peer.ask("global", name)


class Solution(types.ModuleType):
    """The module ``solution`` of the tests."""

    def __init__(self, peer: Peer) -> None:
        super().__init__("solution")
        self.__dict__["_peer"] = peer

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_peer"].ask("global", name)
        except KeyError:
            raise AttributeError(f"the code has no {name}") from None


def limit(seconds: int, memory: int, file_size: int) -> None:
    """Limits this process, where the system can."""
    try:
        resource = importlib.import_module("resource")
    except ImportError:
        return
    for name, most in (("AS", memory), ("CPU", seconds), ("FSIZE", file_size), ("CORE", 0)):
        try:
            kind = getattr(resource, "RLIMIT_" + name)
            hard = resource.getrlimit(kind)[1]
            soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
            # At the hard limit of CPU time the kernel kills without saying why.
            resource.setrlimit(kind, (soft, soft if name != "CPU" or soft == hard else soft + 1))
        except (AttributeError, ValueError, OSError):
            pass


def shield() -> Callable[[], None] | None:
    """On Linux: no process of this user may look into this one. Gives what a new process has to do before it begins."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        prctl = importlib.import_module("ctypes").CDLL(None).prctl
        prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    except (ImportError, OSError, AttributeError):
        return None
    # PR_CAPBSET_DROP, CAP_SYS_PTRACE: root could look in all the same
    return lambda: prctl(24, 19, 0, 0, 0) and None


def private(fd: int, mode: str, beside: int) -> BinaryIO:
    """A standard stream for this program alone; whoever else uses it finds nothing there."""
    stream: Any = os.fdopen(os.dup(fd), mode)
    nothing = os.open(os.devnull, beside)
    os.dup2(nothing, fd)
    os.close(nothing)
    return stream  # type: ignore[no-any-return]


def work() -> None:
    source, sink = private(0, "rb", os.O_RDONLY), private(1, "wb", os.O_WRONLY)
    peer = Peer(source, sink, judge=False)
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses and typing look modules up by name
    peer.globals = vars(module)
    del sys.argv[1:]
    try:
        while True:
            peer.serve(peer.receive())
    except BaseException:
        os._exit(1)


def judge() -> None:
    import signal
    import subprocess

    given = json.loads(private(0, "rb", os.O_RDONLY).read())
    out = private(1, "wb", os.O_WRONLY)
    before = shield()
    limit(*given["limits"])
    worker = subprocess.Popen(
        [sys.executable, "-I", "-B", __file__, "worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=before,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    peer = Peer(worker.stdout, worker.stdin, judge=True)  # type: ignore[arg-type]
    del sys.argv[1:]
    try:
        peer.ask("code", given["code"])
        sys.modules["solution"] = Solution(peer)
        exec(compile(given["tests"], "tests.py", "exec", dont_inherit=True), Names(peer, given["asked"]))
        outcome = "passed"
    except BaseException as error:
        outcome = f"failed: {type(error).__name__[:100]}"
    if peer.ended:
        worker.stdin.close()
        code = worker.wait()
        outcome = "failed: ended before the tests"
        if code < 0:
            killer = signal.Signals(-code).name
            outcome = "timed out" if killer == "SIGXCPU" else f"failed: {killer}"
    out.write(json.dumps({given["token"]: outcome}).encode())
    out.flush()
    os._exit(0)  # whatever the tests have left running does not keep the verdict


if __name__ == "__main__":
    {"judge": judge, "worker": work}[sys.argv[1]]()
