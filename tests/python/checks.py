"""Shared by the tests of checkers."""

from __future__ import annotations

from colm_cpp.answers.checkers import Verdict, make_checker


def check(name: str, text: str, answer: str, prompt: str = "") -> Verdict:
    return make_checker(name).check(text, answer, prompt)
