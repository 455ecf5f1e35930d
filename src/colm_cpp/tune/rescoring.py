"""Scored texts once more, read by the tuned base: a folder of scores that heads are fitted to."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..heads.adapters import Adapters
from ..learn.score_files import MAX_TEXTS
from ..learn.scores import Scores, ScoresWriter
from ..sources.identity import adapters_identity
from .data import TuneText, Unseen, passes
from .loss import Batch, assistant_logprob_of, read

__all__ = ["rescore"]

_FEATURES = ("log_odds", "entropy", "top_k_logprobs")
_OF_ASSISTANT = ("assistant_logprob", "assistant_top", "assistant_top_logprob", "assistant_entropy")


def rescore(
    torch: Any,
    model: Any,
    folder: Scores,
    unseen: Unseen,
    path: Path,
    adapters: Adapters,
    *,
    pass_tokens: int,
    on_progress: Callable[[float], None] | None = None,
) -> Scores:
    """Writes the scores that ``colm score`` would find with the tuned base, but for rounding. The assistant's stay.

    ``assistant_logprob_of_base_top`` is the least that it can be where scoring did not ask for that token; see
    :mod:`.loss`. An interrupted call goes on where it stopped.

    Args:
        torch: the library.
        model: the base with its adapter.
        folder: what was scored with the plain base.
        unseen: which of its texts.
        path: the new folder.
        adapters: what the base has now.
        pass_tokens: see :class:`.options.TuneOptions`.
        on_progress: called with the share that is done.

    Raises:
        CorpusError: ``path`` holds scores of something else.
    """
    facts = {name: value for name, value in folder.meta.items() if name not in ("format", "version")}
    facts |= {
        "base_lora": [["adapter.gguf", scale] for _, scale in adapters],
        "base_adapters": adapters_identity(adapters),
    }
    described = (folder.path / "texts.jsonl").read_bytes().splitlines()
    texts = unseen.scored
    rows_of_text = np.searchsorted(folder["text"], np.arange(folder.progress.n_texts + 1))
    model.eval()
    with ScoresWriter(path, facts) as writer, torch.no_grad():
        for begin in range(writer.done.n_texts, len(texts), MAX_TEXTS):
            numbers = unseen.texts[begin : begin + MAX_TEXTS]
            lines = [json.loads(described[i]) for i in numbers]
            rows = np.concatenate([np.arange(rows_of_text[i], rows_of_text[i + 1]) for i in numbers])
            n_texts = begin + len(numbers)
            done = replace(
                writer.done,
                n_documents=n_texts,
                n_texts=n_texts,
                n_tokens=writer.done.n_tokens + len(rows),
                n_read=writer.done.n_read + sum(line["n_tokens"] for line in lines),
                n_truncated=writer.done.n_truncated + sum(line["truncated"] for line in lines),
                complete=n_texts == len(texts),
            )
            columns = _columns(torch, model, texts[begin:n_texts], pass_tokens, writer.meta["top_k"])
            columns |= {name: folder[name][rows] for name in _OF_ASSISTANT}
            writer.add(columns, lines, done)
            if on_progress is not None:
                on_progress(n_texts / len(texts))
    return Scores(path)


def _columns(
    torch: Any, model: Any, texts: Sequence[TuneText], pass_tokens: int, top_k: int
) -> dict[str, npt.NDArray[Any]]:
    device = next(model.parameters()).device
    of_text: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for group in passes(texts, pass_tokens):
        batch = Batch(torch, group, device)
        found = read(torch, model, batch, _FEATURES, top_k)
        columns = {
            "token": batch.targets,
            "base_logprob": found.logprob,
            "base_top": found.top,
            "base_top_logprob": found.features[:, 2],
            "base_log_odds": found.features[:, 0],
            "base_entropy": found.features[:, 1],
            "base_top_k_logprobs": found.features[:, 2:],
            "base_hidden": found.hidden,
            "assistant_logprob_of_base_top": assistant_logprob_of(torch, found.top, batch),
        }
        begin = 0
        for text in group:
            rows = slice(begin, begin + len(text.positions))
            of_text[id(text)] = {name: column[rows].cpu().numpy() for name, column in columns.items()}
            begin = rows.stop
    return {name: np.concatenate([of_text[id(text)][name] for text in texts]) for name in of_text[id(texts[0])]}
