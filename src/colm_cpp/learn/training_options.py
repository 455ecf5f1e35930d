"""How a head is fitted: the options."""

from __future__ import annotations

from dataclasses import dataclass

from .._numbers import integer
from .._shown import shown
from ..errors import OptionError
from ..heads.head import FEATURES
from .objective import LABELS

__all__ = ["FEATURE_SETS", "TrainingOptions"]

FEATURE_SETS: dict[str, tuple[str, ...]] = {"none": (), "logits": ("log_odds", "entropy", "margin", "top_k_logprobs")}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a head is fitted.

    Attributes:
        kind: ``"linear"`` (theta of the paper) or ``"mlp"`` (one hidden layer of silu units).
        features: ``"none"``, ``"logits"`` (all features), or names of :data:`colm_cpp.heads.FEATURES`
            joined by commas. They are inputs beside the hidden state.
        top_k: how many log-probabilities ``top_k_logprobs`` stands for.
        use_hidden: False sets the weights of the hidden state to 0, for comparison.
        objective: ``"marginal"`` (the paper's, started from the weak labels), ``"weak"`` (the labels alone) or
            ``"regret"`` (the assistant's likelihood that is lost where the base writes); see :mod:`.objective`.
        label: the weak label: ``"a"``, ``"b"`` or ``"differ"``, see :func:`.objective.make_label`; or
            ``"continuation"``: the paths part (:class:`.forks.Continuations`), which also gives ``"regret"`` its cost.
        cost: price of a deferred token in nats, for ``"marginal"`` and ``"regret"``.
        l2: L2 penalty on the weights of the standardised hidden state.
        feature_l2: L2 penalty on the weights of the standardised features.
        n_units: width of the mlp.
        held_out: share of the texts that are held out, in (0, 1). They stop the fit and give the metrics.
        seed: seed of the choice of held-out texts and of the mlp's first weights.
        max_iterations: the most iterations of L-BFGS in each of the two fits.
        patience: iterations without a better held-out loss before a fit stops.
        memory_limit: the most bytes of the inputs in memory, as float32. Beyond it, hidden states are read from disk.
    """

    kind: str = "linear"
    features: str = "logits"
    top_k: int = 5
    use_hidden: bool = True
    objective: str = "marginal"
    label: str = "a"
    cost: float = 0.1
    l2: float = 0.3
    feature_l2: float = 1e-3
    n_units: int = 32
    held_out: float = 0.15
    seed: int = 0
    max_iterations: int = 200
    patience: int = 30
    memory_limit: int = 2**30

    def __post_init__(self) -> None:
        for name, known in (
            ("kind", ("linear", "mlp")),
            ("objective", ("marginal", "weak", "regret")),
            ("label", LABELS),
        ):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} is {shown(getattr(self, name))}; it must be one of {', '.join(known)}")
        self.feature_names()
        for name, low, high in (("cost", 0.0, 1e300), ("l2", 0.0, 1e300), ("feature_l2", 0.0, 1e300)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not low <= value <= high:  # also refuses NaN
                raise OptionError(f"{name} is {shown(value)}; it must be a finite number, 0 or more")
        if not isinstance(self.held_out, (int, float)) or not 0.0 < self.held_out < 1.0:
            raise OptionError(f"held_out is {shown(self.held_out)}; it must be between 0 and 1, a share of the texts")
        for name in ("max_iterations", "patience", "n_units", "top_k", "memory_limit"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
                raise OptionError(f"{name} is {shown(value)}; it must be a whole number, 1 or more")
        integer("seed", self.seed, 0, 2**63 - 1)
        if not self.use_hidden and not self.feature_names():
            raise OptionError("use_hidden=False and features='none' leave the head without inputs; choose features")

    def feature_names(self) -> tuple[str, ...]:
        """``features`` as names."""
        if not isinstance(self.features, str):
            raise OptionError(f"features is {shown(self.features)}; it must be a text")
        if self.features in FEATURE_SETS:
            return FEATURE_SETS[self.features]
        names = tuple(name.strip() for name in self.features.split(",") if name.strip())
        for name in names:
            if name not in FEATURES:
                raise OptionError(
                    f"feature {shown(name)} is unknown; give none, logits, or any of {', '.join(FEATURES)}, joined "
                    "by commas"
                )
        if not names or len(set(names)) != len(names):
            raise OptionError(f"features is {shown(self.features)}; name each feature once")
        return names
