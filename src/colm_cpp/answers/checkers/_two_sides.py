"""Runs code and the tests of it in two processes, so that the code cannot tell the tests what to think.

Started as a program, twice: the judge runs the tests and knows the verdict, the worker runs the code that is judged.
What the tests take from the code (``add``, ``solution.add``) stands for something in the worker. Calling it sends the
arguments there and brings the result back *as a value*: numbers, texts, containers and a few classes of the standard
library and numpy are rebuilt in the judge, whose own ``==`` compares them. Whatever else the worker has stays there,
and the judge has a :class:`Proxy` for it. Nothing that arrives is executed or unpickled.
"""

from __future__ import annotations

import builtins
import importlib
import json
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any, BinaryIO

_UNARY: dict[str, Callable[..., Any]] = {
    "len": len, "iter": iter, "next": next, "bool": bool, "str": str, "repr": repr, "hash": hash, "format": format,
    "int": int, "float": float, "complex": complex, "bytes": bytes, "index": operator.index, "abs": abs,
    "neg": operator.neg, "pos": operator.pos, "invert": operator.invert, "round": round, "reversed": reversed,
    "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem,
    "enter": lambda item: type(item).__enter__(item), "exit": lambda item, *given: type(item).__exit__(item, *given),
    "instancecheck": lambda item, other: isinstance(other, item),
    "subclasscheck": lambda item, other: issubclass(other, item),
}  # fmt: skip
_COMPARING = ("eq", "ne", "lt", "le", "gt", "ge")
_ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
)
_BINARY: dict[str, Callable[[Any, Any], Any]] = {name: getattr(operator, name) for name in _COMPARING + _ARITHMETIC}
_PLAIN: tuple[type, ...] = (int, float, complex, str, bytes, tuple, list, dict, set, frozenset)
# Classes whose values travel: how each is taken apart into arguments that make it again.
_VALUES: dict[str, Callable[[Any], list[Any]]] = {
    "decimal.Decimal": lambda v: [str(v)],
    "fractions.Fraction": lambda v: [v.numerator, v.denominator],
    "datetime.date": lambda v: [v.year, v.month, v.day],
    "datetime.timedelta": lambda v: [v.days, v.seconds, v.microseconds],
    "datetime.time": lambda v: [v.hour, v.minute, v.second, v.microsecond],
    "datetime.datetime": lambda v: [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond],
    "uuid.UUID": lambda v: [str(v)],
    "collections.Counter": lambda v: [dict(v)],
    "collections.OrderedDict": lambda v: [list(v.items())],
    "collections.defaultdict": lambda v: [v.default_factory, dict(v)],
    "collections.deque": lambda v: [list(v), v.maxlen],
}
_MOST = 2**32  # bytes of a message
_SINGLE: dict[str, Any] = {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}


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
        memo = _Memo(self)
        self.send([what, memo.pack(list(given))])
        while True:
            message = self.receive()
            if len(message) == 2:
                self.serve(message)
                continue
            kind, packed, after = message
            try:
                taken = _Memo(self, memo.kept)
                value = taken.unpack(packed)
                taken.restore(after)
            except Exception:
                raise self.end() from None
            if kind == "gives":
                return value
            raise value if isinstance(value, BaseException) else self.end()

    def serve(self, message: list[Any]) -> None:
        what, packed = message
        memo = _Memo(self)
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
            memo = _Memo(self, memo.kept[:n_given])  # without what was half packed
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
        if what in _UNARY:
            return _UNARY[what](*given)
        if what in _BINARY:
            return _BINARY[what](*given)
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


class _Memo:
    """The containers of one message, which may hold each other, and which the other side may change."""

    def __init__(self, peer: Peer, kept: list[Any] | None = None) -> None:
        self.peer = peer
        self.kept: list[Any] = list(kept or [])
        self.place = {id(item): k for k, item in enumerate(self.kept)}

    def keep(self, item: Any) -> int:
        self.place[id(item)] = len(self.kept)
        self.kept.append(item)
        return len(self.kept) - 1

    def contents(self, item: Any) -> Any:
        if isinstance(item, dict):
            return [[self.pack(key), self.pack(value)] for key, value in item.items()]
        if isinstance(item, bytearray):
            return item.hex()
        return [self.pack(value) for value in item]

    def pack(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str:
            return value
        if kind is int:
            return value if abs(value) < 2**53 else ["int", hex(value)]
        if kind is float:
            return ["float", value.hex()]
        if kind is complex:
            return ["complex", value.real.hex(), value.imag.hex()]
        if kind is bytes:
            return ["bytes", value.hex()]
        if kind in (tuple, frozenset):
            return [kind.__name__, [self.pack(item) for item in value]]
        if kind in (list, dict, set, bytearray):
            if id(value) in self.place:
                return ["again", self.place[id(value)]]
            k = self.keep(value)
            return [kind.__name__, k, self.contents(value)]
        if kind in (range, slice):
            return [kind.__name__, self.pack(value.start), self.pack(value.stop), self.pack(value.step)]
        for name, single in _SINGLE.items():
            if value is single:
                return ["single", name]
        if kind is types.ModuleType and not self.peer.judge:
            return ["module", str(value.__name__), self.peer.name(value)]
        if isinstance(value, type) and value in vars(builtins).values():
            return ["class", value.__name__]
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name in _VALUES and getattr(value, "tzinfo", None) is None:
            return ["value", name, [self.pack(item) for item in _VALUES[name](value)]]
        numpy: Any = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic) and value.dtype.kind in "biufcSU":
            return ["numpy", value.dtype.str, None, value.tobytes().hex()]
        if numpy is not None and kind is numpy.ndarray and value.dtype.kind in "biufcSU":
            return ["numpy", value.dtype.str, list(value.shape), value.tobytes().hex()]
        if isinstance(value, Proxy):
            return ["yours", Proxy.ref(value)]
        if isinstance(value, type) and issubclass(value, BaseException):
            if vars(value).get("_colm_ref") is not None:
                return ["yours", vars(value)["_colm_ref"]]
            bases = [self.pack(base) for base in value.__bases__ if issubclass(base, BaseException)]
            return ["exception class", self.peer.name(value), value.__name__, bases]
        if isinstance(value, BaseException):
            try:
                given = [self.pack(item) for item in value.args]
            except Exception:
                given = []
            return ["exception", self.pack(kind), given]
        return self.pack_other(value)

    def pack_other(self, value: Any) -> Any:
        if self.peer.judge:
            # The code gets no hold of the judge: it can call what a test hands it, and read a test's own objects.
            if not callable(value) and not hasattr(value, "__next__") and type(value).__module__ != "tests":
                raise TypeError(f"a {type(value).__name__} cannot be handed to the code")
        elif isinstance(value, types.CoroutineType):
            return ["coroutine", self.peer.name(value)]
        base = None
        for plain in _PLAIN:
            if isinstance(value, plain):
                made: Callable[[Any], Any] = plain
                base = [self.pack(made(value))]
                break
        return ["mine", self.peer.name(value), base]

    def unpack(self, packed: Any) -> Any:
        if packed is None or isinstance(packed, (bool, str)) or type(packed) is int:
            return packed
        kind, *rest = packed
        if kind == "int":
            return int(rest[0], 16)
        if kind == "float":
            return float.fromhex(rest[0])
        if kind == "complex":
            return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
        if kind == "bytes":
            return bytes.fromhex(rest[0])
        if kind in ("tuple", "frozenset"):
            return {"tuple": tuple, "frozenset": frozenset}[kind](self.unpack(item) for item in rest[0])
        if kind in ("list", "dict", "set", "bytearray"):
            made: Any = {"list": list, "dict": dict, "set": set, "bytearray": bytearray}[kind]()
            if rest[0] != self.keep(made):
                raise ValueError("containers out of order")
            self.fill(made, rest[1])
            return made
        if kind == "again":
            return self.kept[operator.index(rest[0])]
        if kind in ("range", "slice"):
            return {"range": range, "slice": slice}[kind](*map(self.unpack, rest))
        if kind == "single":
            return _SINGLE[rest[0]]
        if kind == "class":
            found = vars(builtins)[rest[0]]
            if not isinstance(found, type):
                raise ValueError("no class")
            return found
        if kind == "value":
            if rest[0] not in _VALUES:
                raise ValueError("no class whose values travel")
            module, _, name = rest[0].rpartition(".")
            return getattr(importlib.import_module(module), name)(*map(self.unpack, rest[1]))
        if kind == "numpy":
            return _numpy(*rest)
        if kind == "yours":
            return self.peer.mine[operator.index(rest[0])]
        if kind == "module":
            if rest[0] == "numpy" or rest[0].partition(".")[0] in sys.stdlib_module_names:
                return importlib.import_module(rest[0])  # the judge's own, which the code cannot have changed
            return self.proxy(rest[1], None)
        if kind == "mine":
            return self.proxy(rest[0], rest[1])
        if kind == "coroutine":
            return _awaiting(self.peer, self.proxy(rest[0], None))
        if kind == "exception class":
            return self.mirror(*rest)
        if kind == "exception":
            return self.exception(*rest)
        raise ValueError("no value")

    def proxy(self, ref: int, base: Any) -> Any:
        ref = operator.index(ref)
        if ref not in self.peer.theirs:
            self.peer.theirs[ref] = Proxy(self.peer, ref, None if base is None else (self.unpack(base[0]),))
        return self.peer.theirs[ref]

    def mirror(self, ref: int, name: str, bases: list[Any]) -> Any:
        """A class of this side for an exception class of the other, so that a test can name it in ``except``."""
        ref = operator.index(ref)
        if ref not in self.peer.theirs:
            made = tuple(self.unpack(base) for base in bases)
            if not made or not all(isinstance(base, type) and issubclass(base, BaseException) for base in made):
                raise ValueError("no exception class")
            self.peer.theirs[ref] = type(str(name), made, {"_colm_ref": ref})
        return self.peer.theirs[ref]

    def exception(self, kind: Any, given: list[Any]) -> Any:
        made = self.unpack(kind)
        if not isinstance(made, type) or not issubclass(made, BaseException):
            raise ValueError("no exception")
        arguments = [self.unpack(item) for item in given]
        try:
            return made(*arguments)
        except Exception:  # such as UnicodeDecodeError, which takes arguments of its own
            error = made.__new__(made)
            error.args = tuple(arguments)
            return error

    def fill(self, made: Any, contents: Any) -> None:
        if isinstance(made, dict):
            made.update((self.unpack(key), self.unpack(value)) for key, value in contents)
        elif isinstance(made, set):
            made.update(map(self.unpack, contents))
        elif isinstance(made, bytearray):
            made.extend(bytes.fromhex(contents))
        else:
            made.extend(map(self.unpack, contents))

    def restore(self, after: list[Any]) -> None:
        """Gives arguments the contents that they have on the other side now."""
        for made, contents in list(zip(self.kept[1:], after, strict=False)):
            fresh = type(made)()
            self.fill(fresh, contents)
            if type(made) in (dict, set):
                made.clear()
                made.update(fresh)
            else:
                made[:] = fresh


def _numpy(dtype: str, shape: list[int] | None, data: str) -> Any:
    numpy = importlib.import_module("numpy")
    kind = numpy.dtype(str(dtype))
    if kind.kind not in "biufcSU":
        raise ValueError("no numbers")
    flat = numpy.frombuffer(bytes.fromhex(data), kind)
    return flat[0] if shape is None else flat.reshape(shape).copy()


async def _awaiting(peer: Peer, coroutine: Any) -> Any:
    return peer.ask("await", coroutine)


class Proxy:
    """Something of the other side. What it is compared or computed with must be there too.

    Otherwise an object could be equal to everything that a test expects, and a difference to it could be 0. An object
    of a class derived from a built-in one (a named tuple, an enumeration of integers) is compared by its plain value.
    """

    __slots__ = ("__base", "__peer", "__ref", "__weakref__")

    def __init__(self, peer: Peer, ref: int, base: tuple[Any] | None) -> None:
        if not isinstance(peer, Peer):
            raise TypeError("a test cannot derive a class from one of the code's")
        object.__setattr__(self, "_Proxy__peer", peer)
        object.__setattr__(self, "_Proxy__ref", ref)
        object.__setattr__(self, "_Proxy__base", base)

    def ref(self) -> int:
        number: int = object.__getattribute__(self, "_Proxy__ref")
        return number

    def ask(self, what: str, *given: Any) -> Any:
        return object.__getattribute__(self, "_Proxy__peer").ask(what, self, *given)

    def plain(self) -> tuple[Any] | None:
        base: tuple[Any] | None = object.__getattribute__(self, "_Proxy__base")
        return base

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Proxy
        return Proxy.ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        Proxy.ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        Proxy.ask(self, "del", name)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return Proxy.ask(self, "call", list(given), list(named.items()))


def _special(what: str) -> Callable[..., Any]:
    def method(self: Any, *given: Any) -> Any:
        base = Proxy.plain(self)
        if what == "hash" and base is not None:
            return hash(base[0])
        if what == "exit":
            given = (*given[:2], None)  # a traceback stays here
        return Proxy.ask(self, what, *given)

    return method


def _operator(what: str, swapped: bool) -> Callable[..., Any]:
    def method(self: Any, other: Any) -> Any:
        base = Proxy.plain(self)
        if type(other) is Proxy:
            pair = (other, self) if swapped else (self, other)
            return Proxy.ask(pair[0], what, pair[1])
        if base is None:
            return NotImplemented
        return _BINARY[what](other, base[0]) if swapped else _BINARY[what](base[0], other)

    return method


for _name in _UNARY:
    setattr(Proxy, f"__{_name}__", _special(_name))
for _name in _COMPARING:
    setattr(Proxy, f"__{_name}__", _operator(_name, False))
for _name in _ARITHMETIC:
    setattr(Proxy, f"__{_name.rstrip('_')}__", _operator(_name, False))
    setattr(Proxy, f"__r{_name.rstrip('_')}__", _operator(_name, True))


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
