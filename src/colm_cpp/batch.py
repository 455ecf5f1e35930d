"""Batches: many texts at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from . import _core
from ._busy import busy, check_usable
from ._log import forward_log
from .errors import ColmError, ForkError, GenerationError, PairClosed
from .results import Completion
from .stream import completion_of

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["BatchStream"]

# A text as the extension takes it: tokens, head, options.
Request = tuple[list[int], _core.Head, _core.GenerationOptions]


class BatchStream:
    """An iterator over texts that are written together, made by ``pair.stream_batch()``.

    It yields ``(number, completion)`` when a text ends; ``number`` counts the prompts from 0. A text that fails yields
    ``(number, error)`` with a :class:`ColmError`, and the other texts go on. The next prompt is taken when a text ends.
    A ``with`` block or :meth:`close` ends all texts.

    Several threads may read one stream: they take turns, and each result goes to one of them. The iterable of prompts
    may not read the stream that it feeds; that raises GenerationError.
    """

    def __init__(
        self, pair: _core.Pair, batch: _core.Batch, n_parallel: int, requests: Iterator[Callable[[], Request]]
    ) -> None:
        self._pair: _core.Pair | None = pair
        self._batch: _core.Batch | None = batch
        self._n_parallel = n_parallel
        self._requests = requests
        self._n_given = 0
        self._seeds: dict[int, int] = {}
        self._lock = threading.RLock()  # a signal handler may come before the reader is known
        self._reader: tuple[int, int] | None = None  # process and thread

    def __iter__(self) -> BatchStream:
        return self

    def __next__(self) -> tuple[int, Completion | ColmError]:
        check_usable()
        me, reader = (os.getpid(), threading.get_ident()), self._reader
        if reader == me:
            raise GenerationError(
                "these texts are being read by this thread already; the iterable of their prompts, and a signal "
                "handler, cannot ask them for the next result"
            )
        if reader is not None and reader[0] != me[0]:
            raise ForkError("this process was forked while these texts were being read; start them again in it")
        with self._lock:
            self._reader = me
            try:
                return self._next()
            finally:
                self._reader = None

    def _next(self) -> tuple[int, Completion | ColmError]:
        batch, pair = self._batch, self._pair
        if batch is None or pair is None:
            raise PairClosed("the pair of this batch was closed; load it again")
        while batch.n_texts < self._n_parallel:
            make = next(self._requests, None)
            if make is None:
                break
            number = self._n_given
            self._n_given += 1
            try:
                tokens, head, options = make()
                batch.add(pair, number, tokens, head, options)
            except PairClosed:
                raise
            except ColmError as error:
                error.index = number
                return number, error
            finally:
                forward_log()
            self._seeds[number] = options.sampling.seed
        try:
            with busy():
                finished = batch.next()
        except BaseException:
            self.close()
            raise
        finally:
            forward_log()
        if finished is None:
            raise StopIteration
        seed = self._seeds.pop(finished.number)
        try:
            finished.check()
        except ColmError as error:
            error.index = finished.number
            return finished.number, error
        return finished.number, completion_of(finished, pair, seed)

    @property
    def counts(self) -> dict[str, int]:
        """``steps``, ``base_decodes`` and ``assistant_decodes`` so far.

        A step writes one token of every text in progress. A decode is one call of llama_decode.

        Raises:
            PairClosed: the pair, or this stream, was closed.
        """
        if self._batch is None:
            raise PairClosed("this batch was closed; read counts before closing it")
        return self._batch.counts()

    def cancel(self) -> None:
        """Ends all texts within one step; the loop then raises PairClosed. Safe from any thread."""
        batch = self._batch
        if batch is not None:
            batch.cancel()

    def close(self) -> None:
        """Ends all texts and frees their memory."""
        self._detach()

    def _detach(self) -> None:
        self.cancel()
        self._batch = None
        self._pair = None

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
