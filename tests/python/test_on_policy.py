"""Learning from the texts that a tuned pair writes: the loop of docs/training.md, with an adapter on the base."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import numpy as np
import pytest
import tiny_models as tm
from adapter_files import write_adapter

import colm_cpp as colm
from colm_cpp import learn
from colm_cpp.learn.forks import Continuations

pytestmark = pytest.mark.slow  # each command by itself has tests of its own
MAX_TOKENS = 16
N_TEXTS = 24
RATE = 0.4
LOAD: dict[str, Any] = {"n_ctx": 96, "n_threads": 1}


def run(*arguments: str | float | Path) -> str:
    """The standard output of a command that must succeed."""
    return commands.succeed(*arguments).stdout


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The commands, in their order: score, fit, calibrate, let the pair write, paths, fit again."""
    folder = tmp_path_factory.mktemp("on-policy")
    base = tm.make_model(folder / "base.gguf", seed=1)
    assistant = tm.make_model(folder / "assistant.gguf", seed=1, row_scale=dict.fromkeys(range(0, 300, 5), 1.4))
    adapter = write_adapter(folder / "adapter.gguf")
    texts = folder / "texts.jsonl"
    rows = [{"prompt": f"The quick {i}", "completion": " brown fox jumps over"[: 6 + i % 15]} for i in range(N_TEXTS)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pair = ["--base", base, "--assistant", assistant, "--base-option", f"lora={adapter}", "--n-ctx", "96", "-q"]
    first, calibrated, second = (folder / f"{name}.gguf" for name in ("first", "calibrated", "second"))
    train = ["--objective", "regret", "-q", "--held-out", "0.25"]
    run("score", texts, *pair, "--out", folder / "gold")
    run("train", folder / "gold", *train, "--label", "differ", "--out", first)
    some = ["--max-tokens", MAX_TOKENS, "--parallel", "4"]
    run("calibrate", first, texts, *pair, *some, "--limit", "8", "--default-rate", RATE, "--out", calibrated)
    respond = ["--respond", "--head", calibrated, "--defer-rate", RATE, *some]
    run("score", texts, *pair, *respond, "--out", folder / "own")
    for scores in ("gold", "own"):
        run("paths", folder / scores, *pair, "--tokens", "8")
    report = run("train", folder / "gold", folder / "own", *train, "--label", "continuation", "--out", second, "--json")
    options: dict[str, Any] = {"base_options": {"lora": adapter}, **LOAD}
    with colm.load(base, assistant, calibrated, **options) as loaded:
        yield SimpleNamespace(
            folder=folder,
            base=base,
            assistant=assistant,
            adapter=adapter,
            texts=texts,
            pair=loaded,
            pair_arguments=pair,
            respond=respond,
            second=second,
            report=json.loads(report),
        )


def answers(loop: SimpleNamespace) -> list[dict[str, Any]]:
    lines = (loop.folder / "own" / "responses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[1:]]


def test_the_texts_are_those_of_the_tuned_pair(loop: SimpleNamespace) -> None:
    own = answers(loop)
    assert len(own) == N_TEXTS
    written = loop.pair.generate_batch(
        [loop.pair.tokenize(row["prompt"]) for row in own],
        n_parallel=4,
        max_tokens=MAX_TOKENS,
        temperature=0.0,
        defer_rate=RATE,
    )
    for row, text in zip(own, written, strict=True):
        tokens = [*text.tokens, *([text.end_token] if text.end_token else [])]
        assert row["ids"] == [token.id for token in tokens]
        assert row["experts"] == "".join(str(token.expert) for token in tokens)
    assert set("".join(row["experts"] for row in own)) == {"0", "1"}
    # What was scored is what was written, and nothing else.
    scored = learn.Scores(loop.folder / "own")
    assert scored["token"].tolist() == [id_ for row in own for id_ in row["ids"]]


def test_the_base_of_the_scores_carries_the_adapter(loop: SimpleNamespace) -> None:
    gold, own = learn.Scores(loop.folder / "gold"), learn.Scores(loop.folder / "own")
    assert gold.meta["base_lora"] == own.meta["base_lora"] == [["adapter.gguf", 1.0]]
    corpus = learn.select([loop.texts])
    with learn.Scorer(loop.base, loop.assistant, base_options={"lora": loop.adapter}, **LOAD) as scorer:
        learn.score(scorer, corpus, loop.folder / "with")
    with learn.Scorer(loop.base, loop.assistant, **LOAD) as scorer:
        learn.score(scorer, corpus, loop.folder / "without")
    tuned, plain = learn.Scores(loop.folder / "with"), learn.Scores(loop.folder / "without")
    assert np.allclose(gold["base_logprob"], tuned["base_logprob"], atol=1e-3)
    assert not np.allclose(gold["base_logprob"], plain["base_logprob"], atol=0.1)
    assert np.allclose(gold["assistant_logprob"], plain["assistant_logprob"], atol=1e-3)


def test_the_labels_are_what_the_assistant_says_of_the_pairs_own_text(loop: SimpleNamespace) -> None:
    """Where the assistant wrote, the text is its likeliest token; where the base wrote, its own."""
    own = learn.Scores(loop.folder / "own")
    experts = np.array(list("".join(row["experts"] for row in answers(loop))))
    by_assistant = experts == "1"
    assert (own["token"] == np.where(by_assistant, own["assistant_top"], own["base_top"])).mean() > 0.99
    differ = own["base_top"] != own["assistant_top"]
    assert (differ & ~by_assistant).any()  # there the base's token stands in the text, and costs something
    cost = Continuations(own).cost
    assert cost[differ & ~by_assistant].max() > 0
    assert not cost[~differ].any()


def test_the_head_is_fitted_again_to_the_pairs_own_texts(loop: SimpleNamespace) -> None:
    of_own = loop.report["by_folder"]["own"]
    assert of_own["n_texts"] == round(0.25 * N_TEXTS)
    assert 0 < of_own["auc_differ"] <= 1
    assert of_own["parting"]["cost"] > 0
    assert loop.report["training"]["parting"]["auc"] > loop.report["training"]["parting"]["confidence_auc"]
    assert not any("takes the tokens" in note for note in loop.report["notes"])
    head = colm.Head.load(loop.second)
    assert head.vocab_fingerprint == loop.pair.base["vocab_fingerprint"]
    text = loop.pair.generate("The quick", head=head, max_tokens=8, temperature=0.0)
    assert text.stats.generated_tokens


@pytest.mark.parametrize("options", [{"objective": "marginal"}, {"objective": "weak", "label": "b"}])
def test_labels_that_take_the_text_as_right_are_doubted(options: dict[str, str], loop: SimpleNamespace) -> None:
    trained = learn.train([learn.Scores(loop.folder / "own")], learn.TrainingOptions(**options))
    assert any("pair itself wrote those of own" in note for note in trained.notes)


def test_answers_of_the_pair_with_another_adapter_are_not_continued(loop: SimpleNamespace) -> None:
    other = ["--base-option", f"lora={write_adapter(loop.folder / 'other.gguf', seed=5)}"]
    arguments = [a for a in loop.pair_arguments if a not in ("--base-option", f"lora={loop.adapter}")]
    respond = ["--respond", "--head", "confidence", "--max-tokens", MAX_TOKENS]  # this head fits every adapter
    out = ["--out", loop.folder / "confident"]
    run("score", loop.texts, *loop.pair_arguments, *respond, *out, "--limit", "2")
    command = ["score", loop.texts, *arguments, *other, *respond, *out]
    done = commands.run(*command)
    assert done.exit_code == 1
    assert "holds answers with base_adapters" in done.output
