"""Scoring texts of models with unlike vocabularies: a row for each segment between two shared boundaries.

A model's log-probability of a segment is the sum over its own tokens. Everything else is what the models found at the
boundary before the segment, where the head decides: the base's hidden state, and each one's likeliest token, which is
an id of its own vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..corpus.shared_texts import Reader, SharedText, SharedTextMaker, shared_ends
from ..corpus.texts import TextMaker, uses_chat
from ..evaluate.byte_reader import ByteModel
from ..llama.log import computing
from ..options import BASE
from .by_bytes import by_bytes
from .scorer import Scorer, columns_by
from .scores import Scores

__all__ = ["TokenTexts", "Waits", "differ", "facts_of", "lengths", "maker_of", "score_segments", "spread", "waits"]

_NO_TOKEN = -1
# Stands before what an SPM tokenizer encodes from the middle of a text, so that it puts its space there.
_BEFORE = "\x01"
_END = b"\xff\xff"  # in place of the text of a token that ends a text; no text has it


def facts_of(scorer: Scorer) -> dict[str, Any]:
    """What the ``meta.json`` of a folder says of unlike vocabularies."""
    return {
        "vocabularies": {name: model["vocab_fingerprint"] for name, model in scorer.models.items()},
        **({"by_bytes": True} if scorer.by_bytes else {}),
    }


def maker_of(scorer: Scorer, *, chat: bool | None, system: str | None) -> SharedTextMaker:
    """What makes the texts. A model of another vocabulary than the base has the chat template in its own file.

    All others, and those without one, have the base's, as in :meth:`colm_cpp.Pair.chat`.

    Arguments and errors are those of :class:`.texts.TextMaker`.
    """
    use = uses_chat(scorer.base, chat)
    unlike = scorer.open_core().vocabularies
    turn_ends = [text.decode(errors="replace") for text in scorer.pieces(scorer.base["eog_tokens"]) if text]
    readers = {}
    for number, (name, facts) in enumerate(scorer.models.items()):
        template = facts["chat_template"] if unlike[number] else None
        own = {**facts, "chat_template": template or scorer.base["chat_template"]}
        tokenizer = _Tokenizer(scorer, name)
        maker = TextMaker(
            tokenizer,
            own,
            n_shared=scorer.open_core().n_ids[number],
            n_ctx=scorer.n_ctx,
            chat=use,
            system=system,
            experts={} if number == 0 else {name: facts},
            model=name,
            encode=tokenizer.encode,
            turn_ends=() if number == 0 or template else turn_ends,
        )
        readers[name] = Reader(maker, tokenizer.pieces, frozenset(facts["eog_tokens"]))
    return SharedTextMaker(readers, n_ctx=scorer.n_ctx)


@dataclass(frozen=True)
class _Tokenizer:
    """The tokenizer of one model."""

    scorer: Scorer
    model: str

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        return self.scorer.tokenize(text, add_special, parse_special, self.model)

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        return self.scorer.pieces(tokens, self.model)

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that stands behind another one: nothing is put before it."""
        before = self.tokenize(_BEFORE, False, False)
        if b"".join(self.pieces(before)) == _BEFORE.encode():
            return self.tokenize(text, False, True)
        return self.tokenize(_BEFORE + text, False, True)[len(before) :]


class TokenTexts:
    """What the tokens of a model write, to compare likeliest tokens of unlike vocabularies."""

    def __init__(self, pieces: Sequence[bytes], eog: Sequence[int]) -> None:
        """Args:
        pieces: the bytes of each id, from 0.
        eog: the ids that end a text, first the one that stands for all.
        """
        self._texts = list(pieces)
        for id_ in eog:
            self._texts[id_] = _END
        self._ids: dict[bytes, int] = {_END: eog[0]} if eog else {}
        for id_, text in enumerate(self._texts):
            self._ids.setdefault(text, id_)
        self._longest = max(map(len, self._texts))

    def __getitem__(self, token: int) -> bytes:
        return self._texts[token]

    def beginning(self, text: bytes) -> int:
        """The token with the longest text that ``text`` begins with; -1: there is none."""
        lengths = (len(text),) if text == _END else range(min(len(text), self._longest), 0, -1)
        return next((self._ids[text[:n]] for n in lengths if text[:n] in self._ids), _NO_TOKEN)


def differ(one: bytes, other: bytes) -> bool:
    """Whether two models with these likeliest tokens write different texts: neither text begins with the other."""
    return not (one.startswith(other) or other.startswith(one))


def score_segments(
    scorer: Scorer, texts: Sequence[SharedText], *, top_k: int
) -> tuple[dict[str, npt.NDArray[Any]], float]:
    """The columns of :mod:`.scores` for the segments of ``texts``, and llama.cpp's seconds.

    Where the likeliest tokens of the base and of an expert differ (:func:`differ`), ``logprob_of_base_top`` is the
    expert's log-probability of its own token that the text of the base's token begins with. That is at least the
    log-probability of this text. Where they do not differ it is that of the expert's likeliest token. With
    ``scorer.by_bytes`` the log-probabilities of segments are those of :func:`.by_bytes.by_bytes`.

    Arguments and errors are those of :meth:`.scorer.Scorer.score`.
    """
    core = scorer.open_core()
    given = [
        [(list(tokens), text.scored(number)) for text, tokens in zip(texts, of_model, strict=True)]
        for number, of_model in enumerate([[t.tokens_of[name] for t in texts] for name in scorer.models])
    ]
    n_tokens = [
        np.array([b - a for text in texts for a, b in [s.spans[number] for s in text.segments]], np.int64)
        for number in range(len(given))
    ]
    for number, of_model in enumerate(given[1:], start=1):
        core.check(number, of_model)  # before the base has read anything

    def read(number: int, probes: Sequence[int] = ()) -> dict[str, Any]:
        with computing():
            return core.read(number, given[number], 0 if number else top_k, not number, probes)

    tokens = [
        np.array([t for ids, marks in of_model for t, scored in zip(ids, marks, strict=True) if scored], np.int32)
        for of_model in given
    ]
    own = _token_texts(scorer)
    raw = read(0)
    seconds = raw["decode_s"]
    base = spread(raw, tokens[0], n_tokens[0])
    tops = [own[0][int(token)] for token in base["top"]]
    others: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(scorer.experts, start=1):
        probes = np.full(len(tokens[number]), _NO_TOKEN)
        probes[_firsts(n_tokens[number])] = [own[number].beginning(text) for text in tops]
        raw = read(number, probes.tolist())
        seconds += raw["decode_s"]
        found = spread(raw, tokens[number], n_tokens[number])
        pairs = zip(tops, found["top"], strict=True)
        found["differs"] = np.array([differ(text, own[number][int(top)]) for text, top in pairs], np.uint8)
        found["probe_logprob"] = np.where(found["differs"], found["probe_logprob"], found["top_logprob"])
        others[name] = found
    if scorer.by_bytes:
        of_models = {BASE: base, **others}
        exact = by_bytes(_byte_models(scorer), texts, {name: found["logprob"] for name, found in of_models.items()})
        for name, found in of_models.items():
            found["logprob"] = exact[name]
    columns = columns_by(texts, tokens[0][_firsts(n_tokens[0])], base, others)
    columns["n_bytes"] = np.array([segment.n_bytes for text in texts for segment in text.segments], np.int32)
    columns["n_base_tokens"] = n_tokens[0].astype(np.int32)
    return columns, seconds


def lengths(scores: Scores) -> tuple[float, float]:
    """Segments of a folder for each 100 tokens of the base, and their mean length in bytes."""
    n = len(scores)
    return 100.0 * n / int(scores["n_base_tokens"].sum()), float(scores["n_bytes"].mean())


@dataclass(frozen=True, slots=True)
class Waits:
    """How the tokens of the base and of an expert meet in texts.

    Attributes:
        n_bytes: of the texts.
        base_tokens: tokens of the base.
        expert_tokens: tokens of the expert.
        shared: places where a token of both ends.
    """

    n_bytes: int
    base_tokens: int
    expert_tokens: int
    shared: int

    def facts(self) -> dict[str, Any]:
        """JSON-ready. Behind so many of its tokens a model cannot hand over to the other, and has to go on."""
        return {
            **asdict(self),
            "base_waits": 1.0 - self.shared / max(self.base_tokens, 1),
            "expert_waits": 1.0 - self.shared / max(self.expert_tokens, 1),
        }


def waits(scorer: Scorer, texts: Sequence[str]) -> dict[str, Waits]:
    """How the base's tokens of texts meet those of each expert, by its name.

    Raises:
        TokenizeError: a text that a tokenizer changes, or cannot read.
    """
    found = {}
    for name in scorer.experts:
        counts = np.zeros(4, np.int64)
        for text in texts:
            ids = [_Tokenizer(scorer, model).encode(text) for model in (BASE, name)]
            pieces = [scorer.pieces(own, model) for own, model in zip(ids, (BASE, name), strict=True)]
            data, ends, _ = shared_ends(pieces)
            counts += [len(data), *map(len, ids), len(ends)]
        found[name] = Waits(*counts.tolist())
    return found


def _token_texts(scorer: Scorer) -> list[TokenTexts]:
    """Those of each model; made once for a scorer."""
    if scorer.token_texts is None:
        scorer.token_texts = []
        for (name, facts), n in zip(scorer.models.items(), scorer.open_core().n_ids, strict=True):
            pieces = scorer.pieces(range(n), name)
            named = (facts["eos_token"] or "").encode()
            ends = [id_ for id_ in facts["eog_tokens"] if id_ < n]
            eog = [*(e for e in ends if pieces[e] == named), *(e for e in ends if pieces[e] != named)]
            scorer.token_texts.append(TokenTexts(pieces, eog))
    return scorer.token_texts


def _byte_models(scorer: Scorer) -> dict[str, ByteModel]:
    """Those by name; made once for a scorer, because each has a context and all its tokens in order."""
    if scorer.byte_models is None:
        core = scorer.open_core()
        scorer.byte_models = {name: ByteModel(core, number, name) for number, name in enumerate(scorer.models)}
    return scorer.byte_models


def _firsts(n_tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The first row of each segment."""
    firsts: npt.NDArray[np.int64] = np.cumsum(n_tokens) - n_tokens
    return firsts


def spread(
    found: Mapping[str, Any], token: npt.NDArray[np.int32], n_tokens: npt.NDArray[np.int64]
) -> dict[str, npt.NDArray[Any]]:
    """What a model found of tokens, as values of segments.

    Args:
        found: values of each token, ``[n, ...]``.
        token: the texts' tokens, ``[n]``.
        n_tokens: tokens of each segment, each 1 or more; together n.

    Returns:
        The values at the first token of each segment; ``logprob``, the sum over its tokens; and ``right``, whether each
        of its tokens is the likeliest.
    """
    firsts = _firsts(n_tokens)
    values = {name: value[firsts] for name, value in found.items() if isinstance(value, np.ndarray)}
    values["logprob"] = np.add.reduceat(found["logprob"].astype(np.float64), firsts)
    values["right"] = np.logical_and.reduceat(found["top"] == token, firsts).astype(np.uint8)
    return values
