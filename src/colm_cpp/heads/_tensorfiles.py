"""Reading single tensors, or single rows of them, from files of several formats.

Every format is reduced to :class:`TensorFile`: named tensors, given out as float32. Of a multi-GB
matrix in a safetensors file or a newer torch file only the wanted row is read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from .._shown import shortened, shown
from ..errors import HeadError, LoadError, MissingDependency
from ..extras import require
from .checks import MAX_WEIGHTS

# The name that the one tensor has in a file that does not name it.
UNNAMED = ""
# The largest tokenizer.json of today has 35 MB.
_MAX_JSON = 2**28
_SAFETENSORS_DTYPES = ("F64", "F32", "F16", "BF16")
# Before 2.6, torch.load(weights_only=True) could be made to run code (CVE-2025-32434).
_MIN_TORCH = (2, 6)


class TensorFile(Protocol):
    """Named tensors in one file, opened.

    Attributes:
        path: the file.
        metadata: texts beside the tensors; here only ``activation`` is of use.
    """

    path: Path
    metadata: dict[str, str]

    def names(self) -> list[str]:
        """Names of the tensors, :data:`UNNAMED` for one without a name."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor in the file."""

    def read(self, name: str, row: int | None = None) -> npt.NDArray[np.float32]:
        """The tensor as float32, or row ``row`` (0 to shape[0] - 1) of it."""


def open_tensors(path: Path) -> TensorFile:
    """Open a ``.safetensors``, ``.npz``, ``.npy``, ``.bin``, ``.pt`` or ``.pth`` file.

    Raises:
        LoadError: the file is missing or damaged, or has another suffix.
        HeadError: it holds what may not be loaded (pickled objects).
        MissingDependency: the package that reads such files is not installed, or is too old.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise LoadError(f"{path} does not exist or is not a file; check the path")
    if suffix == ".safetensors":
        return SafetensorsFile(path)
    if suffix in (".npz", ".npy"):
        return NumpyFile(path)
    if suffix in (".bin", ".pt", ".pth"):
        return TorchFile(path)
    raise LoadError(
        f"{path} has the suffix {shown(suffix)}, which is not known; give a checkpoint folder or a "
        ".safetensors, .npz, .npy, .bin, .pt or .pth file (a .gguf head is read by Head.load)"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        LoadError: the file cannot be read, or is not that.
    """
    try:
        with path.open("rb") as file:
            data = file.read() if os.fstat(file.fileno()).st_size <= _MAX_JSON else None
        if data is None:
            raise LoadError(f"{path} has more than {_MAX_JSON} bytes, which no such file has; copy it again")
        value = json.loads(data)
    except LoadError:  # is an OSError too
        raise
    except OSError as exc:
        raise LoadError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise LoadError(f"{path} is damaged: not JSON ({exc}); copy it again") from exc
    if not isinstance(value, dict):
        raise LoadError(f"{path} is damaged: it holds a JSON {type(value).__name__}, not an object")
    return value


class SafetensorsFile:
    """A safetensors file. The package checks its header and maps the file, so that only what is read is in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        package = require("safetensors", f"reading {path}")
        require("ml_dtypes", f"reading {path}")  # gives numpy the type bfloat16
        self._damage = package.SafetensorError
        with self._errors():
            self._file = package.safe_open(path, framework="np")
        self.metadata: dict[str, str] = self._file.metadata() or {}

    def names(self) -> list[str]:
        return list(self._file.keys())

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def read(self, name: str, row: int | None = None) -> npt.NDArray[np.float32]:
        tensor = self._file.get_slice(name)
        dtype = tensor.get_dtype()
        if dtype not in _SAFETENSORS_DTYPES:
            raise HeadError(
                f"{shortened(name)} in {self.path} has dtype {dtype}; save it as one of "
                f"{', '.join(_SAFETENSORS_DTYPES)}"
            )
        with self._errors():
            return _float32(tensor[...] if row is None else tensor[row])

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise LoadError(f"cannot read {self.path}: {exc.strerror or exc}") from exc
        except self._damage as exc:
            raise LoadError(
                f"{self.path} is damaged or cut off: {shortened(str(exc))}; copy or download it again"
            ) from exc


class TorchFile:
    """What ``torch.save`` wrote: one tensor, or a dict of tensors. No code of the file is run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._torch = _torch_for(path)
        try:
            loaded = self._torch.load(
                path,
                map_location="cpu",
                weights_only=True,
                mmap=zipfile.is_zipfile(path),  # what torch before 1.6 wrote cannot be mapped
            )
        except pickle.UnpicklingError as exc:
            # Not torch's own advice, which is to switch the protection off.
            what = re.search(r"Unsupported [^\n]*|GLOBAL [\w.]+", str(exc))
            raise HeadError(
                f"{path} holds more than tensors ({shortened(what.group()) if what else 'refused by weights_only'}), "
                "and loading that could run code; save only the tensors: torch.save(model.state_dict(), ...)"
            ) from exc
        except Exception as exc:  # a damaged file makes torch raise anything, KeyError among others
            reason = str(exc).partition("\n")[0]
            raise LoadError(
                f"{path} cannot be read by torch: {type(exc).__name__}: {shortened(reason)}; "
                "it is damaged, or not a file that torch.save wrote"
            ) from exc
        items = loaded if isinstance(loaded, dict) else {UNNAMED: loaded}
        self._items = {str(key): value for key, value in items.items()}
        self.metadata = {}
        if isinstance(self._items.get("activation"), str):
            self.metadata["activation"] = self._items.pop("activation")

    def names(self) -> list[str]:
        return list(self._items)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name).shape)

    def read(self, name: str, row: int | None = None) -> npt.NDArray[np.float32]:
        tensor = self._tensor(name)
        wanted = tensor if row is None else tensor[row]
        array: npt.NDArray[np.float32] = wanted.detach().to(self._torch.float32).numpy().copy()
        return array

    def _tensor(self, name: str) -> Any:
        item = self._items[name]
        if isinstance(item, int | float):
            item = self._torch.tensor(float(item))
        strided = isinstance(item, self._torch.Tensor) and item.layout is self._torch.strided
        if not strided or not item.is_floating_point():
            kind = getattr(item, "dtype", type(item).__name__)
            raise HeadError(
                f"{shortened(name) or 'the content'} of {self.path} is {kind}; it must be a dense floating-point tensor"
            )
        return item


def _torch_for(path: Path) -> Any:
    torch = require("torch", f"reading {path}")
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version is None or (int(version[1]), int(version[2])) < _MIN_TORCH:
        raise MissingDependency(
            f"reading {path} needs PyTorch {'.'.join(map(str, _MIN_TORCH))} or newer, not {torch.__version__}, which "
            "a prepared file could make run code; run: pip install -U torch"
        )
    return torch


class NumpyFile:
    """A ``.npz`` archive or a ``.npy`` file. Only headers are read until an array is asked for.

    A compressed array of zeros takes a thousandth of its size in the file, so that what an archive declares says
    nothing of what reading it would cost.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrays: dict[str, _Header] = {}
        self.metadata = {}
        with self._errors():
            if not zipfile.is_zipfile(path):
                with path.open("rb") as file:
                    self._arrays[UNNAMED] = _read_header(file)
            else:
                with zipfile.ZipFile(path) as archive:
                    for member in archive.infolist():
                        name = member.filename.removesuffix(".npy")
                        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                            raise ValueError(f"{shown(name)} is compressed in a way that numpy does not use")
                        with archive.open(member) as stream:
                            header = _read_header(stream)
                            if member.file_size != stream.tell() + header.n_bytes:
                                raise ValueError(f"{shown(name)} has another size than its header says")
                        self._arrays[name] = header
        activation = self._arrays.get("activation")
        if activation is not None and activation.dtype.kind == "U" and activation.n_values == 1:
            self.metadata["activation"] = str(self._load("activation").item())
            del self._arrays["activation"]

    def names(self) -> list[str]:
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def read(self, name: str, row: int | None = None) -> npt.NDArray[np.float32]:
        header = self._arrays[name]
        if header.dtype.kind not in "fiu":
            raise HeadError(f"{name or 'the array'} in {self.path} has dtype {header.dtype}; use float32")
        item = self._load(name)
        return _float32(item if row is None else item[row])

    def _load(self, name: str) -> npt.NDArray[Any]:
        header = self._arrays[name]
        if header.n_bytes > 8 * MAX_WEIGHTS:
            raise HeadError(
                f"{name or 'the array'} in {self.path} has {shown(header.n_values)} values; a head has at most "
                f"{MAX_WEIGHTS} weights"
            )
        with self._errors():
            if name == UNNAMED:
                array: npt.NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
                return array
            with zipfile.ZipFile(self.path) as archive, archive.open(header.member) as stream:
                unpacked: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
            return unpacked

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (HeadError, LoadError):
            raise
        except Exception as exc:  # numpy, zipfile and zlib each raise their own for a damaged file
            raise LoadError(
                f"{self.path} cannot be read as a numpy file: {shortened(str(exc))}; save or copy it again"
            ) from exc


def _float32(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which a Head refuses
        return np.asarray(values).astype(np.float32)


@dataclass(frozen=True)
class _Header:
    """What an array says of itself; ``member`` is its name in an archive."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    member: str

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        return self.n_values * self.dtype.itemsize


def _read_header(stream: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"an array of format version {version[0]}.{version[1]}, which holds more than numbers")
    if dtype.hasobject:
        raise HeadError(f"{stream.name} holds Python objects instead of numbers; save plain arrays")
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"an array of shape {shown(shape)}")
    return _Header(shape, dtype, stream.name)
