"""How a head is fitted: the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .._shown import shown
from ..errors import OptionError
from ..heads.head import FEATURES
from .field import Amount, Choice, Flag, Own, Real, Whole, documented, option, read_fields

__all__ = ["COST", "LABELS", "TrainingOptions", "costs_by_time"]

LABELS = ("a", "b", "differ", "continuation")
_FEATURE_SETS: dict[str, tuple[str, ...]] = {"none": (), "logits": ("log_odds", "entropy", "margin", "top_k_logprobs")}
COST = 0.1  # nats for each deferred token
_MOST = 2**63 - 1
_AMOUNT, _TIME = Amount(0.0), Real(0.0, is_open=True)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a head is fitted."""

    kind: str = option(
        "linear",
        Choice(("linear", "mlp")),
        "Linear head, or MLP with one hidden layer.",
        "``linear`` is theta of the paper; ``mlp`` has silu units.",
        section="Head",
    )
    features: str = option(
        "logits",
        Own("none, logits, or names of features joined by commas"),
        "Inputs besides the hidden state: none, logits (all features of the logits), or feature names separated by "
        "commas.",
        "The names are those of :data:`colm_cpp.heads.FEATURES`.",
        section="Head",
    )
    top_k: int = option(
        5, Whole(1, _MOST), "Number of log-probabilities in the feature top_k_logprobs.", section="Head"
    )
    use_hidden: bool = option(
        True,
        Flag(),
        "Use the hidden state as input.",
        "False sets its weights to 0, for comparison.",
        section="Head",
    )
    objective: str = option(
        "marginal",
        Choice(("marginal", "weak", "regret")),
        "What to train on. marginal: the likelihood of the texts under the pair. weak: the weak labels alone. regret: "
        "the log-probability that is lost where the base writes.",
        "See :mod:`colm_cpp.learn.objective`. ``marginal``, the paper's, starts from the weak labels.",
        section="Objective",
    )
    label: str = option(
        "a",
        Choice(LABELS),
        "Tokens to defer at the start of the fit (weak labels), by the most likely token of each model. a: the "
        "assistant's is the text's token and the base's is not. b: the base's is not. differ: the two differ. "
        "continuation: what follows differs too, as 'colm paths' found; it also gives ``objective`` regret its cost.",
        "See :func:`colm_cpp.learn.objective.make_label` and :class:`colm_cpp.learn.Continuations`.",
        section="Objective",
    )
    cost: float | Mapping[str, float] = option(
        COST,
        Own("a number, 0 or more, or a dict of them"),
        "Price of a deferred token in nats, for ``marginal`` and ``regret``.",
        'A dict has a price for each expert by its name: ``{"math": 0.1, "code": 0.05}``. See :func:`costs_by_time`.',
        section="Objective",
    )
    l2: float = option(
        0.3,
        _AMOUNT,
        "L2 penalty on the weights of the hidden state.",
        "Inputs are standardised first.",
        section="Objective",
    )
    feature_l2: float = option(1e-3, _AMOUNT, "L2 penalty on the weights of the features.", section="Objective")
    n_units: int = option(32, Whole(1, _MOST), "Number of hidden units of the MLP.", section="Head")
    held_out: float = option(
        0.15,
        Real(0.0, 1.0),
        "Share of the texts to hold out. Training stops by their loss, and the report covers them.",
        "Above 0 and below 1.",
        section="Fit",
    )
    seed: int = option(
        0,
        Whole(0, _MOST),
        "Seed for choosing the held-out texts and for the first weights of the MLP.",
        section="Fit",
    )
    max_iterations: int = option(
        200, Whole(1, _MOST), "Maximum number of L-BFGS iterations.", "In each of the two fits.", section="Fit"
    )
    patience: int = option(
        30, Whole(1, _MOST), "Stop after this many iterations without a better held-out loss.", section="Fit"
    )
    memory_limit: int = option(
        2**30,
        Whole(1, _MOST),
        "The most bytes of the inputs in memory, as float32. Beyond it, hidden states are read from disk.",
        section="",
    )

    def __post_init__(self) -> None:
        read_fields(self)
        self.feature_names()
        if isinstance(self.cost, Mapping):
            object.__setattr__(self, "cost", dict(self.cost))
            for expert, value in self.cost.items():
                _AMOUNT.read(f"the cost of {shown(expert)}", value)
        else:
            _AMOUNT.read("cost", self.cost)
        if self.held_out in (0.0, 1.0):
            raise OptionError(f"held_out is {self.held_out}; it must be between 0 and 1, a share of the texts")
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
        if self.features in _FEATURE_SETS:
            return _FEATURE_SETS[self.features]
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
    _AMOUNT.read("cost", cost)
    for name, value in seconds.items():
        _TIME.read(f"the time of {shown(name)}", value)
    if not seconds:
        raise OptionError("there are no times; give one for each expert")
    slowest = max(seconds.values())
    return {name: cost * value / slowest for name, value in seconds.items()}
