"""Texts that only the adapter is trained on. Cross-entropy needs nothing of the assistant, so they have no scores."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from .. import _core
from ..corpus.documents import BadRow, Corpus
from ..corpus.texts import Text, TextMaker
from ..errors import CorpusError
from ..files.paths import to_native
from ..learn.scores import Scores
from ..llama.log import computing, set_up_log
from ..sources.names import find_model
from .data import TuneText

__all__ = ["plain_texts"]


def plain_texts(
    base: str | os.PathLike[str], corpus: Corpus, like: Scores, known: Sequence[TuneText]
) -> list[TuneText]:
    """The texts of a corpus in the base's tokens, prepared as a folder of scores was.

    Args:
        base: the base's file.
        corpus: the texts.
        like: gives the chat template's use, the system message and the length of the longest text.
        known: texts to leave out, such as the held-out ones.

    Raises:
        CorpusError: a row is bad, or no text is left.
        LoadError: the base's vocabulary cannot be read.
    """
    seen = {tuple(text.tokens.tolist()) for text in known}
    made: list[TuneText] = []
    meta = like.meta
    with computing():
        set_up_log()
        tokenizer = _core.Tokenizer(to_native(find_model("base", base)))
    maker = TextMaker(
        tokenizer,
        tokenizer.facts,
        n_shared=tokenizer.size_without_padding,
        n_ctx=int(meta["n_ctx"]),
        chat=meta["chat"],
        system=meta["system"],
    )
    for document in corpus.documents():
        for text in [document] if isinstance(document, BadRow) else maker(document):
            if isinstance(text, BadRow):
                raise CorpusError(f"{text}; correct this row or remove it")
            if text.tokens not in seen:
                seen.add(text.tokens)
                made.append(_unscored(text))
    if not made:
        raise CorpusError("every text of the corpus is already among the scored ones; give other texts, or none")
    return made


def _unscored(text: Text) -> TuneText:
    positions = np.flatnonzero(text.scored)
    nothing, no_token = np.zeros(len(positions), np.float32), np.zeros(len(positions), np.int64)
    return TuneText(
        tokens=np.asarray(text.tokens, np.int64),
        positions=positions,
        assistant_logprob=nothing,
        assistant_top=no_token,
        assistant_top_logprob=nothing,
        base_top=no_token,
        assistant_logprob_of_base_top=nothing,
        base_logprob=nothing,
        base_hidden=np.zeros((len(positions), 0), np.float16),
    )
