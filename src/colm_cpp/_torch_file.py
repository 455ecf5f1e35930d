"""Reading what ``torch.save`` wrote, without running any code that such a file may hold."""

from __future__ import annotations

import importlib
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._shown import shortened
from .errors import HeadError, LoadError, MissingDependency

_UNNAMED = ""  # as tensorfiles.UNNAMED
# Before 2.6, torch.load(weights_only=True) could be made to run code (CVE-2025-32434).
_MIN_TORCH = (2, 6)


class TorchFile:
    """What ``torch.save`` wrote: one tensor, or a dict of tensors. No code of the file is run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        torch = import_torch(path)
        try:
            loaded = torch.load(
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
        items = loaded if isinstance(loaded, dict) else {_UNNAMED: loaded}
        self._items = {str(key): value for key, value in items.items()}
        activation = self._items.get("activation")
        self.metadata = {}
        if isinstance(activation, str):
            self.metadata["activation"] = activation
            del self._items["activation"]
        self._torch = torch

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


def import_torch(path: Path) -> Any:
    """Import torch, which only the files that it saved need.

    Raises:
        MissingDependency: torch is not installed, or is too old to load files safely.
    """
    advice = "run: pip install -U torch (or save the model as safetensors, which needs no torch)"
    try:
        torch = importlib.import_module("torch")
    except ImportError as exc:
        raise MissingDependency(f"reading {path} needs torch, but cannot import it ({exc}); {advice}") from exc
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version is None or (int(version[1]), int(version[2])) < _MIN_TORCH:
        wanted = ".".join(map(str, _MIN_TORCH))
        raise MissingDependency(
            f"reading {path} needs torch {wanted} or newer, not {torch.__version__}, which a prepared file "
            f"could make run code; {advice}"
        )
    return torch
