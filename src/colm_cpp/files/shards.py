"""Work in parts: which part of it one of several machines does, and whether folders are all parts of one work.

A part, or shard, is a run of texts or problems that stand one behind the other, so that what shards wrote becomes the
whole when it is joined in their order. Each folder says in its ``meta.json`` which shard it holds.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._shown import shortened, shown
from ..errors import CorpusError, OptionError
from .folder import META, lock_folder, write_json
from .reading import read_json, whole_number

__all__ = ["MAX_SHARDS", "Shard", "Shards", "copied", "in_order", "joining", "kind_of_shards"]

MAX_SHARDS = 100_000
_JOINING = "colm-joining"  # what meta.json calls a folder whose shards are still being joined
_CHUNK = 2**24


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of a work.

    Attributes:
        number: which one, from 1.
        of: how many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard ``i/n``.

        Raises:
            OptionError: ``text`` is not ``i/n`` with i from 1 to n.
        """
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text) if isinstance(text, str) else None
        if match is None:
            raise OptionError(f"shard is {shown(text)}; it must be i/n, such as 2/5 for the second of five")
        number, of = int(match[1]), int(match[2])
        if not 1 <= of <= MAX_SHARDS:
            raise OptionError(f"shard is {text}; there must be 1 to {MAX_SHARDS} shards")
        if not 1 <= number <= of:
            raise OptionError(f"shard is {text}; the first number must be from 1 to {of}")
        return cls(number, of)

    def part(self, n: int, things: str) -> range:
        """Which of ``n`` things are the shard's: a run of them, at least one.

        Raises:
            OptionError: there are more shards than things.
        """
        if self.of > n:
            raise OptionError(f"shard is {self}; there are {n} {things} to share, so use at most {n} shards")
        return range(n * (self.number - 1) // self.of, n * self.number // self.of)

    def facts(self, part: range, whole: Mapping[str, Any]) -> dict[str, Any]:
        """What ``meta.json`` says of it: the texts or problems that are its part, and what is known of all of them."""
        own = {"number": self.number, "of": self.of, "first": part.start, "n": len(part)}
        return {"shard": {**own, "whole": dict(whole)}}

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@dataclass(frozen=True, slots=True)
class Shards:
    """Folders that are all shards of one work.

    Attributes:
        folders: in the order of the shards.
        counts: how many texts or problems each has.
        meta: the ``meta.json`` of the whole.
    """

    folders: tuple[Path, ...]
    counts: tuple[int, ...]
    meta: dict[str, Any]


def kind_of_shards(folders: Sequence[Path]) -> str | None:
    """What ``meta.json`` calls the kind of these folders: that of the first that has one. None: none is a shard."""
    for folder in folders:
        with contextlib.suppress(CorpusError):
            meta = read_json(folder / META, "shard", "")
            if isinstance(meta, dict) and isinstance(meta.get("format"), str) and "shard" in meta:
                return str(meta["format"])
    return None


def in_order(metas: Mapping[Path, Mapping[str, Any]], command: str, own: Sequence[str] = ()) -> Shards:
    """Puts the folders of all shards of one work in order.

    Args:
        metas: what the ``meta.json`` of each folder says.
        command: the command that makes such folders, for messages.
        own: names in ``meta.json`` that may differ. Those of the first shard stay.

    Raises:
        CorpusError: a folder is no shard, a shard is missing or there twice, or two were made of other texts, with
            other models or options.
    """
    found: dict[int, Path] = {}
    parts: dict[Path, dict[str, Any]] = {}
    for folder, meta in metas.items():
        part = parts[folder] = _part(folder, meta, command)
        first = next(iter(metas))
        if part["of"] != parts[first]["of"]:
            raise CorpusError(
                f"{folder} is shard {part['number']}/{part['of']}, and {first} is one of {parts[first]['of']}; name "
                "the shards of one run"
            )
        if part["number"] in found:
            other = found[part["number"]]
            raise CorpusError(f"{other} and {folder} are both shard {part['number']}/{part['of']}; name one of them")
        found[part["number"]] = folder
        _same(first, {**metas[first], "whole": parts[first]["whole"]}, folder, {**meta, "whole": part["whole"]}, own)
    folders = [found[number] for number in sorted(found)]
    of = parts[folders[0]]["of"]
    missing = [number for number in range(1, of + 1) if number not in found]
    if missing:
        more = f", and {len(missing) - 1} others are," if len(missing) > 1 else " is"
        raise CorpusError(
            f"shard {missing[0]}/{of}{more} missing; run {command} with --shard {missing[0]}/{of}, and name its folder "
            "too"
        )
    end = 0
    for folder in folders:
        if parts[folder]["first"] != end:
            raise CorpusError(
                f"{folder / META} is damaged (its shard begins at {parts[folder]['first']}, and the one before it ends "
                f"at {end}); run {command} with --shard {parts[folder]['number']}/{of} into a new folder"
            )
        end += parts[folder]["n"]
    counts = tuple(parts[folder]["n"] for folder in folders)
    whole = {name: value for name, value in metas[folders[0]].items() if name != "shard"}
    return Shards(tuple(folders), counts, whole)


def _part(folder: Path, meta: Mapping[str, Any], command: str) -> dict[str, Any]:
    part = meta.get("shard")
    if part is None:
        raise CorpusError(
            f"{folder} was made without --shard, so it is not one of several; name folders of shards only"
        )
    try:
        if not isinstance(part, dict) or not isinstance(part.get("whole"), dict):
            raise ValueError(f"shard is {shown(part)}")
        of = whole_number("of", part.get("of"), 1, MAX_SHARDS)
        whole_number("number", part.get("number"), 1, of)
        whole_number("first", part.get("first"))
        whole_number("n", part.get("n"), 1)
    except ValueError as error:
        raise CorpusError(
            f"{folder / META} is damaged ({shortened(str(error))}); run {command} for this shard into a new folder"
        ) from error
    return part


def _same(first: Path, known: Mapping[str, Any], folder: Path, given: Mapping[str, Any], own: Sequence[str]) -> None:
    for name in dict.fromkeys([*known, *given]):
        if name not in ("shard", *own) and known.get(name) != given.get(name):
            other, this = (shortened(json.dumps(meta.get(name), sort_keys=True)) for meta in (known, given))
            raise CorpusError(
                f"{folder} was made with {name} {this}, and {first} with {other}; make all shards with the same "
                "models, options and texts"
            )


@contextlib.contextmanager
def joining(out: Path, meta: Mapping[str, Any]) -> Iterator[None]:
    """Makes a folder of joined shards.

    Its ``meta.json`` is written last, so that half of a folder is never taken for one. What an interruption leaves is
    written over by the next try.

    Raises:
        FolderInUse: another process is writing to the folder.
        CorpusError: the folder holds something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    with lock_folder(out):
        if (out / META).exists():
            held = read_json(out / META, "folder", "join the shards into a new folder")
            if not isinstance(held, dict) or held.get("format") != _JOINING:
                raise CorpusError(f"{out} already holds results; join the shards into a new folder")
        elif any(path.name != ".lock" for path in out.iterdir()):
            raise CorpusError(f"{out} is not empty; join the shards into a new folder")
        write_json(out / META, {"format": _JOINING, "version": 1})
        yield
        write_json(out / META, meta)


def copied(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of a file from ``begin`` to ``end`` in pieces.

    Raises:
        CorpusError: the file ends before.
    """
    with path.open("rb") as file:
        file.seek(begin)
        while begin < end:
            data = file.read(min(_CHUNK, end - begin))
            if not data:
                raise CorpusError(f"{path} is cut short: it ends at byte {begin}, not {end}; make this shard again")
            begin += len(data)
            yield data
