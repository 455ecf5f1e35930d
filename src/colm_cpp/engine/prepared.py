"""Heads as the extension takes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

from .. import _core
from ..errors import HeadError, HeadMismatch
from ..heads.adapters import check_adapters
from ..heads.head import Head
from ..heads.tables import Runs, threshold_for
from ..options import GenerationOptions, split_head
from ..sources.names import HEAD_CHOICES, TRAINING_FREE_HEADS, find_head, head_file, refuse_unknown_expert

__all__ = ["DEFAULT_THRESHOLD", "Heads", "Prepared", "prepare", "undirected"]

PathLike = str | os.PathLike[str]
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Prepared:
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


def prepare(core: _core.Pair, base: Mapping[str, Any], head: PathLike | Head) -> Prepared:
    """The extension's form of a head, with its thresholds.

    Args:
        core: the pair that will ask it.
        base: facts about its base.
        head: as for :func:`colm_cpp.load`.

    Raises:
        HeadError: it is none, it does not say which of several experts writes, or it is of another base or of other
            experts (HeadMismatch).
        LoadError: its file cannot be read.
    """
    experts = core.names[1:]
    given, who = head, None
    if isinstance(head, str):
        head, who = split_head(head, experts)
        named = find_head(head)
        who = named.expert if who is None and named.expert in experts else who
        head = named.name if named.kind == "training-free" else head
    prepared = _prepare(core, base, head, experts)
    own = () if prepared.head is None else prepared.head.expert_names
    if who is not None and len(own) > 1:
        raise HeadError(f"the head {prepared.name} chooses the expert by itself; leave out ':{who}'")
    if len(own) > 1 or len(experts) == 1:
        core.check_head(prepared.core)
        return prepared
    if who is None and own and own[0] in experts:
        who = own[0]
    if who is None and prepared.name == "never":
        who = experts[0]  # who has no turn
    if who is None:
        raise undirected(prepared.name, experts, _naming(given, experts[0]))
    directed = _core.directed_head(prepared.core, 1 + experts.index(who), len(experts))
    core.check_head(directed)
    return replace(prepared, core=directed)


def undirected(head: str, experts: Sequence[str], example: str) -> HeadError:
    """Says that a head does not say which of several experts writes. ``example``: one that does."""
    return HeadError(
        f"the head {head} says when to defer, but not to which expert, and this pair has the experts "
        f"{' and '.join(experts)}; name one of them, such as {example}"
    )


def _naming(head: PathLike | Head, expert: str) -> str:
    if isinstance(head, Head):
        return f"head.replace(expert_names=({expert!a},)) or head='head.gguf:{expert}'"
    return f"head={os.fspath(head) + ':' + expert!a}"


def _prepare(core: _core.Pair, base: Mapping[str, Any], head: PathLike | Head, experts: Sequence[str]) -> Prepared:
    """The head by itself."""
    if isinstance(head, str) and head in TRAINING_FREE_HEADS:
        prepared = _core.training_free_head(head)
        assert prepared is not None
        return Prepared(prepared, DEFAULT_THRESHOLD, name=head)
    if isinstance(head, (str, os.PathLike)):
        name = os.fspath(head)
        file = head_file(head)
        if file is not None:
            head = Head.load(file)
        else:
            try:
                name.encode("utf-8")  # a lone surrogate is in no vocabulary
                return Prepared(core.token_head(name), DEFAULT_THRESHOLD, name=name)
            except (HeadError, UnicodeEncodeError):
                refuse_unknown_expert(name, experts)
                raise HeadError(
                    f"head={name!a} is neither a file, nor a training-free head, nor a token of the base "
                    f"{base['path']}; {HEAD_CHOICES}"
                ) from None
    if not isinstance(head, Head):
        raise HeadError(f"head is of type {type(head).__name__}; {HEAD_CHOICES}")
    learned = _core.learned_head(
        *_outputs_for(head, experts),
        head.n_embd,
        head.kind,
        head.activation,
        list(head.features),
        head.top_k,
        head.vocab_fingerprint or "",
    )
    check_adapters(head, base)
    default = DEFAULT_THRESHOLD if head.default_threshold is None else head.default_threshold
    return Prepared(learned, default, head.name or "(unnamed)", head)


def _outputs_for(head: Head, experts: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """Weights and biases, with one output for each of the experts in their order."""
    weights, biases = list(head.weights), list(head.biases)
    if len(head.expert_names) > 1:
        if sorted(head.expert_names) != sorted(experts):
            raise HeadMismatch(
                f"the head was made for the experts {' and '.join(head.expert_names)}, and this pair has "
                f"{' and '.join(experts)}; load the models under those names"
            )
        order = [head.expert_names.index(name) for name in experts]
        weights[-1], biases[-1] = weights[-1][order], biases[-1][order]
    return weights, biases


class Heads:
    """The heads of one call, each prepared once."""

    def __init__(self, own: Prepared | None, prepare: Callable[[PathLike | Head], Prepared]) -> None:
        """``own`` is the pair's; ``prepare`` makes others."""
        self._own = own
        self._prepare = prepare
        # By the id of the caller's object. The object is kept, so that no other object can get its id.
        self._known: dict[int, tuple[PathLike | Head, Prepared]] = {}

    def with_options(self, options: GenerationOptions) -> tuple[_core.Head, _core.GenerationOptions]:
        """The extension's head and options.

        Raises:
            HeadError: there is no head, or none with a threshold for ``defer_rate``.
        """
        rate = options.rate_to_start_from()
        prepared = self._own
        if options.head is not None:
            if id(options.head) not in self._known:
                self._known[id(options.head)] = options.head, self._prepare(options.head)
            prepared = self._known[id(options.head)][1]
        if prepared is None:
            raise HeadError(f"this pair has no deferral head; {HEAD_CHOICES}")
        default_threshold = prepared.default_threshold
        if rate is not None:
            runs = Runs.of({"hold": options.hold, "leave_threshold": options.leave_threshold})
            default_threshold = prepared.threshold_for(rate, runs, must_know=options.defer_rate is not None)
        return prepared.core, options.to_core(default_threshold)
