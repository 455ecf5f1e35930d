"""Which label finds the tokens that matter: heads compared at equal rates on held-out texts, and what changes answers.

    python benchmarks/teacher.py scores/csqa-own --seeds 16
    python benchmarks/teacher.py scores/csqa-own --seeds 16 --checker choice --base BASE.gguf

SCORES have the paths of `colm paths`. Means over splits into training and held-out texts. With --checker, of the
positions at which both paths reach the end of the text, the script says at how many the two texts give another answer,
how well labels and costs foretell that, and how many of these positions each head finds. That needs answers made by
`colm score --respond` in SCORES; BASE gives the tokenizer.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from colm_cpp import Head, load
from colm_cpp.evaluate.statistics import roc_auc
from colm_cpp.learn import Scores, TrainingOptions, make_checker, train
from colm_cpp.learn.forks import Continuations, Fork
from colm_cpp.learn.inputs import feature_columns
from colm_cpp.learn.parting import RATES, caught
from colm_cpp.learn.parts import text_split
from colm_cpp.learn.scored import scored_texts

HELD_OUT = 0.3
HEADS: list[tuple[str, dict[str, Any]]] = [
    ("weak, label differ", {"objective": "weak", "label": "differ"}),
    ("weak, label continuation", {"objective": "weak", "label": "continuation"}),
    ("regret of the token", {"objective": "regret", "label": "differ"}),
    ("regret of the path", {"objective": "regret", "label": "continuation"}),
]


def logits(head: Head, scores: Scores, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """z of some tokens."""
    hidden = np.asarray(scores["base_hidden"][rows], dtype=np.float32)
    return head.defer_logits(np.concatenate([hidden, feature_columns(scores, head.features, head.top_k)[rows]], axis=1))


def changes(scores: Scores, forks: list[Fork], checker_name: str, base: str) -> dict[int, bool]:
    """Row -> whether the two paths end in different answers, where both reach the end of the text."""
    checker = make_checker(checker_name)
    lines = (scores.path / "responses.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    prompts = {row["line"]: row["prompt"] for row in map(json.loads, lines) if "prompt" in row}
    described = [json.loads(line) for line in (scores.path / "texts.jsonl").open(encoding="utf-8")]
    place = {t.rows.start + i: (t, int(p)) for t in scored_texts(scores) for i, p in enumerate(t.positions)}
    found = {}
    with load(base, base, "always", n_ctx=64) as pair:
        ends = set(pair.base["eog_tokens"])
        for fork in forks:
            paths = fork.assistant, fork.base
            if not all(path.ids[-1] in ends for path in paths):
                continue
            text, position = place[fork.row]
            before = text.tokens[text.positions[0] : position].tolist()
            prompt = prompts[described[text.number]["line"]]
            own, other = (checker.check(pair.detokenize([*before, *path.ids]), "A", prompt).extracted for path in paths)
            found[fork.row] = own != other
    return found


def cells(values: Any) -> str:
    """Numbers of a line of a table."""
    return " | ".join("" if value is None else f"{value:.3f}" for value in values)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--checker")
    parser.add_argument("--base")
    args = parser.parse_args()
    scores = Scores(args.scores)
    known = Continuations(scores)
    differ = scores["base_top"] != scores["assistant_top"]
    print(
        f"{scores.progress.n_texts} texts, {len(scores)} tokens: {1 - differ.mean():.1%} identical, "
        f"{(differ & ~known.divergent).mean():.1%} neutral, {known.divergent.mean():.1%} divergent; a path costs "
        f"{known.cost[differ].mean():.2f} nats\n"
    )
    worth = None
    if args.checker:
        changed = changes(scores, known.forks, args.checker, args.base)
        rows, truth = np.array(list(changed)), np.array(list(changed.values()))
        worth = np.zeros(len(scores))
        worth[rows] = truth
        token = np.asarray(scores["assistant_top_logprob"] - scores["assistant_logprob_of_base_top"])[rows]
        print(f"Both paths end at {len(rows)} positions; the answers differ at {truth.sum()} of them.\n")
        print("| | AUC | share of these positions | of those with another answer | precision |")
        print("|---|---|---|---|---|")
        divergent = known.divergent[rows]
        for name, values, label in (
            ("likeliest tokens differ", None, np.ones(len(rows), bool)),
            ("cost of the token, above 1 nat", token, token > 1.0),
            ("cost of the path, divergent", known.cost[rows], divergent),
        ):
            area = None if values is None else roc_auc(values, truth)
            shares = [label.mean(), label[truth].mean(), truth[label].mean()]
            print(f"| {name} | {cells([area, *shares])} |")
        print()
    titles = ["AUC", *(f"found at {rate:.0%}" for rate in RATES), *(f"cost saved at {rate:.0%}" for rate in RATES)]
    if worth is not None:
        titles += [f"changed answers found at {rate:.0%}" for rate in RATES]
    print("| divergent tokens | " + " | ".join(titles) + " |")
    print("|---|" + "---|" * len(titles))
    plain: list[list[float]] = []
    for i, (name, options) in enumerate(HEADS):
        lines = []
        for seed in range(args.seeds):
            trained = train([scores], TrainingOptions(seed=seed, held_out=HELD_OUT, **options))
            m = trained.held_out.parting
            assert m is not None
            held_out = np.flatnonzero(np.isin(scores["text"], text_split(scores, HELD_OUT, seed).held_out))
            doubt = -np.asarray(scores["base_log_odds"], np.float64)[held_out]
            line = [m.auc, *m.found.values(), *m.saved.values()]
            other = [m.confidence_auc, *m.confidence_found.values(), *m.confidence_saved.values()]
            if worth is not None:
                line += caught(logits(trained.head, scores, held_out), worth[held_out]).values()
                other += caught(doubt, worth[held_out]).values()
            lines.append(np.array(line, float))
            if i == 0:
                plain.append(other)  # type: ignore[arg-type]
        print(f"| {name} | {cells(np.nanmean(lines, axis=0))} |", flush=True)
    print(f"| plain confidence | {cells(np.nanmean(np.array(plain, float), axis=0))} |")


if __name__ == "__main__":
    main()
