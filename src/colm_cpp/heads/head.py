"""Deferral heads: at every token, a head decides which of the two models writes it.

A head maps the base's hidden state h_t to one number, the defer logit z_t. It may also use features:
a few numbers about the base's next-token distribution. ``docs/head-format.md`` describes
the file that :meth:`Head.save` writes and :meth:`Head.load` reads.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._numbers import share
from ..errors import HeadError
from ..files.paths import to_native
from . import _file, _math, checks
from .checks import ACTIVATIONS, FEATURES, KINDS, MAX_TOP_K
from .tables import Runs, threshold_for

__all__ = ["ACTIVATIONS", "FEATURES", "KINDS", "MAX_TOP_K", "Head"]


@dataclass(frozen=True, eq=False)
class Head:
    """A deferral head. Immutable; two heads are equal only if they are the same object.

    Attributes:
        weights: one float32 array ``[n_out, n_in]`` per layer, read-only copies of the given arrays.
            The first ``n_in`` is ``n_embd + n_features``. Each later ``n_in`` is the ``n_out`` of the
            layer before. The last ``n_out`` is 1, or one for each of several experts. At most 64 layers with 2**27
            weights in all.
        biases: one float32 array ``[n_out]`` per layer, read-only.
        n_embd: width of the base's hidden state, 1 to 1,048,576.
        kind: ``"linear"`` (exactly one layer) or ``"mlp"`` (one or more).
        activation: between the layers of an ``"mlp"``: ``"relu"``, ``"gelu"`` (exact, erf) or
            ``"silu"``. Not used by a linear head.
        features: the inputs after h_t, in this order; any of :data:`FEATURES`, each once.
        top_k: how many log-probabilities ``"top_k_logprobs"`` stands for, 1 to 64; 0 without it.
        name: the head's name, for display.
        base_name: the base that the head was made for, for display.
        assistant_name: the assistant that the head was made for, for display.
        expert_names: what the pair calls the expert of each output. A head for several experts (2 to 9) needs them, and
            the softmax over [0, z_1, ..., z_K] says who writes. A head with one output may name the expert that it
            defers to. ``()``: not said.
        vocab_fingerprint: 16 hexadecimal digits (kept in lower case). If present, it must equal the
            base's.
        base_adapters: SHA-256 of the file and scale of each LoRA adapter that the base had when the head was fitted.
            ``()``: it had none. None: unknown. A pair whose base has other adapters refuses the head, or warns if the
            head was fitted without one.
        default_threshold: eta in [0, 1]. None: 0.5.
        rates: the calibration table's deferral rates in [0, 1], strictly ascending; at most 4096. The table holds for a
            ``hold`` of 1 without a leave threshold; tables for others lie in ``calibration``.
        thresholds: the calibration table's thresholds in [0, 1], one for each of ``rates``.
        training: how the head was fitted, and its metrics on held-out texts, as JSON; None if unknown.
        calibration: how ``rates`` were measured, as JSON; None if unknown. Its list ``"runs"`` holds the tables for
            other ``hold`` and ``leave_threshold``.

    ``default_threshold``, ``rates`` and ``thresholds`` are rounded to float32, as a head file holds
    them. A head therefore behaves alike before it is saved and after it is loaded.

    Raises:
        HeadError: a value breaks one of these rules, or a weight or bias is not finite in float32.
    """

    weights: tuple[npt.NDArray[np.float32], ...]
    biases: tuple[npt.NDArray[np.float32], ...]
    n_embd: int
    kind: str
    activation: str = "relu"
    features: tuple[str, ...] = ()
    top_k: int = 0
    name: str | None = None
    base_name: str | None = None
    assistant_name: str | None = None
    vocab_fingerprint: str | None = None
    base_adapters: tuple[tuple[str, float], ...] | None = None
    default_threshold: float | None = None
    rates: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    training: str | None = None
    calibration: str | None = None
    expert_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def put(field: str, value: object) -> None:
            object.__setattr__(self, field, value)  # the way round `frozen`, for normalised values

        put("kind", checks.choice("kind", self.kind, KINDS))
        put("activation", checks.choice("activation", self.activation, ACTIVATIONS))
        put("features", checks.feature_names(self.features))
        put("top_k", checks.top_k(self.top_k, self.features))
        put("n_embd", checks.integer("n_embd", self.n_embd, 1, checks.MAX_EMBD))
        put("weights", checks.arrays("weights", self.weights, 2))
        put("biases", checks.arrays("biases", self.biases, 1))
        put("expert_names", checks.names_of_experts(self.expert_names))
        n_out = max(1, len(self.expert_names))
        checks.layer_chain(self.kind, self.weights, self.biases, self.n_embd, self.n_features, n_out)
        for field in ("name", "base_name", "assistant_name", "training", "calibration"):
            checks.text(field, getattr(self, field))
        put("vocab_fingerprint", checks.fingerprint(self.vocab_fingerprint))
        put("base_adapters", checks.adapters(self.base_adapters))
        if self.default_threshold is not None:
            put("default_threshold", checks.unit("default_threshold", self.default_threshold))
        put("rates", checks.units("rates", self.rates))
        put("thresholds", checks.units("thresholds", self.thresholds))
        checks.calibration(self.rates, self.thresholds)

    @classmethod
    def linear(
        cls,
        theta: npt.ArrayLike,
        bias: float = 0.0,
        *,
        features: Sequence[str] = (),
        top_k: int = 0,
        **metadata: Any,
    ) -> Head:
        """Make the head of the paper: z = theta . [h_t, features] + bias.

        Args:
            theta: ``[n_embd + n_features]`` or ``[1, n_embd + n_features]``; of several experts
                (``expert_names``) ``[n_experts, n_embd + n_features]``.
            bias: added to every z. Default 0. Of several experts ``[n_experts]``, or one for all.
            features: see :class:`Head`. Default none.
            top_k: see :class:`Head`. Default 0.
            **metadata: any of ``name``, ``base_name``, ``assistant_name``, ``vocab_fingerprint``,
                ``base_adapters``, ``default_threshold``, ``rates``, ``thresholds``, ``training``, ``calibration``,
                ``expert_names``.

        Raises:
            HeadError: the head is not well-formed.
        """
        rows = checks.array("theta", theta)
        n_out = max(1, len(checks.names_of_experts(metadata.get("expert_names", ()))))
        if rows.ndim == 1 and n_out == 1:
            rows = rows[np.newaxis, :]
        if rows.ndim != 2 or rows.shape[0] != n_out:
            wanted = "[n_embd + n_features]" if n_out == 1 else f"[{n_out}, n_embd + n_features]"
            raise HeadError(
                f"theta has shape {rows.shape}, but a linear head needs {wanted}; use Head.mlp for several layers, and "
                "name an expert for each row (expert_names) in a head for several experts"
            )
        n_features = checks.count_features(checks.feature_names(features), top_k)
        biases = checks.array("bias", bias).reshape(-1)
        return cls(
            weights=(rows,),
            biases=(np.repeat(biases, n_out) if biases.size == 1 else biases,),
            n_embd=rows.shape[1] - n_features,
            kind="linear",
            features=tuple(features),
            top_k=top_k,
            **metadata,
        )

    @classmethod
    def mlp(
        cls,
        weights: Sequence[npt.ArrayLike],
        biases: Sequence[npt.ArrayLike],
        *,
        activation: str = "relu",
        n_embd: int | None = None,
        features: Sequence[str] = (),
        top_k: int = 0,
        **metadata: Any,
    ) -> Head:
        """Make a head of several layers, with ``activation`` between them and none at the end.

        Args:
            weights: per layer ``[n_out, n_in]`` (the layout of ``torch.nn.Linear``).
            biases: per layer ``[n_out]``.
            activation: ``"relu"`` (default), ``"gelu"`` (exact) or ``"silu"``.
            n_embd: width of the hidden state. None: the first ``n_in`` less the number of features.
            features: see :class:`Head`. Default none.
            top_k: see :class:`Head`. Default 0.
            **metadata: as in :meth:`linear`.

        Raises:
            HeadError: the head is not well-formed.
        """
        layers = checks.arrays("weights", weights, 2)
        n_features = checks.count_features(checks.feature_names(features), top_k)
        return cls(
            weights=layers,
            biases=checks.arrays("biases", biases, 1),
            n_embd=layers[0].shape[1] - n_features if n_embd is None else n_embd,
            kind="mlp",
            activation=activation,
            features=tuple(features),
            top_k=top_k,
            **metadata,
        )

    @classmethod
    def confidence(cls, n_embd: int, **metadata: Any) -> Head:
        """Make the training-free head ``"confidence"`` as a :class:`Head`, which can be calibrated and saved.

        Its z is ``-log_odds`` of the base. The hidden state has weight 0.

        Args:
            n_embd: width of the base's hidden state.
            **metadata: as in :meth:`linear`.
        """
        theta = np.zeros(n_embd + 1, np.float32)
        theta[-1] = -1.0
        return cls.linear(theta, features=("log_odds",), **{"name": "confidence", **metadata})

    def __repr__(self) -> str:
        layers = " -> ".join(str(n) for n in (self.weights[0].shape[1], *(len(bias) for bias in self.biases)))
        features = f", features {', '.join(self.features)}" if self.features else ""
        threshold = "" if self.default_threshold is None else f", default_threshold {self.default_threshold:g}"
        calibrated = f", calibrated at {len(self.rates)} rates" if self.rates else ""
        name = "" if self.name is None else f" {self.name!r}"
        experts = f", experts {' and '.join(self.expert_names)}" if self.expert_names else ""
        return f"<Head{name}: {self.kind}, {layers}{features}{experts}{threshold}{calibrated}>"

    @property
    def n_features(self) -> int:
        """The number of inputs after h_t. ``"top_k_logprobs"`` counts as ``top_k`` of them."""
        return checks.count_features(self.features, self.top_k)

    def defer_logits(self, inputs: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Evaluate the head in numpy, in float64: the reference for the C++ evaluation.

        Args:
            inputs: ``[n, n_embd + n_features]``: h_t of n tokens, each followed by its features.

        Returns:
            z, ``[n]``; the probability of deferring is ``1 / (1 + exp(-z))``. Of several experts it is
            ``log(exp(z_1) + ... + exp(z_K))``.

        Raises:
            OptionError: ``inputs`` has another shape, or is not made of numbers.
        """
        z: npt.NDArray[np.float64] = np.logaddexp.reduce(self.scores(inputs), axis=1)
        return z

    def scores(self, inputs: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """z of each expert, ``[n, n_experts]``, for ``inputs`` as of :meth:`defer_logits`.

        Raises:
            OptionError: ``inputs`` has another shape, or is not made of numbers.
        """
        n_in = self.n_embd + self.n_features
        return _math.evaluate(self.weights, self.biases, self.activation, inputs, n_in)

    def threshold_for_rate(self, rate: float, *, hold: int = 1, leave_threshold: float | None = None) -> float:
        """Give the threshold eta at which about ``rate`` of the tokens are deferred.

        Interpolates linearly in the calibration table. Beyond an end of the table, gives that end's threshold.

        Args:
            rate: wanted share of deferred tokens, 0 to 1. It counts all tokens of the assistant, held ones too.
            hold: tokens that the assistant writes each time that the head defers.
            leave_threshold: the threshold after a token of the assistant. None: the same as before.

        Raises:
            OptionError: ``rate`` is not in [0, 1], or ``hold`` or ``leave_threshold`` is out of range.
            HeadError: the head has no calibration table for this ``hold`` and ``leave_threshold``.
        """
        rate = share("rate", rate)
        return threshold_for(self, Runs.of({"hold": hold, "leave_threshold": leave_threshold}), rate)

    def replace(self, **changes: Any) -> Head:
        """Copy the head with some attributes changed, e.g. ``head.replace(default_threshold=0.3)``.

        Raises:
            HeadError: the changed head is not well-formed.
            TypeError: there is no attribute of that name.
        """
        return dataclasses.replace(self, **changes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the head as one GGUF file; the same head always gives the same bytes.

        The file appears under ``path`` only when it is complete, and replaces what was there.

        Raises:
            LoadError: the file cannot be written, or its name is invalid. An earlier file stays as it was.
            OptionError: ``path`` is a link.
            MissingDependency: the ``gguf`` package is not installed.
        """
        _file.write(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Head:
        """Read a head: a file, a place on the hub, or the name of a head in the package.

        Raises:
            LoadError: the file is missing, damaged or not a GGUF file.
            HeadError: the file is not a well-formed head.
            DownloadError: the file cannot be downloaded from the hub.
        """
        from .. import _core  # here, so that making and saving heads works without the extension
        from ..sources.names import find_head

        return cls(**_core.read_head(to_native(find_head(path).file() or path)))
