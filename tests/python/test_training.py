"""Fitting heads to made-up scores: losses and gradients, what a fit finds, what it reports, and what it refuses."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result

from colm_cpp import Head, _core
from colm_cpp.cli import main
from colm_cpp.errors import CorpusError, MissingDependency, OptionError
from colm_cpp.learn import Metrics, Scores, TrainingOptions, fitting, inputs, parts, train, training
from colm_cpp.learn.fitting import LinearModel, MlpModel, Model, deferral_logits, objective
from colm_cpp.learn.inputs import Inputs, feature_columns, to_float32
from colm_cpp.learn.metrics import doubts
from colm_cpp.learn.objective import Loss, MarginalLoss, RegretLoss, WeakLoss, log_sigmoid, make_label, sigmoid
from colm_cpp.learn.score_files import ProgressMark
from colm_cpp.learn.scores import ScoresWriter

F64 = npt.NDArray[np.float64]
FACTS: dict[str, Any] = {
    "base": "small",
    "assistant": "large",
    "vocab_fingerprint": "0123456789abcdef",
}
TOP_K = 3


# --- folders of scores ------------------------------------------------------------------------------------------------


def write_scores(
    path: Path, hidden: npt.NDArray[Any], columns: dict[str, Any], tokens_per_text: int = 20, **facts: Any
) -> Scores:
    """A folder with these rows; columns that are not given are of two models that agree and are sure."""
    n = len(hidden)
    token = np.asarray(columns.get("token", np.zeros(n)))
    rows: dict[str, Any] = {
        "token": token,
        "base_logprob": np.full(n, -1.0),
        "base_top": token,
        "base_top_logprob": np.full(n, -0.1),
        "base_log_odds": np.zeros(n),
        "base_entropy": np.zeros(n),
        "base_top_k_logprobs": np.tile(-np.arange(1.0, TOP_K + 1), (n, 1)),
        "base_hidden": hidden,
        "assistant_logprob": np.full(n, -1.0),
        "assistant_top": token,
        "assistant_top_logprob": np.full(n, -0.1),
        "assistant_entropy": np.zeros(n),
        "assistant_logprob_of_base_top": np.full(n, -0.1),
        **columns,
    }
    texts = [{"n_scored": min(tokens_per_text, n - at)} for at in range(0, n, tokens_per_text)]
    meta = {"n_embd": hidden.shape[1], "top_k": rows["base_top_k_logprobs"].shape[1], **FACTS, **facts}
    with ScoresWriter(path, meta) as writer:
        writer.add(rows, texts, ProgressMark(n_texts=len(texts), n_tokens=n, complete=True))
    return Scores(path)


@dataclass
class Planted:
    """Rows at which a direction of the hidden state says which model knows the token."""

    hidden: npt.NDArray[np.float32]
    columns: dict[str, Any]
    direction: F64


def planted(n: int = 3000, width: int = 8, seed: int = 0, *, strength: float = 6.0) -> Planted:
    """Where h . direction is high, the assistant alone is right; with strength 0 nothing tells."""
    generator = np.random.default_rng(seed)
    hidden = generator.standard_normal((n, width)).astype(np.float32)
    direction = np.random.default_rng(99).standard_normal(width)
    direction /= np.linalg.norm(direction)
    assistant_knows = generator.random(n) < sigmoid(strength * (hidden @ direction) - 0.5)
    token = generator.integers(0, 50, n)
    sure, unsure = -generator.exponential(0.2, n), -2.0 - generator.exponential(1.0, n)
    # The base's doubt says something about it too, but not all.
    doubt = generator.standard_normal(n) + 1.5 * assistant_knows
    columns = {
        "token": token,
        "base_logprob": np.where(assistant_knows, unsure, sure),
        "assistant_logprob": np.where(assistant_knows, sure, unsure),
        "base_top": np.where(assistant_knows, token + 50, token),
        "assistant_top": np.where(assistant_knows, token, token + 100),
        "base_log_odds": -doubt,
        "base_entropy": np.exp(doubt / 4),
        "base_top_k_logprobs": -np.sort(generator.exponential(1.0, (n, TOP_K)), axis=1),
        "assistant_top_logprob": np.full(n, -0.05),
        "assistant_logprob_of_base_top": np.where(assistant_knows, unsure, -1.0),
    }
    return Planted(hidden, columns, direction)


@pytest.fixture
def scores(tmp_path: Path) -> Scores:
    made = planted()
    return write_scores(tmp_path / "scores", made.hidden, made.columns)


PLAIN = TrainingOptions(features="none", l2=1e-3, patience=20)


# --- losses -----------------------------------------------------------------------------------------------------------


def random_losses(n: int, seed: int = 1) -> dict[str, Loss]:
    generator = np.random.default_rng(seed)
    return {
        "marginal": MarginalLoss(-generator.exponential(2.0, n), -generator.exponential(2.0, n), 0.3),
        "weak": WeakLoss(np.arange(n) % 3 == 0),
        "regret": RegretLoss(generator.exponential(1.0, n) * (np.arange(n) % 2), 0.2),
    }


@pytest.mark.parametrize("name", ["marginal", "weak", "regret"])
def test_gradients_of_the_losses_are_their_slopes(name: str) -> None:
    n = 30
    loss = random_losses(n)[name]
    z = np.random.default_rng(0).normal(0.0, 3.0, n)
    _, gradient = loss(z, slice(None))
    for i in range(n):
        step = np.zeros(n)
        step[i] = 1e-5
        slope = (loss(z + step, slice(None))[0] - loss(z - step, slice(None))[0]) / 2e-5
        assert gradient[i] == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", ["marginal", "weak", "regret"])
def test_a_loss_is_the_sum_of_its_parts(name: str) -> None:
    loss = random_losses(50)[name]
    z = np.random.default_rng(0).normal(0.0, 3.0, 50)
    value, gradient = loss(z, slice(None))
    parts = [loss(z[at], at) for at in (slice(0, 7), slice(7, 50))]
    assert sum(part[0] for part in parts) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(np.concatenate([part[1] for part in parts]), gradient, rtol=1e-12)


def test_losses_are_what_their_formulas_say() -> None:
    generator = np.random.default_rng(2)
    n = 40
    z = generator.normal(0.0, 2.0, n)
    p = 1 / (1 + np.exp(-z))
    base, assistant = generator.uniform(0.01, 1, n), generator.uniform(0.01, 1, n)
    marginal = -np.log((1 - p) * base + p * assistant).mean() + 0.25 * p.mean()
    assert MarginalLoss(np.log(base), np.log(assistant), 0.25)(z, slice(None))[0] == pytest.approx(marginal, rel=1e-12)

    label = np.arange(n) < 10
    weak = -0.5 * np.log(p[label]).mean() - 0.5 * np.log(1 - p[~label]).mean()
    assert WeakLoss(label)(z, slice(None))[0] == pytest.approx(weak, rel=1e-12)

    regret = generator.exponential(1.0, n)
    wanted = (regret * np.log(1 + np.exp(-z)) + 0.4 * np.log(1 + np.exp(z))).mean()
    assert RegretLoss(regret, 0.4)(z, slice(None))[0] == pytest.approx(wanted, rel=1e-12)


def test_losses_hold_at_extremes() -> None:
    z = np.array([-1e4, 1e4, -1e4, 1e4, 800.0, -800.0])
    base = np.array([-1e3, -1e3, 0.0, 0.0, -1e3, -1e3])
    assistant = np.array([0.0, 0.0, -1e3, -1e3, -1e3, -1e3])
    value, gradient = MarginalLoss(base, assistant)(z, slice(None))
    # A mixture that is all base where the base gives e^-1000 loses 1000 nats, whatever the assistant would have given.
    assert value == pytest.approx((1e3 + 0.0 + 0.0 + 1e3 + 1e3 + 1e3) / 6, rel=1e-9)
    assert np.isfinite(gradient).all()
    # Wrong by far, it is pulled towards the other model; right by far, it is left alone.
    np.testing.assert_allclose(gradient * 6, [-0.0, 0.0, 0.0, 0.0, 0.0, 0.0], atol=1e-12)
    value, gradient = WeakLoss(np.array([True, False]))(np.array([-1e4, 1e4]), slice(None))
    assert value == pytest.approx(1e4)
    np.testing.assert_allclose(gradient, [-0.5, 0.5])
    value, gradient = RegretLoss(np.array([2.0, 0.0]), 0.5)(np.array([-1e4, 1e4]), slice(None))
    assert value == pytest.approx((2e4 + 5e3) / 2)
    np.testing.assert_allclose(gradient, [-1.0, 0.25])
    np.testing.assert_array_equal(log_sigmoid(np.array([-1e6, 1e6])), [-1e6, 0.0])
    np.testing.assert_array_equal(sigmoid(np.array([-1e6, 0.0, 1e6])), [0.0, 0.5, 1.0])


def test_regret_is_least_where_deferring_pays() -> None:
    # One input for all: sigmoid(z) is then E r / (E r + c).
    regret = np.array([0.0, 1.0, 5.0, 0.0])
    grid = np.linspace(-5, 5, 4001)
    values = [RegretLoss(regret, 0.5)(np.full(4, z), slice(None))[0] for z in grid]
    assert 1 / (1 + math.exp(-grid[int(np.argmin(values))])) == pytest.approx(1.5 / (1.5 + 0.5), abs=1e-3)


def test_labels() -> None:
    token = np.array([1, 1, 1, 1], np.int32)
    base_top = np.array([1, 2, 2, 2], np.int32)
    assistant_top = np.array([2, 1, 2, 3], np.int32)
    assert make_label("a", token, base_top, assistant_top).tolist() == [False, True, False, False]
    assert make_label("b", token, base_top, assistant_top).tolist() == [False, True, True, True]
    assert make_label("differ", token, base_top, assistant_top).tolist() == [True, True, False, True]


# --- the objective ----------------------------------------------------------------------------------------------------


def models(n_in: int) -> dict[str, Model]:
    return {"linear": LinearModel(n_in), "mlp": MlpModel(n_in, 4)}


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("loss", ["marginal", "weak", "regret"])
def test_the_gradient_of_the_objective_is_its_slope(kind: str, loss: str, tmp_path: Path) -> None:
    made = planted(60, width=5)
    folder = write_scores(tmp_path / "s", made.hidden, made.columns)
    rows = Inputs([folder], [np.arange(60)], ("log_odds", "entropy"), 0)
    rows.block_rows = 17
    model = models(rows.n_in)[kind]
    generator = np.random.default_rng(3)
    parameters = generator.normal(0.0, 0.5, model.n_parameters)
    penalties = model.penalties(generator.uniform(0.1, 1.0, rows.n_in))
    values = random_losses(60)[loss]
    value, gradient, alone = objective(model, rows, values, penalties, parameters)
    assert value - alone == pytest.approx(0.5 * float((penalties * parameters**2).sum()), rel=1e-9)
    assert penalties[-1] == 0.0  # the bias is free
    for i in generator.choice(model.n_parameters, min(model.n_parameters, 25), replace=False):
        step = np.zeros(model.n_parameters)
        step[i] = 1e-2  # large, since z is computed in float32
        up, down = (objective(model, rows, values, penalties, parameters + sign * step)[0] for sign in (1, -1))
        assert gradient[i] == pytest.approx((up - down) / 2e-2, rel=5e-3, abs=2e-4)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_the_standardisation_is_folded_into_the_head(kind: str, in_memory: bool, tmp_path: Path) -> None:
    made = planted(200, width=5)
    # Columns of very different size and place, and a constant one.
    stored = (made.hidden * [100, 1, 0.01, 3, 0] + [5, -40, 0.2, 0, 1.5]).astype(np.float16)
    folder = write_scores(tmp_path / "s", stored, made.columns)
    rows = np.flatnonzero(np.arange(200) % 3 > 0)
    chosen = Inputs([folder], [rows], ("log_odds", "margin"), 0, in_memory=in_memory)
    raw = np.concatenate([stored[rows].astype(np.float64), feature_columns(folder, ("log_odds", "margin"), 0)[rows]], 1)
    mean, scale = chosen.moments()
    np.testing.assert_allclose(mean, raw.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.delete(scale, 4), np.delete(raw.std(axis=0), 4), rtol=1e-4)
    assert scale[4] == 1.0
    chosen.standardise(mean, scale)
    model = models(chosen.n_in)[kind]
    parameters = np.random.default_rng(4).standard_normal(model.n_parameters)
    z = deferral_logits(model, parameters, chosen)
    weights, biases = model.layers(parameters, mean, scale)
    features = ("log_odds", "margin")
    if kind == "linear":
        head = Head.linear(weights[0], biases[0][0], features=features)
    else:
        head = Head.mlp(weights, biases, features=features, activation=MlpModel.activation)
    np.testing.assert_allclose(head.defer_logits(raw), z, atol=5e-4)
    assert z.std() > 0.5


# --- inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1.0, 0.3, 2.0**20])
def test_every_finite_half_becomes_the_float_it_is(factor: float) -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    every = halves[np.isfinite(halves)].reshape(-1, 16)
    out = np.empty((len(every), 32), np.float32)[:, :16]
    to_float32(every, out, np.full(16, factor, np.float32))
    wanted = every.astype(np.float32) * np.float32(factor)
    np.testing.assert_array_equal(out.view(np.int32), wanted.view(np.int32))


def test_features_are_those_of_the_engine(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(0.0, 4.0, (40, 100)).astype(np.float32)
    logits[0, 7] = 300.0  # sure beyond what log-odds may say
    logits[1] = 0.0
    exact = logits.astype(np.float64)
    logprobs = exact - np.log(np.exp(exact - exact.max(1, keepdims=True)).sum(1, keepdims=True)) - exact.max(1)[:, None]
    top = -np.sort(-logprobs, axis=1)[:, :TOP_K]
    rest = np.array([np.logaddexp.reduce(np.sort(row)[:-1]) for row in logprobs])
    columns = {
        "base_log_odds": top[:, 0] - rest,
        "base_entropy": -(np.exp(logprobs) * logprobs).sum(1),
        "base_top_k_logprobs": top,
    }
    folder = write_scores(tmp_path / "s", np.zeros((40, 2), np.float32), columns)
    for names in (["log_odds", "entropy", "margin", "top_k_logprobs"], ["margin"], ["top_k_logprobs", "log_odds"]):
        ours = feature_columns(folder, names, 2)
        theirs = np.array([_core.distribution_features(row, names, 2) for row in logits])
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert feature_columns(folder, ["log_odds"], 0)[0] == 50.0
    assert feature_columns(folder, [], 0).shape == (40, 0)


def test_features_that_were_not_kept_are_refused(tmp_path: Path) -> None:
    one = {"base_top_k_logprobs": np.full((40, 1), -1.0)}
    folder = write_scores(tmp_path / "s", np.zeros((40, 2), np.float32), one)
    with pytest.raises(OptionError, match=r"kept 1\b.*margin.*\b2\b"):
        feature_columns(folder, ["margin"], 1)
    with pytest.raises(OptionError, match=r"top_k is 5\b.* kept 1\b"):
        train([folder], TrainingOptions(features="top_k_logprobs"))


def test_rows_come_in_order_from_several_folders_and_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = [np.arange(n * 3, dtype=np.float32).reshape(n, 3) + 1000 * i for i, n in enumerate((200, 280))]
    folders = [write_scores(tmp_path / str(i), h, {}) for i, h in enumerate(hidden)]
    rows = [np.flatnonzero(np.arange(200) % 7 > 2), np.arange(50, 250)]
    monkeypatch.setattr(inputs, "usable_cores", lambda: 3)
    monkeypatch.setattr(inputs, "BLOCKS_AT_A_TIME", 2)
    wanted = np.concatenate([h[r] for h, r in zip(hidden, rows, strict=True)])
    for in_memory in (True, False):
        chosen = Inputs(folders, rows, (), 0, in_memory=in_memory)
        chosen.block_rows = 24
        parts = list(chosen.map(lambda blocks: [(at, block.copy()) for at, block in blocks]))
        assert len(parts) == math.ceil(math.ceil(len(wanted) / 24) / 2)
        pieces = [piece for part in parts for piece in part]
        np.testing.assert_array_equal(np.concatenate([block for _, block in pieces]), wanted)
        assert [at.start for at, _ in pieces] == list(range(0, len(wanted), 24))


@pytest.mark.parametrize("objective", ["marginal", "weak", "regret"])
@pytest.mark.parametrize(("kind", "features"), [("linear", "none"), ("linear", "logits"), ("mlp", "logits")])
def test_a_fit_from_disk_is_the_fit_in_memory(
    kind: str, features: str, objective: str, scores: Scores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "BLOCK_BYTES", 8 * 4 * 64)
    monkeypatch.setattr(inputs, "BLOCKS_AT_A_TIME", 3)
    monkeypatch.setattr(inputs, "usable_cores", lambda: 2)
    rows_read: collections.Counter[bool] = collections.Counter()
    read = Inputs.map

    def noting(self: Inputs, work: Any) -> Any:
        rows_read[self.in_memory] += self.n
        return read(self, work)

    monkeypatch.setattr(Inputs, "map", noting)
    options = dataclasses.replace(
        PLAIN, kind=kind, features=features, objective=objective, top_k=3, n_units=4, max_iterations=40, l2=0.1
    )
    plain = train([scores], options)
    assert set(rows_read) == {True}
    rows_read.clear()
    # All but a little fits: so half of the texts are in memory for the start and to end the fits.
    limit = 4 * len(scores) * (scores.n_embd + plain.head.n_features) - 1
    disk = train([scores], dataclasses.replace(options, memory_limit=limit))
    assert set(rows_read) == {True, False}
    assert disk.held_out.n_tokens == plain.held_out.n_tokens
    assert disk.held_out.base_nll == plain.held_out.base_nll
    # Other texts end the fit, so that it may end an iteration elsewhere; what it is worth is the same.
    assert disk.held_out.joint_nll == pytest.approx(plain.held_out.joint_nll, abs=0.02)
    assert disk.held_out.auc_differ == pytest.approx(plain.held_out.auc_differ, abs=0.03)
    if objective != "weak":
        assert disk.weak_fit is not None
        assert disk.main_fit is not None
        # Only the fit itself, the moments and the final look read the whole from disk.
        n_all = len(scores)
        assert rows_read[False] <= n_all * (disk.main_fit.n_passes + 5)


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


def splits(folders: list[Scores], monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[list[npt.NDArray[np.int64]]]:
    """The rows of every folder that the training and the held-out inputs were made of."""
    taken: list[list[npt.NDArray[np.int64]]] = []

    class Noting(Inputs):
        def __init__(self, folders: Any, rows: Any, *arguments: Any, **named: Any) -> None:
            taken.append(list(rows))
            super().__init__(folders, rows, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(parts, "Inputs", Noting)
        train(folders, dataclasses.replace(PLAIN, max_iterations=1, **options))
    return taken


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
options = TrainingOptions(features="logits", top_k=3, kind=sys.argv[3], n_units=3, max_iterations=15)
train([Scores(sys.argv[1])], options, name="x").head.save(sys.argv[2])
"""


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_same_seed_gives_the_same_bytes(kind: str, scores: Scores, tmp_path: Path) -> None:
    options = TrainingOptions(features="logits", top_k=3, kind=kind, n_units=3, max_iterations=15)
    files = [tmp_path / f"{name}.gguf" for name in ("first", "second", "other seed", "other process")]
    for file, seed in zip(files, (0, 0, 1), strict=False):
        train([scores], dataclasses.replace(options, seed=seed), name="x").head.save(file)
    command = [sys.executable, "-c", _IN_A_PROCESS, str(scores.path), str(files[3]), kind]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "7"}, timeout=60)
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1] == contents[3]
    assert contents[0] != contents[2]


# --- what is reported -------------------------------------------------------------------------------------------------


def pairwise_auc(score: F64, label: npt.NDArray[np.bool_]) -> float:
    up, down = score[label], score[~label]
    return float((up[:, None] > down).mean() + 0.5 * (up[:, None] == down).mean())


def by_hand(folder: Scores, head: Head, rows: npt.NDArray[np.int64]) -> Metrics:
    """Metrics straight from their definitions."""
    at = {name: np.asarray(folder[name])[rows] for name in parts.COLUMNS}
    raw = np.concatenate(
        [np.asarray(folder["base_hidden"], np.float64), feature_columns(folder, head.features, head.top_k)], 1
    )
    z = head.defer_logits(raw[rows])
    p = 1 / (1 + np.exp(-z))
    base, assistant = np.exp(at["base_logprob"].astype(float)), np.exp(at["assistant_logprob"].astype(float))
    label = (at["base_top"] != at["token"]) & (at["assistant_top"] == at["token"])
    differ = at["base_top"] != at["assistant_top"]
    lost = at["assistant_top_logprob"].astype(float) - at["assistant_logprob_of_base_top"]
    regret = np.clip(lost, 0, 10)
    doubt = -at["base_log_odds"].astype(float)

    def share(score: F64, worth: F64) -> dict[str, float]:
        ranked = sorted(range(len(score)), key=lambda i: -score[i])
        n = len(score)
        return {f"{r:g}": sum(worth[ranked[: round(r * n)]]) / sum(worth) for r in (0.05, 0.1, 0.2, 0.4)}

    return Metrics(
        n_texts=len(set(np.asarray(folder["text"])[rows].tolist())),
        n_tokens=len(rows),
        base_nll=float(-np.log(base).mean()),
        assistant_nll=float(-np.log(assistant).mean()),
        joint_nll=float(-np.log((1 - p) * base + p * assistant).mean()),
        oracle_nll=float(-np.log(np.maximum(base, assistant)).mean()),
        mean_defer_prob=float(p.mean()),
        auc_a=pairwise_auc(z, label),
        auc_differ=pairwise_auc(z, differ),
        confidence_auc_a=pairwise_auc(doubt, label),
        confidence_auc_differ=pairwise_auc(doubt, differ),
        differ_rate=float(differ.mean()),
        caught=share(z, differ.astype(float)),
        confidence_caught=share(doubt, differ.astype(float)),
        regret=float(regret.mean()),
        saved=share(z, regret),
        confidence_saved=share(doubt, regret),
    )


def assert_alike(ours: Metrics, wanted: Metrics) -> None:
    for field in dataclasses.fields(Metrics):
        left, right = getattr(ours, field.name), getattr(wanted, field.name)
        if right is None:
            assert left is None, field.name
        else:
            assert left == pytest.approx(right, rel=1e-4, abs=1e-3), field.name


def differing(n: int, seed: int) -> Planted:
    """Rows at which the models differ sometimes."""
    made = planted(n, seed=seed)
    token, same = made.columns["token"], np.random.default_rng(seed + 50).random(n) < 0.4
    for name in ("base_top", "assistant_top"):
        made.columns[name] = np.where(same, token, made.columns[name])
    made.columns["assistant_logprob_of_base_top"] = np.where(same, -0.05, made.columns["assistant_logprob_of_base_top"])
    return made


def test_metrics_are_what_their_definitions_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [differing(1200, 0), differing(800, 1)]
    folders = [write_scores(tmp_path / f"f{i}", m.hidden, m.columns) for i, m in enumerate(made)]
    options = dataclasses.replace(PLAIN, features="logits", top_k=3, held_out=0.3)
    trained = train(folders, options)
    fitted, held_out = splits(folders, monkeypatch, held_out=0.3)
    assert list(trained.by_folder) == ["f0", "f1"]
    for i, folder in enumerate(folders):
        assert_alike(trained.by_folder[f"f{i}"], by_hand(folder, trained.head, held_out[i]))
    for metrics, rows in ((trained.held_out, held_out), (trained.training, fitted)):
        assert metrics.n_tokens == sum(map(len, rows))
        parts = [by_hand(folder, trained.head, r) for folder, r in zip(folders, rows, strict=True)]
        assert metrics.n_texts == sum(part.n_texts for part in parts)
        joint = sum(part.joint_nll * part.n_tokens for part in parts) / metrics.n_tokens
        assert metrics.joint_nll == pytest.approx(joint, rel=1e-4)


def test_a_head_keeps_how_it_was_made(scores: Scores, tmp_path: Path) -> None:
    trained = train([scores], dataclasses.replace(PLAIN, features="logits", top_k=2, memory_limit=2**29), name="mine")
    trained.head.save(tmp_path / "h.gguf")
    head = Head.load(tmp_path / "h.gguf")
    assert head.name == "mine"
    assert (head.base_name, head.assistant_name) == ("small", "large")
    assert head.vocab_fingerprint == FACTS["vocab_fingerprint"]
    assert (head.features, head.top_k) == (("log_odds", "entropy", "margin", "top_k_logprobs"), 2)
    assert head.training == trained.head.training
    facts = json.loads(head.training or "")
    assert facts["held_out"] == dataclasses.asdict(trained.held_out)
    assert list(facts["by_folder"]) == ["scores"]
    assert facts["options"]["l2"] == PLAIN.l2
    assert "memory_limit" not in facts["options"]  # says nothing about the head
    for ours, theirs in zip(trained.head.weights + trained.head.biases, head.weights + head.biases, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_folders_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    folders = []
    for name, n in (("a", 400), ("b", 800)):
        made = planted(n)
        folders.append(write_scores(tmp_path / name / "scores", made.hidden, made.columns))
    trained = train(folders, PLAIN)
    counts = {name: metrics.n_tokens for name, metrics in trained.by_folder.items()}
    assert counts == {str(folders[0].path): 60, str(folders[1].path): 120}


def test_few_tokens_are_noted(tmp_path: Path) -> None:
    made = planted(200)
    trained = train([write_scores(tmp_path / "s", made.hidden, made.columns)], PLAIN)
    assert trained.training.n_tokens == 160
    assert re.search(r"\b160 .*\b1000\b", trained.notes[0])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_folders_of_different_pairs(tmp_path: Path) -> None:
    made = planted(100)
    first = write_scores(tmp_path / "a", made.hidden, made.columns)
    for key, value in (("vocab_fingerprint", "f" * 16), ("base", "other"), ("assistant", "other")):
        other: dict[str, Any] = {key: value}
        second = write_scores(tmp_path / key, made.hidden, made.columns, **other)
        with pytest.raises(CorpusError, match=f"{key} has {key} '{value}' and .*a has '{FACTS[key]}'; "):
            train([first, second], PLAIN)
    narrow = write_scores(tmp_path / "narrow", made.hidden[:, :4], made.columns)
    with pytest.raises(CorpusError, match=r"n_embd 4 and .* 8"):
        train([first, narrow], PLAIN)
    with pytest.raises(CorpusError, match="colm score"):
        train([], PLAIN)


@pytest.mark.parametrize("column", ["base_logprob", "assistant_logprob", "base_top_logprob"])
@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf, 0.5])
def test_values_that_are_no_log_probabilities_are_named(column: str, value: float, tmp_path: Path) -> None:
    made = planted(100)
    values = np.full(100, -1.0)
    values[47] = value
    folder = write_scores(tmp_path / "s", made.hidden, {**made.columns, column: values})
    with pytest.raises(CorpusError, match=rf"{column} is -?(nan|inf|0\.5) in row 47 \(text 2\)"):
        train([folder], PLAIN)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_hidden_states_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    made = planted(100)
    made.hidden[63, 3] = value
    folder = write_scores(tmp_path / "s", made.hidden, made.columns)
    with pytest.raises(CorpusError, match=r"base_hidden is not finite in row 63 \(text 3\)"):
        train([folder], PLAIN)


@pytest.mark.parametrize("column", ["base_hidden", "base_logprob", "text"])
def test_a_folder_cut_short(column: str, scores: Scores) -> None:
    file = scores.path / f"{column}.npy"
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CorpusError, match=rf"{column}\.npy"):
        Scores(scores.path)


def test_a_file_cut_short_while_it_is_read(scores: Scores) -> None:
    chosen = Inputs([scores], [np.arange(len(scores))], (), 0, in_memory=False)
    os.truncate(scores.path / "base_hidden.npy", 4000)
    with pytest.raises(CorpusError, match="cut short while it was being read"):
        chosen.moments()


def test_another_format_version(scores: Scores) -> None:
    file = scores.path / "meta.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 99}))
    with pytest.raises(CorpusError, match=r"99\b.*\b1\b"):
        Scores(scores.path)


def test_one_text_alone(tmp_path: Path) -> None:
    made = planted(100)
    folder = write_scores(tmp_path / "s", made.hidden, made.columns, 100)
    with pytest.raises(CorpusError, match="1 text"):
        train([folder], PLAIN)


def test_labels_that_are_all_alike(tmp_path: Path) -> None:
    made = planted(1500)
    folder = write_scores(tmp_path / "s", made.hidden, {**made.columns, "base_top": made.columns["token"]})
    with pytest.raises(CorpusError, match=r"label a is"):
        train([folder], dataclasses.replace(PLAIN, objective="weak"))
    trained = train([folder], PLAIN)
    assert trained.weak_fit is None
    assert trained.main_fit is not None
    assert trained.notes[0].endswith("the fit starts without it")
    assert trained.held_out.auc_a is None


def test_without_scipy(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def missing(name: str, package: str | None = None) -> ModuleType:
        if name.startswith("scipy"):
            raise ImportError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingDependency, match="pip install scipy"):
        train([scores], PLAIN)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"kind": "tree"}, "kind is 'tree'.* linear, mlp"),
    ({"objective": "x"}, "objective is 'x'.* marginal, weak, regret"),
    ({"label": "c"}, "label is 'c'.* a, b, differ"),
    ({"features": "mood"}, "feature 'mood' is unknown"),
    ({"features": "margin,margin"}, "name each feature once"),
    ({"features": ""}, "name each feature once"),
    ({"features": "none", "use_hidden": False}, "use_hidden=False.*features='none'"),
    ({"cost": -0.1}, "cost is -0.1"),
    ({"l2": math.nan}, "l2 is nan"),
    ({"feature_l2": math.inf}, "feature_l2 is inf"),
    ({"held_out": 0.0}, "held_out is 0.0"),
    ({"held_out": 1.0}, "held_out is 1.0"),
    ({"max_iterations": 0}, "max_iterations is 0"),
    ({"patience": 0}, "patience is 0"),
    ({"n_units": 0}, "n_units is 0"),
    ({"top_k": 0}, "top_k is 0"),
    ({"memory_limit": 0}, "memory_limit is 0"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=range(len(BAD)))
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        TrainingOptions(**changes)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, arguments)], catch_exceptions=False)


def test_the_command_prints_a_table(scores: Scores, tmp_path: Path) -> None:
    made = planted(500, seed=3)
    other = write_scores(tmp_path / "more", made.hidden, made.columns)
    out = tmp_path / "h.gguf"
    result = run(scores.path, other.path, "--out", out, "--features", "log_odds", "--l2", "0.01", "--seed", "3")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["held", "out", "scores", "more", "training"]
    cells = {name.strip(): row for name, *row in (re.split(r" {2,}", line.strip()) for line in lines[1:])}
    options = TrainingOptions(features="log_odds", l2=0.01, seed=3)
    trained = train([scores, other], options)
    shown = [trained.held_out, *trained.by_folder.values(), trained.training]
    assert cells["tokens"] == [str(m.n_tokens) for m in shown]
    assert cells["NLL of the pair with this head"] == [f"{m.joint_nll:.3f}" for m in shown]
    assert cells["AUC, most likely tokens differ"] == ["-"] * 4
    assert lines[-1].startswith(f"{out}: linear head; calibrate it next")
    assert "weak   1  training 0." in result.stderr
    assert "marginal   1  training " in result.stderr
    head = Head.load(out)
    assert head.name == "h"
    np.testing.assert_array_equal(head.weights[0], trained.head.weights[0])


def test_the_command_prints_json_and_nothing_else(scores: Scores, tmp_path: Path) -> None:
    out = tmp_path / "h.gguf"
    result = run(
        scores.path, "-o", out, "--json", "--name", "mine", "--kind", "mlp", "--n-units", "3", "--top-logprobs", "2"
    )
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert result.stderr == ""
    assert printed["head"] == str(out)
    assert printed["options"]["n_units"] == 3
    assert printed["notes"] == []
    assert printed["held_out"]["n_texts"] == 22
    head = Head.load(out)
    assert (head.name, head.kind, head.weights[0].shape) == ("mine", "mlp", (3, 8 + 5))


def test_the_command_replaces_a_file_only_when_told(scores: Scores, tmp_path: Path) -> None:
    out = tmp_path / "h.gguf"
    out.write_bytes(b"precious")
    result = run(scores.path, "--out", out)
    assert result.exit_code == 1
    assert "exists; give another name, or --force to replace it" in result.stderr
    assert out.read_bytes() == b"precious"
    result = run(scores.path, "--out", out, "--force", "--quiet", "--features", "none", "--no-hidden")
    assert result.exit_code == 1
    assert "--no-hidden and --features" in result.stderr
    assert out.read_bytes() == b"precious"
    result = run(scores.path, "--out", out, "--force", "--quiet", "--features", "none")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert Head.load(out).n_embd == 8


def test_the_command_warns(tmp_path: Path) -> None:
    made = planted(200)
    folder = write_scores(tmp_path / "s", made.hidden, made.columns)
    result = run(folder.path, "--out", tmp_path / "h.gguf", "--quiet", "--top-logprobs", "3")
    assert result.exit_code == 0
    assert result.stderr.startswith("colm: warning: there are 160 training tokens")
    assert result.stderr.count("\n") == 1
