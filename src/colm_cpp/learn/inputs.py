"""The inputs of a head at each token: hidden states and features of the base's distribution, in blocks of rows.

Hidden states stay on disk as float16 unless they fit into memory: a million tokens of width 2048 are 4 GB there and
would be 8 GB as float32. Blocks are read rather than mapped, so that they do not count as the process's memory, and
are small enough to stay in a core's cache from the reading to the last use.
"""

from __future__ import annotations

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from .._shown import shown
from ..errors import CorpusError, OptionError
from ..heads.head import FEATURES
from ..machine.cores import usable_cores
from .score_files import COLUMNS, HEADER_SIZE
from .scores import Scores

__all__ = ["Inputs", "feature_columns", "to_float32"]

BLOCK_BYTES = 2 * 2**20  # of float32
BLOCKS_AT_A_TIME = 16  # what a thread takes at once
MAX_THREADS = 8
MAX_LOG_ODDS = 50.0

Block = npt.NDArray[np.float32]
T = TypeVar("T")


def feature_columns(scores: Scores, features: Sequence[str], top_k: int) -> npt.NDArray[np.float32]:
    """The features of every token, ``[n_tokens, n_features]``, as the engine computes them.

    Args:
        scores: the scored texts.
        features: any of :data:`colm_cpp.heads.FEATURES`.
        top_k: what ``top_k_logprobs`` stands for.

    Raises:
        OptionError: scoring kept too few log-probabilities, or a feature is unknown.
    """
    kept = int(scores.meta["top_k"])
    columns: list[npt.NDArray[np.float32]] = []
    for feature in features:
        if feature == "log_odds":
            columns.append(np.clip(scores["base_log_odds"], -MAX_LOG_ODDS, MAX_LOG_ODDS)[:, None])
        elif feature == "entropy":
            columns.append(np.asarray(scores["base_entropy"])[:, None])
        elif feature == "margin":
            if kept < 2:
                raise OptionError(
                    f"{scores.path} kept 1 log-probability, but the feature margin needs 2; score with a larger top_k"
                )
            top = scores["base_top_k_logprobs"]
            columns.append((top[:, 0] - top[:, 1])[:, None])
        elif feature == "top_k_logprobs":
            if top_k > kept:
                raise OptionError(
                    f"top_k is {shown(top_k)}, but {scores.path} kept {kept} log-probabilities; score with more"
                )
            columns.append(np.asarray(scores["base_top_k_logprobs"][:, :top_k]))
        else:
            raise OptionError(f"feature {shown(feature)} is unknown; it must be one of {', '.join(FEATURES)}")
    if not columns:
        return np.zeros((len(scores), 0), np.float32)
    return np.concatenate(columns, axis=1).astype(np.float32)


class Inputs:
    """``[n, n_in]``: hidden states and features of chosen tokens, standardised where a scale was set.

    Attributes:
        n: rows.
        n_in: columns.
        mean: what is subtracted, ``[n_in]``; 0 at first.
        scale: what is divided by, ``[n_in]``; 1 at first.
    """

    def __init__(
        self,
        folders: Sequence[Scores],
        rows: Sequence[npt.NDArray[np.int64]],
        features: Sequence[str],
        top_k: int,
        *,
        use_hidden: bool = True,
        in_memory: bool = True,
    ) -> None:
        """Args:
        folders: scored texts.
        rows: of each folder the rows that take part, ascending.
        features: see :func:`feature_columns`.
        top_k: likewise.
        use_hidden: False leaves the hidden states out.
        in_memory: keep everything in memory as float32, rather than reading the hidden states anew for each pass.
        """
        self._folders = folders
        self._rows = rows
        self._features = np.concatenate(
            [feature_columns(f, features, top_k)[r] for f, r in zip(folders, rows, strict=True)]
        )
        ends = list(itertools.accumulate(len(r) for r in rows))
        self._begin = [0, *ends[:-1]]  # of each folder's rows among all
        self.n = ends[-1]
        self.n_in = (folders[0].n_embd if use_hidden else 0) + self._features.shape[1]
        self.mean = np.zeros(self.n_in)
        self.scale = np.ones(self.n_in)
        # (x - mean) / scale = x * factor - shift: one pass over a block less.
        self._factor = np.ones(self.n_in, np.float32)
        self._shift = np.zeros(self.n_in, np.float32)
        self.block_rows = max(64, BLOCK_BYTES // (4 * max(self.n_in, 1)))
        self._kept: Block | None = None
        if in_memory:
            kept = np.empty((self.n, self.n_in), np.float32)
            for at in self._slices():
                self._read(at, kept[at], np.empty(kept[at].shape, np.float16))
            self._kept = kept

    @property
    def in_memory(self) -> bool:
        """Whether the rows are kept in memory."""
        return self._kept is not None

    def _slices(self) -> list[slice]:
        return [slice(at, min(at + self.block_rows, self.n)) for at in range(0, self.n, self.block_rows)]

    def _read(self, at: slice, out: Block, room: npt.NDArray[np.float16]) -> None:
        """Reads rows, standardised, into ``out``, ``[n, n_in]``; ``room`` is overwritten."""
        width = self.n_in - self._features.shape[1]
        np.multiply(self._features[at], self._factor[width:], out=out[:, width:])
        if width:
            half = room.reshape(-1)[: len(out) * width].reshape(-1, width)
            for folder, chosen, begin in zip(self._folders, self._rows, self._begin, strict=True):
                first, last = max(at.start, begin), min(at.stop, begin + len(chosen))
                if first < last:
                    rows = chosen[first - begin : last - begin]
                    _read_hidden(folder, rows, half[first - at.start : last - at.start])
            to_float32(half, out[:, :width], self._factor[:width])
        out -= self._shift

    def map(self, work: Callable[[Iterator[tuple[slice, Block]]], T]) -> Iterator[T]:
        """What ``work`` makes of some blocks after others, in the order of the rows, computed by several threads.

        Args:
            work: is given which rows, and their values, block by block. A block is overwritten by the next.
        """
        slices = self._slices()
        tasks = [slices[i : i + BLOCKS_AT_A_TIME] for i in range(0, len(slices), BLOCKS_AT_A_TIME)]
        n_threads = min(usable_cores(), MAX_THREADS, len(tasks))
        # In memory the time goes into products of matrices, and those have threads of their own.
        if self._kept is not None or n_threads < 2:
            for task in tasks:
                yield work(self._blocks(task))
            return
        with ThreadPoolExecutor(n_threads) as pool:
            # Few at a time: what waits for its turn takes memory too.
            waiting: collections.deque[Future[T]] = collections.deque()
            for task in tasks:
                if len(waiting) == 2 * n_threads:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(work, self._blocks(task)))
            while waiting:
                yield waiting.popleft().result()

    def _blocks(self, slices: Sequence[slice]) -> Iterator[tuple[slice, Block]]:
        if self._kept is not None:
            for at in slices:
                yield at, self._kept[at]
            return
        # Rows a multiple of 4096 bytes apart stand in each other's way in the cache: without the 16, subtracting the
        # mean can take ten times as long.
        room = np.empty((self.block_rows, self.n_in + 16), np.float32)
        half = np.empty((self.block_rows, self.n_in), np.float16)
        for at in slices:
            block = room[: at.stop - at.start, : self.n_in]
            self._read(at, block, half)
            yield at, block

    def standardise(self, mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> None:
        """Shifts and scales every column from now on; once."""
        self.mean, self.scale = mean, scale
        self._factor, self._shift = (1.0 / scale).astype(np.float32), (mean / scale).astype(np.float32)
        if self._kept is not None:
            self._kept *= self._factor
            self._kept -= self._shift

    def moments(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and standard deviation of every column, ``[n_in]``; a constant column has deviation 1."""

        def total(blocks: Iterator[tuple[slice, Block]]) -> npt.NDArray[np.float64]:
            return _sum_of(np.ones(len(block), np.float32) @ block for _, block in blocks)

        mean = _sum_of(self.map(total)) / self.n
        about = mean.astype(np.float32)

        def squares(blocks: Iterator[tuple[slice, Block]]) -> npt.NDArray[np.float64]:
            return _sum_of(np.ones(len(block), np.float32) @ np.square(block - about) for _, block in blocks)

        deviation = np.sqrt(_sum_of(self.map(squares)) / self.n)
        return mean, np.where(deviation > 1e-6, deviation, 1.0)


def _sum_of(parts: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """The sum in float64."""
    return functools.reduce(lambda total, part: total + part, parts, np.zeros(1))


def to_float32(half: npt.NDArray[np.float16], out: Block, factor: Block) -> None:
    """Puts finite float16 values ``[n, m]`` times ``factor`` ``[m]`` into ``out``, much faster than numpy's cast.

    A half's exponent and mantissa, moved to where those of a float are, make a float 2^-112 times as large.
    """
    bits = out.view(np.int32)
    np.copyto(bits, half.view(np.int16))
    bits <<= 13
    bits &= np.int32(-0x70002000)  # clears what the sign left in the exponent
    if factor.max() < 2.0**15:
        out *= factor * np.float32(2.0**112)
    else:  # their product may be too large for a float
        out *= np.float32(2.0**112)
        out *= factor


def _read_hidden(scores: Scores, rows: npt.NDArray[np.int64], out: npt.NDArray[np.float16]) -> None:
    """Reads the hidden states of ascending ``rows`` into ``out``, ``[n, n_embd]``, run by run."""
    path = scores.path / "base_hidden.npy"
    row_size = scores.n_embd * np.dtype(COLUMNS["base_hidden"]).itemsize
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]
    begin = 0
    with path.open("rb") as file:
        for end in ends:
            file.seek(HEADER_SIZE + int(rows[begin]) * row_size)
            if file.readinto(out[begin:end].data.cast("B")) != (end - begin) * row_size:
                raise CorpusError(f"{path} was cut short while it was being read; score the texts again")
            begin = end
