"""Folders in which work goes on after an interruption: of scores, of an evaluation, of a tuning.

What all results in a folder depend on stands in it as facts, in ``meta.json`` or in the head of a file. Whoever goes on
there gives the same facts, or is refused. One process at a time writes. Results are appended and synced first, then
what counts them is replaced in one step; what an interruption leaves behind that is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from .._shown import shortened, shown
from ..errors import CorpusError, FolderInUse
from .output_file import remove_leftovers, write_file
from .reading import read_json

__all__ = ["META", "FolderKind", "lock_folder", "refuse_other_facts", "write_json"]

META = "meta.json"


@dataclass(frozen=True, slots=True)
class FolderKind:
    """A kind of folder with a ``meta.json``.

    Attributes:
        format: what ``meta.json`` calls it.
        version: of the format.
        what: what the folder holds, for messages: "an evaluation".
        command: the command that makes one.
        remedy: what to do about a damaged one: "evaluate into a new folder".
        files: names of what it has beside ``meta.json``.
        also: other versions of the format that are read, too.
    """

    format: str
    version: int
    what: str
    command: str
    remedy: str
    files: tuple[str, ...]
    also: tuple[int, ...] = ()

    def read(self, folder: Path) -> dict[str, Any]:
        """What its ``meta.json`` says.

        Raises:
            CorpusError: it is no folder of this kind, or of another version.
        """
        file = folder / META
        meta = read_json(file, f"folder with {self.what}", self.remedy)
        if not isinstance(meta, dict) or meta.get("format") != self.format:
            raise CorpusError(f"{file} does not describe {self.what}; name a folder made by {self.command}")
        if meta.get("version") not in (known := sorted((self.version, *self.also))):
            read = " and ".join(map(str, known))
            raise CorpusError(
                f"{file} has format version {shown(meta.get('version'))} and this colm-cpp reads {read}; {self.remedy}"
            )
        return meta

    def go_on(self, folder: Path, facts: Mapping[str, Any], own: Iterable[str] = ()) -> dict[str, Any] | None:
        """What the ``meta.json`` of a folder says whose work goes on; None where it has none yet.

        Args:
            folder: it need not exist.
            facts: what its results depend on.
            own: names in ``meta.json`` that are no such facts.

        Raises:
            CorpusError: the folder holds work with other facts, or cannot be read.
        """
        if not (folder / META).exists():
            return None
        meta = self.read(folder)
        known = {name: value for name, value in meta.items() if name not in ("format", "version", *own)}
        refuse_other_facts(folder, self.what, known, facts)
        return meta

    def begin(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        may_stay: Callable[[Path], bool],
        first: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Writes the ``meta.json`` of a new folder, and before it the JSON files in ``first``.

        Raises:
            CorpusError: the folder is another one, with a file of a name that its results would have, and which may
                not stay.
        """
        for path in (folder / name for name in self.files):
            if path.exists() and not may_stay(path):
                raise CorpusError(
                    f"{folder} does not hold {self.what}, which would overwrite its {path.name}; use another folder"
                )
        folder.mkdir(parents=True, exist_ok=True)
        meta: dict[str, Any] = json.loads(json.dumps({"format": self.format, "version": self.version, **facts}))
        for name, value in {**(first or {}), META: meta}.items():
            write_json(folder / name, value)
        return meta


def refuse_other_facts(place: Path, what: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Compares the facts that earlier results depend on with those of now.

    Raises:
        CorpusError: a fact differs.
    """
    known, given = (json.loads(json.dumps(facts)) for facts in (known, given))  # tuples become lists, as when read
    for name in dict.fromkeys([*given, *known]):
        if known.get(name) != given.get(name):
            before, now = (shortened(json.dumps(facts.get(name), sort_keys=True)) for facts in (known, given))
            raise CorpusError(
                f"{place} holds {what} with {name} {before}, not {now}; give the same, or use another folder"
            )


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one step; it is on the disk when this returns."""
    write_file(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def lock_folder(folder: str | os.PathLike[str]) -> AcquireReturnProxy[FileLock]:
    """Locks a folder until its ``with`` or the process ends: two writers would interleave their rows.

    Raises:
        FolderInUse: another process holds the lock.
    """
    lock = FileLock(Path(folder, ".lock"))
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        error = FolderInUse(f"another process is writing to {folder}; wait for it, or use another folder")
        error.folder = str(folder)
        raise error from None
    remove_leftovers(Path(folder))
    return held
