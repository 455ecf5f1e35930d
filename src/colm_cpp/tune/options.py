"""How a base is tuned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .._numbers import integer, real
from .._shown import shown
from ..errors import OptionError

__all__ = ["OBJECTIVES", "TuneOptions"]

OBJECTIVES = ("marginal", "sft", "regret")
DTYPES = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """How adapter and head are trained.

    Attributes:
        objective: ``"marginal"`` trains adapter and head together on the paper's marginal likelihood; ``"sft"`` trains
            the adapter alone by cross-entropy; ``"regret"`` trains the adapter
            by cross-entropy and the head by regret. See :mod:`.loss`.
        rank: of the LoRA adapter, 1 to 256.
        alpha: its scale is alpha / rank.
        learning_rate: highest, of the adapter.
        head_learning_rate: highest, of the head.
        warm_up: share of the steps in which both rise from 0; then they fall linearly to 0.
        epochs: passes over the training texts.
        batch_texts: texts for each step of the optimizer.
        pass_tokens: tokens of one forward pass, padding included; a longer text has a pass of its own. Memory grows
            with it.
        max_grad_norm: gradients are scaled down to this norm.
        weight_decay: of the adapter.
        cost: price of a deferred token in nats (``"marginal"``, ``"regret"``).
        label: weak label that the head starts from; see :class:`colm_cpp.learn.TrainingOptions`. With
            ``"continuation"``, ``"regret"`` weighs the cost of what follows.
        features: what the head sees beside the hidden state; see :class:`colm_cpp.learn.TrainingOptions`.
        held_out: share of the texts that end the training and are reported on.
        evaluations: measurements on the held-out texts in each epoch.
        patience: measurements without a better held-out loss before training stops.
        checkpointing: compute activations again in the backward pass: less memory, a third slower.
        dtype: of the frozen weights. ``"auto"``: bfloat16 where the machine computes it faster, else float32.
        seed: of the held-out texts, the order of the others, and the adapter's first weights.
    """

    objective: str = "marginal"
    rank: int = 16
    alpha: float = 32.0
    learning_rate: float = 2e-4
    head_learning_rate: float = 1e-3
    warm_up: float = 0.04
    epochs: int = 2
    batch_texts: int = 16
    pass_tokens: int = 1024
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    cost: float = 0.0
    label: str = "a"
    features: str = "logits"
    held_out: float = 0.1
    evaluations: int = 4
    patience: int = 4
    checkpointing: bool = False
    dtype: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("objective", OBJECTIVES), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise OptionError(f"{name} is {shown(getattr(self, name))}; it must be one of {', '.join(known)}")
        for name, least, most in (
            ("rank", 1, 256),
            ("epochs", 1, 1000),
            ("batch_texts", 1, 4096),
            ("pass_tokens", 16, 2**20),
            ("evaluations", 1, 1000),
            ("patience", 1, 1000),
            ("seed", 0, 2**32 - 1),
        ):
            integer(name, getattr(self, name), least, most)
        for name in ("alpha", "learning_rate", "head_learning_rate", "max_grad_norm"):
            if not 0.0 < real(name, getattr(self, name)) < math.inf:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be a finite number above 0")
        for name in ("cost", "weight_decay"):
            if not 0.0 <= real(name, getattr(self, name)) < math.inf:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be a finite number, 0 or more")
        if self.objective == "regret" and not self.cost:
            raise OptionError("cost is 0; objective 'regret' needs a price above 0, such as 0.1")
        if not 0.0 < real("held_out", self.held_out) < 1.0:
            raise OptionError(f"held_out is {self.held_out}; it must be between 0 and 1, a share of the texts")
        if not 0.0 <= real("warm_up", self.warm_up) < 1.0:
            raise OptionError(f"warm_up is {self.warm_up}; it must be from 0 to below 1, a share of the steps")
