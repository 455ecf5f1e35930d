"""What a checker is, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

__all__ = ["CHARACTERS", "Checker", "Verdict"]

# Minus signs and dashes, non-breaking and thin spaces, and the full-width forms that CJK models write.
CHARACTERS: Mapping[int, str] = {
    **dict.fromkeys((0x2010, 0x2011, 0x2012, 0x2013, 0x2212, 0xFE63), "-"),
    **dict.fromkeys((0xA0, 0x2002, 0x2003, 0x2009, 0x202F, 0x3000), " "),
    **dict.fromkeys((0x200B, 0x2060, 0xFEFF), ""),
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a checker makes of one text.

    Attributes:
        correct: whether the text gives the answer.
        extracted: what was read from the text as its answer; None: nothing was found. For ``python``, what became
            of the code: ``"passed"``, ``"failed: AssertionError"``, ``"timed out"``, ``"no code"``.
    """

    correct: bool
    extracted: str | None


class Checker(Protocol):
    """Judges texts; :func:`make_checker` makes one."""

    name: ClassVar[str]
    """Which of :data:`CHECKERS` it is."""

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        """Judges one text.

        Args:
            text: what was generated.
            answer: the reference; for ``python``, the tests.
            prompt: what was asked: choices and code stubs are read from it.
        """
