"""The one way in which results are written to files.

A file is written under a temporary name beside its place, synced, and then renamed. So a reader never sees half of it,
and where anything fails (a full disk, a mistake in the middle) what was there before stays as it was.

A link is refused: renaming would replace it, and writing through it would change a file that was not named. What is no
regular file (a pipe, a terminal, ``/dev/null``) is written to directly. ``/dev/stdout`` and its like stand for a
descriptor that is open: it is written to itself, where its owner stands in it, and never opened anew.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import psutil

from ..errors import OptionError
from .paths import parts_of

__all__ = [
    "OutputFile",
    "bytes_of",
    "check_output",
    "descriptor_of",
    "is_stream",
    "refuse_inputs",
    "remove_leftovers",
    "temporary_beside",
    "write_file",
    "written_by_name",
]

PathLike = str | os.PathLike[str]

_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
# Where descriptors that are already open have names. On Linux /dev/fd is a link to /proc/self/fd.
_DESCRIPTORS = ("/dev/fd", "/proc/self/fd", "/proc/thread-self/fd")
_TEMPORARY = re.compile(r"\.colm-([0-9]{1,9})-[0-9a-f]{8}\.tmp")
# What the commands make out of the data in a folder, and nobody reads back from there.
_PRODUCTS = (".gguf", ".html", ".md", ".png")
# What Windows says of a file that somebody has open (ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION), and how many
# seconds it is asked again.
_IN_USE = (5, 32)
_PATIENCE = 1.0


class OutputFile:
    """A file being written, as a context manager: it gets its name when the block ends without an exception.

    With an exception the file that was there before stays, and nothing else is left. After :meth:`keep` the block may
    end in an exception too, such as KeyboardInterrupt, and what was written is kept; unless writing itself failed.
    """

    def __init__(self, path: PathLike) -> None:
        """Opens a temporary file beside ``path``, with the rights of the file that it will replace (less the umask).

        Raises:
            OptionError: ``path`` is a link, or a descriptor that is not open for writing.
            OSError: no file can be made there.
        """
        self.path = Path(path)
        self._kept = False
        self._failed = False
        self._temporary: Path | None = None
        if is_stream(self.path):
            number = descriptor_of(self.path)
            opened = os.open(self.path, os.O_WRONLY) if number is None else _writable_copy(self.path, number)
            self._file: BinaryIO = os.fdopen(opened, "wb")
            return
        refuse_link(self.path)
        if self.path.is_dir():
            raise IsADirectoryError(21, "Is a directory", os.fspath(self.path))
        mode = stat.S_IMODE(self.path.stat().st_mode) if self.path.exists() else 0o666
        # Beside the target, since os.replace is atomic only within one file system. Not by tempfile.mkstemp: that
        # would leave a file that no other user may read.
        self._temporary = temporary_beside(self.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._file = os.fdopen(os.open(self._temporary, flags, mode), "wb")

    def write(self, data: bytes | memoryview) -> None:
        """Adds ``data``.

        Raises:
            OSError: the disk is full. The file will not get its name.
        """
        try:
            self._file.write(data)
            self._file.flush()
        except OSError:
            self._failed = True
            raise

    def flush(self) -> None:
        """For libraries that ask for it; :meth:`write` has done it."""

    def keep(self) -> None:
        """What was written is worth keeping, however the block ends."""
        self._kept = True

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._failed or (kind is not None and not self._kept):
            self._discard()
            return
        try:
            self._file.flush()
            if self._temporary is not None:
                os.fsync(self._file.fileno())
            self._file.close()
            if self._temporary is not None:
                _put_in_place(self._temporary, self.path)
                self._temporary = None
        finally:
            self._discard()

    def _discard(self) -> None:
        try:
            self._file.close()
        except OSError:  # what it still held cannot be written either
            self._failed = True
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)


def write_file(path: PathLike, data: bytes) -> None:
    """Makes or replaces a file in one piece; it is on the disk when this returns.

    Raises:
        OptionError: ``path`` is a link.
        OSError: it cannot be written; what was there before stays.
    """
    with OutputFile(path) as file:
        file.write(data)


def bytes_of(write: Callable[[Path], object]) -> bytes:
    """What ``write`` puts into the file whose path it is given; for libraries that write to a path only."""
    with tempfile.TemporaryDirectory(prefix="colm-") as folder:
        file = Path(folder, "file")
        write(file)
        return file.read_bytes()


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of ``path``, which :func:`remove_leftovers` knows."""
    return path.parent / f".colm-{os.getpid()}-{secrets.token_hex(4)}.tmp"


@contextlib.contextmanager
def written_by_name(path: PathLike) -> Iterator[Path]:
    """For libraries that write a file by its name: gives a temporary one.

    The file gets the name ``path`` when the block ends without an exception. With an exception, the file that was there
    before stays, and nothing else is left.

    Raises:
        OptionError: ``path`` is a link, or is no regular file.
        OSError: the file cannot be written.
    """
    target = Path(path)
    refuse_link(target)
    if is_stream(target):
        raise OptionError(f"{target} is not a regular file; name a file")
    temporary = temporary_beside(target)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _put_in_place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Renames a file to its name, whatever had that name.

    Windows refuses while another process reads the file that has the name. That is tried again for a second.

    Raises:
        OSError: it cannot be renamed.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return os.replace(temporary, target)
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE or time.monotonic() > end:
                raise
        time.sleep(0.01)


def remove_leftovers(folder: Path) -> None:
    """Removes what processes that were killed while they wrote have left in ``folder``."""
    for path in folder.glob(".colm-*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match is not None and not psutil.pid_exists(int(match[1])):
            path.unlink(missing_ok=True)


def is_stream(path: PathLike) -> bool:
    """Whether ``path`` is something other than a file with a name: a pipe, a device, a descriptor that is open."""
    if descriptor_of(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def descriptor_of(path: PathLike) -> int | None:
    """The number of the open descriptor that ``path`` stands for, such as 1 for ``/dev/stdout``; None for a file."""
    if sys.platform == "win32":
        return None
    place = Path(path)
    try:
        # Only the folder is resolved: the name in it may be a link to the file behind the descriptor.
        folder = os.path.realpath(place.parent)
    except (OSError, ValueError):
        return None
    if folder == "/dev" and place.name in _STANDARD:
        return _STANDARD[place.name]
    if (
        place.name.isascii()
        and place.name.isdigit()
        and folder in {*_DESCRIPTORS, *map(os.path.realpath, _DESCRIPTORS)}
    ):
        return int(place.name)
    return None


def _check_writable(path: PathLike, number: int) -> None:
    if sys.platform == "win32":
        return  # it has no such names
    import fcntl

    try:
        access = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
    except (OSError, OverflowError):
        raise OptionError(f"{os.fspath(path)} cannot be written: descriptor {number} is not open") from None
    if access == os.O_RDONLY:
        raise OptionError(
            f"{os.fspath(path)} cannot be written: descriptor {number} is open for reading only; name a file"
        )


def _writable_copy(path: PathLike, number: int) -> int:
    _check_writable(path, number)
    return os.dup(number)


def refuse_link(path: Path) -> None:
    """Raises OptionError where ``path`` is a link."""
    if path.is_symlink():
        raise OptionError(
            f"{path} is a link to {os.path.realpath(path)} and cannot be written; name that file itself, or remove the "
            "link"
        )


def check_output(path: PathLike, *, force: bool, inputs: Iterable[PathLike | None] = ()) -> None:
    """Says before the work begins whether a file can be written. Nothing is opened or changed.

    Args:
        path: the file.
        force: whether a file that exists may be replaced.
        inputs: what the work reads; see :func:`refuse_inputs`.

    Raises:
        OptionError: it is an input, a link or a folder; it exists and may not be replaced; its folder is missing or
            cannot be written to; or it is a descriptor that is not open for writing.
    """
    target = Path(path)
    if "\0" in os.fspath(path):
        raise OptionError(f"{os.fspath(path)!r} cannot be written: no file has a NUL character in its name")
    refuse_inputs([target], inputs)
    number = descriptor_of(target)
    if number is not None:
        _check_writable(target, number)
    if is_stream(target):
        return
    refuse_link(target)
    if target.is_dir():
        raise OptionError(f"{target} is a folder and cannot be written; name a file in it")
    if target.exists() and not force:
        raise OptionError(f"{target} exists; give another name, or --force to replace it")
    if not target.parent.is_dir():
        raise OptionError(f"{target} cannot be written: there is no folder {target.parent}; make it first")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise OptionError(f"{target} cannot be written (Permission denied); name a file that can be")


def refuse_inputs(outputs: Iterable[PathLike], inputs: Iterable[PathLike | None]) -> None:
    """Refuses to write over what is read.

    Args:
        outputs: files that would be written or changed.
        inputs: files and folders that are read. A name on the hub, None and what does not exist are passed over. A
            folder stands for the data in it, the first part of a split model for all of its parts.

    Raises:
        OptionError: an output is one of the inputs, under this name or another.
    """
    files = [file for given in inputs if given is not None for file in _files(given)]
    for output in outputs:
        for file in files:
            if _same(output, file):
                raise OptionError(f"{os.fspath(output)} is read by this command ({file}); write to another file")


def _files(given: PathLike) -> Iterable[Path]:
    path = Path(os.path.expanduser(given))
    try:
        if path.is_dir():
            return [file for file in path.rglob("*") if file.suffix.lower() not in _PRODUCTS and file.is_file()]
        return [part for part in parts_of(path) if part.exists()]
    except (OSError, ValueError):  # a name that no file can have
        return []


def _same(one: PathLike, other: PathLike) -> bool:
    try:
        first, second = _status(one), _status(other)
    except (OSError, OverflowError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)
    # A terminal or a pipe may be both read and written: nothing in it is lost by that.
    return os.path.samestat(first, second) and stat.S_ISREG(first.st_mode)


def _status(path: PathLike) -> os.stat_result:
    number = descriptor_of(path)
    return os.stat(path) if number is None else os.fstat(number)
