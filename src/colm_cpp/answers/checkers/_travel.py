"""Values that travel between the two sides, and what stands for everything else.

:mod:`._two_sides` loads this file in two programs that know no package.
"""

from __future__ import annotations

import builtins
import importlib
import operator
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._two_sides import Peer

UNARY: dict[str, Callable[..., Any]] = {
    "len": len, "iter": iter, "next": next, "bool": bool, "str": str, "repr": repr, "hash": hash, "format": format,
    "int": int, "float": float, "complex": complex, "bytes": bytes, "index": operator.index, "abs": abs,
    "neg": operator.neg, "pos": operator.pos, "invert": operator.invert, "round": round, "reversed": reversed,
    "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem,
    "enter": lambda item: type(item).__enter__(item), "exit": lambda item, *given: type(item).__exit__(item, *given),
    "instancecheck": lambda item, other: isinstance(other, item),
    "subclasscheck": lambda item, other: issubclass(other, item),
}  # fmt: skip
COMPARING = ("eq", "ne", "lt", "le", "gt", "ge")
ARITHMETIC = (
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
BINARY: dict[str, Callable[[Any, Any], Any]] = {name: getattr(operator, name) for name in COMPARING + ARITHMETIC}
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
_SINGLE: dict[str, Any] = {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}


class Memo:
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
        if not hasattr(peer, "theirs"):
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
        return BINARY[what](other, base[0]) if swapped else BINARY[what](base[0], other)

    return method


for _name in UNARY:
    setattr(Proxy, f"__{_name}__", _special(_name))
for _name in COMPARING:
    setattr(Proxy, f"__{_name}__", _operator(_name, False))
for _name in ARITHMETIC:
    setattr(Proxy, f"__{_name.rstrip('_')}__", _operator(_name, False))
    setattr(Proxy, f"__r{_name.rstrip('_')}__", _operator(_name, True))
