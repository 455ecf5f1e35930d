"""Loaded models and a deferral head, writing texts together."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, overload

from .. import _core
from .._numbers import integer, seconds
from ..chat.messages import Message
from ..errors import ColmError
from ..heads.head import Head
from ..llama.busy import busy
from ..llama.log import computing, forward_log
from ..options import BASE, CHAT_TEMPERATURE, MAX_PARALLEL, GenerationOptions, GenerationOptionsDict
from ..results import Completion
from . import open_pairs
from .aio import AsyncForms
from .batch import BatchStream, in_order
from .own_prompts import chat_tokens, prompts_tokens, split_template
from .prepared import DEFAULT_THRESHOLD, Heads, PathLike, Prepared, prepare
from .prompts import Prompt, check_prompts
from .remotes import Remotes
from .requests import requests
from .session import read_session, write_session
from .stream import TokenStream
from .tokens import ChatOptionsDict, ConversationOptionsDict, Tokenizing

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .memory import PairMemory

__all__ = ["DEFAULT_PARALLEL", "DEFAULT_THRESHOLD", "BatchOptionsDict", "ChatOptionsDict", "Pair"]

DEFAULT_PARALLEL = 8
CHAT_OPTIONS: Mapping[str, Any] = MappingProxyType({"temperature": CHAT_TEMPERATURE})


class BatchOptionsDict(ConversationOptionsDict, total=False):
    """Keyword arguments of ``stream_batch``."""

    n_parallel: int
    each: Iterable[ConversationOptionsDict] | None


class Pair(Tokenizing, AsyncForms):
    """A base and one or more experts, loaded by :func:`load`.

    A pair writes ``n_parallel`` texts at a time (:func:`load`); further calls from several threads queue. The GIL is
    released while models compute.
    A ``with`` block or :meth:`close` frees the models.
    """

    def __init__(
        self,
        core: _core.Pair,
        head: PathLike | Head | None,
        memory: PairMemory | None = None,
        remotes: Remotes | None = None,
        *,
        system: str | None = None,
    ) -> None:
        self._core: _core.Pair | None = core
        self._system = system
        self._memory = memory
        self._remotes = Remotes({}, ()) if remotes is None else remotes
        # Each asking hashes the vocabulary.
        self._facts = self._remotes.described(dict(zip(core.names, core.facts(), strict=True)))
        self._streams: weakref.WeakSet[TokenStream | BatchStream] = weakref.WeakSet()
        self._head = head
        self._prepared: Prepared | None = None
        if head is not None:
            self._prepared = self.prepared_head(head)
        open_pairs.add(self)

    # -- writing ----------------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str | Sequence[int] | Mapping[str, str | Sequence[int]],
        *,
        queue_timeout: float | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> Completion:
        """Continues ``prompt`` and returns the whole result.

        Args:
            prompt: text, or token ids. In a text, special tokens are recognised, and BOS is added if the model asks
                for it. Token ids are used unchanged. A dict gives models prompts of their own:
                ``{"base": ..., "assistant": ...}``. Those that it does not name read the base's. The text that is
                written is the same for all.
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
        checked = GenerationOptions.of(options)
        with busy():
            tokens, own = prompts_tokens(self, prompt)
            return self.begin(tokens, checked, queue_timeout, own).completion()

    def stream(
        self,
        prompt: str | Sequence[int] | Mapping[str, str | Sequence[int]],
        *,
        queue_timeout: float | None = None,
        **options: Unpack[GenerationOptionsDict],
    ) -> TokenStream:
        """Continues ``prompt``, token by token. Arguments and errors are those of :meth:`generate`.

        Invalid arguments raise here. The first token that is asked for starts the computation. ``queue_timeout``
        limits the wait for each token. After a QueueTimeout the stream can be iterated again.
        """
        tokens, own = prompts_tokens(self, prompt)
        return self.begin(tokens, GenerationOptions.of(options), queue_timeout, own)

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptionsDict]) -> Completion:
        """Answers ``messages``, a list of ``{"role": ..., "content": ...}``.

        Args:
            messages: the conversation so far. If it has no system message and the pair's file has one (``system``),
                that comes first.
            **options: as for :meth:`generate`; temperature defaults to 0.2, as in llama_cpp.Llama. And those of
                :meth:`render_chat`: ``chat_template``, ``system``, ``template_variables``, ``tools`` and
                ``documents``. ``chat_template`` and ``system`` may be dicts by the names of models, such as
                ``{"base": ..., "assistant": ...}``. Models that a dict does not name have the base's. A template None
                is the one in that model's own file, a system message None is none.

        Raises:
            ChatTemplateError: there is no template, or the template rejected the messages.
            ColmError: whatever else :meth:`generate` raises.
        """
        stream = self.stream_chat(messages, **options)
        with busy():
            return stream.completion()

    def stream_chat(self, messages: Sequence[Message], **options: Unpack[ChatOptionsDict]) -> TokenStream:
        """:meth:`chat`, token by token; see :meth:`stream`."""
        self.open_core()
        given: dict[str, Any] = {**CHAT_OPTIONS, **options}
        timeout = given.pop("queue_timeout", None)
        template, given = split_template(given)
        checked = GenerationOptions.of(given)
        tokens, own = chat_tokens(self, messages, template)
        return self.begin(tokens, checked, timeout, own)

    @overload
    def generate_batch(
        self,
        prompts: Iterable[Prompt],
        *,
        return_exceptions: Literal[False] = ...,
        **options: Unpack[BatchOptionsDict],
    ) -> list[Completion]: ...

    @overload
    def generate_batch(
        self, prompts: Iterable[Prompt], *, return_exceptions: bool, **options: Unpack[BatchOptionsDict]
    ) -> list[Completion | ColmError]: ...

    def generate_batch(
        self, prompts: Iterable[Prompt], *, return_exceptions: bool = False, **options: Unpack[BatchOptionsDict]
    ) -> list[Completion] | list[Completion | ColmError]:
        """Continues many prompts at once and returns the results in their order. Arguments: :meth:`stream_batch`.

        Args:
            return_exceptions: True: return a failed text's error in its place. False: raise the first error once all
                texts have ended. ``error.index`` is the number of its prompt, and ``error.results`` is the list that
                True would have returned.
        """
        return in_order(dict(self.stream_batch(prompts, **options)), return_exceptions)

    def stream_batch(
        self,
        prompts: Iterable[Prompt],
        *,
        n_parallel: int = DEFAULT_PARALLEL,
        each: Iterable[ConversationOptionsDict] | None = None,
        **options: Unpack[ConversationOptionsDict],
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
                each later text adds 1. For conversations also those of the template, as for :meth:`chat`:
                ``chat_template``, ``system``, ``template_variables``, ``tools`` and ``documents``.

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
        core = self.open_core()
        check_prompts(prompts, each)
        heads = self.heads()
        template, given = split_template(options)
        checked = GenerationOptions.of(given)
        if checked.head is not None or each is None:  # otherwise each text may bring its own
            heads.with_options(checked)
        n_parallel = integer("n_parallel", n_parallel, 1, MAX_PARALLEL)
        if self._memory is not None and not core.has_loop(n_parallel):
            self._memory.check_batch(n_parallel)
        with computing():
            texts = _core.Stream(core, n_parallel)
        of_chats = {} if "temperature" in options else CHAT_OPTIONS
        wished = requests(self, prompts, each, checked, heads, of_chats, template)
        stream = BatchStream(core, texts, n_parallel, wished)
        self._add(stream)
        return stream

    def cancel(self) -> None:
        """Ends all texts in progress within one step, with ``finish_reason`` ``cancelled``. Safe from any thread."""
        for stream in self._live_streams():
            if stream.begun:
                stream.cancel()

    # -- what it is -------------------------------------------------------------------------------------------

    @property
    def head(self) -> PathLike | Head | None:
        """The value that was passed as ``head=``."""
        return self._head

    def forget(self) -> None:
        """Clears both KV caches, so that the next prompt gets a full prefill."""
        with busy():
            self.open_core().reset()

    def save_session(self, path: PathLike) -> None:
        """Writes what both models have read of texts to ``path``, so that another process need not read it again.

        These are the texts in the pair's slots and those kept beside them (``cache_mb``), with their tokens: whoever
        reads the file can read the texts. It is about as large as both models' KV caches of these texts. What a wider
        batch has read is not part of it. The file appears in one step. Other threads' texts wait while the states are
        copied, not while the file is written; the copy takes memory of that size.

        Raises:
            OptionError: ``path`` is a link.
            OSError: the file cannot be written; what was there before stays.
            PairClosed, ForkError: as for :meth:`generate`.
        """
        core = self.open_core()
        self._remotes.refuse("a session holds what all models have read")
        with busy():
            write_session(path, core)

    def load_session(self, path: PathLike) -> None:
        """Takes what :meth:`save_session` wrote. What this pair had read before is forgotten.

        A text that goes on from one in the session is then read from there. Texts beyond ``cache_mb`` are left out, but
        for those in slots. Texts in progress go on, and are read again.

        The session must be of the same models (size, first and last MiB of the files), adapters and ``n_parallel``,
        with the same ``type_k``, ``type_v``, ``flash_attn``, ``swa_full``, ``rope_freq_base``, ``rope_freq_scale`` and
        ``batch_invariant``, and of the same llama.cpp. ``n_ctx`` may differ as long as the texts fit.

        Raises:
            SessionError: the file is missing, damaged or no session, or a text in it is longer than ``n_ctx``.
                SessionMismatch: it is of other models, options or versions. The pair is as it was, unless llama.cpp
                refused a state: then it has forgotten every text.
            PairClosed, ForkError: as for :meth:`generate`.
        """
        core = self.open_core()
        self._remotes.refuse("a session holds what all models have read")
        with busy():
            read_session(path, core)

    def close(self) -> None:
        """Ends every text and frees both models. Texts in progress raise PairClosed. A second call does nothing."""
        with open_pairs.lock():  # no text may begin between the two
            core, self._core = self._core, None
            writing = list(self._streams)
        for stream in writing:
            stream._detach()
        self._remotes.close(core)

    def _stop(self) -> None:
        """Cancels every text, waiting ones included."""
        for stream in self._live_streams():
            stream.cancel()

    def __enter__(self) -> Pair:
        self.open_core()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._core is None:
            return "<colm_cpp.Pair, closed>"
        files = " ".join(f"{name}={os.path.basename(facts['path'])}" for name, facts in self._facts.items())
        return f"<colm_cpp.Pair {files} n_ctx={self.n_ctx}>"

    # -- for the other rooms of this package ------------------------------------------------------------------

    def begin(
        self,
        tokens: list[int],
        options: GenerationOptions,
        queue_timeout: float | None = None,
        own_prompts: Mapping[int, list[int]] = MappingProxyType({}),
    ) -> TokenStream:
        """A text behind ``tokens``, with options that were checked before: what all methods that write are made of.

        ``own_prompts``: the tokens of experts that have a prompt of their own, by their numbers. Arguments and errors
        are otherwise those of :meth:`stream`.
        """
        core = self.open_core()
        timeout = None if queue_timeout is None else seconds("queue_timeout", queue_timeout)
        head, core_options = self.heads().with_options(options)
        try:
            texts = _core.Stream(core)
            text = texts.add(core, tokens, head, core_options, dict(own_prompts))
        finally:
            forward_log()
        stream = TokenStream(core, texts, text, core_options.seed, timeout)
        self._add(stream)
        return stream

    def heads(self) -> Heads:
        """The heads of one call, each prepared once."""
        self._remotes.check_process()
        return Heads(self._prepared, self.prepared_head)

    def prepared_head(self, head: PathLike | Head) -> Prepared:
        """A head as the extension takes it.

        Raises:
            HeadError: it is none, or of another base (HeadMismatch). LoadError: its file cannot be read.
        """
        return prepare(self.open_core(), self._facts[BASE], head)

    def replay(
        self, tokens: Sequence[int], calls: Sequence[tuple[str, int, int, bool, bool]], n_texts: int = 1
    ) -> list[float]:
        """Repeats these decodes alone, each of so many texts at once, and returns the seconds of each.

        The KV caches are cleared.
        """
        with busy():
            core = self.open_core()
            numbers = {name: expert for expert, name in enumerate(core.names)}
            of_experts = [(numbers[source], at, n, logits, hidden) for source, at, n, logits, hidden in calls]
            return core.replay(tokens, of_experts, integer("n_texts", n_texts, 1, MAX_PARALLEL))

    # -- inside -----------------------------------------------------------------------------------------------

    def _add(self, stream: TokenStream | BatchStream) -> None:
        with open_pairs.lock():
            self.open_core()  # it may have been closed meanwhile
            self._streams.add(stream)

    def _live_streams(self) -> list[TokenStream | BatchStream]:
        with open_pairs.lock():
            return list(self._streams)
