"""Streams: one text, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from .. import _core
from ..errors import PairClosed, QueueTimeout
from ..llama.busy import busy
from ..llama.log import forward_log
from ..results import Completion, ExpertStats, FinishReason, Stats, Token, Tokens, TopLogprob

__all__ = ["TokenStream", "completion_of"]

_Result = TypeVar("_Result")


class TokenStream:
    """An iterator over the tokens of one text, made by ``pair.stream()``.

    The pair computes only while the stream is iterated. The pair has ``n_parallel`` slots (:func:`load`), and texts
    that have a slot are written together. Other threads' texts wait for a slot until a text ends. If a reader pauses,
    they wait about as long as a new prefill of its text takes (20 ms to 1 s in all). Then they get the slot, and this
    stream queues when it is next iterated. An open stream therefore blocks nobody, and a slow reader shares the pair.
    The text stays the same. What both models have read of it is kept (``cache_mb``), or read again.

    Leaving a loop early ends the text, and so do :meth:`close` and the end of a ``with`` block. The pair stays usable
    and keeps its KV caches.

    Attributes:
        finish_reason: why the text ended. None while it is being written, and if it was left early.
        seed: the seed in use.
    """

    finish_reason: FinishReason | None
    seed: int
    _stream: _core.Stream | None = None  # where Ctrl-C comes in the middle of __init__

    def __init__(
        self,
        pair: _core.Pair,
        stream: _core.Stream,
        text: _core.Text,
        seed: int,
        queue_timeout: float | None = None,
    ) -> None:
        self._pair: _core.Pair | None = pair
        self._names = pair.names  # each asking makes a list
        self._text = text
        self._stream = stream
        self._queue_timeout = queue_timeout
        self._done = False
        self._tokens: list[Token] = []
        self._final: tuple[Stats, Token | None] | None = None
        self.seed = seed
        self.finish_reason = None

    def __iter__(self) -> TokenStream:
        return self

    def __next__(self) -> Token:
        if self._done:
            raise StopIteration
        stream, pair = self._opened()
        step = self._compute(stream.next)
        if step is None:
            self._finish(pair)
            raise StopIteration
        token = _to_token(step, pair, self._names)
        self._tokens.append(token)
        return token

    def _opened(self) -> tuple[_core.Stream, _core.Pair]:
        stream, pair = self._stream, self._pair
        if stream is None or pair is None:
            raise PairClosed("the pair of this stream was closed; load it again")
        return stream, pair

    def _compute(self, step: Callable[[float | None], _Result]) -> _Result:
        try:
            with busy():
                return step(self._queue_timeout)
        except QueueTimeout:
            raise  # the text stands where it was
        except BaseException:
            self._end()
            raise
        finally:
            forward_log()

    def _finish(self, pair: _core.Pair) -> None:
        """Records why the text ended. Closing the stream or its pair ends it too."""
        if self._done:
            return
        reason = self._text.finish_reason
        self._end()
        self._text.check()
        if self._stream is None and reason in ("cancelled", ""):
            raise PairClosed("the pair of this stream was closed; load it again")
        self.finish_reason = cast(FinishReason, reason)
        self._final = _summary(self._text, pair, self._names, self.seed)

    def _end(self) -> None:
        self._done = True
        stream = self._stream
        if stream is not None:
            stream.close()

    @property
    def begun(self) -> bool:
        """Whether the pair has begun to compute this text. Before, it waits for a slot, or was never iterated."""
        return self._stream is not None and self._text.begun

    @property
    def stats(self) -> Stats:
        """Counts and times so far.

        Raises:
            PairClosed: the pair was closed before the text ended.
        """
        if self._final is not None:
            return self._final[0]
        if self._stream is None or self._pair is None:
            raise PairClosed("the pair of this stream was closed; read stats before closing it")
        return _summary(self._text, self._pair, self._names, self.seed)[0]

    @property
    def calls(self) -> list[tuple[str, int, int, bool, bool]]:
        """Every call of llama_decode so far, in order: (model, position, n_tokens, logits wanted, hidden wanted)."""
        if self._stream is None or self._pair is None:
            raise PairClosed("the pair of this stream was closed; read calls before closing it")
        names = self._names
        return [(names[expert], at, n, logits, hidden) for expert, at, n, logits, hidden in self._text.calls()]

    @property
    def token_ids(self) -> list[int]:
        """Prompt and generated token ids so far, an end-of-generation token included."""
        if self._stream is None:
            raise PairClosed("the pair of this stream was closed; read token_ids before closing it")
        return self._text.tokens

    def completion(self) -> Completion:
        """Runs the stream to its end and returns the whole text.

        Raises:
            PairClosed: the pair was closed before the text ended.
            GenerationError: no token is allowed, or llama.cpp reported a failure.
            QueueTimeout: the pair wrote other texts for longer than ``queue_timeout``; the stream can be run again.
        """
        if not self._done:
            stream, pair = self._opened()
            steps = self._compute(stream.rest)
            self._tokens += [_to_token(step, pair, self._names) for step in steps]
            self._finish(pair)
        if self._final is None or self.finish_reason is None:
            raise PairClosed("this stream was closed before its text ended")
        return _completion(self._tokens, self.finish_reason, self._final)

    def likeliest(self) -> list[tuple[int, float]]:
        """Runs a text that was never read to its end, and returns the likeliest ids at its first position.

        They are as many as the option ``logprobs`` says, the likeliest first, with their natural log-probabilities
        before temperature and truncation. For a text of one token (``max_tokens=1``). Errors are those of
        :meth:`completion`.
        """
        stream, pair = self._opened()
        steps = self._compute(stream.rest)
        self._finish(pair)
        step = steps[0] if steps else self._text.end_step  # a text may end with its first token
        if step is None:
            raise PairClosed("this stream was cancelled before its first token")
        return step[-1]

    def write(self) -> None:
        """Runs the stream to its end, while :meth:`take` gives its tokens. Errors are those of :meth:`completion`."""
        if not self._done:
            stream, pair = self._opened()
            self._compute(stream.write)
            self._finish(pair)

    def take(self) -> list[Token]:
        """The tokens that :meth:`write` has written since the last call, from any one thread."""
        stream, pair = self._stream, self._pair
        if stream is None or pair is None:
            return []
        tokens = [_to_token(step, pair, self._names) for step in stream.take()]
        self._tokens += tokens
        return tokens

    def cancel(self) -> None:
        """Asks the text to end as ``cancelled`` within one step. Safe from any thread."""
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def close(self) -> None:
        """Ends the text where it stands; further iteration stops at once."""
        self._end()

    def _detach(self) -> None:
        """Drops the models, because their pair is being closed."""
        stream, self._stream, self._pair = self._stream, None, None
        if stream is not None:
            stream.cancel()

    def __enter__(self) -> TokenStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A loop left by `break` drops the last reference to the stream: its turn must not be kept.
        self._end()


def completion_of(text: _core.Text, steps: Iterable[_core._Step], pair: _core.Pair, seed: int) -> Completion:
    """The result of one text of a batch."""
    names = pair.names
    tokens = [_to_token(step, pair, names) for step in steps]
    return _completion(tokens, text.finish_reason, _summary(text, pair, names, seed))


def _completion(tokens: Sequence[Token], reason: str, final: tuple[Stats, Token | None]) -> Completion:
    text = "".join(token.text for token in tokens)
    return Completion(text, Tokens(tokens), cast(FinishReason, reason), *final)


def _summary(text: _core.Text, pair: _core.Pair, names: Sequence[str], seed: int) -> tuple[Stats, Token | None]:
    counts = text.stats()
    end_step = text.end_step
    generated = len(text.tokens) - text.n_prompt
    work = [ExpertStats(*of) for of in counts["work"]]
    work += [ExpertStats(0, 0, 0, 0.0)] * (len(names) - len(work))
    stats = Stats(
        prompt_tokens=text.n_prompt,
        generated_tokens=generated,
        deferral_rate=counts["n_deferred"] / generated if generated else 0.0,
        base_steps=work[0].calls,
        assistant_calls=sum(of.calls for of in work[1:]),
        lookahead=counts["lookahead"],
        drafted_tokens=counts["n_drafted"],
        accepted_tokens=counts["n_accepted"],
        base_tokens_read=work[0].tokens_read,
        assistant_tokens_read=sum(of.tokens_read for of in work[1:]),
        prefill_s=counts["prefill_s"],
        decode_s=counts["decode_s"],
        tokens_per_s=generated / counts["decode_s"] if generated and counts["decode_s"] > 0 else 0.0,
        seed=seed,
        experts=dict(zip(names, work, strict=True)),
        waited_tokens=counts["n_waited"],
    )
    return stats, None if end_step is None else _to_token(end_step, pair, names)


def _to_token(step: tuple[Any, ...], pair: _core.Pair, names: Sequence[str]) -> Token:
    token, text, expert, defer_logit, threshold, logprob, top = step
    return Token(
        id=token,
        text=text,
        expert=expert,
        defer_logit=defer_logit,
        threshold=threshold,
        logprob=logprob,
        top_logprobs=tuple(TopLogprob(i, pair.detokenize([i], True, expert), p) for i, p in top),
        source=names[expert],
    )
