"""Whether a file in the hub client's cache is what the hub sent."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import LoadError
from ..files.paths import digest_of

__all__ = ["verify"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


def verify(file: Path) -> bool:
    """Compares a cached file with its SHA-256, which the client's cache has for a name.

    Returns:
        Whether there was one to compare with. Small files that the hub keeps in git have none.

    Raises:
        LoadError: the bytes are others. The file is removed, so that nothing loads it and the next download is new.
    """
    blob = file.resolve()
    if not _SHA256.fullmatch(blob.name):
        return False
    digest = digest_of(blob)
    if digest != blob.name:
        blob.unlink(missing_ok=True)
        raise LoadError(f"the SHA-256 of {file} was {digest} and not {blob.name}, so it was removed; download it again")
    return True
