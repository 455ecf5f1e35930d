"""Who knows the answer where a text names it? Of scored texts, the token that begins the answer.

    python benchmarks/answer_tokens.py SCORES ROWS.jsonl BASE.gguf

Each row of ROWS has an "answer" beside the prompt and the completion that were scored. The token is the first of the
completion that begins the answer; texts that do not name it are left out. A model is right there if this token is its
likeliest one.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import llama_cpp
import numpy as np

from colm_cpp.learn import Scores
from colm_cpp.learn.scored import scored_texts


def answer_rows(scores: Scores, rows: list[dict[str, str]], model: llama_cpp.Llama) -> list[int]:
    """The row of the scores that stands for each answer's first token."""
    lines = [json.loads(line)["line"] for line in (scores.path / "texts.jsonl").open(encoding="utf-8")]
    found = []
    for text in scored_texts(scores):
        answer = rows[lines[text.number] - 1]["answer"].strip().lower()
        pieces = [model.detokenize([int(token)]).decode(errors="replace") for token in text.tokens[text.positions]]
        begins = np.cumsum([0, *map(len, pieces)])
        at = "".join(pieces).lower().find(answer)
        if at >= 0:
            found.append(text.rows.start + int(np.searchsorted(begins, at, side="right")) - 1)
    return found


@click.command()
@click.argument("scores", type=Path)
@click.argument("rows", type=Path)
@click.argument("base", type=Path)
def main(scores: Path, rows: Path, base: Path) -> None:
    """Print how often base and assistant are right at the token that begins the answer."""
    folder = Scores(scores)
    model = llama_cpp.Llama(str(base), vocab_only=True, verbose=False)
    at = answer_rows(folder, [json.loads(line) for line in rows.open(encoding="utf-8")], model)
    token = folder["token"][at]
    right = {name: folder[f"{name}_top"][at] == token for name in ("base", "assistant")}
    logprob = {name: folder[f"{name}_logprob"][at] for name in right}
    print(f"{len(at)} of {folder.progress.n_texts} texts name their answer")
    for name in right:
        print(f"{name:10s} right at {right[name].mean():5.1%}, {-logprob[name].mean():.2f} nats")
    either, better = right["base"] | right["assistant"], np.maximum(logprob["base"], logprob["assistant"])
    print(f"{'either':10s} right at {either.mean():5.1%}, {-better.mean():.2f} nats")
    # Deferring where the base is least sure is the most that its confidence can do at these tokens.
    doubt = folder["base_top_logprob"][at]
    for share in (0.1, 0.2, 0.3, 0.5):
        deferred = doubt <= np.quantile(doubt, share)
        routed = np.where(deferred, right["assistant"], right["base"])
        print(f"{share:.0%} least sure deferred: right at {routed.mean():.1%}")


if __name__ == "__main__":
    main()
