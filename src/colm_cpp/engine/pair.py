"""Two loaded models and a deferral head, writing texts together."""

from __future__ import annotations

import atexit
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from .. import _core
from .._numbers import integer, seconds
from .._shown import shown
from ..chat.messages import Message, begins_with_bos, render_chat
from ..errors import ChatTemplateError, ColmError, HeadError, OptionError, PairClosed, TokenizeError
from ..heads.adapters import check_adapters
from ..heads.head import Head
from ..heads.tables import Runs, threshold_for
from ..llama.busy import busy, check_usable, wait_until_idle
from ..llama.log import forward_log
from ..options import MAX_SEED, GenerationOptions
from ..results import Completion
from ..sources.names import HEAD_CHOICES, TRAINING_FREE_HEADS, head_file
from .aio import AsyncForms
from .batch import BatchStream, Request
from .prompts import Prompt, check_prompts, is_conversation, refuse_messages, with_own
from .stream import TokenStream

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Unpack

    from ..options import GenerationOptionsDict
    from .memory import PairMemory

__all__ = ["Pair"]

PathLike = str | os.PathLike[str]
DEFAULT_THRESHOLD = 0.5
DEFAULT_PARALLEL = 8
MAX_PARALLEL = 256  # llama.cpp's sequences
MAX_IDS = 1 << 24  # of one call of detokenize(), from an iterator
CHAT_TEMPERATURE = 0.2  # that of llama_cpp.Llama.create_chat_completion

# Heads by the id of the caller's object. The object is kept, so that no other object can get its id.
_Known: TypeAlias = "dict[int, tuple[PathLike | Head, _Prepared]]"

_open_pairs: weakref.WeakSet[Pair] = weakref.WeakSet()
# A WeakSet may not grow while another thread lists it.
_registry_lock = threading.RLock()  # a signal handler may close a pair


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _registry_lock
    _registry_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Pair(AsyncForms):
    """A base and an assistant with one vocabulary, loaded by :func:`load`.

    A pair writes ``n_parallel`` texts at a time (:func:`load`); further calls from several threads queue. The GIL is
    released while models compute.
    A ``with`` block or :meth:`close` frees the models.
    """

    def __init__(
        self,
        core: _core.Pair,
        head: PathLike | Head | None,
        memory: PairMemory | None = None,
        *,
        system: str | None = None,
    ) -> None:
        self._core: _core.Pair | None = core
        self._system = system
        self._memory = memory  # None: not checked
        self._facts = (core.base, core.assistant)  # each asking hashes the vocabulary
        self._streams: weakref.WeakSet[TokenStream] = weakref.WeakSet()
        self._batches: weakref.WeakSet[BatchStream] = weakref.WeakSet()
        self._head = head
        self._prepared: _Prepared | None = None
        if head is not None:
            self._prepared = self._prepare(head)
        with _registry_lock:
            _open_pairs.add(self)

    # -- writing ----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        queue_timeout: float | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> Completion:
        """Continues ``prompt`` and returns the whole result.

        Args:
            prompt: text, or token ids. In a text, special tokens are recognised, and BOS is added if the model asks
                for it. Token ids are used unchanged.
            queue_timeout: the longest wait for a slot, in seconds, while the pair writes other threads' texts. 0: do
                not wait. None: no limit.
            **options: see :class:`GenerationOptions`.

        Raises:
            TypeError: an unknown option.
            OptionError: an option outside its range (GrammarError for a grammar).
            HeadError: there is no head. HeadMismatch: the head was made for another base.
            TokenizeError: the prompt is empty, is not Unicode, or holds an id that the models do not share.
            ContextFull: the prompt is longer than the context.
            GenerationError: the options allow no token, or llama.cpp reported a failure.
            QueueTimeout: the pair wrote other texts for longer than ``queue_timeout``.
            PairClosed: the pair was closed, before the text or during it.
            ForkError: this process was forked while the pair was in use.
            KeyboardInterrupt: Ctrl-C; the pair stays usable.
        """
        with busy():
            return self.stream(prompt, queue_timeout=queue_timeout, **options).completion()

    def stream(
        self,
        prompt: str | Sequence[int],
        *,
        queue_timeout: float | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> TokenStream:
        """Continues ``prompt``, token by token. Arguments and errors are those of :meth:`generate`.

        Invalid arguments raise here. The first token that is asked for starts the computation. ``queue_timeout``
        limits the wait for each token. After a QueueTimeout the stream can be iterated again.
        """
        core = self._open_core()
        tokens = self._to_tokens(core, prompt)
        return self._start(core, tokens, GenerationOptions.of(options), queue_timeout)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        queue_timeout: float | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> Completion:
        """Answers ``messages``, a list of ``{"role": ..., "content": ...}``.

        Args:
            messages: the conversation so far. If it has no system message and the pair's file has one (``system``),
                that comes first.
            chat_template: Jinja2 source. None: the template in the base's file.
            template_variables: additional variables for the template.
            queue_timeout: as for :meth:`generate`.
            tools: JSON schemas of functions that the model may call, for templates with tools.
            documents: dicts with ``title`` and ``text``, for templates with documents.
            **options: as for :meth:`generate`; temperature defaults to 0.2, as in llama_cpp.Llama.

        Raises:
            ChatTemplateError: there is no template, or the template rejected the messages.
            Everything else that :meth:`generate` raises.
        """
        stream = self.stream_chat(
            messages,
            chat_template=chat_template,
            template_variables=template_variables,
            queue_timeout=queue_timeout,
            tools=tools,
            documents=documents,
            **options,
        )
        with busy():
            return stream.completion()

    def stream_chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        queue_timeout: float | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> TokenStream:
        """:meth:`chat`, token by token; see :meth:`stream`."""
        core = self._open_core()
        options.setdefault("temperature", CHAT_TEMPERATURE)
        checked = GenerationOptions.of(options)
        tokens = self.tokenize_chat(
            messages,
            chat_template=chat_template,
            template_variables=template_variables,
            tools=tools,
            documents=documents,
        )
        return self._start(core, tokens, checked, queue_timeout)

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The prompt that :meth:`chat` would continue. Arguments and errors are those of :meth:`chat`."""
        base = self.base
        template = base["chat_template"] if chat_template is None else chat_template
        if not template:
            raise ChatTemplateError(
                f"{base['path']} has no chat template; pass chat_template=, or call generate() with a finished prompt"
            )
        return render_chat(
            self._with_system(messages),
            template,
            bos_token=base["bos_token"] or "",
            eos_token=base["eos_token"] or "",
            tools=tools,
            documents=documents,
            variables=template_variables,
        )

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        """``messages``, behind the pair's system message where they have none."""
        if self._system is None or isinstance(messages, str) or not isinstance(messages, Sequence):
            return messages
        if any(isinstance(message, Mapping) and message.get("role") == "system" for message in messages):
            return messages
        return [{"role": "system", "content": self._system}, *messages]

    def tokenize_chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        template_variables: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
    ) -> list[int]:
        """Token ids of :meth:`render_chat`'s prompt. BOS is added if the model asks for it and the template omits it.

        Arguments and errors are those of :meth:`chat`.
        """
        prompt = self.render_chat(
            messages,
            chat_template=chat_template,
            template_variables=template_variables,
            tools=tools,
            documents=documents,
        )
        return self.tokenize(prompt, add_special=not begins_with_bos(prompt, self.base["bos_token"]))

    @overload
    def generate_batch(
        self,
        prompts: Iterable[Prompt],
        *,
        n_parallel: int = ...,
        each: Iterable[GenerationOptionsDict] | None = ...,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[GenerationOptionsDict],
    ) -> list[Completion]: ...

    @overload
    def generate_batch(
        self,
        prompts: Iterable[Prompt],
        *,
        n_parallel: int = ...,
        each: Iterable[GenerationOptionsDict] | None = ...,
        return_exceptions: bool,
        **options: Unpack[GenerationOptionsDict],
    ) -> list[Completion | ColmError]: ...

    def generate_batch(
        self,
        prompts: Iterable[Prompt],
        *,
        n_parallel: int = DEFAULT_PARALLEL,
        each: Iterable[GenerationOptionsDict] | None = None,
        return_exceptions: bool = False,
        **options: Unpack[GenerationOptionsDict],
    ) -> list[Completion] | list[Completion | ColmError]:
        """Continues many prompts at once and returns the results in their order. Arguments: :meth:`stream_batch`.

        Args:
            return_exceptions: True: return a failed text's error in its place. False: raise the first error once all
                texts have ended. ``error.index`` is the number of its prompt, and ``error.results`` is the list that
                True would have returned.
        """
        results = dict(self.stream_batch(prompts, n_parallel=n_parallel, each=each, **options))
        return self._in_order(results, return_exceptions)

    @staticmethod
    def _in_order(
        results: dict[int, Completion | ColmError], return_exceptions: bool
    ) -> list[Completion] | list[Completion | ColmError]:
        in_order = [results[number] for number in sorted(results)]
        if return_exceptions:
            return in_order
        for number, result in enumerate(in_order):
            if isinstance(result, ColmError):
                result.args = (f"prompt {number} of {len(in_order)} (counted from 0): {result}",)
                result.results = in_order  # type: ignore[attr-defined]
                raise result
        return [result for result in in_order if isinstance(result, Completion)]

    def stream_batch(
        self,
        prompts: Iterable[Prompt],
        *,
        n_parallel: int = DEFAULT_PARALLEL,
        each: Iterable[GenerationOptionsDict] | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> BatchStream:
        """Continues many prompts at once and gives each result when its text ends.

        All texts share each decode. In one step the base reads one token of every text, and the assistant reads all
        unread tokens of the deferred texts in one batch. Batches round logits differently from single tokens. A text
        can therefore differ from the one written alone where two tokens are nearly equally likely.

        If the pair has fewer slots than ``n_parallel``, the texts get a context of their own, ``n_parallel`` times as
        large as that of one text. It stays for the next call until :meth:`forget`, :meth:`close`, or a call with
        another ``n_parallel``. Texts that are written alone at the same time keep theirs.

        Args:
            prompts: each a prompt as for :meth:`generate`, or messages as for :meth:`chat`. Messages have temperature
                0.2 unless another is given. An iterator is read as texts end.
            n_parallel: how many texts are written at a time, 1 to 256 and at most ``n_batch``.
            each: one dict of options for each prompt. They replace ``options`` of the same name.
            **options: options for all texts; see :class:`GenerationOptions`. ``seed`` is the seed of the first text;
                each later text adds 1.

        Raises:
            TypeError: an unknown option.
            OptionError: ``n_parallel`` or one of ``options`` is outside its range, or ``each`` and ``prompts`` differ
                in length. If either is an iterator, its length is known only when it ends.
            TokenizeError: ``prompts`` is a single text.
            HeadError: there is no head.
            NotEnoughMemory: a context for ``n_parallel`` texts is estimated to need more memory than is free. A pair
                loaded with ``check_memory=False`` does not check.
            LoadError: llama.cpp cannot make a context of that size.
            PairClosed: the pair was closed.
        """
        core = self._open_core()
        check_prompts(prompts, each)
        heads: _Known = {}
        if options.get("head") is not None or each is None:  # otherwise each text may bring its own
            self._options_of(GenerationOptions.of(options), heads)
        else:
            GenerationOptions.of(options).to_core(DEFAULT_THRESHOLD)
        n_parallel = integer("n_parallel", n_parallel, 1, MAX_PARALLEL)
        if self._memory is not None and not core.has_loop(n_parallel):
            self._memory.check_batch(n_parallel)
        with busy():
            try:
                texts = _core.Stream(core, n_parallel)
            finally:
                forward_log()
        stream = BatchStream(core, texts, n_parallel, self._requests(core, prompts, each, options, heads))
        with _registry_lock:
            self._open_core()  # it may have been closed meanwhile
            self._batches.add(stream)
        return stream

    def _requests(
        self,
        core: _core.Pair,
        prompts: Iterable[Prompt],
        each: Iterable[GenerationOptionsDict] | None,
        options: GenerationOptionsDict,
        heads: _Known,
    ) -> Iterator[Callable[[], Request]]:
        seed = options.get("seed")
        # A NumPy scalar would overflow in the sum below.
        first_seed = None if seed is None else integer("seed", seed, 0, MAX_SEED)
        for number, (prompt, extra) in enumerate(with_own(prompts, each)):

            def make(number: int = number, prompt: Prompt = prompt, extra: Any = extra) -> Request:
                if not isinstance(extra, Mapping):
                    raise OptionError(f"the entry of each= for this prompt is {shown(extra)}; give a dict of options")
                merged: dict[str, Any] = {**options, **extra}
                if first_seed is not None and "seed" not in extra:
                    merged["seed"] = (first_seed + number) % (MAX_SEED + 1)
                if is_conversation(prompt):
                    merged.setdefault("temperature", CHAT_TEMPERATURE)
                    tokens = self.tokenize_chat(prompt)
                else:
                    tokens = self._to_tokens(core, prompt)
                try:
                    checked = GenerationOptions.of(merged)
                except TypeError as error:  # an unknown name in each=; in options it was refused before
                    raise OptionError(str(error)) from None
                return (tokens, *self._options_of(checked, heads))

            yield make

    def cancel(self) -> None:
        """Ends all texts in progress within one step, with ``finish_reason`` ``cancelled``. Safe from any thread."""
        for stream in self._live_streams():
            if stream._begun:
                stream.cancel()
        for batch in self._live_batches():
            batch.cancel()

    # -- tokens -----------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of ``text``.

        Args:
            text: any Unicode text.
            add_special: add BOS if the model asks for it. EOS is never added, because generated text follows the last
                token. Append its id to a text that ends there.
            parse_special: recognise control tokens such as ``<|im_start|>``.

        Raises:
            TokenizeError: ``text`` is not a str, holds lone surrogates, or holds bytes without a token.
        """
        if not isinstance(text, str):
            raise TokenizeError(f"the text is of type {type(text).__name__}; give str or token ids")
        with busy():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise TokenizeError(
                    f"the text holds a lone surrogate ({text[error.start]!a} at character {error.start}); it is not "
                    "Unicode text. Decode its source with errors='replace'"
                ) from None
            return self._open_core().tokenize(text, add_special, parse_special)

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """The text of token ids. Control tokens appear only with ``special``. Bytes that are not UTF-8 become U+FFFD.

        Some tokenizers (SPM) put a space before a text and after control tokens. After control tokens such as BOS this
        method removes that space, so the ids of a whole text give the same text. If the ids do not begin with a control
        token, they count as the middle of a text, like generated tokens, and the space stays.

        Raises:
            TokenizeError: an id that the models do not share, or more than 16,777,216 ids.
        """
        with busy():
            ids = _to_ids(tokens, MAX_IDS)
            if len(ids) > MAX_IDS:
                raise TokenizeError(f"there are more than {MAX_IDS} token ids; detokenize them in parts")
            return self._open_core().detokenize(ids, special)

    # -- what it is -------------------------------------------------------------------------------------------

    def _replay(self, tokens: Sequence[int], calls: Sequence[tuple[str, int, int, bool, bool]]) -> list[float]:
        """Repeats these decodes alone and returns the seconds of each. The KV caches are cleared."""
        with busy():
            return self._open_core().replay(tokens, calls)

    @property
    def n_ctx(self) -> int:
        """The most tokens of a text, prompt included: the smaller context size of the two models."""
        return self._open_core().n_ctx

    @property
    def n_embd(self) -> int:
        """Width of the base's hidden state, and so of a head's input."""
        return int(self.base["n_embd"])

    @property
    def vocab_fingerprint(self) -> str:
        """16 hexadecimal digits that identify the base's vocabulary. Head files store them."""
        return self._open_core().vocab_fingerprint

    @property
    def n_shared(self) -> int:
        """How many ids, counted from 0, both models share. Only these can be generated."""
        return self._open_core().n_shared

    @property
    def base(self) -> dict[str, Any]:
        """Facts about the loaded base: path, name, n_vocab, n_embd, n_ctx, vocab_type, chat_template, ..."""
        self._open_core()
        return dict(self._facts[0])

    @property
    def assistant(self) -> dict[str, Any]:
        """Facts about the loaded assistant, with the same keys as :attr:`base`."""
        self._open_core()
        return dict(self._facts[1])

    @property
    def head(self) -> PathLike | Head | None:
        """The value that was passed as ``head=``."""
        return self._head

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._core is None

    def forget(self) -> None:
        """Clears both KV caches, so that the next prompt gets a full prefill."""
        with busy():
            self._open_core().reset()

    def close(self) -> None:
        """Ends every text and frees both models. Texts in progress raise PairClosed. A second call does nothing."""
        with _registry_lock:  # no text may begin between the two
            self._core = None
            writing: list[TokenStream | BatchStream] = [*self._streams, *self._batches]
        for text in writing:
            text._detach()

    def _stop(self) -> None:
        """Cancels every text, waiting ones included."""
        for stream in self._live_streams():
            stream.cancel()
        for batch in self._live_batches():
            batch.cancel()

    def __enter__(self) -> Pair:
        self._open_core()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._core is None:
            return "<colm_cpp.Pair, closed>"
        names = [os.path.basename(facts["path"]) for facts in self._facts]
        return f"<colm_cpp.Pair base={names[0]} assistant={names[1]} n_ctx={self.n_ctx}>"

    # -- inside -----------------------------------------------------------------------------------------------

    def _open_core(self) -> _core.Pair:
        core = self._core  # another thread may close the pair
        if core is None:
            raise PairClosed("this pair was closed; load it again")
        check_usable()
        return core

    def _live_streams(self) -> list[TokenStream]:
        with _registry_lock:
            return list(self._streams)

    def _live_batches(self) -> list[BatchStream]:
        with _registry_lock:
            return list(self._batches)

    def _to_tokens(self, core: _core.Pair, prompt: Prompt) -> list[int]:
        refuse_messages(prompt)
        if isinstance(prompt, str):
            if not prompt:
                raise TokenizeError("the prompt is empty; give at least one character")
            return self.tokenize(prompt)
        return _to_ids(prompt, core.n_ctx)  # type: ignore[arg-type]  # messages were refused above

    def _options_of(
        self, options: GenerationOptions, heads: _Known | None = None
    ) -> tuple[_core.Head, _core.GenerationOptions]:
        """The extension's head and options. ``heads`` caches prepared heads."""
        rate = options.rate_to_start_from()
        if options.head is not None:
            known = {} if heads is None else heads
            if id(options.head) not in known:
                known[id(options.head)] = options.head, self._prepare(options.head)
            prepared = known[id(options.head)][1]
        elif self._prepared is not None:
            prepared = self._prepared
        else:
            raise HeadError(f"this pair has no deferral head; {HEAD_CHOICES}")
        default_threshold = prepared.default_threshold
        if rate is not None:
            runs = Runs.of({"hold": options.hold, "leave_threshold": options.leave_threshold})
            default_threshold = prepared.threshold_for(rate, runs, must_know=options.defer_rate is not None)
        return prepared.core, options.to_core(default_threshold)

    def _start(
        self, core: _core.Pair, tokens: list[int], options: GenerationOptions, queue_timeout: float | None
    ) -> TokenStream:
        timeout = None if queue_timeout is None else seconds("queue_timeout", queue_timeout)
        head, core_options = self._options_of(options)
        try:
            texts = _core.Stream(core)
            text = texts.add(core, tokens, head, core_options)
        finally:
            forward_log()
        stream = TokenStream(core, texts, text, core_options.sampling.seed, timeout)
        with _registry_lock:
            self._open_core()  # it may have been closed meanwhile
            self._streams.add(stream)
        return stream

    def _prepare(self, head: PathLike | Head) -> _Prepared:
        """The extension's form of a head, with its thresholds."""
        core = self._open_core()
        if isinstance(head, str) and head in TRAINING_FREE_HEADS:
            prepared = _core.training_free_head(head)
            assert prepared is not None
            return _Prepared(prepared, DEFAULT_THRESHOLD, name=head)
        if isinstance(head, (str, os.PathLike)):
            name = os.fspath(head)
            file = head_file(head)
            if file is not None:
                head = Head.load(file)
            else:
                try:
                    name.encode("utf-8")  # a lone surrogate is in no vocabulary
                    return _Prepared(core.token_head(name), DEFAULT_THRESHOLD, name=name)
                except (HeadError, UnicodeEncodeError):
                    raise HeadError(
                        f"head={name!a} is neither a file, nor a training-free head, nor a token of the base "
                        f"{self._facts[0]['path']}; {HEAD_CHOICES}"
                    ) from None
        if not isinstance(head, Head):
            raise HeadError(f"head is of type {type(head).__name__}; {HEAD_CHOICES}")
        learned = _core.learned_head(
            list(head.weights),
            list(head.biases),
            head.n_embd,
            head.kind,
            head.activation,
            list(head.features),
            head.top_k,
            head.vocab_fingerprint or "",
        )
        core.check_head(learned)
        check_adapters(head, self._facts[0])
        default = DEFAULT_THRESHOLD if head.default_threshold is None else head.default_threshold
        return _Prepared(learned, default, head.name or "(unnamed)", head)


@dataclass(frozen=True)
class _Prepared:
    """A head as the extension takes it."""

    core: _core.Head
    default_threshold: float
    name: str
    head: Head | None = None

    def threshold_for(self, rate: float, runs: Runs, *, must_know: bool) -> float:
        """The threshold at which ``rate`` of the tokens are deferred.

        Raises:
            HeadError: the threshold is unknown, and ``must_know`` is True.
        """
        if self.name == "random" and self.head is None:
            return runs.random_threshold(rate)
        if self.head is not None:
            with nullcontext() if must_know else suppress(HeadError):
                return threshold_for(self.head, runs, rate)
        if not must_know:
            return self.default_threshold
        raise HeadError(
            f"head {self.name} has no calibration table, so no threshold is known for the deferral rate {rate:.0%}; "
            "run colm calibrate on it, or give threshold= or target_rate= instead"
        )


def _to_ids(tokens: Iterable[int], most: int) -> list[int]:
    """Token ids as integers. An iterator may be endless, so at most ``most`` + 1 of its items are read."""
    if isinstance(tokens, (bytes, bytearray)) or not hasattr(tokens, "__iter__"):
        raise TokenizeError(f"the prompt is of type {type(tokens).__name__}; give str or token ids")
    ids: list[int] = []
    for token in tokens:
        try:
            number = operator.index(token)
        except TypeError:
            raise TokenizeError(f"a prompt token is {shown(token)}; token ids are whole numbers") from None
        if isinstance(token, bool) or not -(2**31) <= number < 2**31:
            raise TokenizeError(f"a prompt token is {shown(token)}; token ids are whole numbers below 2147483648")
        ids.append(number)
        if len(ids) > most and not isinstance(tokens, Sized):
            break
    return ids


@atexit.register
def _close_open_pairs() -> None:
    # Models must be gone before the interpreter is: a daemon thread may still be computing on them.
    _core.stop_loading()

    def stop() -> None:
        for pair in _all_open_pairs():
            pair._stop()

    wait_until_idle(stop, seconds=10)
    for pair in _all_open_pairs():
        pair.close()


def _all_open_pairs() -> list[Pair]:
    with _registry_lock:
        return list(_open_pairs)
