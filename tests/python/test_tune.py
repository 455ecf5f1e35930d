"""Tuning the base with the head: what it learns, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models as tm
import tuned_pairs
from tuned_pairs import EXACT, N_TEXTS, QUICK, held_out_logprobs, scored

from colm_cpp import learn, tune
from colm_cpp.errors import CorpusError, LoadError, OptionError
from colm_cpp.learn.parts import text_split
from colm_cpp.learn.score_files import COLUMNS
from colm_cpp.tune.data import read_texts

pair = tuned_pairs.pair
tuned = tuned_pairs.tuned


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


def test_the_held_out_loss_falls_and_the_best_measurement_is_kept(tuned: tune.Tuned) -> None:
    assert tuned.n_texts == (28, 4)
    assert tuned.best.joint_nll < 0.8 * tuned.before.joint_nll
    assert tuned.best.base_nll < 0.8 * tuned.before.base_nll
    assert tuned.best.assistant_nll == pytest.approx(tuned.before.assistant_nll)
    assert tuned.best.oracle_nll <= min(tuned.best.base_nll, tuned.best.assistant_nll)
    kept = min(tuned.history, key=lambda measured: measured.loss)
    assert replace(tuned.best, joint_nll=0, mean_defer_prob=0) == replace(kept, joint_nll=0, mean_defer_prob=0)
    assert tuned.best.joint_nll < kept.joint_nll  # here the head that is fitted afterwards is better


@pytest.mark.parametrize("arch", tune.ARCHITECTURES)  # llama.cpp stores q and k of the first permuted
def test_llama_cpp_with_the_adapter_computes_what_torch_does(
    arch: str, pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path
) -> None:
    if arch != "llama":
        pair = scored(tmp_path, arch)
        tuned = tune.tune(pair.base, [pair.scores], tmp_path / "tuned", replace(QUICK, epochs=1))
    theirs = held_out_logprobs(pair, tuned.adapter, tmp_path / "again")
    assert -float(theirs.mean()) == pytest.approx(tuned.best.base_nll, abs=1e-3)
    assert -float(theirs.mean()) < 0.9 * tuned.before.base_nll  # the adapter does something


def test_the_head_is_for_this_base_and_loads(pair: SimpleNamespace, tuned: tune.Tuned) -> None:
    import colm_cpp as colm

    assert tuned.head is not None
    head = colm.Head.load(tuned.head)
    with colm.load(pair.base, pair.assistant, head, base_options={"lora": [(str(tuned.adapter), 1.0)]}) as loaded:
        assert loaded.generate("The quick 3", max_tokens=4, temperature=0).stats.generated_tokens == 4


def test_the_tuned_base_scores_the_texts_that_it_has_not_seen(
    pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path
) -> None:
    held_out_logprobs(pair, tuned.adapter, tmp_path / "again")
    ours, all_of_them = learn.Scores(tuned.adapter.parent / "scores" / "1-scores"), learn.Scores(tmp_path / "again")
    plain = learn.Scores(pair.scores)
    training, _, (unseen,) = read_texts([plain], held_out=0.1, head_share=0.2, seed=0)
    assert len(training) + len(unseen.texts) == N_TEXTS
    assert ours.progress.n_texts == len(unseen.texts) == 12
    for places, n in ((unseen.split.training, 8), (unseen.split.held_out, 4)):
        assert len(places) == n
    assert set(unseen.texts[unseen.split.held_out]) == set(text_split(plain, 0.1, 0).held_out)
    assert ours.meta["base_adapters"] == all_of_them.meta["base_adapters"]
    rows = np.isin(all_of_them["text"], unseen.texts)
    theirs = {column: all_of_them[column][rows] for column in COLUMNS}
    for column in ("token", "base_top", "assistant_top", "assistant_logprob", "assistant_top_logprob"):
        assert np.array_equal(ours[column], theirs[column]), column
    for column in ("base_logprob", "base_top_k_logprobs", "base_entropy", "base_log_odds", "base_hidden"):
        assert np.abs(ours[column] - theirs[column]).max() < 0.02, column
    # The assistant's log-probability of the base's token is exact where it was known, and else the least possible.
    known = (ours["base_top"] == ours["token"]) | (ours["base_top"] == ours["assistant_top"])
    known |= ours["base_top"] == plain["base_top"][rows]
    of_top, exact = ours["assistant_logprob_of_base_top"], theirs["assistant_logprob_of_base_top"]
    assert 0 < known.sum() < len(known)
    assert of_top[known] == pytest.approx(exact[known], abs=1e-4)
    assert (of_top[~known] >= exact[~known] - 1e-4).all()


def test_training_goes_on_from_an_adapter(pair: SimpleNamespace, tmp_path: Path) -> None:
    first = tune.tune(pair.base, [pair.scores], tmp_path / "sft", replace(QUICK, objective="sft", epochs=1))
    options = replace(QUICK, epochs=1, rank=7, learning_rate=1e-3)
    then = tune.tune(pair.base, [pair.scores], tmp_path / "joint", options, adapter=first.adapter.parent)
    assert then.before.base_nll == pytest.approx(first.best.base_nll, abs=1e-3)  # the file is float16
    assert first.best.base_nll < 0.9 * first.before.base_nll
    assert json.loads((tmp_path / "joint" / "tuning.json").read_text())["options"]["rank"] == QUICK.rank
    with pytest.raises(CorpusError, match="adapter"):
        tune.tune(pair.base, [pair.scores], tmp_path / "joint", replace(options, rank=QUICK.rank))


def test_two_texts_leave_none_for_the_head(pair: SimpleNamespace, tmp_path: Path) -> None:
    with learn.Scorer(pair.base, pair.assistant, **EXACT) as scorer:
        learn.score(scorer, learn.select([pair.texts], limit=2), tmp_path / "two")
    tuned = tune.tune(pair.base, [tmp_path / "two"], tmp_path / "out", replace(QUICK, epochs=1))
    assert tuned.n_texts == (1, 1)
    assert tuned.head is not None


def test_the_adapter_learns_from_texts_that_nothing_has_scored(pair: SimpleNamespace, tmp_path: Path) -> None:
    options = replace(QUICK, objective="sft", epochs=1)
    lines = pair.texts.read_text().splitlines(keepends=True)
    # Two of the file's rows are new: the scored ones must not be read again, least of all those held out.
    new = [{"prompt": "Where?", "completion": f" Behind the {n} blue doors."} for n in ("six", "seven")]
    more = tmp_path / "more.jsonl"
    more.write_text("".join([*lines, *(json.dumps(row) + "\n" for row in new)]))
    plain = tune.tune(pair.base, [pair.scores], tmp_path / "plain", options)
    tuned = tune.tune(pair.base, [pair.scores], tmp_path / "tuned", options, texts=learn.select([more]))
    assert (plain.n_texts, tuned.n_texts) == ((28, 4), (30, 4))
    assert tuned.adapter.read_bytes() != plain.adapter.read_bytes()
    with pytest.raises(CorpusError, match="training with more texts"):
        tune.tune(pair.base, [pair.scores], tmp_path / "tuned", options)
    with pytest.raises(CorpusError, match="already"):
        tune.tune(pair.base, [pair.scores], tmp_path / "none", options, texts=learn.select([pair.texts]))
    with pytest.raises(OptionError, match="sft"):
        tune.tune(pair.base, [pair.scores], tmp_path / "none", QUICK, texts=learn.select([more]))


def test_an_adapter_of_another_base_is_no_start(pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path) -> None:
    other = scored(tmp_path)
    other.base = tm.make_model(tmp_path / "other.gguf", seed=5)
    with learn.Scorer(other.base, other.assistant, **EXACT) as scorer:
        learn.score(scorer, learn.select([other.texts]), tmp_path / "other")
    with pytest.raises(LoadError, match=r"adapter\.gguf"):
        tune.tune(other.base, [tmp_path / "other"], tmp_path / "out", QUICK, adapter=tuned.adapter)
    with pytest.raises(LoadError, match="head"):
        tune.tune(pair.base, [pair.scores], tmp_path / "out", QUICK, adapter=tuned.head)


def test_torch_and_llama_cpp_agree_before_training(tuned: tune.Tuned) -> None:
    assert tuned.agreement.logprob < tuned.agreement.limit == 0.01
    assert tuned.agreement.top == 1.0


def test_scores_with_an_adapter_are_refused(pair: SimpleNamespace, tuned: tune.Tuned, tmp_path: Path) -> None:
    held_out_logprobs(pair, tuned.adapter, tmp_path / "again")
    with pytest.raises(CorpusError, match="adapter"):
        tune.tune(pair.base, [tmp_path / "again"], tmp_path / "out", QUICK)


@pytest.mark.parametrize("objective", ["sft", "regret"])
def test_the_other_objectives_train_too(objective: str, pair: SimpleNamespace, tmp_path: Path) -> None:
    tuned = tune.tune(pair.base, [pair.scores], tmp_path, replace(QUICK, objective=objective, cost=0.1, epochs=1))
    assert tuned.best.base_nll < 0.9 * tuned.before.base_nll
    assert tuned.head is not None  # after sft one is fitted to the texts that the adapter has not seen
