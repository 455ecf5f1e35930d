"""What a head should be fitted to: objectives, labels and inputs compared on the same held-out texts.

    python benchmarks/objectives.py scores/gsm8k scores/csqa --seeds 4

Prints a Markdown table; each row is a mean over splits into training and held-out texts.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from colm_cpp.learn import Metrics, Scores, TrainingOptions, train

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("marginal, cost 0", {"objective": "marginal", "cost": 0.0}),
    ("marginal, cost 0.02", {"objective": "marginal", "cost": 0.02}),
    ("marginal, cost 0.1", {"objective": "marginal", "cost": 0.1}),
    ("marginal, cost 0.2", {"objective": "marginal", "cost": 0.2}),
    ("weak, label a", {"objective": "weak", "label": "a"}),
    ("weak, label b", {"objective": "weak", "label": "b"}),
    ("weak, label differ", {"objective": "weak", "label": "differ"}),
    ("regret, cost 0.1", {"objective": "regret"}),
    ("regret, hidden state alone", {"objective": "regret", "features": "none"}),
    ("regret, features alone", {"objective": "regret", "use_hidden": False}),
    ("regret, mlp of 16", {"objective": "regret", "kind": "mlp", "n_units": 16}),
]


def row(name: str, values: list[float]) -> str:
    """A line of the table."""
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def measured(m: Metrics) -> list[float]:
    """The columns."""
    areas = [np.nan if area is None else area for area in (m.auc_a, m.auc_differ)]
    return [m.joint_nll, m.mean_defer_prob, *areas, *(m.saved[rate] for rate in ("0.05", "0.1", "0.2"))]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scores", nargs="+")
    parser.add_argument("--seeds", type=int, default=4)
    args = parser.parse_args()
    folders = [Scores(path) for path in args.scores]
    print("| | joint NLL | mean sigma | AUC a | AUC differ | regret saved at 5% | 10% | 20% |")
    print("|---|---|---|---|---|---|---|---|")
    confidence: list[list[float]] = []
    for i, (name, options) in enumerate(VARIANTS):
        rows = []
        for seed in range(args.seeds):
            m = train(folders, TrainingOptions(seed=seed, **options)).held_out
            rows.append(measured(m))
            if i == 0:
                areas = [np.nan if area is None else area for area in (m.confidence_auc_a, m.confidence_auc_differ)]
                confidence.append([*areas, *(m.confidence_saved[rate] for rate in ("0.05", "0.1", "0.2"))])
        print(row(name, np.mean(rows, axis=0).tolist()), flush=True)
    means = " | ".join(f"{value:.3f}" for value in np.mean(confidence, axis=0))
    print(f"| plain confidence | | | {means} |")


if __name__ == "__main__":
    main()
