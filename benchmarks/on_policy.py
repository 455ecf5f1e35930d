"""Whether texts that the pair wrote teach a head more than those it was fitted to.

    python benchmarks/on_policy.py scores/gsm8k-pair --others scores/gsm8k-own --head heads/regret-gsm8k.gguf

`scores/gsm8k-pair` holds texts that the pair wrote with HEAD (`colm score --respond --head`). Prints what share of the
regret of staying is saved on held-out texts of them, deferring the tokens with the largest z: by HEAD itself, by plain
confidence, and by heads fitted to the other texts, to the pair's, and to both. Means over splits.
"""

from __future__ import annotations

import argparse

import numpy as np
import numpy.typing as npt

from colm_cpp import Head
from colm_cpp.learn import Scores, TrainingOptions, train
from colm_cpp.learn.inputs import feature_columns
from colm_cpp.learn.parts import MAX_REGRET, text_split

RATES = (0.05, 0.1, 0.15, 0.2, 0.3)


def saved(z: npt.NDArray[np.float64], regret: npt.NDArray[np.float64]) -> list[float]:
    """At each of RATES."""
    found = np.cumsum(regret[np.argsort(-z)]) / regret.sum()
    return [float(found[int(rate * len(z)) - 1]) for rate in RATES]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", help="scores of texts that the pair wrote")
    parser.add_argument("--others", nargs="+", required=True, help="scores of other texts")
    parser.add_argument("--head", required=True, help="that wrote the texts")
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    own, others = Scores(args.pair), [Scores(path) for path in args.others]
    head = Head.load(args.head)
    lost = np.asarray(own["assistant_top_logprob"]) - np.asarray(own["assistant_logprob_of_base_top"])
    regret = np.clip(lost.astype(np.float64), 0.0, MAX_REGRET)

    def z_of(head: Head, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        hidden = np.asarray(own["base_hidden"][rows], dtype=np.float32)
        return head.defer_logits(
            np.concatenate([hidden, feature_columns(own, head.features, head.top_k)[rows]], axis=1)
        )

    fits = {
        "fitted to the others": others,
        "to the pair's texts": [own],
        "to both": [*others, own],
        "to both, mlp of 16": [*others, own],
    }
    rows: dict[str, list[list[float]]] = {}
    for seed in range(args.seeds):
        texts = text_split(own, TrainingOptions().held_out, seed).held_out  # as train() does
        at = np.flatnonzero(np.isin(own["text"], texts))
        rows.setdefault("the head that wrote them", []).append(saved(z_of(head, at), regret[at]))
        rows.setdefault("plain confidence", []).append(saved(-np.asarray(own["base_log_odds"])[at], regret[at]))
        for name, folders in fits.items():
            kind = "mlp" if "mlp" in name else "linear"
            options = TrainingOptions(objective="regret", seed=seed, kind=kind, n_units=16)
            rows.setdefault(name, []).append(saved(z_of(train(folders, options).head, at), regret[at]))
    print(f"{own.progress.n_texts} texts of the pair, {len(own)} tokens, regret {regret.mean():.3f} nats per token")
    print("| regret saved deferring | " + " | ".join(f"{rate:.0%}" for rate in RATES) + " |")
    print("|---|" + "---|" * len(RATES))
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in np.mean(values, axis=0)) + " |")


if __name__ == "__main__":
    main()
