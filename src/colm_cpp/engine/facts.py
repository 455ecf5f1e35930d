"""What a loaded pair is."""

from __future__ import annotations

from typing import Any

from .._core import Pair as CorePair
from ..errors import PairClosed
from ..llama.busy import check_usable

__all__ = ["Facts"]


class Facts:
    """The extension's pair, and what is known of it."""

    _core: CorePair | None  # None: it was closed
    _facts: tuple[dict[str, Any], dict[str, Any]]  # of base and assistant; each asking hashes the vocabulary

    @property
    def n_ctx(self) -> int:
        """The most tokens of a text, prompt included: the smaller context size of the two models."""
        return self.open_core().n_ctx

    @property
    def n_embd(self) -> int:
        """Width of the base's hidden state, and so of a head's input."""
        return int(self.base["n_embd"])

    @property
    def vocab_fingerprint(self) -> str:
        """16 hexadecimal digits that identify the base's vocabulary. Head files store them."""
        return self.open_core().vocab_fingerprint

    @property
    def n_shared(self) -> int:
        """How many ids, counted from 0, both models share. Only these can be generated."""
        return self.open_core().n_shared

    @property
    def base(self) -> dict[str, Any]:
        """Facts about the loaded base: path, name, n_vocab, n_embd, n_ctx, vocab_type, chat_template, ..."""
        self.open_core()
        return dict(self._facts[0])

    @property
    def assistant(self) -> dict[str, Any]:
        """Facts about the loaded assistant, with the same keys as :attr:`base`."""
        self.open_core()
        return dict(self._facts[1])

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._core is None

    def open_core(self) -> CorePair:
        """The extension's pair, for the other rooms of this package.

        Raises:
            PairClosed: this pair was closed. ForkError: the process was forked while it was in use.
        """
        core = self._core  # another thread may close the pair
        if core is None:
            raise PairClosed("this pair was closed; load it again")
        check_usable()
        return core
