"""How many texts a pair writes at a time."""

# option() makes a field; its default is what it says

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
        "Each has ``n_ctx`` tokens of its own in both models' KV caches. A new text takes the slot that holds the "
        "longest beginning of it.",
    )
    cache_mb: int = option(
        256,
        Whole(0, 2**20),
        "The most megabytes of memory for what slots held before other texts took them; 0 keeps nothing.",
        "Several long chats can then alternate without being read again. Of a model that cannot go back (recurrent, "
        "hybrid, a sliding window with swa_full=False) a quarter is for checkpoints inside the texts in slots: a text "
        "that changes is read from the last one before the change.",
    )

    def __post_init__(self) -> None:
        read_fields(self)
