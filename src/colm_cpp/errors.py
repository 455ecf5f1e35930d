"""Every exception that colm_cpp raises on purpose.

All derive from :class:`ColmError`, so ``except colm.ColmError`` catches every one of them. Many also
derive from a built-in exception (``ValueError``, ``MemoryError``, ``OSError``), so code written for the
built-ins works.

The extension raises the same classes. Numbers in a message are also attributes, so no caller needs to
parse text.
"""

from __future__ import annotations

__all__ = [
    "ChatTemplateError",
    "ClusterError",
    "ColmError",
    "ContextFull",
    "CorpusError",
    "DownloadError",
    "FolderInUse",
    "ForkError",
    "GenerationError",
    "GrammarError",
    "HeadError",
    "HeadMismatch",
    "LoadError",
    "MissingDependency",
    "NotEnoughMemory",
    "OptionError",
    "OutOfMemory",
    "PairClosed",
    "QueueTimeout",
    "RemoteAnswerInvalid",
    "RemoteError",
    "RemoteRefused",
    "RemoteTimeout",
    "RemoteUnreachable",
    "RemoteVocabularyMismatch",
    "RpcError",
    "SessionError",
    "SessionMismatch",
    "TokenizeError",
    "VocabMismatch",
]


# A message may quote a caller's value or a file, of any length.
_MOST = 4000


class ColmError(Exception):
    """Base class of every exception that colm_cpp raises on purpose. Its message has 4,000 characters at most.

    Attributes:
        index: in a batch, the number of the prompt that failed, counted from 0; None outside a batch.
    """

    index: int | None = None

    def __init__(self, message: str = "") -> None:
        if len(message) > _MOST:
            # The beginning says what is wrong, and the end what to do.
            half = _MOST // 2 - 50
            cut = len(message) - 2 * half
            message = f"{message[:half]} [... {cut} characters left out ...] {message[-half:]}"
        super().__init__(message)


class OptionError(ColmError, ValueError):
    """An option has an invalid value; the message names the option, the value and the limit."""


class CorpusError(ColmError, ValueError):
    """Texts, problems or results on disk cannot be used; the message names the file, and the line if there is one."""


class ClusterError(ColmError, RuntimeError):
    """A Ray cluster cannot be reached or used, or its machines differ from this one."""


class FolderInUse(ColmError, RuntimeError):
    """Another process is writing to a folder of results.

    Attributes:
        folder: its path.
    """

    folder: str = ""


class LoadError(ColmError, OSError):
    """A model, adapter or head file is missing, damaged, or not what was asked for."""


class RpcError(LoadError):
    """A machine in ``rpc_servers`` does not answer, or speaks another version of the protocol.

    Attributes:
        server: its address, HOST:PORT.
    """

    server: str = ""


class SessionError(LoadError):
    """A saved session is missing, damaged, or no session."""


class SessionMismatch(SessionError):
    """A session was saved with other models, options or versions than those of the pair that loads it."""


class OutOfMemory(ColmError, MemoryError):
    """The system gave the process no more memory; the message says which options need less."""


class NotEnoughMemory(LoadError, OutOfMemory):
    """A pair, or an expert at its first turn in a text, is estimated to need more memory than is free.

    Attributes:
        needed: estimated bytes that loading would take.
        available: bytes that were free at that time; 0 where the system refused them without a number.
        expert: the model that needs them, where it is one whose context is made at its first turn; else "".
    """

    needed: int = 0
    available: int = 0
    expert: str = ""


class VocabMismatch(LoadError):
    """The base and an expert do not share one vocabulary, where that is needed.

    Attributes:
        token_id: the first id whose texts differ. -1: something else differs, such as the tokenizer type
            or the use of BOS and EOS.
        base_text: that token's text in the base's vocabulary.
        assistant_text: that token's text in the expert's vocabulary.
        expert: the expert's name, ``"assistant"`` where there is one without another name.
    """

    token_id: int = -1
    base_text: str = ""
    assistant_text: str = ""
    expert: str = "assistant"


class HeadError(ColmError, ValueError):
    """A deferral head is malformed, or the value of ``head=`` cannot be used as a head."""


class HeadMismatch(HeadError):
    """A deferral head was made for another base: its ``n_embd``, vocabulary or LoRA adapters differ."""


class TokenizeError(ColmError, ValueError):
    """A text or token list cannot be given to the models (empty, not Unicode, unknown id)."""


class ContextFull(ColmError, ValueError):
    """The prompt does not fit into the context.

    Attributes:
        n_prompt: number of tokens in the prompt.
        n_ctx: number of tokens that the context holds.
    """

    n_prompt: int = 0
    n_ctx: int = 0


class GrammarError(OptionError):
    """A GBNF grammar or JSON schema cannot be used.

    Most are raised before writing. If a grammar exceeds a limit while a text is written, ``limit`` is set.

    Attributes:
        keyword: the unsupported keyword of a JSON schema; "" if the error concerns no keyword.
        pointer: the keyword's place in the schema, as a JSON pointer.
        value: the number that exceeds ``limit``; 0 if there is none.
        limit: the largest number allowed; 0 if the error concerns no limit.
    """

    keyword: str = ""
    pointer: str = ""
    value: int = 0
    limit: int = 0


class GenerationError(ColmError, RuntimeError):
    """Generation cannot go on: the options allow no token, or llama.cpp reported a failure."""


class PairClosed(ColmError, RuntimeError):
    """A pair was used after ``close()``, or was closed while it wrote a text."""


class QueueTimeout(ColmError, TimeoutError):
    """The pair wrote other texts for longer than ``queue_timeout``.

    Attributes:
        waited: seconds that this text waited.
        timeout: the limit, in seconds.
    """

    waited: float = 0.0
    timeout: float = 0.0


class ForkError(ColmError, RuntimeError):
    """This process was forked while its parent was computing or had used a GPU; use ``spawn``."""


class ChatTemplateError(ColmError, ValueError):
    """A chat template is missing or malformed, or it rejected the messages."""


class DownloadError(ColmError, OSError):
    """A file cannot be downloaded from the hub (not found, ambiguous, refused, offline, cut off)."""


class MissingDependency(ColmError, ImportError):
    """An optional dependency is not installed; the message says how to install it."""


class RemoteError(ColmError, OSError):
    """A model on another machine did not answer, or its answer cannot be used.

    Attributes:
        url: the server, without a user's name, password or query.
        reason: what went wrong, without the server and without advice.
    """

    url: str = ""
    reason: str = ""


class RemoteUnreachable(RemoteError):
    """There is no connection to the server: it does not run, the name is unknown, or its certificate is not trusted."""


class RemoteTimeout(RemoteError, TimeoutError):
    """The server did not answer within ``remote_timeout`` seconds."""


class RemoteRefused(RemoteError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status, such as 401 where the key is missing or has expired.
    """

    status: int = 0


class RemoteAnswerInvalid(RemoteError):
    """The server's answer is no distribution: it is cut off, too long, about other tokens, or no probabilities."""


class RemoteVocabularyMismatch(RemoteError):
    """The model on the server has another vocabulary than the base, so its token ids mean other tokens."""
