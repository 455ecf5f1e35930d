"""Distributions as bytes: the binary answer of ``POST /v1/colm/distributions`` (docs/server.md).

All numbers are little-endian. ``n`` positions with ``k`` ids each::

    4 bytes   CLMD
    uint32    1, the version of this form
    uint32    n
    uint32    k
    float64   [n]     probability of all ids that are not listed
    uint32    [n]     after how many tokens the position is
    int32     [n, k]  ids, the likeliest first; -1 where fewer can follow
    float32   [n, k]  natural logarithms of their probabilities; -inf beside an id of -1
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from .protocol import Likeliest

__all__ = ["MEDIA_TYPE", "decode", "encode", "size"]

MEDIA_TYPE = "application/vnd.colm.distributions"
_HEADER = struct.Struct("<4sIII")
_MAGIC, _VERSION = b"CLMD", 1


def size(n: int, k: int) -> int:
    """Bytes of ``n`` positions with ``k`` ids each."""
    return _HEADER.size + n * (12 + 8 * k)


def encode(counts: Sequence[int], found: Sequence[Likeliest]) -> bytes:
    """The bytes of what was found at these positions."""
    k = max((len(one.ids) for one in found), default=0)
    ids = np.full((len(found), k), -1, "<i4")
    logprobs = np.full((len(found), k), -np.inf, "<f4")
    for row, one in enumerate(found):
        ids[row, : len(one.ids)] = one.ids
        logprobs[row, : len(one.ids)] = one.logprobs
    return b"".join(
        (
            _HEADER.pack(_MAGIC, _VERSION, len(found), k),
            np.array([one.tail for one in found], "<f8").tobytes(),
            np.array(counts, "<u4").tobytes(),
            ids.tobytes(),
            logprobs.tobytes(),
        )
    )


def decode(body: bytes) -> tuple[list[int], list[Likeliest]]:
    """Positions and what was found there. Whether the numbers are probabilities is for the caller to check.

    Raises:
        ValueError: these are no such bytes, or not all of them.
    """
    if len(body) < _HEADER.size:
        raise ValueError(f"it has {len(body)} bytes, and its header alone has {_HEADER.size}")
    magic, version, n, k = _HEADER.unpack_from(body)
    if magic != _MAGIC or version != _VERSION:
        raise ValueError(f"it begins with {body[:8]!r}, which is not version {_VERSION} of colm's distributions")
    if len(body) != size(n, k):
        raise ValueError(f"it has {len(body)} bytes, and {n} positions with {k} ids each have {size(n, k)}")
    at = _HEADER.size
    tails = np.frombuffer(body, "<f8", n, at)
    counts = np.frombuffer(body, "<u4", n, at + 8 * n)
    ids = np.frombuffer(body, "<i4", n * k, at + 12 * n).reshape(n, k)
    logprobs = np.frombuffer(body, "<f4", n * k, at + 12 * n + 4 * n * k).reshape(n, k)
    found = []
    for row in range(n):
        absent = np.flatnonzero(ids[row] == -1)
        end = int(absent[0]) if absent.size else k
        found.append(Likeliest(ids[row, :end].tolist(), logprobs[row, :end].tolist(), float(tails[row])))
    return counts.tolist(), found
