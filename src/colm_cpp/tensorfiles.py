"""Reading single tensors, or single rows of them, from files of several formats.

Every format is reduced to :class:`TensorFile`: named tensors, given out as float32. Of a multi-GB
matrix in a safetensors file only the wanted row's bytes are read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ._safetensors import SafetensorsFile
from ._torch_file import TorchFile
from .errors import HeadError, LoadError

# The name that the one tensor has in a file that does not name it.
UNNAMED = ""


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
        MissingDependency: it was saved by torch, which is not installed.
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
        f"{path} has the suffix {suffix!r}, which is not known; give a checkpoint folder or a "
        ".safetensors, .npz, .npy, .bin, .pt or .pth file (a .gguf head is read by Head.load)"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        LoadError: the file cannot be read, or is not that.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as exc:
        raise LoadError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise LoadError(f"{path} is damaged: not JSON ({exc}); copy it again") from exc
    if not isinstance(value, dict):
        raise LoadError(f"{path} is damaged: it holds a JSON {type(value).__name__}, not an object")
    return value


class NumpyFile:
    """A ``.npz`` archive or a ``.npy`` file; read whole, since a head is small."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:  # opened here, since np.load leaves a damaged archive open
                loaded = np.load(file, allow_pickle=False)
                if isinstance(loaded, np.ndarray):
                    arrays = {UNNAMED: loaded}
                else:
                    arrays = {name: loaded[name] for name in loaded.files}
        except Exception as exc:  # numpy, zipfile and zlib each raise their own for a damaged file
            if "Object arrays" in str(exc):
                raise HeadError(f"{path} holds Python objects instead of numbers; save plain arrays") from exc
            raise LoadError(f"{path} cannot be read as a numpy file: {exc}; save or copy it again") from exc
        self._arrays = arrays
        self.metadata = {}
        activation = arrays.get("activation")
        if activation is not None and activation.dtype.kind == "U" and activation.size == 1:
            self.metadata["activation"] = str(activation.item())
            del arrays["activation"]

    def names(self) -> list[str]:
        return list(self._arrays)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._arrays[name].shape)

    def read(self, name: str, row: int | None = None) -> npt.NDArray[np.float32]:
        item = self._arrays[name]
        if item.dtype.kind not in "fiu":
            raise HeadError(f"{name or 'the array'} in {self.path} has dtype {item.dtype}; use float32")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes inf, which a Head refuses
            return np.asarray(item if row is None else item[row]).astype(np.float32)
