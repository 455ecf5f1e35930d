"""What a head sees of each token: the hidden state, and features of the base's distribution, in blocks of rows.

Hidden states stay on disk as float16 unless they fit into memory: a million tokens of width 2048 are 4 GB there and
would be 8 GB as float32. Blocks are read rather than mapped, so that they do not count as the process's memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ..errors import OptionError
from ..heads import FEATURES
from .scores import COLUMNS, HEADER_SIZE, Scores

__all__ = ["Inputs", "feature_columns"]


BLOCK_BYTES = 32 * 2**20  # of float32
MAX_LOG_ODDS = 50.0


def feature_columns(scores: Scores, features: Sequence[str], top_k: int) -> npt.NDArray[np.float32]:
    """The features of every token, ``[n_tokens, n_features]``, as the engine computes them.

    Args:
        scores: the scored texts.
        features: any of :data:`colm_cpp.heads.FEATURES`.
        top_k: what ``top_k_logprobs`` stands for.

    Raises:
        OptionError: more log-probabilities are asked for than were kept, or a feature is unknown.
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
                raise OptionError(f"{scores.path} kept 1 log-probability and margin needs 2; score with a larger top_k")
            top = scores["base_top_k_logprobs"]
            columns.append((top[:, 0] - top[:, 1])[:, None])
        elif feature == "top_k_logprobs":
            if top_k > kept:
                raise OptionError(f"top_k is {top_k} and {scores.path} kept {kept} log-probabilities; score with more")
            columns.append(np.asarray(scores["base_top_k_logprobs"][:, :top_k]))
        else:
            raise OptionError(f"feature {feature!r} is unknown; there are {', '.join(FEATURES)}")
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
        memory_limit: int = 2**30,
    ) -> None:
        """Args:
        folders: scored texts.
        rows: of each folder the rows that take part, ascending.
        features: see :func:`feature_columns`.
        top_k: likewise.
        use_hidden: False leaves the hidden states out.
        memory_limit: bytes of float32 up to which everything is kept in memory.
        """
        self._folders = folders
        self._rows = rows
        self._use_hidden = use_hidden
        self._features = np.concatenate(
            [feature_columns(f, features, top_k)[r] for f, r in zip(folders, rows, strict=True)]
        )
        self.n = sum(len(r) for r in rows)
        self.n_in = (folders[0].n_embd if use_hidden else 0) + self._features.shape[1]
        self.mean = np.zeros(self.n_in)
        self.scale = np.ones(self.n_in)
        self.block_rows = max(256, BLOCK_BYTES // (4 * max(self.n_in, 1)))
        self._kept: npt.NDArray[np.float32] | None = None
        if self.n * self.n_in * 4 <= memory_limit:
            self._kept = np.empty((self.n, self.n_in), np.float32)
            for at, block in self._read_blocks():
                self._kept[at] = block

    @property
    def in_memory(self) -> bool:
        """Whether the rows are kept in memory."""
        return self._kept is not None

    def _read_blocks(self) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        begin = 0
        for folder, rows in zip(self._folders, self._rows, strict=True):
            for first in range(0, len(rows), self.block_rows):
                part = rows[first : first + self.block_rows]
                at = slice(begin, begin + len(part))
                features = self._features[at]
                if self._use_hidden:
                    yield at, np.concatenate([_read_hidden(folder, part), features], axis=1)
                else:
                    yield at, features
                begin += len(part)

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
        """Which rows, and their values as float32, block by block."""
        mean, scale = self.mean.astype(np.float32), self.scale.astype(np.float32)
        plain = not mean.any() and (scale == 1.0).all()
        if self._kept is not None:
            for begin in range(0, self.n, self.block_rows):
                at = slice(begin, min(begin + self.block_rows, self.n))
                yield at, self._kept[at]
            return
        for at, block in self._read_blocks():
            yield at, block if plain else (block - mean) / scale

    def standardise(self, mean: npt.NDArray[np.float64], scale: npt.NDArray[np.float64]) -> None:
        """Shifts and scales every column from now on."""
        self.mean, self.scale = mean, scale
        if self._kept is not None:
            self._kept -= mean.astype(np.float32)
            self._kept /= scale.astype(np.float32)

    def moments(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Mean and standard deviation of every column, ``[n_in]``; a constant column has deviation 1."""
        total = np.zeros(self.n_in)
        squares = np.zeros(self.n_in)
        for _, block in self.blocks():
            total += block.sum(axis=0, dtype=np.float64)
        mean = total / self.n
        for _, block in self.blocks():
            centred = block - mean.astype(np.float32)
            squares += np.einsum("ij,ij->j", centred, centred, dtype=np.float64)
        deviation = np.sqrt(squares / self.n)
        return mean, np.where(deviation > 1e-6, deviation, 1.0)


def _read_hidden(scores: Scores, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Hidden states of ascending ``rows``, ``[n, n_embd]``."""
    first, last = int(rows[0]), int(rows[-1])
    dtype = np.dtype(COLUMNS["base_hidden"])
    width = scores.n_embd
    offset = HEADER_SIZE + first * width * dtype.itemsize
    stored = np.fromfile(scores.path / "base_hidden.npy", dtype, (last - first + 1) * width, offset=offset)
    block = stored.reshape(-1, width)
    return (block if len(block) == len(rows) else block[rows - first]).astype(np.float32)
