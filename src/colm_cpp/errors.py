"""Every exception that colm_cpp raises on purpose.

All derive from :class:`ColmError`, so ``except colm.ColmError`` catches whatever the package can
foresee. Where a built-in exception says the same thing (``ValueError``, ``MemoryError``,
``FileNotFoundError``), the class derives from it too, so code written for the built-ins works.

The extension raises these same classes; the numbers in a message are also attributes, so that no
caller needs to parse text.
"""

from __future__ import annotations

__all__ = [
    "ChatTemplateError",
    "ColmError",
    "ContextFull",
    "CorpusError",
    "DownloadError",
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
    "TokenizeError",
    "VocabMismatch",
]


# A message may hold what a caller or a file gave, which may be of any length.
_MOST = 4000


class ColmError(Exception):
    """Base class of every exception that colm_cpp raises on purpose. Its message has 4,000 characters at most.

    Attributes:
        index: the prompt of a batch that it belongs to, counted from 0; None where there is no batch.
    """

    index: int | None = None

    def __init__(self, message: str = "") -> None:
        if len(message) > _MOST:
            # What is wrong stands at the beginning, and what to do about it at the end.
            half = _MOST // 2 - 50
            cut = len(message) - 2 * half
            message = f"{message[:half]} [... {cut} characters left out ...] {message[-half:]}"
        super().__init__(message)


class OptionError(ColmError, ValueError):
    """An option has a value outside its range; the message names option, value and limit."""


class CorpusError(ColmError, ValueError):
    """Texts, problems or results on disk cannot be used; the message names the file, and the line if there is one."""


class LoadError(ColmError, OSError):
    """A model, adapter or head file is missing, damaged, or not what was asked for."""


class OutOfMemory(ColmError, MemoryError):
    """The process got no more memory from the system while it was computing; the message says what takes less."""


class NotEnoughMemory(LoadError, OutOfMemory):
    """The pair is estimated to need more memory than is free.

    Attributes:
        needed: estimated bytes that loading would take.
        available: bytes that were free when asked.
    """

    needed: int = 0
    available: int = 0


class VocabMismatch(LoadError):
    """Base and assistant do not share one vocabulary.

    Attributes:
        token_id: the first id whose texts differ, or -1 where something else differs (tokenizer
            type, BOS/EOS behaviour).
        base_text: that token's text in the base's vocabulary.
        assistant_text: that token's text in the assistant's vocabulary.
    """

    token_id: int = -1
    base_text: str = ""
    assistant_text: str = ""


class HeadError(ColmError, ValueError):
    """A deferral head is malformed, or ``head=`` names nothing that can serve as one."""


class HeadMismatch(HeadError):
    """A deferral head was made for another base (its ``n_embd`` or vocabulary differs)."""


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
    """A GBNF grammar or JSON schema cannot be used; raised while a text is written only where ``limit`` is set.

    Attributes:
        keyword: the keyword of a JSON schema that cannot be honoured; "" where it is none.
        pointer: where it stands, as a JSON pointer.
        value: what is more than ``limit``; 0 where no limit was passed.
        limit: the most that is possible.
    """

    keyword: str = ""
    pointer: str = ""
    value: int = 0
    limit: int = 0


class GenerationError(ColmError, RuntimeError):
    """Generation cannot go on (no token is allowed, or llama.cpp reported a failure)."""


class PairClosed(ColmError, RuntimeError):
    """A pair was used after ``close()``, or closed while it wrote."""


class QueueTimeout(ColmError, TimeoutError):
    """The pair wrote other texts for longer than ``queue_timeout``.

    Attributes:
        waited: seconds that this text waited.
        timeout: the limit, in seconds.
    """

    waited: float = 0.0
    timeout: float = 0.0


class ForkError(ColmError, RuntimeError):
    """This process was forked in a state in which nothing can be computed; use ``spawn``."""


class ChatTemplateError(ColmError, ValueError):
    """A chat template is absent, malformed, or refused the messages."""


class DownloadError(ColmError, OSError):
    """A model cannot be had from the hub (not found, ambiguous, refused, offline, cut off)."""


class MissingDependency(ColmError, ImportError):
    """An optional dependency is needed for this; the message says what to install."""
