"""Three models, from texts to tokens: scores, a head learned from them, its table, and who then writes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expert_files
import numpy as np
import pytest
from conftest import TINY_LOAD, TinyModels
from scored_folders import Stop, assert_same, progress_of, stop_after

import colm_cpp as colm
from colm_cpp import learn
from colm_cpp.corpus.selection import select
from colm_cpp.learn import Scorer, Scores
from colm_cpp.learn.score_files import COLUMNS_OF_SEVERAL

files = expert_files.files
LOAD: dict[str, Any] = {**TINY_LOAD, "n_ctx": 128}
# Each subject begins in its own way, and one model knows how it goes on.
PROMPTS = {"base": "The weather", "math": "def function", "code": "Question:"}
ENDINGS = ("is", "there", "in the", "and", "for", "value", "city", "ten", "see", "apples", "river", "medicine")


@pytest.fixture(scope="module")
def corpus(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of three subjects. Each is written by the model that knows the subject; the file does not say by whom."""
    rows = []
    with colm.load(files["base"], experts={n: files[n] for n in ("math", "code")}, head="never", **LOAD) as pair:
        heads = {"base": "never", "math": "always:math", "code": "always:code"}
        for number in range(8):
            for who, subject in PROMPTS.items():
                for ending in ENDINGS:
                    prompt = f"{subject} {ending} {number}"
                    out = pair.generate(prompt, head=heads[who], max_tokens=10, temperature=0.7, seed=number)
                    if out.tokens:
                        rows.append({"prompt": prompt, "completion": out.text})
    path = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def scorer(files: dict[str, Path]) -> Iterator[Scorer]:
    with Scorer(files["base"], experts={n: files[n] for n in ("math", "code")}, **LOAD) as scorer:
        yield scorer


@pytest.fixture(scope="module")
def folder(scorer: Scorer, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scores") / "scores"
    learn.score(scorer, select([corpus]), path)
    return path


def test_columns_are_those_of_each_pair(folder: Path, files: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    scores = Scores(folder)
    assert scores.experts == ("math", "code")
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".npy") == sorted(
        f"{name}.npy" for name in COLUMNS_OF_SEVERAL
    )
    for k, name in enumerate(scores.experts):
        with Scorer(files["base"], files[name], **LOAD) as pair:
            learn.score(pair, select([corpus]), tmp_path / name)
        alone = Scores(tmp_path / name)
        for column in ("token", "base_logprob", "base_top", "base_hidden", "base_top_k_logprobs"):
            np.testing.assert_array_equal(scores[column], alone[column])
        for what in ("logprob", "top", "top_logprob", "entropy", "logprob_of_base_top"):
            np.testing.assert_array_equal(scores.of_experts(what)[:, k], alone[f"assistant_{what}"])
            np.testing.assert_array_equal(alone.of_experts(what)[:, 0], alone[f"assistant_{what}"])
    meta = scores.meta
    assert meta["version"] == 2
    assert meta["expert_models"]["code"]["model"]["file"] == files["code"].name
    assert "assistant" not in meta


def test_an_interrupted_scoring_goes_on(scorer: Scorer, corpus: Path, folder: Path, tmp_path: Path) -> None:
    begun = tmp_path / "scores"
    with pytest.raises(Stop):
        learn.score(scorer, select([corpus]), begun, on_progress=stop_after(3))
    assert 0 < progress_of(begun).n_texts < progress_of(folder).n_texts
    learn.score(scorer, select([corpus]), begun)
    assert_same(begun, folder)


def test_one_expert_is_an_assistant_by_another_name(files: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    for name, models in (("a", {"assistant": files["math"]}), ("m", {"experts": {"math": files["math"]}})):
        with Scorer(files["base"], **models, **LOAD) as one:
            learn.score(one, select([corpus], limit=5), tmp_path / name)
    facts = {n: json.loads((tmp_path / n / "meta.json").read_text()) for n in "am"}
    assert facts["m"].pop("experts") == ["math"]
    assert facts["a"] == facts["m"]
    for path in (tmp_path / "a").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "m" / path.name).read_bytes()


def test_an_expert_on_the_bases_file(files: dict[str, Path], corpus: Path, tmp_path: Path) -> None:
    from adapter_files import write_adapter

    law = {"model": files["base"], "lora": str(write_adapter(tmp_path / "law.gguf"))}
    with Scorer(files["base"], experts={"math": files["math"], "law": law}, **LOAD) as scorer:
        learn.score(scorer, select([corpus], limit=5), tmp_path / "s")
    scores = Scores(tmp_path / "s")
    told = scores.meta["expert_models"]["law"]
    assert told["model"] == scores.meta["base_model"]
    assert told["adapter_bytes"] == (tmp_path / "law.gguf").stat().st_size
    assert not np.array_equal(scores.of_experts("logprob")[:, 1], scores["base_logprob"])


def test_what_cannot_be_scored(files: dict[str, Path], tiny_model: TinyModels, corpus: Path, folder: Path) -> None:
    with pytest.raises(colm.OptionError, match="either assistant= or experts="):
        Scorer(files["base"], **LOAD)
    other = tiny_model(seed=4, kind="spm")
    with pytest.raises(colm.VocabMismatch, match="code"):
        Scorer(files["base"], experts={"math": files["math"], "code": other}, **LOAD)
    with (
        Scorer(files["base"], experts={n: files[n] for n in ("code", "math")}, **LOAD) as turned,
        pytest.raises(colm.errors.CorpusError, match="experts"),
    ):
        learn.score(turned, select([corpus]), folder)


def test_nobody_says_who_and_the_head_learns_it(folder: Path, files: dict[str, Path], corpus: Path) -> None:
    trained = learn.train([Scores(folder)], learn.TrainingOptions(cost=0.02, l2=0.03))
    report = trained.experts
    assert report is not None
    assert trained.held_out.joint_nll < min(model.nll for model in report.models.values())
    # Who wrote a text is known by how it begins, which the fit was not told.
    counts = {who: dict.fromkeys(PROMPTS, 0) for who in PROMPTS}
    with colm.load(files["base"], experts={n: files[n] for n in ("math", "code")}, head=trained.head, **LOAD) as pair:
        for who, subject in PROMPTS.items():
            for number, ending in enumerate(ENDINGS):
                out = pair.generate(f"{subject} {ending} {100 + number}", max_tokens=8, temperature=0.7, seed=number)
                for token in out.tokens:
                    counts[who][token.source] += 1
    deferred = sum(counts[who][name] for who in PROMPTS for name in ("math", "code"))
    right = counts["math"]["math"] + counts["code"]["code"]
    assert right / deferred > 0.9, counts
    assert right > 100, counts
