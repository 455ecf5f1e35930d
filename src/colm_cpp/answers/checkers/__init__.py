"""Is a generated text the right answer?

:func:`make_checker` gives one of :data:`CHECKERS`. A checker never raises over what a model wrote: a text in which no
answer can be found is simply not correct.
"""

from __future__ import annotations

from ..._numbers import integer
from ..._shown import shown
from ...errors import OptionError
from ...options.field import Amount
from ._choice import Choice
from ._numbers import Boxed, Number
from ._python import Python
from ._texts import Exact, Regex, compile_pattern
from ._verdict import Checker, Verdict

__all__ = ["CHECKERS", "Checker", "Verdict", "make_checker"]

CHECKERS: tuple[str, ...] = ("boxed", "number", "choice", "exact", "regex", "python")


def make_checker(
    name: str, *, pattern: str | None = None, time_limit: float = 10.0, memory_limit_mb: int = 1024
) -> Checker:
    """Makes a checker.

    ``boxed``
        The last complete ``\\boxed{...}`` holds the number (or text) of the reference. Thousands commas, currency,
        percent and degree signs, LaTeX spacing and a unit after the number make no difference, so ``5 cm`` equals
        ``5 feet``. Two whole numbers must be equal; other numbers may differ by 1e-6 of the reference. What is no
        number is compared as text, without regard to case, spacing and dollar signs.
    ``number``
        The last number in the text, read and compared likewise.
    ``choice``
        The choice that the text settles on, by letter or by the choice's text; the choices are read from the prompt.
        The last "the answer is ..." counts, else the last "(c)", else the choice named last in the last sentence.
        Where a statement's words are one choice's text in full but its letter is another's, the text counts. A
        reference that is a lone letter is a label.
    ``exact``
        The text itself, white space collapsed.
    ``regex``
        What the last non-empty match of ``pattern`` captured.
    ``python``
        The code in the text passes the tests in the reference: they raise on failure, and call whatever has to be
        called. Code and tests run in a process each, with limits on time and, except on Windows, on memory and the size
        of files. The tests see the code's names, and get what it returns as plain values (numbers, texts, containers,
        the usual classes of ``datetime``, ``decimal``, ``fractions``, ``collections`` and numpy), which they compare
        themselves. So the code cannot make itself pass by ending early, by what it prints or writes to open files, by
        replacing built-in functions, or by returning an object that is equal to everything.

        Objects of the code's own classes stay with it. Tests can make them, call their methods, read their attributes,
        iterate over them and compare or compute them with each other. They are equal to no plain value and cannot be
        computed with one, unless their class derives from a built-in one, and tests cannot derive classes from theirs.
        Lists, dicts, sets and bytearrays that a test passes are changed in place; other arguments are copies.

        Not covered: what tests learn only from the code's own methods, operators and helpers is the code's word (so
        let tests import the modules that they use). Tests that a wrong answer passes are passed by it.
        And **this is no sandbox**: the code can read, change and send whatever the user can, other processes of that
        user included, among them the one that judges. Use a container or a virtual machine for models that you do not
        trust.

    For ``boxed``, ``number`` the reference may be a number, a ``\\boxed{}`` or a solution that ends in ``#### 26``.

    Args:
        name: one of :data:`CHECKERS`.
        pattern: for ``regex``, which needs it: a regular expression with one capture group, or none for the whole
            match. A pattern that backtracks without end does so here too.
        time_limit: for ``python``: seconds of wall time for one text, more than 0, at most 3600.
        memory_limit_mb: for ``python``: MiB of address space, at least 64. Windows has no such limit, and macOS may
            not enforce it.

    Raises:
        OptionError: there is no checker of that name, or an option is missing, superfluous or out of range.
    """
    if name not in CHECKERS:
        raise OptionError(f"checker is {shown(name)}; it must be one of {', '.join(CHECKERS)}")
    seconds = Amount(0.0, 3600.0, is_open=True).read("time_limit", time_limit)
    python = Python(seconds, integer("memory_limit_mb", memory_limit_mb, 64, 2**31 - 1))
    if name == "regex":
        return Regex(compile_pattern(pattern))
    if pattern is not None:
        raise OptionError(f"pattern is {shown(pattern)}, but only the checker regex has a pattern, not {name}")
    checkers: tuple[Checker, ...] = (Boxed(), Number(), Choice(), Exact(), python)
    return next(checker for checker in checkers if checker.name == name)
