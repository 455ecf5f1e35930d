"""A folder of scored texts: numpy arrays that grow by whole texts.

``meta.json`` holds the models and options, ``progress.json`` the progress, and ``texts.jsonl`` one line for each text.
Every other value is a ``.npy`` file with one row for each scored token. ``progress.json`` is replaced after the arrays
are synced. Rows beyond it are cut off when the folder is opened again. If the process ends, at most the texts in
progress are lost.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .._shown import shortened, shown
from ..errors import CorpusError
from ..files.lock import lock_folder
from ..files.output_file import write_file
from ..files.reading import lines, read_json, whole_number, why
from ..heads.checks import MAX_EMBD, MAX_TOP_K

__all__ = ["COLUMNS", "FORMAT", "VERSION", "Scores", "ScoresWriter", "folder_files"]

FORMAT = "colm-scores"
VERSION = 1
# Texts that are read together; so many may be in the folder and not yet in progress.json.
MAX_TEXTS = 16

# Name -> type of a row's value. hidden and base_top_k_logprobs have more than one: their widths stand in meta.json.
COLUMNS: dict[str, type[np.generic]] = {
    "text": np.int32,
    "token": np.int32,
    "base_logprob": np.float32,
    "base_top": np.int32,
    "base_top_logprob": np.float32,
    "base_log_odds": np.float32,
    "base_entropy": np.float32,
    "base_top_k_logprobs": np.float32,
    "base_hidden": np.float16,
    "assistant_logprob": np.float32,
    "assistant_top": np.int32,
    "assistant_top_logprob": np.float32,
    "assistant_entropy": np.float32,
    "assistant_logprob_of_base_top": np.float32,
}


def folder_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that a folder of scores has, with answers (:mod:`.respond`) and paths (:mod:`.continuation`) in it."""
    names = [
        "meta.json",
        "progress.json",
        "texts.jsonl",
        "responses.jsonl",
        "continuations.jsonl",
        *(f"{name}.npy" for name in COLUMNS),
    ]
    return [Path(folder, name) for name in names]


def _widths(meta: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {"base_hidden": (int(meta["n_embd"]),), "base_top_k_logprobs": (int(meta["top_k"]),)}


def _header(n_rows: int, width: tuple[int, ...], dtype: npt.DTypeLike) -> bytes:
    """A .npy header of one length for any number of rows, so that it can be rewritten in place."""
    described = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (n_rows, *width)}
    text = repr(described).encode("ascii")
    size = 256
    return b"\x93NUMPY\x01\x00" + (size - 10).to_bytes(2, "little") + text.ljust(size - 11) + b"\n"


HEADER_SIZE = len(_header(0, (), np.int32))


def _write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one piece, on the disk when this returns."""
    write_file(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def _refuse_others(folder: Path) -> None:
    """Raises CorpusError where a folder that is no folder of scores has files of the names that scores would have."""
    for path in folder_files(folder):
        if not path.exists() or path.name == "responses.jsonl" or (path.name == "progress.json" and _is_mark(path)):
            continue
        raise CorpusError(f"{folder} holds no scores, but scores would overwrite its {path.name}; use another folder")


def _is_mark(path: Path) -> bool:
    """Whether this is what a process that was killed at once leaves: a mark of how far, and nothing that was done."""
    try:
        return bool(json.loads(path.read_bytes()) == vars(ProgressMark()))
    except ValueError:
        return False


def _read_json(path: Path) -> Any:
    return read_json(path, "folder of scores", "score into a new folder")


def _read_meta(folder: Path) -> dict[str, Any]:
    meta = _read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise CorpusError(f"{folder / 'meta.json'} does not describe scores; name a folder made by colm score")
    if meta.get("version") != VERSION:
        raise CorpusError(
            f"{folder} has scores of format version {shown(meta.get('version'))} and this colm-cpp reads {VERSION}; "
            "score the texts anew"
        )
    try:
        whole_number("n_embd", meta.get("n_embd"), 1, MAX_EMBD)
        whole_number("top_k", meta.get("top_k"), 1, MAX_TOP_K)
    except ValueError as error:
        raise CorpusError(f"{folder / 'meta.json'} is damaged ({error}); score into a new folder") from error
    return meta


@dataclass(frozen=True)
class ProgressMark:
    """The progress of a folder.

    Attributes:
        n_documents: documents begun, bad ones included.
        n_texts: texts scored.
        n_tokens: tokens scored.
        n_read: tokens read by each model, prompts included.
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


def _read_progress(folder: Path) -> ProgressMark:
    # What is behind this mark is cut off, so that a mark which cannot be must not be believed.
    value = _read_json(folder / "progress.json")
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


def _row_size(name: str, widths: Mapping[str, tuple[int, ...]]) -> int:
    return int(np.dtype(COLUMNS[name]).itemsize) * math.prod(widths.get(name, ()))


def _check_column(path: Path, n_tokens: int, row_size: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        if not n_tokens:
            return
        raise CorpusError(
            f"{path} is missing or cut short ({why(error)}); progress.json counts {n_tokens} tokens. Score into a new "
            "folder"
        ) from error
    wanted = HEADER_SIZE + n_tokens * row_size
    if n_tokens and size < wanted:
        raise CorpusError(
            f"{path} is missing or cut short: it has {size} bytes, but progress.json counts {n_tokens} tokens, which "
            f"take {wanted}. Score into a new folder"
        )


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


def _end_of_texts(path: Path, done: ProgressMark) -> int:
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


class ScoresWriter:
    """Adds texts to a folder. Use it as a context manager."""

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        """Begins the folder, or opens it at the last whole text.

        Args:
            path: the folder.
            facts: the facts that every score depends on, with ``n_embd`` and ``top_k``. Others are refused.

        Raises:
            FolderInUse: another process is writing to the folder.
            CorpusError: the folder holds other scores, or cannot be read.
        """
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path)
        try:
            self._open_all(facts)
        except BaseException:
            self.close()
            raise

    def _open_all(self, facts: Mapping[str, Any]) -> None:
        self._files: dict[str, BinaryIO] = {}
        facts = json.loads(json.dumps(facts))  # tuples become lists, as they will be when read again
        if (self.path / "meta.json").exists():
            meta = _read_meta(self.path)
            for name in sorted({*facts, *meta} - {"format", "version"}):
                if meta.get(name) != facts.get(name):
                    raise CorpusError(
                        f"{self.path} holds scores with {name} {shortened(json.dumps(meta.get(name)))}, not "
                        f"{shortened(json.dumps(facts.get(name)))}; give the same, or use another folder"
                    )
            self.meta = meta
            self.done = _read_progress(self.path)
        else:
            _refuse_others(self.path)
            self.meta = {"format": FORMAT, "version": VERSION, **facts}
            self.done = ProgressMark()
            _write_json(self.path / "progress.json", vars(self.done))
            _write_json(self.path / "meta.json", self.meta)
        self._widths = _widths(self.meta)
        # Everything is looked at before anything is cut off.
        for name in COLUMNS:
            _check_column(self.path / f"{name}.npy", self.done.n_tokens, _row_size(name, self._widths))
        end_of_texts = _end_of_texts(self.path / "texts.jsonl", self.done)
        for name, dtype in COLUMNS.items():
            self._open_column(name, dtype)
        file = self._open("texts.jsonl")
        file.truncate(end_of_texts)
        file.seek(end_of_texts)

    def _open(self, name: str) -> BinaryIO:
        path = self.path / name
        file = self._files[name] = path.open("r+b" if path.exists() else "w+b")
        return file

    def _open_column(self, name: str, dtype: npt.DTypeLike) -> None:
        path = self.path / f"{name}.npy"
        file = self._open(path.name)
        end = HEADER_SIZE + self.done.n_tokens * _row_size(name, self._widths)
        # The header too may be ahead of progress.json, or behind it.
        file.seek(0)
        file.write(_header(self.done.n_tokens, self._widths.get(name, ()), dtype))
        file.truncate(end)
        file.seek(end)

    def add(
        self, columns: Mapping[str, npt.NDArray[Any]], texts: Sequence[Mapping[str, Any]], done: ProgressMark
    ) -> None:
        """Adds the rows of some texts; they are on the disk when this returns.

        Args:
            columns: name -> rows, for each name of :data:`COLUMNS` but ``text``.
            texts: the line of ``texts.jsonl`` for each text, with ``n_scored``.
            done: the progress once these texts are added.

        Raises:
            OSError: the disk is full, or the folder is gone. Earlier rows stay.
        """
        numbers = np.arange(self.done.n_texts, self.done.n_texts + len(texts), dtype=np.int32)
        rows = {**columns, "text": np.repeat(numbers, [text["n_scored"] for text in texts])}
        if texts:
            for name, dtype in COLUMNS.items():
                file = self._files[f"{name}.npy"]
                file.write(np.ascontiguousarray(rows[name], dtype=dtype).tobytes())
                file.flush()
                end = file.tell()
                file.seek(0)
                file.write(_header(done.n_tokens, self._widths.get(name, ()), dtype))
                file.seek(end)
                file.flush()
                os.fsync(file.fileno())
            described = self._files["texts.jsonl"]
            described.write("".join(json.dumps(text) + "\n" for text in texts).encode())
            described.flush()
            os.fsync(described.fileno())
        _write_json(self.path / "progress.json", vars(done))
        self.done = done

    def close(self) -> None:
        """Closes the files and releases the folder's lock.

        Raises:
            OSError: the disk is full. The files are closed nevertheless.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            for file in self._files.values():
                stack.callback(file.close)

    def __enter__(self) -> ScoresWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Scores:
    """Scored texts, memory-mapped.

    Attributes:
        path: the folder.
        meta: the models and options that made them.
        progress: how far they are.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a folder made by ``colm score``. An incomplete folder has the texts scored so far.

        Raises:
            CorpusError: the folder holds no scores, has another format version, is cut short or is empty.
        """
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        self.progress = _read_progress(self.path)
        if not self.progress.n_tokens:
            raise CorpusError(f"{self.path} holds no scored tokens; run colm score again")
        self._columns = {name: self._map(name) for name in COLUMNS}

    def _map(self, name: str) -> npt.NDArray[Any]:
        path = self.path / f"{name}.npy"
        _check_column(path, self.progress.n_tokens, _row_size(name, _widths(self.meta)))
        try:
            # The rows are mapped past the header, which a crash may have left ahead of or behind progress.json.
            n = self.progress.n_tokens
            shape = (n, *_widths(self.meta).get(name, ()))
            mapped: npt.NDArray[Any] = np.memmap(path, dtype=COLUMNS[name], mode="r", offset=HEADER_SIZE, shape=shape)
        except (OSError, ValueError) as error:
            raise CorpusError(
                f"{path} cannot be read ({why(error)}); progress.json counts {self.progress.n_tokens} tokens. Score "
                "into a new folder"
            ) from error
        return mapped

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """A column: ``[n_tokens]``, ``[n_tokens, n_embd]`` for ``base_hidden``, ``[n_tokens, top_k]`` likewise."""
        return self._columns[column]

    def __len__(self) -> int:
        """The number of scored tokens."""
        return self.progress.n_tokens

    @property
    def n_embd(self) -> int:
        """Width of the base's hidden state."""
        return int(self.meta["n_embd"])

    def bad_values(self) -> str | None:
        """What is wrong with the first row that holds a log-probability that is NaN, infinite or above 0."""
        for name in ("base_logprob", "assistant_logprob", "base_top_logprob"):
            values = self._columns[name]
            wrong = np.flatnonzero(~(np.isfinite(values) & (values <= 1e-3)))
            if wrong.size:
                row = int(wrong[0])
                return f"{name} is {values[row]} in row {row} (text {int(self._columns['text'][row])})"
        # Read rather than mapped: what is mapped counts as the process's memory.
        rows = max(1, 2**22 // self.n_embd)
        with (self.path / "base_hidden.npy").open("rb") as file:
            file.seek(HEADER_SIZE)
            for begin in range(0, len(self), rows):
                n_values = min(rows, len(self) - begin) * self.n_embd
                bits = np.fromfile(file, np.uint16, n_values).reshape(-1, self.n_embd)
                # An exponent of all ones is infinity or NaN; np.isfinite takes ten times as long.
                wrong = np.flatnonzero(((bits & 0x7C00) == 0x7C00).any(axis=1))
                if wrong.size:
                    row = begin + int(wrong[0])
                    return f"base_hidden is not finite in row {row} (text {int(self._columns['text'][row])})"
        return None
