"""How a head is fitted: the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._numbers import integer
from .._shown import shown
from ..errors import OptionError
from ..heads.head import FEATURES
from .objective import LABELS

__all__ = ["FEATURE_SETS", "TrainingOptions", "costs_by_time"]

_MOST = 1e300

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
        cost: price of a deferred token in nats, for ``"marginal"`` and ``"regret"``. A dict has a price for each expert
            by its name: ``{"math": 0.1, "code": 0.05}``. See :func:`costs_by_time`.
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
    cost: float | Mapping[str, float] = 0.1
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
        if isinstance(self.cost, Mapping):
            object.__setattr__(self, "cost", dict(self.cost))
            for expert, value in self.cost.items():
                _amount(f"the cost of {shown(expert)}", value)
        else:
            _amount("cost", self.cost)
        for name in ("l2", "feature_l2"):
            _amount(name, getattr(self, name))
        if not isinstance(self.held_out, (int, float)) or not 0.0 < self.held_out < 1.0:
            raise OptionError(f"held_out is {shown(self.held_out)}; it must be between 0 and 1, a share of the texts")
        for name in ("max_iterations", "patience", "n_units", "top_k", "memory_limit"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**63:
                raise OptionError(f"{name} is {shown(value)}; it must be a whole number, 1 or more")
        integer("seed", self.seed, 0, 2**63 - 1)
        if not self.use_hidden and not self.feature_names():
            raise OptionError("use_hidden=False and features='none' leave the head without inputs; choose features")

    def costs(self, experts: Sequence[str]) -> tuple[float, ...]:
        """The price of each expert.

        Raises:
            OptionError: ``cost`` is a dict and has not the names of the experts.
        """
        if not isinstance(self.cost, Mapping):
            return (self.cost,) * len(experts)
        for name in dict.fromkeys([*self.cost, *experts]):
            if name not in experts or name not in self.cost:
                what = "has no price for" if name in experts else "names"
                raise OptionError(f"cost {what} {shown(name)}; give a price for each of {', '.join(experts)}")
        return tuple(self.cost[name] for name in experts)

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


def costs_by_time(cost: float, seconds: Mapping[str, float]) -> dict[str, float]:
    """A price for each expert in proportion to its time; ``cost`` is that of the slowest.

    Args:
        cost: nats for each token of the slowest expert, 0 or more.
        seconds: of one decode of each expert, by its name, in whatever unit.

    Raises:
        OptionError: a time is no finite number above 0, or there is none.
    """
    _amount("cost", cost)
    for name, value in seconds.items():
        if not isinstance(value, (int, float)) or not 0.0 < value <= _MOST:
            raise OptionError(f"the time of {shown(name)} is {shown(value)}; it must be a finite number above 0")
    if not seconds:
        raise OptionError("there are no times; give one for each expert")
    slowest = max(seconds.values())
    return {name: cost * value / slowest for name, value in seconds.items()}


def _amount(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= _MOST:  # also refuses NaN
        raise OptionError(f"{name} is {shown(value)}; it must be a finite number, 0 or more")
