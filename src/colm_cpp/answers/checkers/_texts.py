"""Answers compared as they stand: the whole text, or what a pattern captures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from ..._shown import shown
from ...errors import OptionError
from ._verdict import Verdict

__all__ = ["Exact", "Regex", "compile_pattern"]


def compile_pattern(pattern: str | None) -> re.Pattern[str]:
    """The pattern of a regex checker.

    Raises:
        OptionError: it is missing, no regular expression, or has several groups.
    """
    if not pattern:
        raise OptionError("pattern is missing, but the checker regex needs one")
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise OptionError(f"pattern is {shown(pattern)}, which is no regular expression ({error})") from error
    if compiled.groups > 1:
        raise OptionError(
            f"pattern is {shown(pattern)} with {compiled.groups} capture groups, but it may have one; "
            "write (?:...) for the others"
        )
    return compiled


@dataclass(frozen=True, slots=True)
class Exact:
    """Compares the whole text, white space collapsed."""

    name: ClassVar[str] = "exact"

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        found = " ".join(text.split())
        return Verdict(found == " ".join(answer.split()), found or None)


@dataclass(frozen=True, slots=True)
class Regex:
    """Compares the last non-empty match of a pattern."""

    name: ClassVar[str] = "regex"
    pattern: re.Pattern[str]

    def check(self, text: str, answer: str, prompt: str) -> Verdict:
        found = None
        for match in self.pattern.finditer(text):
            # A pattern such as \d* matches the empty string at every end of a text.
            found = (match[self.pattern.groups] or "").strip() or found
        return Verdict(found is not None and found == answer.strip(), found)
