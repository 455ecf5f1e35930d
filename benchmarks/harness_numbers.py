"""What lm-evaluation-harness measures through ``colm serve``, beside what the pair gives in this process.

    python3 -m venv /tmp/harness && /tmp/harness/bin/pip install "lm_eval[api]==0.4.13"
    python benchmarks/harness_numbers.py --python /tmp/harness/bin/python --pair demo --limit 20

The harness is unmodified and runs in its own environment, without network. It has three tasks (``benchmarks/harness``):
the likeliest of four answers, the likelihood of whole problems, and writing solutions. Every log-probability must be
the pair's own to 1e-3, and every text the same. Run it from the folder of the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from serving import served

import colm_cpp as colm
from colm_cpp.learn.likelihoods import likelihoods
from colm_cpp.learn.scoring import Scorer
from colm_cpp.sources.names import find_model
from colm_cpp.sources.preset import preset

ROOT = Path(__file__).parents[1]
WAYS: dict[str, dict[str, Any]] = {
    "": {},
    ":base": {"head": "never"},
    ":assistant": {"head": "always"},
    ":mixture": {"strategy": "compose", "threshold": 0.0},
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


class InProcess:
    """The pair's own numbers, for texts as the harness cuts them into tokens."""

    def __init__(self, place: str) -> None:
        known = preset(place)
        self.pair = colm.load(pair=known)
        files = [find_model(role, given) for role, given in (("base", known.base), ("assistant", known.assistant))]
        shared, of_base, of_assistant = known.load_options({}, {}, {})
        own: list[Any] = [{**options, "n_ctx": self.pair.n_ctx} for options in (of_base, of_assistant)]
        self.scorer = Scorer(*files, base_options=own[0], assistant_options=own[1], **shared)

    def _tokens(self, text: str) -> list[int]:
        return self.pair.tokenize(text, add_special=False)

    def _sum(self, ids: list[int], n_context: int, way: dict[str, Any]) -> float:
        head, chosen = self.pair.heads().with_options(colm.GenerationOptions(**way))
        strategy = way.get("strategy", "defer")
        read = likelihoods(self.scorer, [ids], head, threshold=chosen.values["threshold"], strategy=strategy)
        return sum(read[0].logprobs[n_context - 1 :])

    def continuation(self, context: str, text: str, way: dict[str, Any]) -> float:
        """Log-probability of a text behind a context; spaces at the end of the context belong to the text."""
        bare = context.rstrip()
        n_context = len(self._tokens(bare))
        return self._sum(self._tokens(bare + context[len(bare) :] + text), n_context, way)

    def whole(self, text: str, way: dict[str, Any]) -> float:
        """Log-probability of a text behind the token that begins texts."""
        first = self.pair.base["bos_token"] or self.pair.base["eos_token"]
        return self._sum([*self._tokens(first)[:1], *self._tokens(text)], 1, way)

    def writes(self, prompt: str, stop: list[str], most: int, way: dict[str, Any]) -> str:
        """The text that the pair writes."""
        stop = [*stop, self.pair.base["eos_token"]]
        return self.pair.generate(self._tokens(prompt), temperature=0, max_tokens=most, stop=stop, **way).text


def compared(samples: dict[str, Any], own: InProcess, way: dict[str, Any]) -> dict[str, Any]:
    """The largest difference of a log-probability, and texts that differ."""
    largest, n_sums, n_texts, other_texts = 0.0, 0, 0, []
    for sample in samples["colm_choice"]:
        for number, response in enumerate(sample["resps"]):
            given = sample["arguments"][number]
            largest = max(largest, abs(float(response[0][0]) - own.continuation(given[0], given[1], way)))
            n_sums += 1
    for sample in samples["colm_whole"]:
        found = sample["resps"][0][0]
        value = found[0] if isinstance(found, list) else found
        largest = max(largest, abs(float(value) - own.whole(sample["arguments"][0][0], way)))
        n_sums += 1
    for sample in samples["colm_writing"]:
        prompt, how = sample["arguments"][0]
        text = own.writes(prompt, how["until"], how["max_gen_toks"], way)
        n_texts += 1
        if text.strip() != sample["resps"][0][0].strip():
            other_texts.append([sample["resps"][0][0], text])
    return {"sums": n_sums, "largest_difference": largest, "texts": n_texts, "other_texts": other_texts}


def figures(results: dict[str, Any]) -> dict[str, float]:
    """The harness' own figures."""
    return {
        f"{task} {name.partition(',')[0]}": value
        for task, found in results.items()
        for name, value in found.items()
        if isinstance(value, float) and "stderr" not in name
    }


def run(place: str, name: str, python: str, limit: int, suffixes: list[str]) -> dict[str, Any]:
    """Each way of writing: what the harness found, and how far that is from the pair's own."""
    models = [name + suffix for suffix in suffixes]
    with served("--pair", place, "--name", name, "--parallel", "1") as (_, address):
        command = [python, str(ROOT / "benchmarks" / "harness" / "evaluate.py"), address, str(limit), *models]
        ran = subprocess.run(command, cwd=ROOT, env={**os.environ, **OFFLINE}, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    evaluated = json.loads(ran.stdout.splitlines()[-1])
    own = InProcess(place)
    return {
        model: {**figures(evaluated[model]["results"]), **compared(evaluated[model]["samples"], own, WAYS[suffix])}
        for model, suffix in zip(models, suffixes, strict=True)
    }


def main() -> None:
    """Prints one JSON object; fails if a number or a text is another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="Python of the environment with the harness.")
    parser.add_argument("--pair", default="demo")
    parser.add_argument("--name", default="demo")
    parser.add_argument("--limit", type=int, default=20, help="Rows of each task, at most 20.")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), help="Of '', :base, :assistant and :mixture.")
    given = parser.parse_args()
    found = run(given.pair, given.name, given.python, given.limit, given.ways)
    print(json.dumps(found, indent=2))
    sys.exit(any(one["largest_difference"] > 1e-3 or one["other_texts"] for one in found.values()))


if __name__ == "__main__":
    main()
