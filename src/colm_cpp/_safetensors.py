"""Reading safetensors files directly: it takes few lines, and numpy alone has no bfloat16."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._shown import shortened, shown
from .errors import HeadError, LoadError

# The safetensors library itself refuses longer headers.
_MAX_HEADER = 100_000_000
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class SafetensorsFile:
    """A safetensors file: 8 bytes of header length, a JSON header, then the tensors' bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                start = file.read(8)
                length = int.from_bytes(start, "little")
                if len(start) < 8 or length > min(size - 8, _MAX_HEADER):
                    raise self._damaged(f"its header takes {length} bytes, but the file has {size} in all")
                raw = file.read(length)
        except LoadError:  # is an OSError too
            raise
        except OSError as exc:
            raise LoadError(f"cannot read {path}: {exc.strerror or exc}") from exc
        try:
            header = json.loads(raw)
        except (ValueError, RecursionError) as exc:
            raise self._damaged(f"its header is not JSON ({shortened(str(exc))})") from exc
        if not isinstance(header, dict):
            raise self._damaged("its header is not a JSON object")
        extra = header.pop("__metadata__", None)
        items = extra.items() if isinstance(extra, dict) else ()
        self.metadata = {key: value for key, value in items if isinstance(value, str)}
        self._entries: dict[str, Any] = header
        self._data_start = 8 + length
        self._data_size = size - 8 - length

    def names(self) -> list[str]:
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entry(name)[1]

    def read(self, name: str, row: int | None = None) -> npt.NDArray[np.float32]:
        code, shape, begin = self._entry(name)
        if code not in _DTYPES:
            raise HeadError(
                f"{shortened(name)} in {self.path} has dtype {shortened(code)}; save it as one of {', '.join(_DTYPES)}"
            )
        dtype = np.dtype(_DTYPES[code])
        wanted = shape if row is None else shape[1:]
        n_bytes = prod(wanted) * dtype.itemsize
        offset = self._data_start + begin + (row or 0) * n_bytes
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                raw = file.read(n_bytes)
        except OSError as exc:
            raise LoadError(f"cannot read {name} from {self.path}: {exc.strerror or exc}") from exc
        if len(raw) != n_bytes:
            raise self._damaged(f"{shortened(name)} ends after {len(raw)} of {n_bytes} bytes")
        values = np.frombuffer(raw, dtype=dtype).reshape(wanted)
        if code == "BF16":  # the upper half of a float32's bits
            widened: npt.NDArray[np.float32] = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
            return widened
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which a Head refuses
            return values.astype(np.float32)

    def _entry(self, name: str) -> tuple[str, tuple[int, ...], int]:
        """Give dtype, shape and first byte of a tensor, checked against the file's size."""
        entry = self._entries[name]
        try:
            code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        except (KeyError, TypeError, ValueError) as exc:
            raise self._damaged(f"the header's entry for {shortened(name)} is malformed") from exc
        numbers = (*shape, begin, end)
        if not isinstance(code, str) or not all(type(n) is int and n >= 0 for n in numbers):
            raise self._damaged(f"the header's entry for {shortened(name)} is malformed")
        if not begin <= end <= self._data_size:
            raise self._damaged(
                f"{shortened(name)} lies at bytes {shown(begin)} to {shown(end)}, but there are {self._data_size}"
            )
        if code in _DTYPES:
            n_bytes = prod(shape) * np.dtype(_DTYPES[code]).itemsize
            if end - begin != n_bytes:
                raise self._damaged(
                    f"{shortened(name)} has {end - begin} bytes, but {shown(shape)} in {code} takes {shown(n_bytes)}"
                )
        return code, shape, begin

    def _damaged(self, why: str) -> LoadError:
        return LoadError(f"{self.path} is damaged or cut off: {why}; copy or download it again")
