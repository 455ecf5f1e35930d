"""The files of a folder of scores: their names, columns and headers, how far they are, and whether they are whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._shown import shortened, shown
from ..errors import CorpusError, HeadError
from ..files.folder import FolderKind
from ..files.reading import lines, read_json, whole_number, why
from ..heads.checks import MAX_EMBD, MAX_TOP_K, names_of_experts
from ..options import ASSISTANT

__all__ = [
    "COLUMNS",
    "COLUMNS_OF_SEGMENTS",
    "COLUMNS_OF_SEVERAL",
    "HEADER_SIZE",
    "KIND",
    "MAX_TEXTS",
    "Column",
    "ProgressMark",
    "columns_of",
    "end_of_texts",
    "experts_of",
    "is_mark",
    "is_unlike",
    "kind_of",
    "npy_header",
    "read_meta",
    "read_progress",
]

# Texts that are read together; so many may be in the folder and not yet in progress.json.
MAX_TEXTS = 16

# Name -> type of a row's value. Some rows have more than one value: see columns_of().
_OF_BASE: dict[str, type[np.generic]] = {
    "text": np.int32,
    "token": np.int32,
    "base_logprob": np.float32,
    "base_top": np.int32,
    "base_top_logprob": np.float32,
    "base_log_odds": np.float32,
    "base_entropy": np.float32,
    "base_top_k_logprobs": np.float32,
    "base_hidden": np.float16,
}
_OF_EXPERTS: dict[str, type[np.generic]] = {
    "logprob": np.float32,
    "top": np.int32,
    "top_logprob": np.float32,
    "entropy": np.float32,
    "logprob_of_base_top": np.float32,
}
# A folder of one expert, whatever its name, and one of several: a value for each expert.
COLUMNS = {**_OF_BASE, **{f"assistant_{name}": dtype for name, dtype in _OF_EXPERTS.items()}}
COLUMNS_OF_SEVERAL = {**_OF_BASE, **{f"expert_{name}": dtype for name, dtype in _OF_EXPERTS.items()}}
# What a folder of unlike vocabularies has beside them. Its rows are segments (:mod:`.segments`).
_OF_SEGMENTS: dict[str, type[np.generic]] = {"n_bytes": np.int32, "n_base_tokens": np.int32, "base_right": np.uint8}
_SEGMENTS_OF_EXPERTS: dict[str, type[np.generic]] = {"right": np.uint8, "differs": np.uint8}
COLUMNS_OF_SEGMENTS = {
    **_OF_SEGMENTS,
    **{f"{who}_{name}": dtype for who in ("assistant", "expert") for name, dtype in _SEGMENTS_OF_EXPERTS.items()},
}

KIND = FolderKind(
    format="colm-scores",
    version=1,
    what="scores",
    command="colm score",
    remedy="score into a new folder",
    files=(
        "progress.json",
        "texts.jsonl",
        "responses.jsonl",
        "continuations.jsonl",
        *(f"{name}.npy" for name in {**COLUMNS, **COLUMNS_OF_SEVERAL, **COLUMNS_OF_SEGMENTS}),
    ),
    also=(2, 3),
)
_KIND_OF_SEVERAL = replace(KIND, version=2, also=(1, 3))
_KIND_OF_SEGMENTS = replace(KIND, version=3, also=(1, 2))


def experts_of(meta: Mapping[str, Any]) -> tuple[str, ...]:
    """The experts' names in their order."""
    return tuple(meta.get("experts") or (ASSISTANT,))


def kind_of(meta: Mapping[str, Any]) -> FolderKind:
    """The kind of a folder with these facts. Earlier versions refuse those of new kinds by their version."""
    if is_unlike(meta):
        return _KIND_OF_SEGMENTS
    return KIND if len(experts_of(meta)) == 1 else _KIND_OF_SEVERAL


def is_unlike(meta: Mapping[str, Any]) -> bool:
    """Whether the models have unlike vocabularies. Then a row is a segment, otherwise a token."""
    return "vocabularies" in meta


@dataclass(frozen=True, slots=True)
class Column:
    """A column: a ``.npy`` file with a row for each scored token.

    Attributes:
        name: the file's name without its suffix.
        dtype: type of a value.
        shape: of a row; () for one value.
    """

    name: str
    dtype: type[np.generic]
    shape: tuple[int, ...]

    def path(self, folder: Path) -> Path:
        """Its file."""
        return folder / f"{self.name}.npy"

    def header(self, n_rows: int) -> bytes:
        """What the file begins with. It takes ``HEADER_SIZE`` bytes."""
        return npy_header(n_rows, self.shape, self.dtype)

    def size(self, n_rows: int) -> int:
        """The bytes of the file with so many rows."""
        return HEADER_SIZE + n_rows * int(np.dtype(self.dtype).itemsize) * math.prod(self.shape)

    def check(self, folder: Path, n_rows: int) -> None:
        """Whether the file has so many rows. Raises CorpusError."""
        path = self.path(folder)
        try:
            size = path.stat().st_size
        except OSError as error:
            if not n_rows:
                return
            raise CorpusError(
                f"{path} is missing or cut short ({why(error)}); progress.json counts {n_rows} tokens. Score into a "
                "new folder"
            ) from error
        if n_rows and size < self.size(n_rows):
            raise CorpusError(
                f"{path} is missing or cut short: it has {size} bytes, but progress.json counts {n_rows} tokens, which "
                f"take {self.size(n_rows)}. Score into a new folder"
            )


def columns_of(meta: Mapping[str, Any]) -> dict[str, Column]:
    """The columns of a folder with these facts, by their names."""
    n_experts = len(experts_of(meta))
    who = "expert" if n_experts > 1 else "assistant"
    types = COLUMNS_OF_SEVERAL if n_experts > 1 else COLUMNS
    if is_unlike(meta):
        types = {**types, **_OF_SEGMENTS, **{f"{who}_{name}": dtype for name, dtype in _SEGMENTS_OF_EXPERTS.items()}}
    shapes: dict[str, tuple[int, ...]] = {
        "base_hidden": (int(meta["n_embd"]),),
        "base_top_k_logprobs": (int(meta["top_k"]),),
    }
    if n_experts > 1:
        shapes |= {name: (n_experts,) for name in types if name.startswith("expert_")}
    return {name: Column(name, dtype, shapes.get(name, ())) for name, dtype in types.items()}


def npy_header(n_rows: int, width: tuple[int, ...], dtype: npt.DTypeLike) -> bytes:
    """A .npy header of one length for any number of rows, so that it can be rewritten in place."""
    described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (n_rows, *width)}
    text = repr(described).encode("ascii")
    size = 256
    return b"\x93NUMPY\x01\x00" + (size - 10).to_bytes(2, "little") + text.ljust(size - 11) + b"\n"


HEADER_SIZE = len(npy_header(0, (), np.int32))


def is_mark(path: Path) -> bool:
    """Whether this is what a process that was killed at once leaves: a mark of how far, and nothing that was done."""
    try:
        return path.name == "progress.json" and bool(json.loads(path.read_bytes()) == vars(ProgressMark()))
    except ValueError:
        return False


def read_meta(folder: Path) -> dict[str, Any]:
    """What ``meta.json`` says. Raises CorpusError as :meth:`FolderKind.read`, and for sizes that no model has."""
    meta = KIND.read(folder)
    try:
        whole_number("n_embd", meta.get("n_embd"), 1, MAX_EMBD)
        whole_number("top_k", meta.get("top_k"), 1, MAX_TOP_K)
        if "experts" in meta:
            names_of_experts(meta["experts"])
        if is_unlike(meta) and not isinstance(meta["vocabularies"], dict):
            raise ValueError(f"vocabularies is {shown(meta['vocabularies'])}; it must be an object")
        if meta["version"] != kind_of(meta).version:
            raise ValueError(f"experts is {shown(meta.get('experts'))} and the version is {meta['version']}")
    except (ValueError, HeadError) as error:
        raise CorpusError(f"{folder / 'meta.json'} is damaged ({error}); {KIND.remedy}") from error
    return meta


@dataclass(frozen=True)
class ProgressMark:
    """The progress of a folder.

    Attributes:
        n_documents: documents begun, bad ones included.
        n_texts: texts scored.
        n_tokens: tokens scored; of unlike vocabularies, segments.
        n_read: tokens read by each model, prompts included; of unlike vocabularies, by the base.
        n_bad: bad rows.
        n_truncated: texts that were cut at the end of the context.
        complete: whether the whole corpus is done, up to its limit if there is one.
    """

    n_documents: int = 0
    n_texts: int = 0
    n_tokens: int = 0
    n_read: int = 0
    n_bad: int = 0
    n_truncated: int = 0
    complete: bool = False


def read_progress(folder: Path) -> ProgressMark:
    """How far a folder of scores is. Raises CorpusError where the mark cannot be."""
    # What is behind this mark is cut off, so that a mark which cannot be must not be believed.
    value = read_json(folder / "progress.json", "folder of scores", KIND.remedy)
    try:
        if not isinstance(value, dict) or set(value) != {field.name for field in fields(ProgressMark)}:
            raise ValueError("it does not hold the numbers of a mark")
        for name in sorted(set(value) - {"complete"}):
            whole_number(name, value[name])
        if type(value["complete"]) is not bool:
            raise ValueError(f"complete is {shown(value['complete'])}; it must be true or false")
        mark = ProgressMark(**value)
        whole_number("n_texts", mark.n_texts, min(1, mark.n_tokens), min(mark.n_tokens, 2**31 - 1))
        whole_number("n_truncated", mark.n_truncated, 0, mark.n_texts)
        whole_number("n_documents", mark.n_documents, 0, mark.n_texts + mark.n_bad)
    except ValueError as error:
        raise CorpusError(f"{folder / 'progress.json'} is damaged ({error}); score into a new folder") from error
    return mark


def _parse_text(line: bytes) -> dict[str, Any]:
    """Parses a line of texts.jsonl. Raises ValueError if it has another form."""
    text = json.loads(line)
    if not isinstance(text, dict):
        raise ValueError("it is no object")
    whole_number("n_scored", text.get("n_scored"), 1)
    if "n_tokens" in text:
        whole_number("n_tokens", text["n_tokens"], text["n_scored"])
        if type(text.get("truncated")) is not bool:
            raise ValueError(f"truncated is {shown(text.get('truncated'))}; it must be true or false")
    return text


def end_of_texts(path: Path, done: ProgressMark) -> int:
    """Where the last of the texts that ``done`` counts ends in texts.jsonl.

    Raises:
        CorpusError: the texts are not those that ``done`` counts, or more follow than an interruption leaves.
    """
    if not path.exists() and not done.n_texts:
        return 0
    end = n = n_beyond = n_scored = n_read = n_truncated = 0
    described = True
    try:
        with path.open("rb") as file:
            for line in lines(file):
                try:
                    if line is None or not line.endswith(b"\n"):
                        raise ValueError("it is cut short")
                    text = _parse_text(line)
                except (ValueError, RecursionError) as error:
                    if n < done.n_texts:
                        raise CorpusError(
                            f"{path}:{n + 1} is damaged ({shortened(str(error))}), and progress.json counts "
                            f"{done.n_texts} texts; score into a new folder"
                        ) from error
                    break
                if n == done.n_texts:
                    n_beyond += 1
                    continue
                n += 1
                end = file.tell()
                n_scored += text["n_scored"]
                described = described and "n_tokens" in text
                n_read += text.get("n_tokens", 0)
                n_truncated += bool(text.get("truncated"))
    except OSError as error:
        raise CorpusError(f"{path} cannot be read ({why(error)}); score into a new folder") from error
    counted = {"n_texts": n, "n_tokens": n_scored}
    if described and n:
        counted |= {"n_read": n_read, "n_truncated": n_truncated}
    for name, value in counted.items():
        if getattr(done, name) != value:
            short = "is cut short" if n < done.n_texts else "does not fit"
            raise CorpusError(
                f"{path} {short}: progress.json counts {getattr(done, name)} for {name}, and the texts here give "
                f"{value}; score into a new folder"
            )
    if n_beyond > MAX_TEXTS:
        raise CorpusError(
            f"{path} has {n_beyond} texts after the {n} that progress.json counts, but an interruption leaves at most "
            f"{MAX_TEXTS}; score into a new folder"
        )
    return end
