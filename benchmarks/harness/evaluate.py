"""Runs lm-evaluation-harness against a server, in the environment where the harness is installed.

    python benchmarks/harness/evaluate.py ADDRESS LIMIT MODEL...

One process evaluates all models, because the harness takes long to start. Prints one JSON object: for each model, the
harness' figures and every sample.
"""

import json
import sys
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager

TASKS = ["colm_choice", "colm_whole", "colm_writing"]


def main() -> None:
    """Evaluates each model on each task."""
    address, limit, *models = sys.argv[1:]
    manager = TaskManager(include_path=str(Path(__file__).parent), include_defaults=False)
    found = {}
    for model in models:
        result = lm_eval.simple_evaluate(
            model="local-completions",
            model_args=f"model={model},base_url={address}/v1/completions,tokenizer_backend=remote",
            tasks=TASKS,
            limit=int(limit),
            task_manager=manager,
            log_samples=True,
            bootstrap_iters=0,
        )
        samples = {
            task: [{"arguments": sample["arguments"], "resps": sample["resps"]} for sample in result["samples"][task]]
            for task in TASKS
        }
        found[model] = {"results": result["results"], "samples": samples}
    print(json.dumps(found, default=str))


if __name__ == "__main__":
    main()
