"""A base and its experts, loaded to read texts that are already written."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._numbers import flag
from ..corpus.shared_texts import SharedText
from ..corpus.texts import Text
from ..engine.loading import options_of, prepare
from ..errors import GenerationError, OptionError, PairClosed, TokenizeError
from ..llama.busy import busy
from ..llama.log import computing, forward_log, set_up_log
from ..llama.rpc import connect
from ..options import ASSISTANT, BASE, read_experts
from .score_files import MAX_TEXTS

if TYPE_CHECKING:
    from ..engine.pair import Pair
    from ..evaluate.byte_reader import ByteModel
    from ..options import Experts, LoadOptionsDict
    from .segments import TokenTexts

__all__ = ["Scorer", "check_by_bytes", "columns_by"]

PathLike = str | os.PathLike[str]

# Outputs of one batch: each has its logits in memory, 600 kB at 152,000 ids, and more of them do not read faster.
MAX_OUTPUTS = 256
_MAX_HALF = float(np.finfo(np.float16).max)
_OF_BASE = ("logprob", "top", "top_logprob", "log_odds", "entropy", "top_k_logprobs")
_OF_EXPERTS = (  # the column, and what the extension calls it
    ("logprob", "logprob"),
    ("top", "top"),
    ("top_logprob", "top_logprob"),
    ("entropy", "entropy"),
    ("logprob_of_base_top", "probe_logprob"),
)
_OF_SEGMENTS = ("right", "differs")  # the base has the first of them


class Scorer:
    """All models of a pair, loaded for reading many texts at a time.

    Attributes:
        models: facts about each model by its name, the base first.
        base: those about the base.
        assistant: those about the assistant, or the first expert.
        n_texts: texts that are read together.
        n_ctx: tokens of the longest text, and of all texts that are read together.
        n_shared: ids, from 0, that all models know; 0 where the vocabularies are unlike.
        one_vocabulary: whether all models have one vocabulary.
        by_bytes: whether segments are scored by their bytes.
        vocab_fingerprint: names the base's vocabulary.
    """

    def __init__(
        self,
        base: PathLike,
        assistant: PathLike | None = None,
        *,
        experts: Experts | None = None,
        base_options: LoadOptionsDict | None = None,
        assistant_options: LoadOptionsDict | None = None,
        progress: Callable[[float], object] | None = None,
        check_memory: bool = True,
        weights_of: Pair | None = None,
        by_bytes: bool = False,
        **options: Any,
    ) -> None:
        """Loads the models. Arguments and errors are those of :func:`colm_cpp.load`.

        ``n_ctx`` is the length of the longest text and the size of a group of texts; it defaults to 1024.
        ``weights_of`` is a pair that was loaded from the same files with the same options. Its weights are used, so
        that nothing is loaded. They stay when the pair is closed. ``by_bytes`` is for models of unlike vocabularies:
        segments have the probability of all tokens that write them (:mod:`.by_bytes`), which is slow.
        """
        if (assistant is None) == (experts is None):
            raise OptionError("Scorer() needs either assistant= or experts=; give one of the two")
        self.by_bytes = flag("by_bytes", by_bytes)
        options.setdefault("n_ctx", 1024)
        others = () if experts is None else read_experts(experts)
        files: dict[str, Any] = {
            BASE: base,
            **({expert.name: expert.model for expert in others} or {ASSISTANT: assistant}),
        }
        chosen = options_of(None, others, options, base_options, assistant_options)
        with busy():
            set_up_log()
            servers = connect(server for of in chosen for server in of.servers())
            core_options, _ = prepare(
                files,
                chosen,
                check_memory=flag("check_memory", check_memory),
                n_sequences=MAX_TEXTS,
                n_outputs=MAX_OUTPUTS,
                loaded=weights_of is not None,
            )
            self.n_texts = int(core_options[0].values["n_sequences"])
            members = list(zip(files, core_options, strict=True))
            try:
                of = None if weights_of is None else weights_of.open_core()
                self._core: _core.ScoringPair | None = _core.ScoringPair(members, progress, of)
            finally:
                servers.clear()  # the models hold the connections now
                forward_log()
        self.lora = tuple([(os.path.basename(path), scale) for path, scale in o.adapters()] for o in chosen)
        self.models: dict[str, dict[str, Any]] = dict(zip(files, self._core.facts(), strict=True))
        self.base = self.models[BASE]
        self.assistant = self.models[self.experts[0]]
        self.vocab_fingerprint = self._core.vocab_fingerprint
        self.one_vocabulary = not any(self._core.vocabularies)
        self.n_shared = self._core.n_ids[0] if self.one_vocabulary else 0
        self.token_texts: list[TokenTexts] | None = None  # of unlike vocabularies, once they were asked for
        self.byte_models: dict[str, ByteModel] | None = None  # likewise, for by_bytes
        if self.by_bytes:
            check_by_bytes(self.one_vocabulary)
        self.n_ctx = min(int(model["n_ctx"]) for model in self.models.values())

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts' names, in the order of their columns."""
        return tuple(self.models)[1:]

    def lora_facts(self) -> dict[str, Any]:
        """Names and scales of the adapters, for a ``meta.json``."""
        own, *others = self.lora
        if len(others) == 1:
            return {"base_lora": own, "assistant_lora": others[0]}
        return {"base_lora": own, "expert_lora": dict(zip(self.experts, others, strict=True))}

    def open_core(self) -> _core.ScoringPair:
        """The extension's pair. Raises PairClosed."""
        if self._core is None:
            raise PairClosed("this scorer was closed; load it again")
        return self._core

    def tokenize(self, text: str, add_special: bool, parse_special: bool, model: str = BASE) -> list[int]:
        """Token ids of ``text`` in the vocabulary of ``model``.

        Raises:
            TokenizeError: ``text`` holds a lone surrogate.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizeError(f"a lone surrogate ({text[error.start]!a}), which is not Unicode text") from None
        return self.open_core().tokenize(text, add_special, parse_special, self.number(model))

    def number(self, model: str) -> int:
        """The number of a model by its name; the base's is 0."""
        return list(self.models).index(model)

    def pieces(self, tokens: Sequence[int], model: str = BASE) -> list[bytes]:
        """The bytes of each token, control tokens as they are written."""
        return self.open_core().pieces(tokens, self.number(model))

    def score(self, texts: Sequence[Text], *, top_k: int) -> tuple[dict[str, npt.NDArray[Any]], float]:
        """The columns of :mod:`.scores` for the scored tokens of ``texts``, and llama.cpp's seconds.

        For models of one vocabulary; for others see :func:`.segments.score_segments`.

        Args:
            texts: at most ``n_texts``, together no longer than ``n_ctx``.
            top_k: how many of the base's largest log-probabilities to keep.

        Raises:
            ContextFull: there are too many texts, or they are too long.
            TokenizeError: a token that the models do not share.
            GenerationError: llama.cpp failed, or a model gave NaN or infinite values (which text, which token).
            KeyboardInterrupt: Ctrl-C.
        """
        given = [_read_by(BASE, text) for text in texts]
        own = {
            number: [_read_by(name, text) for text in texts]
            for number, name in enumerate(self.experts, start=1)
            if any(name in text.own_prompts for text in texts)
        }
        with computing():
            base, *others = self.open_core().score(given, top_k, own)
        token = np.array([t for text in texts for t, s in zip(text.tokens, text.scored, strict=True) if s], np.int32)
        columns = columns_by(texts, token, base, dict(zip(self.experts, others, strict=True)))
        return columns, sum((other["decode_s"] for other in others), base["decode_s"])

    def close(self) -> None:
        """Frees all models."""
        self._core = self.byte_models = None

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_by_bytes(one_vocabulary: bool) -> None:
    """Raises OptionError where models have one vocabulary, which are not scored by bytes."""
    if one_vocabulary:
        raise OptionError(
            "by_bytes=True (--by-bytes) is for models of unlike vocabularies, and these have one: their tokens are "
            "compared as they are; leave it out"
        )


def _read_by(model: str, text: Text) -> tuple[list[int], list[int]]:
    tokens, scored = text.of(model)
    return list(tokens), [int(s) for s in scored]


def columns_by(
    texts: Sequence[Text | SharedText],
    token: npt.NDArray[np.int32],
    base: Mapping[str, Any],
    others: Mapping[str, Mapping[str, Any]],
) -> dict[str, npt.NDArray[Any]]:
    """The columns of :mod:`.scores`, of what each model found of each row of ``texts``.

    Args:
        texts: what was read.
        token: ids of the texts, ``[n]``.
        base: values by their names, ``[n, ...]``.
        others: likewise of the experts, by their names.

    Raises:
        GenerationError: a value is not finite, or a hidden state too large.
    """
    _check(texts, base, others)
    columns = {
        "token": token,
        **{f"base_{name}": base[name] for name in (*_OF_BASE, *_OF_SEGMENTS[:1]) if name in base},
        "base_hidden": base["hidden"].astype(np.float16),
    }
    for column, of_expert in (*_OF_EXPERTS, *((name, name) for name in _OF_SEGMENTS)):
        found = [other[of_expert] for other in others.values() if of_expert in other]
        if len(found) == 1:
            columns[f"assistant_{column}"] = found[0]
        elif found:
            columns[f"expert_{column}"] = np.stack(found, axis=1)
    return columns


def _check(
    texts: Sequence[Text | SharedText], base: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
) -> None:
    numbers = np.repeat(np.arange(len(texts)), [text.n_scored for text in texts])
    whose = {name: "the assistant" if name == ASSISTANT else f"the expert {name}" for name in others}
    for name, values, limit in (
        ("the base's log-probability", base["logprob"], np.inf),
        *((f"{whose[name]}'s log-probability", other["logprob"], np.inf) for name, other in others.items()),
        ("the base's hidden state", np.abs(base["hidden"]).max(axis=1), _MAX_HALF),
    ):
        wrong = np.flatnonzero(~np.isfinite(values) | (np.abs(values) >= limit))
        if wrong.size:
            row = int(wrong[0])
            text = texts[numbers[row]]
            place = f"{text.path}:{text.line}" if text.line else text.path
            raise GenerationError(f"{name} is {values[row]} at scored token {row} of the texts around {place}")
