"""Joining what several machines scored, answered or evaluated into the folder that one machine would have written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._shown import shown
from ..errors import CorpusError
from ..evaluate.records import KIND as EVALUATION
from ..evaluate.records import OWN, RecordFolder
from ..files.folder import META, write_json
from ..files.output_file import OutputFile
from ..files.shards import Shards, copied, in_order, joining, kind_of_shards
from .respond import FILE as RESPONSES
from .respond import extent
from .score_files import HEADER_SIZE, KIND, ProgressMark, columns_of, end_of_texts, read_meta, read_progress

__all__ = ["Joined", "merge_shards"]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Joined:
    """What was joined.

    Attributes:
        path: the new folder.
        what: what it holds: scores, or an evaluation.
        n_shards: how many folders it was made of.
        n: texts or problems in it, those that could not be used included.
        n_tokens: scored tokens, or tokens of the answers.
    """

    path: Path
    what: str
    n_shards: int
    n: int
    n_tokens: int


def merge_shards(folders: Sequence[PathLike], out: PathLike) -> Joined:
    """Joins the folders of all shards into a new one.

    Args:
        folders: those of ``colm score --shard`` or ``colm evaluate --shard``, all of one run, in any order.
        out: the new folder. It has the same bytes as that of one machine that did all the work. Only the seconds that
            an evaluation measures are those of the machines that measured them, and the step times those of the first.

    Raises:
        CorpusError: a folder is no shard or is not finished, a shard is missing or there twice, shards were made of
            other texts, with other models or options; or ``out`` is not empty.
        FolderInUse: another process is writing to ``out``.
        OSError: the disk is full.
    """
    given = [Path(folder) for folder in folders]
    for folder in given:
        if folder.is_dir() and not (folder / META).exists():
            raise CorpusError(
                f"{folder} holds no finished shard: it has no {META}; run the command of this shard again, or name "
                "another folder"
            )
    kind = kind_of_shards(given)
    if kind is None:
        raise CorpusError(
            f"{', '.join(map(str, given[:3]))}: no shard was found here (a {META} that says which part of a work it "
            "is); name folders made with --shard"
        )
    if kind == EVALUATION.format:
        return _join_evaluation(given, Path(out))
    if kind == KIND.format:
        return _join_scores(given, Path(out))
    raise CorpusError(f"the shards are of kind {shown(kind)}, which this version of colm-cpp cannot join; update it")


# -- scores -------------------------------------------------------------------------------------------------------


def _join_scores(given: Sequence[Path], out: Path) -> Joined:
    shards = in_order({folder: read_meta(folder) for folder in given}, KIND.command)
    marks, text_ends = [], []
    for folder, n in zip(shards.folders, shards.counts, strict=True):
        mark = read_progress(folder)
        if not mark.complete or mark.n_documents != n:
            raise _unfinished(folder, mark.n_documents, n, KIND.command)
        for column in columns_of(shards.meta).values():
            column.check(folder, mark.n_tokens)
        marks.append(mark)
        text_ends.append(end_of_texts(folder / "texts.jsonl", mark))
    whole = _sum(marks)
    if not whole.n_tokens:
        raise CorpusError("the shards hold no scored tokens: their corpus has no usable row")
    answers = _answers(shards) if "respond" in shards.meta else None
    with joining(out, shards.meta):
        for name, column in columns_of(shards.meta).items():
            with OutputFile(column.path(out)) as file:
                file.write(column.header(whole.n_tokens))
                n_before = 0
                for folder, mark in zip(shards.folders, marks, strict=True):
                    for data in copied(column.path(folder), HEADER_SIZE, column.size(mark.n_tokens)):
                        # Rows count their texts, which stand behind those of the shards before.
                        own = name == "text"
                        file.write((np.frombuffer(data, np.int32) + np.int32(n_before)).tobytes() if own else data)
                    n_before += mark.n_texts
        _concatenate(
            out / "texts.jsonl",
            b"",
            ((folder / "texts.jsonl", 0, end) for folder, end in zip(shards.folders, text_ends, strict=True)),
        )
        if answers is not None:
            _concatenate(out / RESPONSES, *answers)
        write_json(out / "progress.json", vars(whole))
    return Joined(out, KIND.what, len(shards.folders), whole.n_documents, whole.n_tokens)


def _sum(marks: Sequence[ProgressMark]) -> ProgressMark:
    names = [name for name in vars(ProgressMark()) if name != "complete"]
    return ProgressMark(**{name: sum(getattr(mark, name) for mark in marks) for name in names}, complete=True)


def _answers(shards: Shards) -> tuple[bytes, list[tuple[Path, int, int]]]:
    """The header of all answers, and where each shard's stand."""
    header: dict[str, Any] = {}
    places = []
    for folder, n in zip(shards.folders, shards.counts, strict=True):
        own, begin, ends = extent(folder / RESPONSES)
        own.pop("shard", None)
        if len(ends) != n:
            raise _unfinished(folder, len(ends), n, f"{KIND.command} --respond")
        if header and header != own:
            raise CorpusError(
                f"{folder / RESPONSES} was made with other models, options or texts than "
                f"{shards.folders[0] / RESPONSES}; make all shards with the same"
            )
        header = own
        places.append((folder / RESPONSES, begin, ends[-1]))
    return json.dumps(header).encode() + b"\n", places


def _concatenate(path: Path, beginning: bytes, places: Iterable[tuple[Path, int, int]]) -> None:
    with OutputFile(path) as file:
        file.write(beginning)
        for source, begin, end in places:
            for data in copied(source, begin, end):
                file.write(data)


def _unfinished(folder: Path, n_done: int, n: int, command: str) -> CorpusError:
    return CorpusError(
        f"{folder} is not finished: {n_done} of the {n} of its shard are done; run its {command} again, which goes on"
    )


# -- an evaluation ------------------------------------------------------------------------------------------------


def _join_evaluation(given: Sequence[Path], out: Path) -> Joined:
    opened = {folder: RecordFolder.open(folder) for folder in given}
    metas = {folder: record.meta for folder, record in opened.items()}
    shards = in_order(metas, EVALUATION.command, OWN[1:])  # arms must be the same, measured times need not
    arms = list(shards.meta["arms"])
    for folder, n in zip(shards.folders, shards.counts, strict=True):
        for arm in arms:
            n_done = len(opened[folder].read(arm))
            if n_done != n:
                raise _unfinished(folder, n_done, n, f"{EVALUATION.command} (arm {arm})")
    n_tokens = 0

    def rows(arm: str) -> Iterator[bytes]:
        nonlocal n_tokens
        for folder in shards.folders:
            for _, record in sorted(opened[folder].read(arm).items()):
                n_tokens += record.n_tokens
                yield record.to_json().encode() + b"\n"

    with joining(out, shards.meta):
        (out / "records").mkdir(exist_ok=True)
        for arm in arms:
            with OutputFile(out / "records" / f"{arm}.jsonl") as file:
                for row in rows(arm):
                    file.write(row)
    return Joined(out, EVALUATION.what, len(shards.folders), sum(shards.counts), n_tokens)
