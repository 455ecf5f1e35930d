"""Scoring a corpus: all models read it once, and their log-probabilities and the base's hidden states are kept.

The folder (:mod:`.scores`) then holds everything that fitting a head needs. Fitting takes seconds and can be repeated.
Texts of models with unlike vocabularies are scored segment by segment (:mod:`.segments`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .._shown import shown
from ..corpus.documents import BadRow, Corpus
from ..corpus.shared_texts import SharedText, SharedTextMaker
from ..corpus.texts import Text, TextMaker, grouped, runs
from ..errors import ContextFull, CorpusError, GenerationError, OptionError, TokenizeError
from ..sources.identity import models_identity
from .score_files import ProgressMark
from .scorer import Scorer
from .scores import ScoresWriter
from .segments import facts_of, maker_of, score_segments

__all__ = ["Progress", "ScoredGroup", "Scorer", "score", "score_group"]

PathLike = str | os.PathLike[str]
# The columns of the texts of a group that could be scored, these texts, the others, and llama.cpp's seconds.
ScoredGroup = tuple[dict[str, npt.NDArray[Any]], list[Text | SharedText], list[BadRow], float]


@dataclass(frozen=True, slots=True)
class Progress:
    """Sent after every group of texts.

    Attributes:
        done: the progress of the folder.
        n_read: tokens read by each model in this run.
        share: share of the corpus that is done, by documents and parts of long ones, 0 to 1.
        bad_rows: rows of this group that could not be used.
        decode_s: seconds that llama.cpp took for the group.
    """

    done: ProgressMark
    n_read: int
    share: float
    bad_rows: tuple[BadRow, ...]
    decode_s: float


def score(
    scorer: Scorer,
    corpus: Corpus,
    out: PathLike,
    *,
    chat: bool | None = None,
    system: str | None = None,
    top_k: int = 10,
    strict: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    compute: Callable[[Iterable[list[Text | SharedText]], int], Iterator[ScoredGroup]] | None = None,
) -> ProgressMark:
    """Scores a corpus into a folder. An interrupted scoring is continued.

    Args:
        scorer: the loaded models.
        corpus: the texts.
        out: the folder.
        chat: see :class:`.texts.TextMaker`.
        system: a system message before each prompt, see :class:`.texts.TextMaker`.
        top_k: how many of the base's largest log-probabilities to keep, 1 to 64.
        strict: stop at the first bad row.
        on_progress: called after every group of texts.
        compute: gives the scores of each group of texts, in their order, with ``top_k``; by default ``scorer`` does.

    Raises:
        CorpusError: there is no usable row; with ``strict``, a row is bad; or the folder holds other scores.
        OptionError: ``top_k`` outside its range.
        OSError: the disk is full. Earlier scores stay.
    """
    if not 1 <= top_k <= 64:
        raise OptionError(f"top_k is {shown(top_k)}; it must be a whole number from 1 to 64")
    make: TextMaker | SharedTextMaker
    if scorer.one_vocabulary:
        make = TextMaker(
            scorer,
            scorer.base,
            n_shared=scorer.n_shared,
            n_ctx=scorer.n_ctx,
            chat=chat,
            system=system,
            other="the assistant" if len(scorer.experts) == 1 else "an expert",
            experts={name: scorer.models[name] for name in scorer.experts},
        )
    else:
        make = maker_of(scorer, chat=chat, system=system)
    facts = {
        **corpus.facts,
        **models_identity(scorer.models, scorer.vocab_fingerprint),
        **scorer.lora_facts(),
        "n_embd": scorer.base["n_embd"],
        "top_k": top_k,
        "chat": make.chat,
        "system": system,
        "n_ctx": scorer.n_ctx,
        "n_batch": min(model["n_batch"] for model in scorer.models.values()),
    }
    if not scorer.one_vocabulary:
        facts.update(facts_of(scorer))
    if make.bos:
        facts["every_part_has_bos"] = True  # a folder begun without must not go on with it
    with ScoresWriter(out, facts) as writer:
        n_read = 0
        groups, ahead = itertools.tee(_groups(corpus, make, scorer.n_texts, writer.done))
        texts_of = (group for group, *_ in ahead)
        scored = (
            (score_group(scorer, group, top_k) for group in texts_of) if compute is None else compute(texts_of, top_k)
        )
        for _, bad, n_begun, n_finished in groups:
            if strict and bad:
                raise CorpusError(f"{bad[0]}; without --strict such rows are skipped")
            columns, texts, failed, decode_s = next(scored)
            if strict and failed:
                raise CorpusError(f"{failed[0]}; without --strict such rows are skipped")
            n_read += sum(len(text.tokens) for text in texts)
            done = writer.done
            done = replace(
                done,
                n_documents=n_begun,
                n_texts=done.n_texts + len(texts),
                n_tokens=done.n_tokens + sum(text.n_scored for text in texts),
                n_read=done.n_read + sum(len(text.tokens) for text in texts),
                n_bad=done.n_bad + len(bad) + len(failed),
                n_truncated=done.n_truncated + sum(text.truncated for text in texts),
                complete=False,  # a larger limit goes on with a folder that was
            )
            writer.add(columns, [_described(text) for text in texts], done)
            if on_progress is not None:
                share = n_finished / max(corpus.n_documents, 1)
                on_progress(Progress(done, n_read, share, (*bad, *failed), decode_s))
        if not writer.done.n_tokens and "shard" not in corpus.facts:
            raise CorpusError("the corpus holds no usable row; a row needs a prompt and a completion, or messages")
        done = replace(writer.done, complete=True)
        writer.add({}, [], done)
        return done


def _described(text: Text | SharedText) -> dict[str, Any]:
    described = {
        "file": os.path.basename(text.path),
        "line": text.line,
        "n_tokens": len(text.tokens),
        "n_scored": text.n_scored,
        "truncated": text.truncated,
    }
    if isinstance(text, SharedText):
        # Of each segment, for each model in order, its first token and the one behind its last.
        own = {name: list(ids) for name, ids in text.tokens_of.items()}
        return {**described, "tokens_of": own, "segments": [segment.spans for segment in text.segments]}
    own_prompts = {"own_prompts": {name: list(ids) for name, ids in text.own_prompts.items()}}
    return {
        **described,
        "tokens": list(text.tokens),
        "scored": runs(text.scored),
        **(own_prompts if text.own_prompts else {}),
    }


def _groups(
    corpus: Corpus, make: TextMaker | SharedTextMaker, n_texts: int, done: ProgressMark
) -> Iterator[tuple[list[Text | SharedText], list[BadRow], int, float]]:
    """Groups of up to ``n_texts`` texts, behind those that are done.

    Each has how many documents are begun with it, and how many, and what part of the last, are finished.

    Raises:
        CorpusError: the texts and bad rows that are done do not end in the document that they are said to.
    """
    n_skip = done.n_texts + done.n_bad
    starts = frozenset(corpus.starts)
    reached: list[tuple[int, float]] = []  # for each text or bad row

    def texts() -> Iterator[Text | SharedText | BadRow | None]:
        n = 0
        for number, document in enumerate(corpus.documents()):
            if number in starts:
                yield None
            parts: Sequence[Text | SharedText | BadRow]
            parts = [document] if isinstance(document, BadRow) else list(make(document))
            for part, text in enumerate(parts, start=1):
                n += 1
                if n == n_skip and number + 1 != done.n_documents:
                    raise CorpusError(
                        f"progress.json is damaged: it counts {done.n_texts} texts and {done.n_bad} bad rows of "
                        f"{done.n_documents} documents, but so many come of {number + 1}; score into a new folder"
                    )
                if n > n_skip:
                    reached.append((number + 1, number + part / len(parts)))
                    yield text
        if n < n_skip and corpus.n_documents >= done.n_documents:  # with a smaller limit fewer are met
            raise CorpusError(
                f"progress.json is damaged: it counts {done.n_texts} texts and {done.n_bad} bad rows of "
                f"{done.n_documents} documents, but only {n} come of them; score into a new folder"
            )

    n_used = 0
    groups: Iterator[tuple[list[Text | SharedText], list[BadRow]]]
    groups = grouped(texts(), n_tokens=make.n_ctx, n_texts=n_texts)
    for group, bad in groups:
        n_used += len(group) + len(bad)
        yield group, bad, *reached[n_used - 1]


def score_group(scorer: Scorer, group: list[Text | SharedText], top_k: int) -> ScoredGroup:
    """The scores of texts that are read together. Where that fails each is read alone, so that one is to blame."""
    if not group:
        return {}, [], [], 0.0
    try:
        shared = [text for text in group if isinstance(text, SharedText)]
        if shared:
            columns, decode_s = score_segments(scorer, shared, top_k=top_k)
        else:
            columns, decode_s = scorer.score([text for text in group if isinstance(text, Text)], top_k=top_k)
        return columns, group, [], decode_s
    except (GenerationError, ContextFull, TokenizeError) as error:
        if len(group) == 1:
            return {}, [], [BadRow(group[0].path, group[0].line, str(error))], 0.0
    # One of them is to blame: each alone.
    parts: list[dict[str, npt.NDArray[Any]]] = []
    kept: list[Text | SharedText] = []
    failed: list[BadRow] = []
    seconds = 0.0
    for text in group:
        columns, texts, bad, decode_s = score_group(scorer, [text], top_k)
        seconds += decode_s
        kept += texts
        failed += bad
        if texts:
            parts.append(columns)
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
    return joined, kept, failed, seconds
