"""Files of models before they are loaded: what their headers say, and whose file is at fault."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .. import _core
from ..errors import LoadError, RemoteError
from ..files.paths import to_native
from ..options import ASSISTANT, BASE

__all__ = ["metadata", "naming", "quantised", "trained_n_ctx"]

_FLOAT_FILE_TYPES = (0, 1, 32)  # of llama_ftype: F32, F16, BF16


def metadata(path: str) -> dict[str, Any]:
    """The metadata of a GGUF file. Raises LoadError."""
    found: dict[str, Any] = _core.inspect_gguf(to_native(path))["metadata"]
    return found


def trained_n_ctx(metadata: dict[str, Any]) -> int:
    """The context that a model with this metadata was trained for; 0 where it does not say."""
    length = metadata.get(f"{metadata.get('general.architecture')}.context_length", 0)
    return int(length) if isinstance(length, int) and length >= 2 else 0


def quantised(metadata: dict[str, Any]) -> bool:
    """Whether a model with this metadata has quantised weights."""
    return metadata.get("general.file_type", _FLOAT_FILE_TYPES[0]) not in _FLOAT_FILE_TYPES


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors about an expert's files or its server begin with its name, as those of the extension do."""
    try:
        yield
    except (LoadError, RemoteError) as error:
        if name not in (BASE, ASSISTANT):
            error.args = (f"the expert {name}: {error}",)
        raise
