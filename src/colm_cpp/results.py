"""Results of a generation: plain frozen values."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ._shown import counted

__all__ = ["Completion", "ExpertStats", "FinishReason", "Source", "Stats", "Token", "Tokens", "TopLogprob"]

Source: TypeAlias = str  # what a pair calls a model: "base", "assistant", or the name of an expert
BASE = 0  # the expert whose distribution the head looks at; the others are 1 and above
FinishReason = Literal["stop", "length", "eos", "cancelled"]


_SHOWN_TOKENS = 3
_SHOWN_TEXT = 60
# Seen on a light page and on a dark one: of the base, and of the experts in turn.
_TINTS = (
    "rgba(140, 140, 140, .18)",
    "rgba(255, 140, 0, .38)",
    "rgba(0, 150, 255, .32)",
    "rgba(0, 180, 90, .32)",
    "rgba(200, 80, 220, .32)",
)


def source_of(expert: int) -> Source:
    """What an expert is called where no pair says it."""
    return "base" if expert == BASE else "assistant" if expert == BASE + 1 else f"expert-{expert}"


def expert_of(source: str) -> int:
    """The expert that a pair with one assistant calls so."""
    return BASE if source == "base" else BASE + 1


def _tint(expert: int) -> str:
    return _TINTS[0] if expert == BASE else _TINTS[1 + (expert - 1) % (len(_TINTS) - 1)]


def defer_prob(z: float) -> float:
    """sigmoid(z) of a defer logit, infinite ones included."""
    return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the likeliest tokens at a position.

    Attributes:
        id: token id.
        text: the token's text (U+FFFD where its bytes are not whole characters).
        logprob: natural logarithm of its probability under the distribution that chose the token.
    """

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    Attributes:
        id: token id in the vocabulary of the model that chose it, which is usually that of all models.
        text: the text that this token added. The texts of all tokens together are the whole text. A character that
            spans several tokens belongs to the last of them. Text from the beginning of a stop string on belongs to
            no token.
        expert: the model that chose the token: 0 is the base, 1 the assistant or the first expert, and so on.
        defer_logit: z_t, the defer logit: the log-odds that the token is not the base's. None where the head was not
            asked, because of the option ``hold``.
        threshold: eta, the threshold at this position: the leave threshold after a token that was not the base's.
        logprob: natural log-probability of the token under the distribution that chose it (that of the base or an
            expert, or the strategy's mixture), before temperature, penalties, grammar and truncation.
        top_logprobs: the likeliest tokens, descending; empty unless ``logprobs`` was given.
        source: ``expert`` in words: ``"base"``, ``"assistant"``, or the name that the pair has for the expert.
    """

    id: int
    text: str
    expert: int
    defer_logit: float | None
    threshold: float
    logprob: float
    top_logprobs: tuple[TopLogprob, ...] = ()
    source: Source = ""

    def __post_init__(self) -> None:
        if not self.source:
            object.__setattr__(self, "source", source_of(self.expert))

    @property
    def defer_prob(self) -> float | None:
        """P(Z_t > 0 | x_<t) = sigmoid(z_t); None where ``defer_logit`` is None."""
        return None if self.defer_logit is None else defer_prob(self.defer_logit)

    @property
    def deferred(self) -> bool:
        """Whether the token was deferred to an expert."""
        return self.expert != BASE

    def __repr__(self) -> str:
        p = "None" if self.defer_prob is None else f"{self.defer_prob:.2f}"
        return f"Token({self.text!r}, {self.source}, id={self.id}, defer_prob={p})"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields, ``defer_prob`` included."""
        fields = dataclasses.asdict(self)
        for name in ("defer_logit", "logprob"):
            if fields[name] is not None and not math.isfinite(fields[name]):  # JSON has no infinities
                fields[name] = None
        return {**fields, "defer_prob": self.defer_prob}


class Tokens(tuple[Token, ...]):
    """The tokens of a text: a tuple with a short repr. A notebook shows the text with coloured tokens."""

    __slots__ = ()

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self[:_SHOWN_TOKENS]))
        return f"<{counted(len(self), 'token')}: {first}{', ...' if len(self) > _SHOWN_TOKENS else ''}>"

    def _repr_html_(self) -> str:
        """For notebooks: the text, each token coloured by the model that wrote it."""
        return _box(_tinted(self))


@dataclass(frozen=True, slots=True)
class ExpertStats:
    """What one model did for a text.

    Attributes:
        calls: how often it was asked; of the base, how often it gave a distribution.
        tokens: tokens on its turn, an end-of-generation token included.
        tokens_read: tokens that it evaluated, in the prompt and the text.
        seconds: of its batches that read this text, those of texts that shared them included.
        tokens_reread: tokens that it was asked about and that were other tokens after a model with another vocabulary
            wrote behind them, so that they were read again. 0 where all models have one vocabulary.
        failures: how often it failed, an expert on another machine with ``on_failure="base"``. After one the text goes
            on without it.
        top_k: of an expert that names the likeliest tokens alone, how many it named; 0: its distributions were whole.
        tail: the mean probability, 0 to 1, of all tokens that it did not name.
    """

    calls: int
    tokens: int
    tokens_read: int
    seconds: float
    tokens_reread: int = 0
    failures: int = 0
    top_k: int = 0
    tail: float = 0.0


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts and times of one generation.

    Attributes:
        prompt_tokens: tokens in the prompt.
        generated_tokens: tokens generated, an end-of-generation token included.
        deferral_rate: share of the generated tokens that were deferred, 0 to 1.
        base_steps: how often the base gave a distribution. Steps for rejected drafts count, too.
        assistant_calls: how often the assistant was asked, or all experts together. With look-ahead, one call verifies
            several tokens.
        lookahead: whether look-ahead was in use. It is False where it was turned off, and where a model cannot go back
            by some tokens (recurrent, hybrid, a sliding window without ``swa_full``).
        drafted_tokens: deferred tokens that the base drafted and an expert verified.
        accepted_tokens: drafted tokens that were accepted, because the expert chose the same token.
        base_tokens_read: tokens that the base evaluated, in the prompt and the text. It is less than their sum where
            the KV cache already held the beginning.
        assistant_tokens_read: tokens that the assistant evaluated, or all experts together.
        prefill_s: seconds that the models took for their first reading of the text.
        decode_s: seconds of all other work in steps that moved the text. Texts that are written at the same time share
            their steps, and each counts the whole time of them.
        tokens_per_s: generated tokens per second of ``decode_s``; 0 where nothing was generated.
        seed: the seed that was used. It is drawn where none was given.
        experts: what each model did, by its name, the base first. One that the text did not need has zeros.
        waited_tokens: tokens that the model before wrote because the text ended inside a token of another vocabulary,
            so that it could not be handed over. 0 where all models have one vocabulary.
    """

    prompt_tokens: int
    generated_tokens: int
    deferral_rate: float
    base_steps: int
    assistant_calls: int
    lookahead: bool
    drafted_tokens: int
    accepted_tokens: int
    base_tokens_read: int
    assistant_tokens_read: int
    prefill_s: float
    decode_s: float
    tokens_per_s: float
    seed: int
    experts: Mapping[str, ExpertStats] = field(default_factory=dict, hash=False)
    waited_tokens: int = 0

    @property
    def reread_tokens(self) -> int:
        """``tokens_reread`` of all models together."""
        return sum(of.tokens_reread for of in self.experts.values())

    @property
    def acceptance_rate(self) -> float:
        """``accepted_tokens / drafted_tokens``, 0 to 1; 0.0 where nothing was drafted."""
        return self.accepted_tokens / self.drafted_tokens if self.drafted_tokens else 0.0

    def __repr__(self) -> str:
        return f"<Stats: {self._summary()}, seed {self.seed}>"

    def _summary(self) -> str:
        written = counted(self.generated_tokens, "token")
        return f"{written}, {self.deferral_rate:.0%} deferred, {self.tokens_per_s:.1f} tokens/s"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished text.

    Attributes:
        text: the generated text, without prompt and stop string.
        tokens: the generated tokens, without the end-of-generation token.
        finish_reason: ``"eos"`` (a model ended the text), ``"stop"`` (a stop string), ``"length"`` (``max_tokens``
            was reached, or the context is full) or ``"cancelled"``.
        stats: counts and times.
        end_token: the end-of-generation token and the model that chose it; None unless ``finish_reason`` is ``"eos"``.
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    stats: Stats
    end_token: Token | None = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= _SHOWN_TEXT else self.text[:_SHOWN_TEXT] + "..."
        return f"<Completion {text!r}: {self.stats._summary()}, finish_reason {self.finish_reason!r}>"

    def _repr_html_(self) -> str:
        """For notebooks: the text, each token coloured by the model that wrote it, and the main statistics."""
        legend = " ".join(
            f'<span style="background:{_tint(expert)};padding:0 .4em;border-radius:3px">{html.escape(name)}</span>'
            for expert, name in enumerate(self.stats.experts or ("base", "assistant"))
        )
        facts = html.escape(f"{self.stats._summary()}, finish_reason {self.finish_reason!r}")
        return _box(f'{_tinted(self.tokens)}<div style="opacity:.75;margin-top:.5em">{legend} {facts}</div>')

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "text": self.text,
            "finish_reason": self.finish_reason,
            "tokens": [token.to_dict() for token in self.tokens],
            "end_token": None if self.end_token is None else self.end_token.to_dict(),
            "stats": self.stats.to_dict(),
        }


def _box(inside: str) -> str:
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;font-family:inherit">{inside}</div>'


def _tinted(tokens: Iterable[Token]) -> str:
    """Coloured spans. A model may write anything, so its text is escaped and its writing direction is isolated."""
    return "".join(
        f'<span style="background:{_tint(token.expert)};unicode-bidi:isolate" '
        f'title="{html.escape(token.source)}, {_asked(token)}">{html.escape(token.text)}</span>'
        for token in tokens
        if token.text
    )


def _asked(token: Token) -> str:
    """What the head said, in words."""
    return "head not asked" if token.defer_prob is None else f"defer probability {token.defer_prob:.2f}"
