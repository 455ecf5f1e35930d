"""How a base is tuned."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import OptionError
from .field import Choice, Flag, Own, Real, Whole, documented, option, read_fields
from .training import LABELS

__all__ = ["FILE_TYPES", "OBJECTIVES", "TuneOptions"]

OBJECTIVES = ("marginal", "sft", "regret")
# Of a merged file: those that need no importance matrix.
FILE_TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0"),
    *("q4_k_m", "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "q3_k_l", "q3_k_m", "q3_k_s", "q2_k"),
)
_ABOVE_0 = Real(0.0, is_open=True)


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class TuneOptions:
    """How adapter and head are trained."""

    objective: str = option(
        "marginal",
        Choice(OBJECTIVES),
        "What to train on. marginal: adapter and head together, on the likelihood of the texts under the pair. sft: "
        "the adapter alone, by cross-entropy. regret: the adapter by cross-entropy, and the head by regret.",
        "See :mod:`colm_cpp.tune.loss`.",
        section="Objective",
    )
    cost: float = option(0.0, Real(0.0), "Cost of a deferred token in nats.", section="Objective")
    label: str = option(
        "a",
        Choice(LABELS),
        "Weak labels that the head starts from, as for 'colm train'.",
        "With ``continuation``, ``regret`` weighs the cost of what follows.",
        section="Objective",
    )
    features: str = option(
        "logits",
        Own("as for TrainingOptions"),
        "Inputs of the head besides the hidden state, as for 'colm train'.",
        section="Objective",
    )
    rank: int = option(16, Whole(1, 256), "Rank of the LoRA matrices.", section="Adapter")
    alpha: float = option(32.0, _ABOVE_0, "The scale of the adapter is alpha / rank.", section="Adapter")
    epochs: int = option(2, Whole(1, 1000), "Number of passes over the training texts.", section="Training")
    learning_rate: float = option(2e-4, _ABOVE_0, "Highest learning rate of the adapter.", section="Training")
    head_learning_rate: float = option(1e-3, _ABOVE_0, "Highest learning rate of the head.", section="Training")
    warm_up: float = option(
        0.04,
        Real(0.0, 1.0),
        "Share of the steps during which the learning rate rises.",
        "Then it falls linearly to 0. Below 1.",
        section="Training",
    )
    batch_texts: int = option(16, Whole(1, 4096), "Number of texts per step.", section="Training")
    pass_tokens: int = option(
        1024,
        Whole(16, 2**20),
        "Number of tokens per forward pass. A larger number needs more memory.",
        "Padding counts too, and a longer text has a pass of its own.",
        section="Training",
    )
    max_grad_norm: float = option(
        1.0, _ABOVE_0, "Maximum gradient norm; larger gradients are scaled down.", section="Training"
    )
    weight_decay: float = option(0.0, Real(0.0), "Weight decay of the adapter.", section="Training")
    held_out: float = option(
        0.1,
        Real(0.0, 1.0),
        "Share of the texts to hold out. Training stops by their loss, and the report covers them.",
        "Above 0 and below 1.",
        section="Training",
    )
    head_share: float = option(
        0.2,
        Real(0.0, 1.0),
        "Share of the texts that the adapter does not see. The final head is fitted to them. 0: keep the head that was "
        "trained with the adapter.",
        "The tuned base reads these texts afterwards. With ``held_out`` below 1.",
        section="Training",
    )
    evaluations: int = option(
        4, Whole(1, 1000), "Number of evaluations on the held-out texts per epoch.", section="Training"
    )
    patience: int = option(
        4,
        Whole(1, 1000),
        "Stop after this many evaluations without a better held-out loss.",
        section="Training",
    )
    checkpointing: bool = option(
        False,
        Flag(),
        "Compute activations again in the backward pass: less memory, a third slower.",
        section="Training",
    )
    dtype: str = option(
        "auto",
        Choice(("auto", "float32", "bfloat16")),
        "Data type of the frozen weights. auto: bfloat16 if this machine computes it faster, else float32.",
        section="Training",
    )
    seed: int = option(
        0,
        Whole(0, 2**32 - 1),
        "Seed for the held-out texts, the order of the others, and the first weights.",
        section="Training",
    )

    def __post_init__(self) -> None:
        read_fields(self)
        if self.objective == "regret" and not self.cost:
            raise OptionError("cost is 0; objective 'regret' needs a price above 0, such as 0.1")
        if self.held_out in (0.0, 1.0):
            raise OptionError(f"held_out is {self.held_out}; it must be between 0 and 1, a share of the texts")
        if self.head_share >= 1.0 - self.held_out:
            raise OptionError(
                f"head_share is {self.head_share}; it must be 0 or more and, with held_out {self.held_out}, below 1"
            )
        if self.warm_up == 1.0:
            raise OptionError("warm_up is 1.0; it must be from 0 to below 1, a share of the steps")
