"""A head's arithmetic in numpy and float64: what the C++ evaluation is tested against."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..errors import OptionError


def evaluate(
    weights: tuple[npt.NDArray[np.float32], ...],
    biases: tuple[npt.NDArray[np.float32], ...],
    activation: str,
    inputs: npt.ArrayLike,
    n_in: int,
) -> npt.NDArray[np.float64]:
    """Map ``inputs`` ``[n, n_in]`` to z of each expert ``[n, n_experts]`` through the layers of a well-formed head.

    Raises:
        OptionError: ``inputs`` has another shape, or is not made of numbers.
    """
    try:
        x = np.asarray(inputs, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as exc:  # RuntimeError: a torch tensor that needs a gradient
        raise OptionError(f"inputs cannot be read as numbers: {exc}; pass an array [n, {n_in}]") from exc
    if x.ndim != 2 or x.shape[1] != n_in:
        raise OptionError(
            f"inputs has shape {x.shape}, but this head needs [n, {n_in}]: the hidden state of n tokens, "
            "each followed by the features"
        )
    last = len(weights) - 1
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight.astype(np.float64).T + bias.astype(np.float64)
        if i < last:
            x = _activate(activation, x)
    return x


def _activate(activation: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if activation == "relu":
        return np.maximum(x, 0.0)
    if activation == "silu":
        return x * np.exp(-np.logaddexp(0.0, -x))  # x * sigmoid(x) that overflows for no x
    # erfc(-t) is 1 + erf(t) without its cancellation for large negative t.
    erfc = np.vectorize(math.erfc, otypes=[np.float64])
    gelu: npt.NDArray[np.float64] = 0.5 * x * erfc(-x / math.sqrt(2.0))
    return gelu
