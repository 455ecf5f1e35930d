"""The vocabulary of a model on the hub, by the beginning of its file alone."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .. import _core
from ..errors import DownloadError, LoadError
from ..files.paths import to_native
from .hub import HubFile, explained, files_of, require_client

__all__ = ["HubModel", "remote_model"]

_FIRST = 8 << 20  # bytes; most headers are shorter
_MOST = 128 << 20
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model on the hub.

    Attributes:
        file: its name in the repository; of a split model, that of the first part.
        bytes: the size of that file.
        bytes_read: how much of it was fetched.
        vocabulary: its vocabulary.
    """

    file: str
    bytes: int
    bytes_read: int
    vocabulary: _core.Vocabulary


def remote_model(spec: str) -> HubModel:
    """Reads the header of a file on the hub, in parts, until it is whole. Nothing is kept.

    Args:
        spec: ``hf:org/repo/file-pattern.gguf``.

    Raises:
        OptionError: ``spec`` has another form.
        DownloadError: as for :func:`.hub.resolve`; or the hub sends no parts of files.
        LoadError: the file is no GGUF file, its header is damaged, or it has no vocabulary.
    """
    wanted = HubFile.parse(spec)
    require_client()
    names = files_of(wanted)
    with tempfile.TemporaryDirectory(prefix="colm-") as folder:
        file = Path(folder, "header.gguf")
        read, end, is_gguf = 0, _FIRST, False
        while True:
            data, size = _part(wanted, names[0], read, end)
            with file.open("ab") as stream:
                stream.write(data)
            is_gguf = data.startswith(b"GGUF") if read == 0 else is_gguf
            read += len(data)
            try:
                vocabulary = _core.Vocabulary.of_header(to_native(file))
            except LoadError as error:
                if is_gguf and read < size and end < _MOST:  # the header goes on
                    end *= 2
                    continue
                raise LoadError(str(error).replace(str(file), f"{wanted} ({names[0]})")) from error
            return HubModel(names[0], size, read, vocabulary)


def _part(wanted: HubFile, name: str, begin: int, end: int) -> tuple[bytes, int]:
    """Bytes ``begin`` to ``end`` of a file, or fewer at its end; and its size."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented, but not in __all__
        build_hf_headers,
        get_session,
        hf_raise_for_status,
    )

    headers = build_hf_headers(library_name="colm_cpp")
    headers |= {"range": f"bytes={begin}-{end - 1}", "accept-encoding": "identity"}
    url = hf_hub_url(wanted.repo_id, name, revision=wanted.revision)
    try:
        with get_session().stream(
            "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, follow_redirects=True
        ) as response:
            hf_raise_for_status(response)
            found = _RANGE.fullmatch(response.headers.get("content-range", ""))
            if response.status_code != 206 or found is None or int(found[1]) != begin:
                raise DownloadError(
                    f"{wanted}: the hub does not send the part of {name} that was asked for; use colm pull instead"
                )
            data = bytearray()
            for piece in response.iter_bytes():
                data += piece
                if len(data) > end - begin:  # there may be no end to it
                    raise DownloadError(
                        f"{wanted}: the hub sends more of {name} than the {end - begin} bytes it was asked for"
                    )
    except DownloadError:
        raise
    except Exception as error:
        raise explained(wanted, error, name) from error
    return bytes(data), int(found[2])
