"""Fitting the parameters of a head: SciPy's L-BFGS over blocks of rows, stopped early by held-out texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..extras import require
from .inputs import Inputs
from .objective import Loss

__all__ = ["Fit", "LinearModel", "MlpModel", "Model", "deferral_logits", "fit", "objective"]

Floats = npt.NDArray[np.float64]
Block = npt.NDArray[np.float32]
Blocks = Iterator[tuple[slice, Block]]


class Model(Protocol):
    """A family of heads: parameters as one vector, z of a block, and the way back."""

    n_parameters: int
    n_out: int

    def forward(self, parameters: Floats, block: Block) -> tuple[Floats, Any]:
        """z ``[n]``, or of K experts ``[n, K]``, of a block ``[n, n_in]``, and what :meth:`backward` needs."""

    def backward(self, parameters: Floats, block: Block, kept: Any, gradient: Floats) -> Floats:
        """The gradient to the parameters, of one to z."""

    def penalties(self, l2: Floats) -> Floats:
        """L2 of every parameter, from that of every input ``[n_in]``; biases have none."""

    def layers(self, parameters: Floats, mean: Floats, scale: Floats) -> tuple[list[Floats], list[Floats]]:
        """Weights and biases that take inputs as they are, the standardisation folded in."""


class LinearModel:
    """z = W x + b. W is ``[n_out, n_in]``; with one output it is a vector, and z has one dimension less."""

    def __init__(self, n_in: int, n_out: int = 1) -> None:
        self.n_in = n_in
        self.n_out = n_out
        self.n_parameters = n_out * (n_in + 1)

    def _split(self, parameters: Floats) -> tuple[Floats, Floats]:
        return _rows(parameters[: -self.n_out], self.n_out), parameters[-self.n_out :]

    def forward(self, parameters: Floats, block: Block) -> tuple[Floats, Any]:
        """See :class:`Model`."""
        weights, biases = self._split(parameters)
        z = block @ weights.T.astype(np.float32)
        return z.astype(np.float64) + biases, None

    def backward(self, parameters: Floats, block: Block, kept: Any, gradient: Floats) -> Floats:
        """See :class:`Model`."""
        weights = gradient.T.astype(np.float32) @ block
        return np.append(weights.astype(np.float64), gradient.sum(axis=0))

    def penalties(self, l2: Floats) -> Floats:
        """See :class:`Model`."""
        return np.append(np.tile(l2, self.n_out), np.zeros(self.n_out))

    def layers(self, parameters: Floats, mean: Floats, scale: Floats) -> tuple[list[Floats], list[Floats]]:
        """See :class:`Model`."""
        weights, biases = self._split(parameters)
        theta = weights / scale
        return [np.atleast_2d(theta)], [biases - theta @ mean]


class MlpModel:
    """z = W2 silu(W1 x + b1) + b2. W2 is ``[n_out, n_units]``; with one output a vector, as in a linear model."""

    activation = "silu"

    def __init__(self, n_in: int, n_units: int, n_out: int = 1) -> None:
        self.n_in = n_in
        self.n_units = n_units
        self.n_out = n_out
        self.n_parameters = n_units * (n_in + 1) + n_out * (n_units + 1)

    def start(self, generator: np.random.Generator) -> Floats:
        """Random weights of the size that keeps the variance, biases 0."""
        w1 = generator.standard_normal((self.n_units, self.n_in)) / np.sqrt(self.n_in)
        w2 = generator.standard_normal(self.n_out * self.n_units) / np.sqrt(self.n_units)
        return np.concatenate([w1.ravel(), np.zeros(self.n_units), w2, np.zeros(self.n_out)])

    def _split(self, parameters: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        n = self.n_units * self.n_in
        w1 = parameters[:n].reshape(self.n_units, self.n_in)
        w2 = _rows(parameters[n + self.n_units : -self.n_out], self.n_out)
        return w1, parameters[n : n + self.n_units], w2, parameters[-self.n_out :]

    def forward(self, parameters: Floats, block: Block) -> tuple[Floats, Any]:
        """See :class:`Model`."""
        w1, b1, w2, b2 = self._split(parameters)
        x = (block @ w1.T.astype(np.float32)).astype(np.float64) + b1  # [n, n_units]
        gate = 1.0 / (1.0 + np.exp(-np.clip(x, -500.0, 500.0)))
        units = x * gate
        return units @ w2.T + b2, (x, gate, units)

    def backward(self, parameters: Floats, block: Block, kept: Any, gradient: Floats) -> Floats:
        """See :class:`Model`."""
        _, _, w2, _ = self._split(parameters)
        x, gate, units = kept
        to_units = np.outer(gradient, w2) if self.n_out == 1 else gradient @ w2
        inner = to_units * (gate * (1.0 + x * (1.0 - gate)))  # [n, n_units]
        w1 = inner.T.astype(np.float32) @ block
        of_second = np.append(gradient.T @ units, gradient.sum(axis=0))
        return np.concatenate([w1.astype(np.float64).ravel(), inner.sum(axis=0), of_second])

    def penalties(self, l2: Floats) -> Floats:
        """See :class:`Model`. What leads from the units to z is held down as the least of the inputs is."""
        units = np.full(self.n_out * self.n_units, l2.min())
        return np.concatenate([np.tile(l2, self.n_units), np.zeros(self.n_units), units, np.zeros(self.n_out)])

    def layers(self, parameters: Floats, mean: Floats, scale: Floats) -> tuple[list[Floats], list[Floats]]:
        """See :class:`Model`."""
        w1, b1, w2, b2 = self._split(parameters)
        folded = w1 / scale
        return [folded, np.atleast_2d(w2)], [b1 - folded @ mean, b2]


def _rows(weights: Floats, n_out: int) -> Floats:
    """One output's weights as they are, so that its products are those of a vector; of several, row by row."""
    return weights if n_out == 1 else weights.reshape(n_out, -1)


@dataclass(frozen=True)
class Fit:
    """What a fit came to.

    Attributes:
        parameters: those with the least held-out loss.
        n_iterations: iterations of L-BFGS.
        n_passes: passes over the training rows.
        best_iteration: the iteration that the parameters are from; 0 is the start.
        loss: mean training loss at the last iteration, without L2.
        held_out_loss: mean loss of the held-out rows at ``best_iteration``.
        stopped: ``"converged"``, ``"early"`` (the held-out loss rose) or ``"limit"``.
    """

    parameters: Floats
    n_iterations: int
    n_passes: int
    best_iteration: int
    loss: float
    held_out_loss: float
    stopped: str


def deferral_logits(model: Model, parameters: Floats, inputs: Inputs) -> Floats:
    """z of every row, ``[n]``; of K experts ``[n, K]``."""
    z = np.empty(inputs.n if model.n_out == 1 else (inputs.n, model.n_out))

    def part(blocks: Blocks) -> None:
        for at, block in blocks:
            z[at] = model.forward(parameters, block)[0]

    for _ in inputs.map(part):
        pass
    return z


def objective(
    model: Model, inputs: Inputs, loss: Loss, penalties: Floats, parameters: Floats
) -> tuple[float, Floats, float]:
    """Mean loss plus half the squared parameters times ``penalties``; its gradient; and the loss alone."""

    def part(blocks: Blocks) -> tuple[float, Floats]:
        value = 0.0
        gradient = np.zeros_like(parameters)
        for at, block in blocks:
            z, kept = model.forward(parameters, block)
            of_block, to_z = loss(z, at)
            value += of_block
            gradient += model.backward(parameters, block, kept, to_z)
        return value, gradient

    value = 0.0
    gradient = np.zeros_like(parameters)
    for of_part, to_parameters in inputs.map(part):
        value += of_part
        gradient += to_parameters
    held_down = penalties * parameters
    return value + 0.5 * float(parameters @ held_down), gradient + held_down, value


def fit(
    model: Model,
    start: Floats,
    inputs: Inputs,
    loss: Loss,
    held_out: Inputs,
    held_out_loss: Loss,
    *,
    penalties: Floats,
    max_iterations: int,
    patience: int,
    on_iteration: Callable[[int, float, float], None] | None = None,
) -> Fit:
    """Minimises the loss from ``start``.

    Args:
        model: the family of heads.
        start: first parameters.
        inputs: training rows, standardised.
        loss: of them.
        held_out: rows of other texts, on the same scale.
        held_out_loss: of them.
        penalties: of half the square of each parameter.
        max_iterations: of L-BFGS.
        patience: stop when the held-out loss did not fall for this many iterations.
        on_iteration: called with iteration, training loss and held-out loss.

    Raises:
        MissingDependency: SciPy is not installed.
    """
    optimize = require("scipy.optimize", "the fit of a head")
    n_passes = 0
    last_loss = np.inf
    iteration = 0
    best = (_held_out(model, start, held_out, held_out_loss), 0, start.copy())
    stopped = "limit"

    def value_and_gradient(parameters: Floats) -> tuple[float, Floats]:
        nonlocal n_passes, last_loss
        n_passes += 1
        value, gradient, last_loss = objective(model, inputs, loss, penalties, parameters)
        return value, gradient

    def after_iteration(intermediate_result: Any) -> None:
        nonlocal iteration, best, stopped
        iteration += 1
        other = _held_out(model, intermediate_result.x, held_out, held_out_loss)
        if other < best[0]:
            best = (other, iteration, intermediate_result.x.copy())
        if on_iteration is not None:
            on_iteration(iteration, last_loss, other)
        if iteration - best[1] >= patience:
            stopped = "early"
            raise StopIteration

    # Not below what sums in float32 resolve: there line searches go on in vain.
    tolerances = {"ftol": 1e-8, "gtol": 1e-6}
    result = optimize.minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=after_iteration,
        options={"maxiter": max_iterations, "maxfun": 4 * max_iterations, "maxcor": 20, **tolerances},
    )
    # The line search finding nothing better (status 2) is how a fit in float32 ends at its minimum.
    if stopped != "early" and result.status != 1:
        stopped = "converged"
    return Fit(best[2], iteration, n_passes, best[1], last_loss, best[0], stopped)


def _held_out(model: Model, parameters: Floats, inputs: Inputs, loss: Loss) -> float:
    def part(blocks: Blocks) -> float:
        return sum(loss(model.forward(parameters, block)[0], at)[0] for at, block in blocks)

    return sum(inputs.map(part))
