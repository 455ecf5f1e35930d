"""A folder of scored texts: numpy arrays that grow by whole texts, and what they were made of.

``meta.json`` says what made the scores; ``progress.json`` how far they are; ``texts.jsonl`` has a line for each text;
each other value is one ``.npy`` file with a row for each scored token. ``progress.json`` is replaced after the arrays
were synced, and rows beyond it are cut off when the folder is opened again: whatever ends the process costs at most
the texts being scored.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import CorpusError
from ..output_file import write_file
from ._lock import lock_folder

__all__ = ["COLUMNS", "FORMAT", "VERSION", "Scores", "ScoresWriter", "folder_files"]

FORMAT = "colm-scores"
VERSION = 1

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
    """The files that a folder of scores has, with the answers that :func:`.respond.respond` keeps in it."""
    names = ["meta.json", "progress.json", "texts.jsonl", "responses.jsonl", *(f"{name}.npy" for name in COLUMNS)]
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
        raise CorpusError(f"{folder} has no scores, but a file {path.name} that they would write over; use another")


def _is_mark(path: Path) -> bool:
    """Whether this is what a process that was killed at once leaves: a mark of how far, and nothing that was done."""
    try:
        return bool(json.loads(path.read_bytes()) == vars(ProgressMark()))
    except ValueError:
        return False


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CorpusError(
            f"{path.parent} is no folder of scores: {path.name} cannot be read ({error.strerror}); make it with colm "
            "score"
        ) from error
    except ValueError as error:
        raise CorpusError(f"{path} is damaged ({error}); score into a new folder") from error


def _read_meta(folder: Path) -> dict[str, Any]:
    meta = _read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise CorpusError(f"{folder / 'meta.json'} does not describe scores; name a folder made by colm score")
    if meta.get("version") != VERSION:
        raise CorpusError(
            f"{folder} has scores of format version {meta.get('version')!r} and this colm-cpp reads {VERSION}; score "
            "the texts anew"
        )
    return meta


@dataclass(frozen=True)
class ProgressMark:
    """How far a folder is.

    Attributes:
        n_documents: documents begun, bad ones included.
        n_texts: texts scored.
        n_tokens: tokens scored.
        n_read: tokens read by each model, prompts included.
        n_bad: bad rows.
        n_truncated: texts cut at the end of the context.
        complete: whether the whole corpus (or its limit) is done.
    """

    n_documents: int = 0
    n_texts: int = 0
    n_tokens: int = 0
    n_read: int = 0
    n_bad: int = 0
    n_truncated: int = 0
    complete: bool = False


def _read_progress(folder: Path) -> ProgressMark:
    value = _read_json(folder / "progress.json")
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(ProgressMark)}:
        # Taken as empty, it would have everything cut off.
        raise CorpusError(f"{folder / 'progress.json'} is damaged; score into a new folder")
    return ProgressMark(**value)


class ScoresWriter:
    """Adds texts to a folder. Use it as a context manager."""

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        """Begins the folder, or opens it at the last whole text.

        Args:
            path: the folder.
            facts: what every score depends on, ``n_embd`` and ``top_k`` among them. A folder with others is refused.

        Raises:
            CorpusError: the folder holds other scores, cannot be read, or is being written by another process.
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
                        f"{self.path} holds scores with {name} {json.dumps(meta.get(name))}, not "
                        f"{json.dumps(facts.get(name))}; give the same, or another folder"
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
        for name, dtype in COLUMNS.items():
            self._open_column(name, dtype)
        self._open_texts()

    def _row_size(self, name: str) -> int:
        return int(np.dtype(COLUMNS[name]).itemsize * np.prod(self._widths.get(name, ()), dtype=np.int64))

    def _open(self, name: str) -> BinaryIO:
        path = self.path / name
        file = self._files[name] = path.open("r+b" if path.exists() else "w+b")
        return file

    def _open_column(self, name: str, dtype: npt.DTypeLike) -> None:
        path = self.path / f"{name}.npy"
        file = self._open(path.name)
        end = HEADER_SIZE + self.done.n_tokens * self._row_size(name)
        if self.done.n_tokens and file.seek(0, os.SEEK_END) < end:
            raise CorpusError(f"{path} is cut short: it lacks rows that progress.json counts; score into a new folder")
        # The header too may be ahead of progress.json, or behind it.
        file.seek(0)
        file.write(_header(self.done.n_tokens, self._widths.get(name, ()), dtype))
        file.truncate(end)
        file.seek(end)

    def _open_texts(self) -> None:
        file = self._open("texts.jsonl")
        for _ in range(self.done.n_texts):
            if not file.readline().endswith(b"\n"):
                raise CorpusError(
                    f"{self.path / 'texts.jsonl'} is cut short: progress.json counts {self.done.n_texts} texts; score "
                    "into a new folder"
                )
        file.truncate(file.seek(file.tell()))

    def add(
        self, columns: Mapping[str, npt.NDArray[Any]], texts: Sequence[Mapping[str, Any]], done: ProgressMark
    ) -> None:
        """Adds the rows of some texts; they are on the disk when this returns.

        Args:
            columns: name -> rows, for each name of :data:`COLUMNS` but ``text``.
            texts: what ``texts.jsonl`` says of each; ``n_scored`` among it.
            done: how far the folder is with them.

        Raises:
            OSError: the disk is full, or the folder is gone. What was there before stays.
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
        """Closes the files and lets others write.

        Raises:
            OSError: the disk is full. Everything is closed all the same.
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
        meta: what made them.
        progress: how far they are.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a folder made by ``colm score``; one that is not complete has the texts that are done.

        Raises:
            CorpusError: it is no folder of scores, of another format version, cut short, or empty.
        """
        self.path = Path(path)
        self.meta = _read_meta(self.path)
        self.progress = _read_progress(self.path)
        if not self.progress.n_tokens:
            raise CorpusError(f"{self.path} holds no scored token; run colm score again")
        self._columns = {name: self._map(name) for name in COLUMNS}

    def _map(self, name: str) -> npt.NDArray[Any]:
        path = self.path / f"{name}.npy"
        try:
            # The rows are mapped past the header, which a crash may have left ahead of or behind progress.json.
            n = self.progress.n_tokens
            shape = (n, *_widths(self.meta).get(name, ()))
            mapped: npt.NDArray[Any] = np.memmap(path, dtype=COLUMNS[name], mode="r", offset=HEADER_SIZE, shape=shape)
        except (OSError, ValueError) as error:
            raise CorpusError(
                f"{path} is missing or cut short ({error}); progress.json counts {self.progress.n_tokens} tokens. "
                "Score the texts again"
            ) from error
        return mapped

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """A column: ``[n_tokens]``, ``[n_tokens, n_embd]`` for ``base_hidden``, ``[n_tokens, top_k]`` likewise."""
        return self._columns[column]

    def __len__(self) -> int:
        """Scored tokens."""
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
