"""Losses and labels of several experts: slopes, formulas, and one expert as before."""

from __future__ import annotations

import numpy as np
import pytest

from colm_cpp.learn.choice import ChoiceLoss, MultinomialLoss, any_of, log_shares, make_choice
from colm_cpp.learn.fitting import LinearModel, MlpModel, Model
from colm_cpp.learn.objective import MarginalLoss, WeakLoss


def test_they_are_what_their_formulas_say() -> None:
    generator = np.random.default_rng(2)
    n = 40
    z = generator.normal(0.0, 2.0, (n, 3))
    odds = np.exp(np.concatenate([np.zeros((n, 1)), z], axis=1))
    p = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(log_shares(z)), p, rtol=1e-12)
    np.testing.assert_allclose(any_of(z), np.log(1 - p[:, 0]) - np.log(p[:, 0]), rtol=1e-9)
    models = generator.uniform(0.01, 1, (n, 4))
    costs = np.array([0.1, 0.4, 0.0])
    wanted = -np.log((p * models).sum(axis=1)).mean() + (p[:, 1:] @ costs).mean()
    assert MultinomialLoss(np.log(models), costs)(z, slice(None))[0] == pytest.approx(wanted, rel=1e-12)

    who = np.array([0] * 20 + [1] * 15 + [3] * 5)  # nobody is labelled with the second
    weak = -np.mean([np.log(p[who == k, k]).mean() for k in (0, 1, 3)])
    assert ChoiceLoss(who, 3)(z, slice(None))[0] == pytest.approx(weak, rel=1e-12)


def test_of_one_expert_they_are_those_of_a_pair() -> None:
    generator = np.random.default_rng(3)
    n = 200
    z = generator.normal(0.0, 5.0, n)
    base, assistant = -generator.exponential(2.0, n), -generator.exponential(2.0, n)
    label = np.arange(n) % 3 == 0
    for ours, theirs in (
        (MultinomialLoss(np.stack([base, assistant], axis=1), np.array([0.3])), MarginalLoss(base, assistant, 0.3)),
        (ChoiceLoss(label.astype(np.int64), 1), WeakLoss(label)),
    ):
        value, gradient = ours(z[:, None], slice(None))
        wanted, slope = theirs(z, slice(None))
        assert value == pytest.approx(wanted, rel=1e-12)
        np.testing.assert_allclose(gradient[:, 0], slope, rtol=1e-9, atol=1e-16)


def test_they_hold_at_extremes() -> None:
    z = np.array([[-1e4, 1e4], [1e4, 1e4], [-1e4, -1e4], [0.0, -np.inf]])
    logprob = np.array([[0.0, -1e3, -1e3], [-1e3, -1e3, 0.0], [0.0, -1e3, -1e3], [-1.0, -1.0, 0.0]])
    value, gradient = MultinomialLoss(logprob, np.zeros(2))(z, slice(None))
    assert value == pytest.approx((1e3 + np.log(2) + 0.0 + 1.0) / 4, rel=1e-9)
    assert np.isfinite(gradient).all()


def test_labels() -> None:
    token = np.array([1, 1, 1, 1, 1], np.int32)
    base_top = np.array([1, 2, 2, 2, 2], np.int32)
    base = np.array([-0.1, -2.0, -2.0, -2.0, -0.7])
    expert_top = np.array([[1, 1], [1, 3], [1, 1], [3, 3], [3, 3]], np.int32)
    expert = np.array([[-0.1, -0.1], [-0.5, -0.4], [-0.5, -0.4], [-1.5, -1.9], [-1.0, -0.9]])
    # a: of those whose likeliest token is the text's. b: of all that find it likelier than the base.
    assert make_choice("a", token, base_top, base, expert_top, expert).tolist() == [0, 1, 2, 0, 0]
    assert make_choice("b", token, base_top, base, expert_top, expert).tolist() == [0, 2, 2, 1, 0]


@pytest.mark.parametrize("model", [LinearModel(4, 3), MlpModel(4, 5, 3)], ids=["linear", "mlp"])
def test_models_of_several_outputs(model: Model) -> None:
    generator = np.random.default_rng(4)
    parameters = generator.standard_normal(model.n_parameters)
    block = generator.standard_normal((6, 4)).astype(np.float32)
    z, kept = model.forward(parameters, block)
    assert z.shape == (6, 3)
    weighed = generator.standard_normal((6, 3))
    gradient = model.backward(parameters, block, kept, weighed)
    assert gradient.shape == parameters.shape
    for i in range(model.n_parameters):
        step = np.zeros(model.n_parameters)
        step[i] = 0.02
        ahead, behind = (model.forward(parameters + sign * step, block)[0] for sign in (1, -1))
        assert gradient[i] == pytest.approx((weighed * (ahead - behind)).sum() / 0.04, rel=2e-3, abs=2e-3)
    assert model.penalties(np.ones(4)).shape == parameters.shape
    # The layers take inputs as they are, with the standardisation folded in.
    mean, scale = generator.standard_normal(4), generator.uniform(0.5, 2, 4)
    weights, biases = model.layers(parameters, mean, scale)
    x = block * scale + mean
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight.T + bias
        if i < len(weights) - 1:
            x = x / (1 + np.exp(-x))
    np.testing.assert_allclose(x, z, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("one", "three"), [(LinearModel(4), LinearModel(4, 3)), (MlpModel(4, 5), MlpModel(4, 5, 3))])
def test_the_biases_are_not_held_down(one: Model, three: Model) -> None:
    for model in (one, three):
        assert (model.penalties(np.full(4, 0.5))[-model.n_out :] == 0).all()
