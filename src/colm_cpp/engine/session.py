"""Sessions: what both models have read of texts, in a file, so that another process need not read it again.

A file is a line ``colm-session 1``, the length of a header (8 bytes, little-endian), the SHA-256 of the header, the
header (JSON), and behind it the blobs that the header lists with their sizes and SHA-256, each behind the other. A blob
is a text's tokens, the state of a model (llama.cpp's bytes), or a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import _core
from .._shown import listed, shortened, shown
from ..errors import SessionError, SessionMismatch
from ..files.output_file import OutputFile
from ..files.paths import to_native
from ..options import ASSISTANT, BASE
from ..sources.identity import model_identity
from .mismatch import difference

if TYPE_CHECKING:
    from ..sources.names import PathLike

__all__ = ["read_session", "write_session"]

_MAGIC = b"colm-session "
_VERSION = 1
_DIGEST = 32  # bytes of a SHA-256
_MAX_HEADER = 64 << 20
_MAX_LINE = 32
_MAX_SLOTS = 256

_Texts = list[tuple[int | None, list[_core.SavedSlot | None]]]


def identity(core: _core.Pair) -> dict[str, Any]:
    """What the bytes of a session depend on. Two pairs for which it is the same can exchange sessions."""
    options = _core.state_options(core)
    found: dict[str, Any] = {"n_parallel": options["n_parallel"]}
    for number, (name, facts, of_model) in enumerate(zip(core.names, core.facts(), options["models"], strict=True)):
        file = model_identity(facts["path"])
        # Texts have the models in this order. An assistant has the key that it had before there were others.
        key = name if name in (BASE, ASSISTANT) else f"expert {number} ({name})"
        found[key] = {
            **of_model,
            "file": [file["bytes"], file["digest"]],
            "adapters": [[adapter["sha256"], adapter["scale"]] for adapter in facts["adapters"]],
        }
    found["llama.cpp"] = [_core.BUILT_FOR_LLAMA_CPP_PYTHON, _core.llama_version(), sys.byteorder]
    return found


def write_session(path: PathLike, core: _core.Pair) -> None:
    """Writes what ``core`` knows of texts. Errors are those of :meth:`colm_cpp.Pair.save_session`."""
    to_native(os.fspath(path))
    texts: _Texts = _core.known_texts(core)
    described = []
    for slot, parts in texts:
        described.append({"slot": slot, "models": [None if part is None else _describe(part) for part in parts]})
    header = json.dumps({"pair": identity(core), "texts": described}, separators=(",", ":")).encode()
    with OutputFile(path) as file:
        file.write(_MAGIC + f"{_VERSION}\n".encode())
        file.write(len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header)
        for _, parts in texts:
            for part in parts:
                for blob in [] if part is None else part.blobs():
                    file.write(blob)


def _describe(part: _core.SavedSlot) -> dict[str, Any]:
    blobs = [[blob.nbytes, hashlib.sha256(blob).hexdigest()] for blob in part.blobs()]
    return {"goes_back": part.goes_back, "checkpoints": part.counts, "blobs": blobs}


def read_session(path: PathLike, core: _core.Pair) -> None:
    """Has ``core`` know what a file holds. Errors are those of :meth:`colm_cpp.Pair.load_session`."""
    to_native(os.fspath(path))
    try:
        if not Path(path).is_file():
            raise SessionError(f"{shown(os.fspath(path))} is no file; give what save_session() wrote")
        with open(path, "rb") as file:
            texts = _Reader(path, file).texts(core)
    except OSError as error:
        if isinstance(error, SessionError):
            raise
        raise SessionError(f"the session {shown(os.fspath(path))} cannot be read: {error.strerror}") from error
    try:
        _core.know_texts(core, texts)
    except SessionError as error:
        raise SessionError(f"the session {shown(os.fspath(path))} does not fit: {error}") from None


class _Reader:
    def __init__(self, path: PathLike, file: BinaryIO) -> None:
        self._path = shown(os.fspath(path))
        self._file = file

    def texts(self, core: _core.Pair) -> _Texts:
        header = self._header()
        try:
            self._compare(header["pair"], identity(core))
            sizes = [
                size
                for text in header["texts"]
                for part in text["models"]
                for size, _ in ([] if part is None else part["blobs"])
            ]
            missing = self._file.tell() + sum(sizes) - os.fstat(self._file.fileno()).st_size
            if min(sizes, default=0) < 0 or missing != 0:
                raise self._damaged(
                    f"it has {-missing} bytes too many" if missing < 0 else f"{missing} bytes are missing in it"
                )
            return [
                (_slot(text["slot"]), [None if part is None else self._part(part) for part in text["models"]])
                for text in header["texts"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged(f"its header is wrong ({shortened(str(error))})") from error

    def _header(self) -> dict[str, Any]:
        line = self._file.readline(_MAX_LINE)
        if not line.startswith(_MAGIC):
            raise SessionError(f"{self._path} is no session; give what save_session() wrote")
        if line != _MAGIC + f"{_VERSION}\n".encode():
            raise SessionMismatch(
                f"{self._path} is a session of format {shown(line[len(_MAGIC) :].decode('utf-8', 'replace').strip())} "
                f"and this version of colm-cpp reads {_VERSION}; let the models read the texts again"
            )
        size = int.from_bytes(self._read(8), "little")
        digest = self._read(_DIGEST)
        if size > _MAX_HEADER:
            raise self._damaged(f"its header would have {size} bytes")
        header = self._read(size)
        if hashlib.sha256(header).digest() != digest:
            raise self._damaged("its header is not what was written")
        try:
            known: dict[str, Any] = json.loads(header)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is wrong ({shortened(str(error))})") from error
        return known

    def _compare(self, saved: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
        models, own = ({key for key, value in pair.items() if isinstance(value, dict)} for pair in (saved, loaded))
        if models != own:
            raise SessionMismatch(
                f"{self._path} is the session of another pair: its models are {listed(sorted(models))}, and this pair "
                f"has {listed(sorted(own))}; load the same models in the same order, or let them read the texts again"
            )
        if missing := _flat(saved).keys() - _flat(loaded).keys():
            raise SessionMismatch(
                f"{self._path} is the session of another pair: it has {shown(min(missing))}, which this pair lacks; "
                "load the same models, or let them read the texts again"
            )
        for name, now in _flat(loaded).items():
            before = _flat(saved).get(name)
            if before != now:
                raise SessionMismatch(
                    f"{self._path} is the session of another pair: {difference(name, before, now)}; load the same "
                    "models with the same options, or let them read the texts again"
                )

    def _part(self, part: Mapping[str, Any]) -> _core.SavedSlot:
        blobs = []
        for size, digest in part["blobs"]:
            blob = self._read(size)
            if hashlib.sha256(blob).hexdigest() != digest:
                raise self._damaged(f"{size} bytes before byte {self._file.tell()} are not what was written")
            blobs.append(blob)
        return _core.SavedSlot(part["checkpoints"], part["goes_back"], blobs)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise self._damaged("it ends too early")
        return data

    def _damaged(self, why: str) -> SessionError:
        return SessionError(f"the session {self._path} is damaged: {why}; let the models read the texts again")


def _slot(number: Any) -> int | None:
    if number is not None and (not isinstance(number, int) or not 0 <= number < _MAX_SLOTS):
        raise ValueError(f"slot {number!r}")
    return number


def _flat(identity: Mapping[str, Any]) -> dict[str, Any]:
    """``{"base": {"type_k": 1}}`` as ``{"base.type_k": 1}``, through JSON as a file has it."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(identity)).items():
        if isinstance(value, dict):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat
