"""The python checker, as its tests call it."""

from __future__ import annotations

import textwrap

from colm_cpp.answers.checkers import Verdict, make_checker

TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\n"


def verdict(code: str, tests: str = TESTS, prompt: str = "") -> Verdict:
    return make_checker("python", time_limit=20).check(f"```python\n{textwrap.dedent(code)}\n```", tests, prompt)
