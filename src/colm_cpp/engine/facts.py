"""What a loaded pair is."""

from __future__ import annotations

from typing import Any

from .._core import Pair as CorePair
from ..errors import OptionError, PairClosed
from ..llama.busy import check_usable
from ..options import BASE

__all__ = ["Facts"]


class Facts:
    """The extension's pair, and what is known of it."""

    _core: CorePair | None  # None: it was closed
    _facts: dict[str, dict[str, Any]]  # of each model by its name, the base first; asking hashes the vocabulary

    @property
    def n_ctx(self) -> int:
        """The most tokens of a text, prompt included: the smallest context size of the models."""
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
        """How many ids, counted from 0, all models share. Only these can be generated.

        0 where the vocabularies are unlike (:attr:`one_vocabulary`).
        """
        core = self.open_core()
        return core.n_ids[0] if self.one_vocabulary else 0

    @property
    def one_vocabulary(self) -> bool:
        """Whether all models have one vocabulary.

        If not, they share the text as bytes, and each has its own tokens of it (``docs/vocabularies.md``).
        """
        return not any(self.open_core().vocabularies)

    @property
    def base(self) -> dict[str, Any]:
        """Facts about the loaded base: path, name, n_vocab, n_embd, n_ctx, vocab_type, chat_template, ..."""
        self.open_core()
        return dict(self._facts[BASE])

    @property
    def assistant(self) -> dict[str, Any]:
        """Facts about the one expert, with the same keys as :attr:`base`.

        Raises:
            OptionError: the pair has several experts.
        """
        experts = self.experts
        if len(experts) > 1:
            raise OptionError(f"this pair has the experts {' and '.join(experts)}; read pair.experts")
        return next(iter(experts.values()))

    @property
    def experts(self) -> dict[str, dict[str, Any]]:
        """Facts about each expert by its name, with the same keys as :attr:`base`.

        What is not known of a model on another machine is None; ``url``, ``protocol`` and ``top_k`` say how it is
        asked.
        """
        self.open_core()
        return {name: dict(facts) for name, facts in self._facts.items() if name != BASE}

    @property
    def remote(self) -> tuple[str, ...]:
        """The names of the experts on other machines."""
        return tuple(name for name, facts in self._facts.items() if "url" in facts)

    @property
    def names(self) -> tuple[str, ...]:
        """What the models are called, the base first: ``Token.source``, and the keys of prompts and statistics."""
        return tuple(self._facts)

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
