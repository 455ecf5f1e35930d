"""How one text is written."""

# ruff: noqa: RUF009  # option() makes a field; its default is what it says

from __future__ import annotations

import dataclasses
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypedDict, get_args

from .. import _core
from .._numbers import share
from .._shown import shown
from ..errors import OptionError
from ..grammar.gbnf import response_grammar, to_gbnf
from ..heads.checks import EXPERT_NAME
from ._values import biases, strings
from .field import Choice, Own, Real, Whole, documented, option, option_of, read_fields, reject_unknown

if TYPE_CHECKING:
    from ..heads.head import Head

__all__ = [
    "ANSWER_OPTIONS",
    "CHAT_TEMPERATURE",
    "DEFERRAL",
    "MAX_LOOKAHEAD",
    "MAX_SEED",
    "STRATEGIES",
    "GenerationOptions",
    "GenerationOptionsDict",
    "StrategyName",
    "WritingOptionsDict",
    "seed_of",
]

StrategyName = Literal["defer", "compose", "contrastive", "add", "proxy"]
STRATEGIES: tuple[StrategyName, ...] = get_args(StrategyName)
ScheduleName = Literal["constant", "linear", "cosine", "exponential"]

# llama.cpp reads the next seed as "draw one".
MAX_SEED = 2**32 - 2
MAX_LOOKAHEAD = 15  # kMostLookahead
_AUTO_LOOKAHEAD = -1  # kAutoLookahead
# The default of answers to messages. That of llama_cpp.Llama.create_chat_completion.
CHAT_TEMPERATURE = 0.2
# Defaults for answers in ``learn`` and in its commands.
ANSWER_OPTIONS: Mapping[str, Any] = MappingProxyType({"max_tokens": 512, "temperature": 0.0, "seed": 0})


class WritingOptionsDict(TypedDict, total=False):
    """Keyword arguments of :func:`colm_cpp.generate`; see :class:`GenerationOptions`."""

    threshold: float | None
    defer_rate: float | None
    target_rate: float | None
    hold: int
    leave_threshold: float | None
    strategy: StrategyName
    beta: float
    alpha: float
    proxy_tuned: str | None
    proxy_untuned: str | None
    proxy_weight: float
    schedule: ScheduleName
    schedule_tokens: int
    max_tokens: int | None
    temperature: float
    top_k: int
    top_n_sigma: float
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    seed: int | None
    stop: str | Iterable[str] | None
    logit_bias: Mapping[int, float] | Mapping[str, float | str] | None
    grammar: Any
    response_format: Any
    logprobs: int | None
    lookahead: int | Literal["auto"]


class GenerationOptionsDict(WritingOptionsDict, total=False):
    """Keyword arguments of a pair's ``generate`` and ``stream``; see :class:`GenerationOptions`."""

    head: str | os.PathLike[str] | Head | None


@documented
@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How one text is written.

    Sampling options have the names and defaults of ``llama_cpp.Llama``, which lacks ``top_n_sigma``.
    """

    head: str | os.PathLike[str] | Head | None = option(
        None, Own("as for load()"), "The deferral head for this text. None: the pair's."
    )
    threshold: float | None = option(
        None,
        Real(0.0, 1.0),
        "Defer when the defer probability exceeds this value; 1: never defer. None: the head's default, or 0.5.",
        "1 is the base alone, 0 is the assistant alone. In numbers: a token is deferred exactly when the defer logit "
        "z_t exceeds logit(threshold).",
        section="Deferral",
    )
    defer_rate: float | None = option(
        None,
        Real(0.0, 1.0),
        "Share of tokens to defer. The head's calibration table gives the threshold. Replaces ``threshold``.",
        "The table is the one for this ``hold`` and ``leave_threshold`` (``colm calibrate``). The head ``random`` "
        "needs no table.",
        section="Deferral",
    )
    target_rate: float | None = option(
        None,
        Real(0.0, 1.0),
        "Adjust the threshold during the text, so that this share of its tokens is deferred.",
        "The first threshold is ``threshold`` if given, else the calibrated one if the head has a table, else the "
        "head's default. It cannot be combined with ``schedule``.",
        section="Deferral",
    )
    hold: int = option(
        1,
        Whole(1),
        "Number of tokens that the assistant writes each time that the head defers. The head is not asked between "
        "them.",
        "Meanwhile the base reads nothing, unless the ``strategy`` needs its distribution. Then it reads the whole run "
        "in one batch. Deferral rates count all tokens of the assistant.",
        section="Deferral",
    )
    leave_threshold: float | None = option(
        None,
        Real(0.0, 1.0),
        "After a token of the assistant, defer when the defer probability exceeds this value. A lower value makes runs "
        "longer. None: the same as ``threshold``.",
        "A value above ``threshold`` counts as ``threshold``. Schedule and target rate move both thresholds alike.",
        section="Deferral",
    )
    strategy: str = option(
        "defer",
        Choice(STRATEGIES),
        "Distribution to sample from when the head defers: the assistant's (defer), a mixture of both models "
        "(compose), their contrast (contrastive), the sum of their logits (add), or the base's logits and the "
        "difference of two experts (proxy).",
        "``compose`` is (1 - p) P_base + p P_assistant with p = sigmoid(z_t). ``contrastive`` is log P_assistant - "
        "beta log P_base over the ids with P_assistant >= alpha max P_assistant (Li et al., arXiv 2210.15097). "
        "``add`` adds the base's logits to those of the chosen expert (FusionRoute, arXiv 2601.05106). ``proxy`` needs "
        "two experts or more; every deferred token counts as one of ``proxy_tuned`` (Liu et al., arXiv 2401.08565).",
        section="Deferral",
    )
    beta: float = option(0.5, Real(0.0, 1000.0), "Weight of the base in ``contrastive``.", section="Deferral")
    alpha: float = option(
        0.1,
        Real(0.0, 1.0, is_open=True),
        "In ``contrastive``: drop tokens whose probability is below this share of the assistant's top probability.",
        section="Deferral",
    )
    proxy_tuned: str | None = option(
        None,
        Own("the name of an expert"),
        "In ``proxy``: the tuned expert. Its logits minus those of the untuned one are added to the base's.",
        section="Deferral",
    )
    proxy_untuned: str | None = option(
        None,
        Own("the name of an expert"),
        "In ``proxy``: the expert that is the same model before it was tuned.",
        section="Deferral",
    )
    proxy_weight: float = option(
        1.0,
        Real(0.0, 1000.0),
        "In ``proxy``: weight of the difference between the tuned and the untuned expert.",
        section="Deferral",
    )
    schedule: str = option(
        "constant",
        Choice(get_args(ScheduleName)),
        "How the threshold falls from 1 to its value during the first ``schedule_tokens`` tokens.",
        "With p, the share of these tokens that is written so far, and eta, the final threshold: ``constant`` eta; "
        "``linear`` 1 + (eta - 1) p; ``cosine`` eta + (1 - eta)(1 + cos(pi p)) / 2; ``exponential`` max(eta, "
        "0.0001)^p.",
        section="Deferral",
    )
    schedule_tokens: int = option(0, Whole(0), "Length of the schedule in tokens.", section="Deferral")
    max_tokens: int | None = option(
        128, Whole(-1), "The most tokens to generate; -1: until the context is full.", "None means the same as -1."
    )
    temperature: float = option(
        0.8, Real(0.0), "Sampling temperature; 0 is greedy. For answers to messages the default is 0.2."
    )
    top_k: int = option(40, Whole(-(2**31)), "Keep the k likeliest tokens; 0 or less is off.")
    top_n_sigma: float = option(
        0.0,
        Real(0.0),
        "Drop tokens whose logit is more than this many standard deviations below the largest logit; 0 is off.",
        "The deviation is that of all logits, before ``top_k``. The temperature does not change what is dropped (Tang "
        "et al., arXiv 2411.07641).",
    )
    top_p: float = option(0.95, Real(0.0, 1.0), "Nucleus sampling; 1 is off.")
    min_p: float = option(
        0.05, Real(0.0, 1.0), "Drop tokens whose probability is below this share of the top probability; 0 is off."
    )
    typical_p: float = option(1.0, Real(0.0, 1.0, is_open=True), "Locally typical sampling; 1 is off.")
    repeat_penalty: float = option(
        1.0,
        Real(0.0, is_open=True),
        "Divide the logits of tokens among the last ``penalty_last_n`` by this number; 1 is off.",
    )
    frequency_penalty: float = option(
        0.0,
        Real(),
        "Subtract this from a token's logit for each occurrence among the last ``penalty_last_n``; 0 is off.",
    )
    presence_penalty: float = option(
        0.0,
        Real(),
        "Subtract this once from the logit of every token among the last ``penalty_last_n``; 0 is off.",
    )
    penalty_last_n: int = option(
        64, Whole(0, 2**20), "How many of the last generated tokens the penalties look at; 0 turns them off."
    )
    seed: int | None = option(
        None,
        Whole(0, MAX_SEED),
        "Seed of sampling and of the random head. None: a random seed, which is reported.",
        "It is in ``stats``.",
    )
    stop: str | Iterable[str] | None = option(
        None,
        Own("a string, or a list of them"),
        "End the text just before this string.",
        "Of several strings, before the first one that appears. A control token such as ``<|im_start|>`` ends the text "
        "where a model writes that token.",
    )
    logit_bias: Mapping[int, float] | Mapping[str, float | str] | None = option(
        None,
        Own("a dict of token id -> number"),
        "Add a number to the logit of a token, by its id; -inf bans the token.",
        'For JSON, an id may also be a string of decimal digits, and minus infinity the string ``"-inf"``.',
    )
    grammar: Any = option(
        None,
        Own("GBNF text, a JSON schema, a pydantic model or a LlamaGrammar"),
        "Grammar that the text must follow.",
        "One of: GBNF text with a rule named root; a JSON schema (dict, or text beginning with ``{``); a pydantic "
        "model; a ``llama_cpp.LlamaGrammar``.",
    )
    response_format: Any = option(
        None,
        Own("a dict"),
        "Instead of ``grammar``, as in OpenAI's API.",
        '``{"type": "json_object"}`` or ``{"type": "json_schema", "json_schema": {"schema": ...}}``.',
    )
    logprobs: int | None = option(
        None,
        Whole(0),
        "Report this many of the likeliest tokens at each position.",
        "On the command line, ``--json`` and ``--trace`` have them.",
    )
    lookahead: int | str = option(
        0,
        Whole(0, MAX_LOOKAHEAD, "auto"),
        "The most deferred tokens that the base drafts before the assistant verifies them in one batch; 0 is off. auto "
        "drafts where it saves time.",
        "auto decides by measured step times and the measured acceptance rate. Tokens are chosen by the same rules "
        "with and without look-ahead. But a batch rounds a quantised model's logits differently from single tokens. So "
        "the text can differ where two tokens are nearly equally likely, and the default is 0. Of several texts at "
        "once each has its own drafts, and the assistant verifies the drafts of all texts in one call.",
    )

    # Of each object, in the form that the extension takes. No field: it follows from the fields.
    _values: ClassVar[dict[str, Any]]

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> GenerationOptions:
        """Raises TypeError for an unknown name, and what the class itself raises."""
        reject_unknown(options, cls, "generate()")
        return cls(**options)

    @classmethod
    def checked(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """``options`` as the class keeps them, fit to be given several times. Errors are those of :meth:`of`."""
        read = cls.of(options)
        return {name: getattr(read, name) for name in options}

    def replaced(self, own: Mapping[str, Any]) -> GenerationOptions:
        """These options, those in ``own`` replaced. Errors are those of :meth:`of`."""
        reject_unknown(own, type(self), "generate()")
        if self.strategy == "proxy" != own.get("strategy", self.strategy):
            own = {**_NO_PROXY, **own}
        return dataclasses.replace(self, **own) if own else self

    def __post_init__(self) -> None:
        """Checks all options. What can be read only once, such as an iterator of stop strings, becomes a list.

        Raises:
            OptionError: a value of the wrong type or outside its range, or two options that contradict each other.
            GrammarError: the grammar or JSON schema is not one.
        """
        read_fields(self)
        stop = strings(self.stop)
        if self.stop is not None and not isinstance(self.stop, str):
            object.__setattr__(self, "stop", stop)
        for name in ("proxy_tuned", "proxy_untuned"):
            expert: object = getattr(self, name)
            if expert is not None and not (isinstance(expert, str) and re.fullmatch(EXPERT_NAME, expert)):
                raise OptionError(f"{name} is {shown(expert)}; give the name of an expert of the pair")
        for name, unset in _NO_PROXY.items():
            if self.strategy != "proxy" and (value := getattr(self, name)) != unset:
                raise OptionError(
                    f"{name} is {shown(value)}, and strategy is {self.strategy}, which does not look at it; give "
                    'strategy="proxy", or leave it out'
                )
        for name in ("threshold", "target_rate"):
            if self.defer_rate is not None and getattr(self, name) is not None:
                raise OptionError(f"defer_rate and {name} both set how much is deferred; leave one of them out")
        if self.grammar is not None and self.response_format is not None:
            raise OptionError("grammar and response_format both set the form of the text; leave one of them out")
        grammar = response_grammar(self.response_format) if self.grammar is None else self.grammar
        values = {name: getattr(self, name) for name in _CORE if getattr(self, name) is not None}
        values |= {
            "max_tokens": -1 if self.max_tokens is None else self.max_tokens,
            "stop": stop,
            "logit_bias": biases(self.logit_bias),
            "grammar": to_gbnf(grammar),
            "lookahead": _AUTO_LOOKAHEAD if self.lookahead == "auto" else self.lookahead,
        }
        _core.GenerationOptions(values)  # what only the extension can judge
        object.__setattr__(self, "_values", values)

    def rate_to_start_from(self) -> float | None:
        """The deferral rate to look up in the calibration table; None where the threshold does not come from it."""
        if self.defer_rate is not None:
            return self.defer_rate
        return self.target_rate if self.threshold is None else None

    def to_core(self, default_threshold: float) -> _core.GenerationOptions:
        """The extension's form; a seed is drawn where none is given.

        Raises:
            OptionError: ``default_threshold`` is outside [0, 1].
        """
        threshold = share("threshold", default_threshold) if self.threshold is None else self.threshold
        seed = secrets.randbelow(MAX_SEED + 1) if self.seed is None else self.seed
        values: dict[str, Any] = {**self._values, "threshold": threshold, "seed": seed}
        return _core.GenerationOptions(values)


# Options that the extension has under the same name.
_CORE = frozenset(_core.GenerationOptions.ranges()) & {field.name for field in dataclasses.fields(GenerationOptions)}


# They say who writes, as the head does.
DEFERRAL = frozenset(
    field.name for field in dataclasses.fields(GenerationOptions) if option_of(field).section == "Deferral"
)

# What says of them that they were not given.
_NO_PROXY = {
    field.name: field.default for field in dataclasses.fields(GenerationOptions) if field.name.startswith("proxy_")
}


def seed_of(first: int, number: int) -> int:
    """The seed of text ``number`` of several, counted from 0, where text 0 has the seed ``first``."""
    return (first + number) % (MAX_SEED + 1)
