"""One writer for each folder: two writers would interleave their rows."""

from __future__ import annotations

from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ..errors import FolderInUse
from .output_file import remove_leftovers

__all__ = ["lock_folder"]


def lock_folder(folder: Path) -> BaseFileLock:
    """Locks a folder until the lock is released or the process ends.

    Raises:
        FolderInUse: another process holds the lock.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        error = FolderInUse(f"another process is writing to {folder}; wait for it, or use another folder")
        error.folder = str(folder)
        raise error from None
    remove_leftovers(folder)
    return lock
