"""A folder of scored texts: numpy arrays that grow by whole texts.

``meta.json`` holds the models and options, ``progress.json`` the progress, and ``texts.jsonl`` one line for each text.
Every other value is a ``.npy`` file with one row for each scored token; of unlike vocabularies, for each segment
(:mod:`.segments`). ``progress.json`` is replaced after the arrays are synced. Rows beyond it are cut off when the
folder is opened again. If the process ends, at most the texts in progress are lost.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import CorpusError
from ..files.folder import lock_folder, write_json
from ..files.reading import why
from .score_files import (
    HEADER_SIZE,
    KIND,
    Column,
    ProgressMark,
    columns_of,
    end_of_texts,
    experts_of,
    is_mark,
    is_unlike,
    kind_of,
    read_meta,
    read_progress,
)

__all__ = ["Scores", "ScoresWriter", "folder_files"]


def folder_files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files that a folder of scores has, with answers (:mod:`.respond`) and paths (:mod:`.continuation`) in it."""
    return [Path(folder, name) for name in ("meta.json", *KIND.files)]


class ScoresWriter:
    """Adds texts to a folder. Use it as a context manager."""

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        """Begins the folder, or opens it at the last whole text.

        Args:
            path: the folder.
            facts: the facts that every score depends on, with ``n_embd`` and ``top_k``, and ``experts`` (their names)
                unless there is only the assistant. Others are refused.

        Raises:
            FolderInUse: another process is writing to the folder.
            CorpusError: the folder holds other scores, or cannot be read.
        """
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path).lock  # until close()
        try:
            self._open_all(facts)
        except BaseException:
            self.close()
            raise

    def _open_all(self, facts: Mapping[str, Any]) -> None:
        self._files: dict[str, BinaryIO] = {}
        self.done = ProgressMark()
        kind = kind_of(facts)
        meta = kind.go_on(self.path, facts)
        if meta is None:
            mark = {"progress.json": vars(self.done)}
            self.meta = kind.begin(self.path, facts, lambda path: path.name == "responses.jsonl" or is_mark(path), mark)
        else:
            self.meta = read_meta(self.path)
            self.done = read_progress(self.path)
        self._columns = columns_of(self.meta)
        # Everything is looked at before anything is cut off.
        for column in self._columns.values():
            column.check(self.path, self.done.n_tokens)
        end = end_of_texts(self.path / "texts.jsonl", self.done)
        for column in self._columns.values():
            self._open_column(column)
        file = self._open("texts.jsonl")
        file.truncate(end)
        file.seek(end)

    def _open(self, name: str) -> BinaryIO:
        path = self.path / name
        file = self._files[name] = path.open("r+b" if path.exists() else "w+b")
        return file

    def _open_column(self, column: Column) -> None:
        file = self._open(column.path(self.path).name)
        # The header too may be ahead of progress.json, or behind it.
        file.seek(0)
        file.write(column.header(self.done.n_tokens))
        file.truncate(column.size(self.done.n_tokens))
        file.seek(0, os.SEEK_END)

    def add(
        self, columns: Mapping[str, npt.NDArray[Any]], texts: Sequence[Mapping[str, Any]], done: ProgressMark
    ) -> None:
        """Adds the rows of some texts; they are on the disk when this returns.

        Args:
            columns: name -> rows, for each name of :func:`.score_files.columns_of` but ``text``.
            texts: the line of ``texts.jsonl`` for each text, with ``n_scored``.
            done: the progress once these texts are added.

        Raises:
            OSError: the disk is full, or the folder is gone. Earlier rows stay.
        """
        numbers = np.arange(self.done.n_texts, self.done.n_texts + len(texts), dtype=np.int32)
        rows = {**columns, "text": np.repeat(numbers, [text["n_scored"] for text in texts])}
        if texts:
            for name, column in self._columns.items():
                file = self._files[f"{name}.npy"]
                file.write(np.ascontiguousarray(rows[name], dtype=column.dtype).tobytes())
                file.flush()
                end = file.tell()
                file.seek(0)
                file.write(column.header(done.n_tokens))
                file.seek(end)
                file.flush()
                os.fsync(file.fileno())
            described = self._files["texts.jsonl"]
            described.write("".join(json.dumps(text) + "\n" for text in texts).encode())
            described.flush()
            os.fsync(described.fileno())
        write_json(self.path / "progress.json", vars(done))
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
        experts: names of the experts, in the order of their columns.
        unlike: whether their vocabularies are unlike the base's; then every row is a segment.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a folder made by ``colm score``. An incomplete folder has the texts scored so far.

        Raises:
            CorpusError: the folder holds no scores, has another format version, is cut short or is empty.
        """
        self.path = Path(path)
        self.meta = read_meta(self.path)
        self.progress = read_progress(self.path)
        if not self.progress.n_tokens:
            raise CorpusError(f"{self.path} holds no scored tokens; run colm score again")
        self.experts = experts_of(self.meta)
        self.unlike = is_unlike(self.meta)
        self._columns = {name: self._map(column) for name, column in columns_of(self.meta).items()}

    def _map(self, column: Column) -> npt.NDArray[Any]:
        path = column.path(self.path)
        column.check(self.path, self.progress.n_tokens)
        try:
            # The rows are mapped past the header, which a crash may have left ahead of or behind progress.json.
            shape = (self.progress.n_tokens, *column.shape)
            mapped: npt.NDArray[Any] = np.memmap(path, dtype=column.dtype, mode="r", offset=HEADER_SIZE, shape=shape)
        except (OSError, ValueError) as error:
            raise CorpusError(
                f"{path} cannot be read ({why(error)}); progress.json counts {self.progress.n_tokens} tokens. Score "
                "into a new folder"
            ) from error
        return mapped

    def __getitem__(self, column: str) -> npt.NDArray[Any]:
        """A column: ``[n_tokens]``, ``[n_tokens, n_embd]`` for ``base_hidden``, ``[n_tokens, top_k]`` likewise.

        Raises:
            CorpusError: the column is the assistant's, and the folder has several experts.
        """
        if column.startswith("assistant_") and len(self.experts) > 1:
            self.require_one("this")
        return self._columns[column]

    def of_experts(self, what: str) -> npt.NDArray[Any]:
        """A value of each expert, ``[n_tokens, n_experts]``.

        Args:
            what: ``logprob``, ``top``, ``top_logprob``, ``entropy`` or ``logprob_of_base_top``.
        """
        if len(self.experts) == 1:
            return self._columns[f"assistant_{what}"][:, None]
        return self._columns[f"expert_{what}"]

    def require_one(self, what: str) -> None:
        """Raises CorpusError where ``what`` cannot use the folder: it works with a base and one assistant.

        Both must have one vocabulary, too.
        """
        if len(self.experts) > 1:
            raise CorpusError(
                f"{what} works with a base and one assistant, and {self.path} holds scores of the experts "
                f"{' and '.join(self.experts)}; score the texts with one of them"
            )
        if self.unlike:
            raise CorpusError(
                f"{what} works with models of one vocabulary, and those of {self.path} have unlike ones; score the "
                "texts with an assistant of the base's family"
            )

    def __len__(self) -> int:
        """The number of scored tokens."""
        return self.progress.n_tokens

    @property
    def n_embd(self) -> int:
        """Width of the base's hidden state."""
        return int(self.meta["n_embd"])

    def bad_values(self) -> str | None:
        """What is wrong with the first row that holds a log-probability that is NaN, infinite or above 0."""
        of_experts = [name for name in self._columns if name in ("assistant_logprob", "expert_logprob")]
        for name in ("base_logprob", *of_experts, "base_top_logprob"):
            values = self._columns[name]
            wrong = np.argwhere(~(np.isfinite(values) & (values <= 1e-3)))
            if wrong.size:
                row = int(wrong[0][0])
                return f"{name} is {values[row]} in row {row} (text {int(self._columns['text'][row])})"
        # Read rather than mapped: what is mapped counts as the process's memory.
        rows = max(1, 2**22 // self.n_embd)
        with (self.path / "base_hidden.npy").open("rb") as file:
            file.seek(HEADER_SIZE)
            for begin in range(0, len(self), rows):
                n_values = min(rows, len(self) - begin) * self.n_embd
                bits = np.fromfile(file, np.uint16, n_values).reshape(-1, self.n_embd)
                # An exponent of all ones is infinity or NaN; np.isfinite takes ten times as long.
                infinite = np.flatnonzero(((bits & 0x7C00) == 0x7C00).any(axis=1))
                if infinite.size:
                    row = begin + int(infinite[0])
                    return f"base_hidden is not finite in row {row} (text {int(self._columns['text'][row])})"
        return None
