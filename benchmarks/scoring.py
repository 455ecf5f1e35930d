"""``colm score`` against bare llama.cpp decoding the same batches.

    python benchmarks/scoring.py BASE.gguf ASSISTANT.gguf CORPUS.jsonl --texts 10 --rounds 3

Both read the same texts in the same batches with the same outputs; the bare side does nothing with them. Each has fresh
processes, in turns, because where weights lie in memory changes a decode by some percent. The ratio of medians is what
scoring costs beyond llama.cpp.
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

import llama_cpp
from bare import Slot, decode
from fresh import in_turns

from colm_cpp.corpus.documents import BadRow
from colm_cpp.corpus.texts import Text, TextMaker, grouped
from colm_cpp.learn import Scorer, select
from colm_cpp.learn.score_files import MAX_TEXTS, ProgressMark
from colm_cpp.learn.scorer import MAX_OUTPUTS
from colm_cpp.learn.scores import ScoresWriter

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


def _score(args: argparse.Namespace) -> dict[str, float]:
    """Seconds with everything included, and of them in llama_decode. Leaves the batches for the other arm."""
    scorer = Scorer(args.base, args.assistant, n_threads=args.threads)
    make = TextMaker(scorer, scorer.base, n_shared=scorer.n_shared, n_ctx=scorer.n_ctx)
    documents = select([args.corpus], limit=args.texts).documents()
    made = (text for document in documents if not isinstance(document, BadRow) for text in make(document))
    groups = [group for group, _ in grouped(made, n_tokens=scorer.n_ctx, n_texts=MAX_TEXTS)]
    n_batch = scorer.base["n_batch"]
    schedule = [list(batches(group, n_batch, MAX_OUTPUTS)) for group in groups]
    args.schedule.write_text(json.dumps({"n_ctx": scorer.n_ctx, "n_batch": n_batch, "groups": schedule}))
    facts = {"n_embd": scorer.base["n_embd"], "top_k": 10}
    found = {}
    for _ in range(2):  # what is read first pays for page faults
        with tempfile.TemporaryDirectory() as folder:
            inside = 0.0
            start = time.perf_counter()
            with ScoresWriter(Path(folder) / "scores", facts) as writer:
                done = ProgressMark()
                for group in groups:
                    columns, decode_s = scorer.score(group, top_k=10)
                    inside += decode_s
                    n = sum(text.n_scored for text in group)
                    done = ProgressMark(n_texts=done.n_texts + len(group), n_tokens=done.n_tokens + n)
                    writer.add(columns, [{"n_scored": text.n_scored} for text in group], done)
            found = {"seconds": time.perf_counter() - start, "in_llama_decode": inside}
    return found


def _bare(args: argparse.Namespace) -> float:
    """Seconds of the same batches, which the first process of the other arm left."""
    schedule = json.loads(args.schedule.read_text())
    options = {"n_ctx": schedule["n_ctx"], "n_batch": schedule["n_batch"], "n_threads": args.threads}
    models = [Bare(args.base, hidden=True, **options), Bare(args.assistant, hidden=False, **options)]
    return [sum(model.read(schedule["groups"]) for model in models) for _ in range(2)][1]


WORKERS = {"score": _score, "bare": _bare}


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("base")
    parser.add_argument("assistant")
    parser.add_argument("corpus")
    parser.add_argument("--texts", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3, help="processes of each arm")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    parser.add_argument("--schedule", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(WORKERS[args.worker](args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        schedule = Path(folder) / "schedule.json"
        given = [args.base, args.assistant, args.corpus, "--texts", str(args.texts)]
        given += ["--threads", str(args.threads), "--schedule", str(schedule)]
        rounds = in_turns(list(WORKERS), given, args.rounds)
        groups = json.loads(schedule.read_text())["groups"]
    score, plain = ([one["score"]["seconds"] for one in rounds], [one["bare"] for one in rounds])
    n_read = sum(len(batch) for group in groups for batch in group)
    print(
        json.dumps(
            {
                "texts": args.texts,
                "batches": sum(map(len, groups)),
                "tokens_read_by_each": n_read,
                "score_s": [round(t, 2) for t in score],
                "of_it_in_llama_decode_s": [round(one["score"]["in_llama_decode"], 2) for one in rounds],
                "bare_s": [round(t, 2) for t in plain],
                "tokens_per_s": round(n_read / statistics.median(score), 1),
                "ratio_of_medians": round(statistics.median(score) / statistics.median(plain), 3),
            }
        )
    )


if __name__ == "__main__":
    main()
