"""Losses, the objective and the inputs of a fit: slopes, formulas, rows."""

from __future__ import annotations

import collections
import dataclasses
import math
from pathlib import Path
from typing import Any

import made_scores
import numpy as np
import pytest
from made_scores import PLAIN, TOP_K, planted, write_scores

from colm_cpp import Head, _core
from colm_cpp.errors import OptionError
from colm_cpp.learn import Scores, TrainingOptions, inputs, train
from colm_cpp.learn.choice import ChoiceLoss, MultinomialLoss
from colm_cpp.learn.fitting import LinearModel, MlpModel, Model, deferral_logits, objective
from colm_cpp.learn.inputs import Inputs, feature_columns, to_float32
from colm_cpp.learn.objective import Loss, MarginalLoss, RegretLoss, WeakLoss, log_sigmoid, make_label, sigmoid

scores = made_scores.scores


# --- losses -----------------------------------------------------------------------------------------------------------


def random_losses(n: int) -> dict[str, Loss]:
    generator = np.random.default_rng(1)
    return {
        "marginal": MarginalLoss(-generator.exponential(2.0, n), -generator.exponential(2.0, n), 0.3),
        "weak": WeakLoss(np.arange(n) % 3 == 0),
        "regret": RegretLoss(generator.exponential(1.0, n) * (np.arange(n) % 2), 0.2),
    }


def losses_of_several(n: int, n_experts: int) -> dict[str, Loss]:
    generator = np.random.default_rng(1)
    logprob = -generator.exponential(2.0, (n, n_experts + 1))
    costs = generator.uniform(0.0, 0.5, n_experts)
    who = generator.integers(0, n_experts + 1, n)
    who[: n_experts + 1] = np.arange(n_experts + 1)
    return {"marginal": MultinomialLoss(logprob, costs), "weak": ChoiceLoss(who, n_experts)}


def loss_and_logits(name: str, n: int, n_experts: int | None) -> tuple[Loss, np.ndarray[Any, np.dtype[np.float64]]]:
    """A loss and random z, ``[n]``, or of several experts ``[n, n_experts]``."""
    losses = random_losses(n) if n_experts is None else losses_of_several(n, n_experts)
    return losses[name], np.random.default_rng(0).normal(0.0, 3.0, (n, n_experts)[: 1 + (n_experts is not None)])


LOSSES = [
    *((name, None) for name in ("marginal", "weak", "regret")),
    *((name, n_experts) for name in ("marginal", "weak") for n_experts in (1, 2, 5)),
]


@pytest.mark.parametrize(("name", "n_experts"), LOSSES)
def test_gradients_of_the_losses_are_their_slopes(name: str, n_experts: int | None) -> None:
    loss, z = loss_and_logits(name, 12, n_experts)
    _, gradient = loss(z, slice(None))
    assert gradient.shape == z.shape
    for at in np.ndindex(z.shape):
        step = np.zeros_like(z)
        step[at] = 1e-5
        slope = (loss(z + step, slice(None))[0] - loss(z - step, slice(None))[0]) / 2e-5
        assert gradient[at] == pytest.approx(slope, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("name", "n_experts"), LOSSES)
def test_a_loss_is_the_sum_of_its_parts(name: str, n_experts: int | None) -> None:
    loss, z = loss_and_logits(name, 50, n_experts)
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


DEFAULT = {("marginal", "linear", "logits"), ("weak", "linear", "none"), ("regret", "linear", "logits")}


@pytest.mark.parametrize(
    ("objective", "kind", "features"),
    [
        pytest.param(*case, marks=() if case in DEFAULT else pytest.mark.slow)
        for objective in ("marginal", "weak", "regret")
        for case in ((objective, "linear", "none"), (objective, "linear", "logits"), (objective, "mlp", "logits"))
    ],
)
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
