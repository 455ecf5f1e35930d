"""The pair that ``colm.generate()`` keeps for the next call."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..files.paths import parts_of
from ..options import LoadOptions, SlotOptions
from ..sources.hub import is_hub_spec
from .pair import Pair

__all__ = ["Wanted", "keep", "kept", "loading", "stamps_of", "unload"]

PathLike = str | os.PathLike[str]

# The state of each file: device, inode, size and time of change.
_Stamps = tuple[tuple[str, tuple[int, ...] | None], ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The models and options of a pair.

    Attributes:
        models: each a name, a path or a place on the hub, and load options as text. The base is first.
        slots: the pair's slots, as text.
    """

    models: tuple[tuple[str, str, str], ...]
    slots: str

    @classmethod
    def of(cls, models: Mapping[str, PathLike], options: Iterable[LoadOptions], slots: SlotOptions) -> Wanted:
        """``models``: by their names, the base first. ``options``: the load options of each."""
        return cls(
            tuple((name, _place(model), repr(of)) for (name, model), of in zip(models.items(), options, strict=True)),
            repr(slots),
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    wanted: Wanted
    stamps: _Stamps
    pair: Pair


_kept: _Kept | None = None


def kept(wanted: Wanted) -> Pair | None:
    """The kept pair if it was loaded from ``wanted`` and its files have not changed, else None."""
    known = _kept
    if known is None or known.wanted != wanted or known.pair.closed:
        return None
    return known.pair if _stamps(path for path, _ in known.stamps) == known.stamps else None


def keep(wanted: Wanted, stamps: _Stamps, pair: Pair) -> None:
    """Keeps ``pair`` and drops the one kept before. ``stamps``: the state of its files before they were read."""
    global _kept
    _kept = _Kept(wanted, stamps, pair)


def unload() -> None:
    """Frees the pair that :func:`colm_cpp.generate` keeps. Texts of other threads are finished first.

    Does nothing if no pair is kept. The next call of ``generate()`` loads its pair again.
    """
    global _kept
    _kept = None  # texts in progress hold the pair, and the last one frees it


def stamps_of(models: Iterable[str], options: Iterable[LoadOptions]) -> _Stamps:
    """The state of the files that these options load, all parts of split models included."""
    files = [os.fspath(part) for path in models for part in parts_of(Path(path))]
    files += [os.path.expanduser(path) for chosen in options for path, _ in chosen.adapters() if not is_hub_spec(path)]
    return _stamps(dict.fromkeys(files))


def _place(model: PathLike) -> str:
    if is_hub_spec(model):
        return os.fspath(model)
    if not isinstance(model, (str, os.PathLike)):
        return repr(model)  # load() says what is wrong with it
    return os.path.abspath(os.path.expanduser(os.fspath(model)))


def _stamps(files: Iterable[str]) -> _Stamps:
    return tuple((file, _stamp(file)) for file in files)


def _stamp(file: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None  # a missing file is a state of its own
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


loading = threading.RLock()  # one load at a time; a signal handler may ask in the middle of one


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global loading
    loading = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)
