"""What a fit finds, and which texts it holds out."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_scores
import numpy as np
import pytest
from made_scores import F64, PLAIN, planted, splits, write_scores

from colm_cpp.learn import Scores, TrainingOptions, fitting, train, training
from colm_cpp.learn.metrics import doubts

scores = made_scores.scores


# --- what a fit finds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_planted_direction_is_found(kind: str, tmp_path: Path) -> None:
    made = planted(5000, strength=20.0)
    folder = write_scores(tmp_path / "s", 3 * made.hidden + 2, made.columns)
    trained = train([folder], dataclasses.replace(PLAIN, kind=kind, cost=0.0, n_units=4))
    held_out = trained.held_out
    assert held_out.joint_nll < 0.7 * min(held_out.base_nll, held_out.assistant_nll)
    assert held_out.oracle_nll <= held_out.joint_nll
    assert held_out.auc_a is not None
    assert held_out.auc_a > 0.97
    assert trained.notes == ()
    if kind == "linear":
        theta = trained.head.weights[0][0].astype(np.float64)
        assert theta @ made.direction / np.linalg.norm(theta) > 0.99


@pytest.mark.parametrize("objective", ["marginal", "weak", "regret"])
def test_every_objective_finds_it(objective: str, scores: Scores) -> None:
    trained = train([scores], dataclasses.replace(PLAIN, objective=objective))
    assert trained.held_out.auc_differ is None  # these models always differ
    assert trained.held_out.auc_a is not None
    assert trained.held_out.auc_a > 0.9
    assert trained.weak_fit is not None
    assert (trained.main_fit is None) == (objective == "weak")


def test_noise_is_not_better_than_confidence_and_the_notes_say_so(tmp_path: Path) -> None:
    made = planted(strength=0.0)
    token = made.columns["token"]
    # Likeliest tokens that differ only where the base is wrong, so that its doubt tells something.
    columns = {**made.columns, "assistant_top": token}
    folder = write_scores(tmp_path / "s", made.hidden, columns)
    trained = train([folder], PLAIN)
    held_out = trained.held_out
    assert held_out.auc_differ is not None
    assert held_out.confidence_auc_differ is not None
    assert held_out.auc_differ == pytest.approx(0.5, abs=0.1)
    assert held_out.confidence_auc_differ > 0.75
    assert held_out.auc_a is not None
    assert held_out.confidence_auc_a is not None
    [note] = [note for note in trained.notes if "AUC" in note]
    assert (
        f"label a no better (AUC {held_out.auc_a:.3f}) than plain confidence ({held_out.confidence_auc_a:.3f})" in note
    )
    # The objectives that take the assistant's likelihood as the truth are judged by the tokens that differ.
    for other in ("weak", "regret"):
        [note] = doubts(other, held_out)
        assert f"differing tokens no better (AUC {held_out.auc_differ:.3f})" in note
        assert f"plain confidence ({held_out.confidence_auc_differ:.3f})" in note
    # With label a found well, the tokens that differ say nothing against a marginal head; the joint NLL does.
    good = dataclasses.replace(held_out, auc_a=0.95, base_nll=2.0, assistant_nll=1.5, joint_nll=1.2)
    assert doubts("marginal", good) == []
    [note] = doubts("marginal", dataclasses.replace(good, joint_nll=1.6))
    assert "NLL 1.600" in note
    assert "assistant alone (1.500)" in note
    # Given the base's doubt as a feature it is at least as good.
    better = train([folder], dataclasses.replace(PLAIN, features="log_odds"))
    assert better.held_out.auc_differ is not None
    assert better.held_out.auc_differ > held_out.confidence_auc_differ - 0.02


def test_the_main_fit_starts_from_the_weak_one(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[F64] = []
    results: list[fitting.Fit] = []

    def noting(model: Any, start: F64, *arguments: Any, **options: Any) -> fitting.Fit:
        starts.append(start.copy())
        results.append(fitting.fit(model, start, *arguments, **options))
        return results[-1]

    monkeypatch.setattr(training, "fit", noting)
    trained = train([scores], PLAIN)
    assert len(starts) == 2
    assert not starts[0].any()
    assert np.abs(results[0].parameters).max() > 0.1
    np.testing.assert_array_equal(starts[1], results[0].parameters)
    assert (trained.weak_fit, trained.main_fit) == tuple(results)


@pytest.mark.parametrize("objective", ["marginal", "regret"])
def test_a_higher_price_defers_less(objective: str, scores: Scores) -> None:
    shares = [
        train([scores], dataclasses.replace(PLAIN, objective=objective, cost=cost)).held_out.mean_defer_prob
        for cost in (0.05, 0.5, 2.0)
    ]
    assert shares[0] > shares[1] > shares[2]


def test_more_l2_means_smaller_weights(scores: Scores) -> None:
    sizes = []
    for l2 in (1e-3, 0.3, 10.0):
        head = train([scores], dataclasses.replace(PLAIN, l2=l2)).head
        sizes.append(float(np.linalg.norm(head.weights[0])))
    assert sizes[0] > sizes[1] > sizes[2]


def test_without_the_hidden_state_it_has_no_weight(scores: Scores) -> None:
    head = train([scores], dataclasses.replace(PLAIN, features="log_odds,entropy", use_hidden=False)).head
    assert head.weights[0].shape == (1, 10)
    assert not head.weights[0][:, :8].any()
    assert head.weights[0][:, 8:].all()
    assert head.features == ("log_odds", "entropy")


def test_a_fit_ends_early_when_the_held_out_texts_get_worse(tmp_path: Path) -> None:
    made = planted(400, width=64, strength=0.0)
    folder = write_scores(tmp_path / "s", made.hidden, made.columns)
    seen: list[tuple[str, int, float, float]] = []
    options = TrainingOptions(features="none", l2=0.0, patience=3, objective="weak")
    trained = train([folder], options, on_iteration=lambda *values: seen.append(values))
    fit = trained.weak_fit
    assert fit is not None
    assert fit.stopped == "early"
    assert fit.n_iterations == len(seen) == fit.best_iteration + 3
    assert {what for what, _, _, _ in seen} == {"weak"}
    assert [iteration for _, iteration, _, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][2] < seen[0][2]  # the training loss still fell
    losses = [held_out for _, _, _, held_out in seen]
    assert fit.held_out_loss <= min(losses)
    assert all(loss > fit.held_out_loss for loss in losses[-3:])


def test_a_fit_ends_at_its_limit(scores: Scores) -> None:
    fit = train([scores], dataclasses.replace(PLAIN, objective="weak", max_iterations=2)).weak_fit
    assert fit is not None
    assert (fit.stopped, fit.n_iterations) == ("limit", 2)
    assert fit.n_passes >= 2


# --- held-out texts ---------------------------------------------------------------------------------------------------


def test_whole_texts_are_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [planted(1000, seed=0), planted(700, seed=1)]
    folders = [write_scores(tmp_path / str(i), m.hidden, m.columns, 13 + i) for i, m in enumerate(made)]
    fitted, held_out = splits(folders, monkeypatch, held_out=0.2)
    for folder, inside, outside in zip(folders, fitted, held_out, strict=True):
        text = np.asarray(folder["text"])
        assert not set(text[inside]) & set(text[outside])
        assert sorted([*inside, *outside]) == list(range(len(folder)))
        assert len(set(text[outside])) == round(0.2 * folder.progress.n_texts)
    again = splits(folders, monkeypatch, held_out=0.2)
    other = splits(folders, monkeypatch, held_out=0.2, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(held_out, again[1], strict=True))
    assert not np.array_equal(held_out[0], other[1][0])


@pytest.mark.parametrize(("share", "n_held_out"), [(0.01, 1), (0.99, 2)])
def test_there_is_always_a_text_on_both_sides(share: float, n_held_out: int, tmp_path: Path) -> None:
    made = planted(1500)
    folder = write_scores(tmp_path / "s", made.hidden, made.columns, 500)
    trained = train([folder], dataclasses.replace(PLAIN, held_out=share, max_iterations=1))
    assert (trained.held_out.n_texts, trained.training.n_texts) == (n_held_out, 3 - n_held_out)


_IN_A_PROCESS = """
import sys
from colm_cpp.learn import Scores, TrainingOptions, train
options = TrainingOptions(features="logits", top_k=3, kind=sys.argv[3], n_units=3, max_iterations=6)
train([Scores(sys.argv[1])], options, name="x").head.save(sys.argv[2])
"""


@pytest.mark.parametrize("kind", [pytest.param("linear", marks=pytest.mark.slow), "mlp"])
def test_the_same_seed_gives_the_same_bytes(kind: str, scores: Scores, tmp_path: Path) -> None:
    options = TrainingOptions(features="logits", top_k=3, kind=kind, n_units=3, max_iterations=6)
    files = [tmp_path / f"{name}.gguf" for name in ("first", "second", "other seed", "other process")]
    for file, seed in zip(files, (0, 0, 1), strict=False):
        train([scores], dataclasses.replace(options, seed=seed), name="x").head.save(file)
    command = [sys.executable, "-c", _IN_A_PROCESS, str(scores.path), str(files[3]), kind]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, timeout=60)
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1] == contents[3]
    assert contents[0] != contents[2]
