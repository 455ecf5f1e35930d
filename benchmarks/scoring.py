"""``colm score`` against bare llama.cpp decoding the same batches.

    python benchmarks/scoring.py BASE.gguf ASSISTANT.gguf CORPUS.jsonl --texts 10 --rounds 3

Both read the same texts in the same batches with the same outputs; the bare side does nothing with them. Rounds
alternate; the ratio of medians is what scoring costs beyond llama.cpp.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
from bare import Slot, decode

from colm_cpp.corpus.documents import BadRow
from colm_cpp.corpus.texts import Text, TextMaker, grouped
from colm_cpp.learn import Scorer, select
from colm_cpp.learn.score_files import ProgressMark
from colm_cpp.learn.scores import ScoresWriter
from colm_cpp.learn.scoring import MAX_OUTPUTS, MAX_TEXTS

Batch = list[Slot]


def batches(texts: Sequence[Text], n_batch: int, n_outputs: int) -> Iterator[Batch]:
    """The batches in which a group of texts is read: what leads up to scored tokens, then these, in turns."""
    position = [0] * len(texts)
    last = [max(i for i, scored in enumerate(text.scored) if scored) for text in texts]
    for outputs in itertools.cycle((False, True)):
        batch: Batch = []
        limit = min(n_batch, n_outputs) if outputs else n_batch
        left = False
        for i, text in enumerate(texts):
            while position[i] < last[i] and text.scored[position[i] + 1] == outputs:
                batch.append((text.tokens[position[i]], position[i], i, outputs))
                position[i] += 1
                if len(batch) == limit:
                    yield batch
                    batch = []
            left = left or position[i] < last[i]
        if batch:
            yield batch
        if not left:
            return


class Bare:
    """One model in llama.cpp, made as colm-cpp makes it."""

    def __init__(self, path: str, *, hidden: bool, n_ctx: int, n_batch: int, n_threads: int) -> None:
        self._hidden = hidden
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = MAX_TEXTS
        params.kv_unified = True
        params.n_outputs_max = MAX_OUTPUTS
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._batch = llama_cpp.llama_batch_init(n_batch, 0, 1)

    def read(self, groups: Sequence[Sequence[Batch]]) -> float:
        """Seconds for all batches."""
        start = time.perf_counter()
        for group in groups:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
            for batch in group:
                decode(self._context, self._batch, batch, hidden=self._hidden and batch[0][3])
        return time.perf_counter() - start


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("corpus")
    parser.add_argument("--texts", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    scorer = Scorer(args.base, args.assistant, n_threads=args.threads)
    make = TextMaker(scorer, scorer.base, n_shared=scorer.n_shared, n_ctx=scorer.n_ctx)
    documents = select([args.corpus], limit=args.texts).documents()
    made = (text for document in documents if not isinstance(document, BadRow) for text in make(document))
    groups = [group for group, _ in grouped(made, n_tokens=scorer.n_ctx, n_texts=MAX_TEXTS)]
    n_batch = scorer.base["n_batch"]
    schedule = [list(batches(group, n_batch, MAX_OUTPUTS)) for group in groups]
    options: dict[str, Any] = {"n_ctx": scorer.n_ctx, "n_batch": n_batch, "n_threads": args.threads}
    bare = [Bare(args.base, hidden=True, **options), Bare(args.assistant, hidden=False, **options)]
    facts = {"n_embd": scorer.base["n_embd"], "top_k": 10}

    inside: list[float] = []  # seconds that the scorer spent in llama_decode

    def with_scores() -> float:
        inside.append(0.0)
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            with ScoresWriter(Path(folder) / "scores", facts) as writer:
                done = ProgressMark()
                for group in groups:
                    columns, decode_s = scorer.score(group, top_k=10)
                    inside[-1] += decode_s
                    n = sum(text.n_scored for text in group)
                    done = ProgressMark(n_texts=done.n_texts + len(group), n_tokens=done.n_tokens + n)
                    writer.add(columns, [{"n_scored": text.n_scored} for text in group], done)
            return time.perf_counter() - start

    def without() -> float:
        return sum(model.read(schedule) for model in bare)

    with_scores(), without()  # what is read first pays for page faults
    times: dict[str, list[float]] = {"score": [], "bare": []}
    for _ in range(args.rounds):
        times["score"].append(with_scores())
        times["bare"].append(without())
    score, plain = (statistics.median(times[name]) for name in ("score", "bare"))
    n_read = sum(len(batch) for group in schedule for batch in group)
    print(
        json.dumps(
            {
                "texts": args.texts,
                "batches": sum(map(len, schedule)),
                "tokens_read_by_each": n_read,
                "score_s": [round(t, 2) for t in times["score"]],
                "of_it_in_llama_decode_s": [round(t, 2) for t in inside[1:]],
                "bare_s": [round(t, 2) for t in times["bare"]],
                "tokens_per_s": round(n_read / score, 1),
                "ratio_of_medians": round(score / plain, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
