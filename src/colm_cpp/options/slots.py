"""How many texts a pair writes at a time."""

from __future__ import annotations

from dataclasses import dataclass

from .field import Whole, documented, option, read_fields

__all__ = ["MAX_PARALLEL", "SlotOptions"]

MAX_PARALLEL = 256  # kMaxSequences


@documented
@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOptions:
    """How many texts a pair writes at a time, and what it keeps of others."""

    n_parallel: int = option(
        1,
        Whole(1, MAX_PARALLEL),
        "Slots: texts that are written at the same time.",
        "Each has ``n_ctx`` tokens of its own in both models' KV caches. A new text takes the slot whose "
        "text has the longest beginning in common with it.",
    )
    cache_mb: int = option(
        256,
        Whole(0, 2**20),
        "The most megabytes of memory for texts that were read and have lost their slot; 0 keeps none.",
        "Several long chats can then alternate without being read again. A model that cannot go back (recurrent, "
        "hybrid, a sliding window with swa_full=False) may use a quarter of it for checkpoints inside the texts in "
        "slots. A text that changes is then read from the last checkpoint before the change.",
    )

    def __post_init__(self) -> None:
        read_fields(self)
