"""One process of a cluster: it holds one loaded set of models and does what it is asked to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .. import __version__, _core
from ..answers.answering import Arm, answers
from ..answers.problems import Problem
from ..corpus.shared_texts import SharedText
from ..corpus.texts import Text
from ..learn.respond import Numbered, Row, answered
from ..learn.scoring import ScoredGroup, Scorer, score_group
from ..options import BASE
from ..sources.identity import models_identity
from ..traces.record import Record

if TYPE_CHECKING:
    from ..engine.pair import Pair

__all__ = ["Recipe", "Worker", "facts_of"]


@dataclass(frozen=True)
class Recipe:
    """How a process loads its models. It is sent to other machines, so the functions must be importable there.

    Attributes:
        pair: loads the pair that writes. None: nothing is written.
        scorer: loads the models that read; ``weights_of`` is the pair, where there is one. None: nothing is scored.
        others: loads other pairs that answer, by their names.
        folder: where relative paths begin.
    """

    pair: Callable[[], Pair] | None = None
    scorer: Callable[..., Scorer] | None = None
    others: Mapping[str, Callable[[], Pair]] | None = None
    folder: str = ""


def facts_of(loaded: Pair | Scorer) -> dict[str, Any]:
    """What must be the same on all machines: versions and models."""
    models = loaded.models if isinstance(loaded, Scorer) else {BASE: loaded.base, **loaded.experts}
    return {
        "colm-cpp": __version__,
        "llama-cpp-python": _core.BUILT_FOR_LLAMA_CPP_PYTHON,
        **models_identity(models, loaded.vocab_fingerprint),
    }


class Worker:
    """The models of a process. They are loaded once, when they are first needed."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        if recipe.folder:
            with contextlib.suppress(OSError):  # a machine without this folder says which file is missing
                os.chdir(recipe.folder)

    @cached_property
    def _pair(self) -> Pair:
        """The pair that writes."""
        assert self._recipe.pair is not None
        return self._recipe.pair()

    @cached_property
    def _scorer(self) -> Scorer:
        """The models that read."""
        assert self._recipe.scorer is not None
        pair = None if self._recipe.pair is None else self._pair
        if pair is not None:
            pair.forget()  # the contexts that only answering needed
        return self._recipe.scorer(weights_of=pair)

    @cached_property
    def _others(self) -> dict[str, Pair]:
        """Other pairs that answer."""
        return {name: load() for name, load in (self._recipe.others or {}).items()}

    def facts(self) -> dict[str, Any]:
        """Loads the models, and says which these are."""
        return facts_of(self._scorer if self._recipe.pair is None else self._pair)

    def process(self) -> int:
        """The number of the process."""
        return os.getpid()

    def score(self, group: list[Text | SharedText], top_k: int) -> ScoredGroup:
        """See :func:`.scoring.score_group`."""
        return score_group(self._scorer, group, top_k)

    def answer(
        self, documents: Sequence[Numbered], options: Mapping[str, Any], chat: bool, system: str | None, n_parallel: int
    ) -> list[Row]:
        """See :func:`.respond.answered`."""
        return list(answered(self._pair, documents, options, chat, system, n_parallel))

    def write(
        self, asked: Sequence[tuple[Problem, Arm]], options: Mapping[str, Any], chat: bool, n_parallel: int
    ) -> list[Record]:
        """The answer of each arm to its problem, see :func:`.answering.answers`."""
        written = answers(self._pair, asked, options, chat=chat, n_parallel=n_parallel, experts=self._others)
        return [record for _, record in sorted(written, key=lambda answer: answer[0])]
