"""Batches: many texts at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

from .. import _core
from ..errors import ColmError, ForkError, GenerationError, PairClosed
from ..llama.busy import busy, check_usable
from ..llama.log import forward_log
from ..results import Completion
from .stream import completion_of

__all__ = ["BatchStream", "in_order"]

# A text as the extension takes it: tokens, head, options, the tokens of experts that have a prompt of their own.
Request = tuple[list[int], _core.Head, _core.GenerationOptions, dict[int, list[int]]]


def in_order(
    results: dict[int, Completion | ColmError], return_exceptions: bool
) -> list[Completion] | list[Completion | ColmError]:
    """What a batch gave, by the numbers of its prompts. See :meth:`Pair.generate_batch`."""
    ordered = [results[number] for number in sorted(results)]
    if return_exceptions:
        return ordered
    for number, result in enumerate(ordered):
        if isinstance(result, ColmError):
            result.args = (f"prompt {number} of {len(ordered)} (counted from 0): {result}",)
            result.results = ordered  # type: ignore[attr-defined]
            raise result
    return [result for result in ordered if isinstance(result, Completion)]


class BatchStream:
    """An iterator over texts that are written together, made by ``pair.stream_batch()``.

    It yields ``(number, completion)`` when a text ends; ``number`` counts the prompts from 0. A text that fails yields
    ``(number, error)`` with a :class:`ColmError`, and the other texts go on. The next prompt is taken when a text ends.
    A ``with`` block or :meth:`close` ends all texts.

    Several threads may read one stream: they take turns, and each result goes to one of them. The iterable of prompts
    may not read the stream that it feeds; that raises GenerationError.
    """

    begun = True  # so that :meth:`Pair.cancel` ends it

    def __init__(
        self, pair: _core.Pair, stream: _core.Stream, n_parallel: int, requests: Iterator[Callable[[], Request]]
    ) -> None:
        self._pair: _core.Pair | None = pair
        self._stream: _core.Stream | None = stream
        self._cancelled = False
        self._n_parallel = n_parallel
        self._requests = requests
        self._n_given = 0
        self._given: dict[int, tuple[int, int]] = {}  # number and seed of each text under way
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
        stream, pair = self._stream, self._pair
        if stream is None or pair is None:
            raise PairClosed("the pair of this batch was closed; load it again")
        while len(self._given) < self._n_parallel:
            make = next(self._requests, None)
            if make is None:
                break
            number = self._n_given
            self._n_given += 1
            try:
                tokens, head, options, own_prompts = make()
                text = stream.add(pair, tokens, head, options, own_prompts)
            except PairClosed:
                raise
            except ColmError as error:
                error.index = number
                return number, error
            finally:
                forward_log()
            self._given[text.id] = number, options.seed
        try:
            with busy():
                finished = stream.finished()
        except BaseException:
            self.close()
            raise
        finally:
            forward_log()
        if self._cancelled or (finished is None and self._given):
            self.close()
            raise PairClosed("these texts were cancelled, or their pair was closed")
        if finished is None:
            raise StopIteration
        text, steps = finished
        number, seed = self._given.pop(text.id)
        try:
            text.check()
        except ColmError as error:
            error.index = number
            return number, error
        return number, completion_of(text, steps, pair, seed)

    @property
    def counts(self) -> dict[str, int]:
        """``steps``, and of each model ``base_decodes``, ``assistant_decodes`` or ``NAME_decodes``, so far.

        A step moves every text in progress by one position. A decode is one call of llama_decode, or one question to a
        model on another machine. Texts that others write with the pair at the same time count too.

        Raises:
            PairClosed: the pair, or this stream, was closed.
        """
        if self._stream is None:
            raise PairClosed("this batch was closed; read counts before closing it")
        return self._stream.counts()

    def cancel(self) -> None:
        """Ends all texts within one step; the loop then raises PairClosed. Safe from any thread."""
        self._cancelled = True
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def close(self) -> None:
        """Ends all texts and frees their memory."""
        self._detach()

    def _detach(self) -> None:
        self.cancel()
        stream, self._stream, self._pair = self._stream, None, None
        if stream is not None:
            stream.close()

    def __enter__(self) -> BatchStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
