"""Checkers: their names, and those of numbers and formulas."""

from __future__ import annotations

import re
import time

import pytest
from checks import check

from colm_cpp.answers.checkers import CHECKERS, Verdict, make_checker
from colm_cpp.errors import OptionError

# --- make_checker ---


@pytest.mark.parametrize("name", CHECKERS)
def test_names(name: str) -> None:
    assert make_checker(name, pattern="x" if name == "regex" else None).name == name


ODD = ("", " \n", "\x00", "\ud800", "\\boxed{", "}" * 50, "{" * 50, "```", "(((")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # Where there is code, this checker starts two interpreters.
        pytest.param(name, text, marks=pytest.mark.slow if name == "python" and text in ODD[4:7] else ())
        for name in CHECKERS
        for text in ODD
    ],
)
def test_no_text_upsets_a_checker(name: str, text: str) -> None:
    checker = make_checker(name, pattern="y" if name == "regex" else None)
    assert not checker.check(text, "y" if name != "python" else "raise ValueError", "").correct


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(OptionError, match=re.escape(", ".join(CHECKERS))):
        make_checker("fuzzy")


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf"), 3601.0, True])
def test_bad_time_limit(limit: float) -> None:
    with pytest.raises(OptionError, match="time_limit"):
        make_checker("python", time_limit=limit)


@pytest.mark.parametrize("limit", [0, 63, -1, True, 100.5, 2**40])
def test_bad_memory_limit(limit: int) -> None:
    with pytest.raises(OptionError, match="memory_limit_mb"):
        make_checker("python", memory_limit_mb=limit)


@pytest.mark.parametrize("pattern", [None, "", "(", "[a", "(a)(b)", "*"])
def test_bad_pattern(pattern: str | None) -> None:
    with pytest.raises(OptionError, match="pattern"):
        make_checker("regex", pattern=pattern)


def test_a_pattern_is_for_regex_only() -> None:
    with pytest.raises(OptionError, match="regex"):
        make_checker("boxed", pattern="x")


# --- boxed ---


@pytest.mark.parametrize(
    ("held", "answer"),
    [
        ("26", "26"),
        ("26.0", "26"),
        ("26.", "26"),
        (" 26 ", "26"),
        ("1,234", "1234"),
        ("1{,}234", "1,234"),
        ("1\\,234", "1234"),
        ("1,\\!234", "1234"),
        ("1,234,567.50", "1234567.5"),
        ("\\$26", "26"),
        ("$26", "26"),
        ("$26$", "26"),
        ("\\(26\\)", "26"),
        ("-\\$5", "-5"),
        ("\\$-5", "-5"),
        ("\u20ac5.50", "5.5"),
        ("50%", "50"),
        ("50\\%", "50"),
        ("50\\,\\%", "50%"),
        ("26 \\text{ points}", "26"),
        ("26\\text{ cm}", "26"),
        ("26\\ \\mathrm{cm}^2", "26"),
        ("26 \\; \\text{m/s}", "26"),
        ("26 \\textbf{\\text{ goals}}", "26"),
        ("26 goals", "26"),
        ("26 goals per game", "26"),
        ("26 (dollars)", "26"),
        ("5kg", "5"),
        ("5 m\u00b2", "5"),
        ("\\text{26}", "26"),
        ("\\textbf{26}", "26"),
        ("**26**", "26"),
        ("USD 26", "26"),
        ("\\text{Total: } 26", "26"),
        ("about 26", "26"),
        ("\\approx 26", "26"),
        ("90^\\circ", "90"),
        ("90^{\\circ}", "90"),
        ("90\u00b0", "90 degrees"),
        ("\u22125", "-5"),
        ("- 5", "-5"),
        ("+5", "5"),
        ("\\frac{1}{2}", "0.5"),
        ("\\dfrac{1}{2}", "1/2"),
        ("\\frac12", "0.5"),
        ("-\\frac{1}{2}", "-0.5"),
        ("\\frac{-1}{2}", "-1/2"),
        ("3\\frac{1}{2}", "3.5"),
        ("-3\\frac{1}{2}", "-3.5"),
        ("3 1/2", "7/2"),
        ("\\frac{1,000}{4}", "250"),
        ("10 / 4", "2.5"),
        (".5", "0.5"),
        ("0.33333333", "1/3"),
        ("x = 5", "5"),
        ("3 + 2 = 5", "5"),
        ("1,000 + 5 = 1,005", "1005"),
        ("2 + 3 = 4 + 1 = 5", "5"),
        ("x = \\frac{1}{2}", "0.5"),
        ("3 million", "3,000,000"),
        ("1.5 \\times 10^{6}", "1500000"),
        ("1.5e6", "1500000"),
        ("\uff12\uff16", "26"),
        ("4th", "4"),
        ("26", "\\boxed{26}"),
        ("26", "20 + 6 = <<20+6=26>>26\n#### 26"),
        ("1000", "It is so.\n#### 1,000"),
        ("26", "The final answer is: \\boxed{26}"),
        ("0", "0"),
        ("0.0", "-0"),
        # no numbers: as texts
        ("\\text{Tuesday}", "tuesday"),
        ("$\\pi$", "\\pi"),
        ("2x", "2x"),
        ("(3, 4)", "(3,4)"),
        ("x = \\frac{\\pi}{2}", "\\dfrac{\\pi}{2}"),
        ("\\left(0, 1\\right)", "(0,1)"),
        ("New  York", "new york"),
        ("5 PM", "5 pm"),
        ("3:30", "3:30"),
        ("\\{1, 2\\}", "\\{1,2\\}"),
        ("26 and 27", "26 and 27"),
    ],
)
def test_boxed_correct(held: str, answer: str) -> None:
    assert check("boxed", f"So the answer is $\\boxed{{{held}}}$.", answer).correct


@pytest.mark.parametrize(
    ("held", "answer"),
    [
        ("25", "26"),
        ("-26", "26"),
        ("26.1", "26"),
        ("0.26", "26%"),
        ("26, 27", "26"),
        ("26 or 27", "26"),
        ("26 + 1", "26"),
        ("26x", "26"),
        ("2x", "2y"),
        ("2 x", "2"),
        ("26 \\times 2", "26"),
        ("3\\pi", "3"),
        ("3 \\sqrt{2}", "3"),
        ("5!", "5"),
        ("5 am", "5 pm"),
        ("3:2", "3"),
        ("x \\leq 5", "5"),
        ("x >= 5", "5"),
        ("x = 5, y = 3", "3"),
        ("\\frac{1}{0}", "0"),
        ("1/0", "1"),
        ("3 million", "3"),
        ("1,23", "123"),
        ("0.333", "1/3"),
        ("12345678", "12345679"),
        ("1234567.0", "1234568"),
        ("1" + "0" * 5000, "1"),
        ("1" + "0" * 5000, "1" + "0" * 4999),
        ("12", "1 2"),
        ("Tuesday", "26"),
        ("26", "Tuesday"),
        ("\\$", "$"),
        ("12 hours and 30 minutes", "12"),
    ],
)
def test_boxed_wrong(held: str, answer: str) -> None:
    verdict = check("boxed", f"So the answer is $\\boxed{{{held}}}$.", answer)
    assert verdict == Verdict(False, held)


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        ("no box, but 26", None),
        ("\\boxed{26", None),
        ("\\boxed{}", None),
        ("\\boxed{1}, no: \\boxed{26}", "26"),
        ("\\boxed{26} is it, \\boxed{2", "26"),
        ("\\boxed{26} and \\boxed{}", "26"),
        ("\\boxed{1 and then \\boxed{26}", "26"),
        ("\\boxed{\\boxed{26}}", "26"),
        ("\\fbox{26}", "26"),
        ("\\boxed 26.", "26"),
        ("(it is \\boxed 26)", "26"),
        ("$\\boxed-26$", "-26"),
        ("\\boxed {26}", "26"),
        ("\\boxed\\frac{1}{2}", "\\frac{1}{2}"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\text{a {b} c}}", "\\text{a {b} c}"),
        ("\\boxed{\\{5}", "\\{5"),
        ("} { \\boxed{26} }", "26"),
        ("\\boxedness{26}", None),
        ("26 boxed{26}", None),
    ],
)
def test_boxed_extraction(text: str, extracted: str | None) -> None:
    assert check("boxed", text, "26") == Verdict(extracted == "26", extracted)


# --- number ---


@pytest.mark.parametrize(
    ("text", "extracted", "answer"),
    [
        ("The answer is 26.", "26", "26"),
        ("First 3, 4", "4", "4"),
        ("It costs $1,000.", "$1,000", "1000"),
        ("It costs $1,000.50.", "$1,000.50", "1000.5"),
        ("in all 1,000, or so", "1,000", "1000"),
        ("so 25% of it", "25", "25"),
        ("so 25\\%.", "25", "25"),
        ("it is -5.", "-5", "-5"),
        ("it is \u22125", "-5", "-5"),
        ("it is -$5", "-$5", "-5"),
        ("x=-5", "-5", "-5"),
        ("x = - 5", "- 5", "-5"),
        ("10-5", "5", "5"),
        ("10 - 5", "5", "5"),
        ("pages 3\u20135", "5", "5"),
        ("the $3$-$5$ range", "$5", "5"),
        ("- 5 apples", "5", "5"),
        ("a half: 1/2.", "1/2", "0.5"),
        ("\\frac{1}{2}.", "\\frac{1}{2}", "0.5"),
        ("on 2024/05/06", "06", "6"),
        ("\\boxed{26}.", "26", "26"),
        ("1{,}234 goals", "1,234", "1234"),
        ("#### 26", "26", "26"),
        ("**26**", "26", "26"),
        ("it weighs 5kg", "5", "5"),
        ("about 3 million.", "3 million", "3000000"),
        ("about .5", ".5", "0.5"),
        ("26! Done.", "26", "26"),
        ("26", "26", "The answer is 26."),
        ("26", "26", "steps 1, 2\n#### 26"),
    ],
)
def test_number(text: str, extracted: str, answer: str) -> None:
    assert check("number", text, answer) == Verdict(True, extracted)


@pytest.mark.parametrize(
    ("text", "extracted", "answer"),
    [
        ("none", None, "26"),
        ("26 then 27", "27", "26"),
        ("26", "26", "no number"),
        ("5 - 3", "3", "-3"),
        ("26/0", "26/0", "26"),
        ("1" * 10_000, "1" * 10_000, "1"),
    ],
)
def test_number_wrong(text: str, extracted: str | None, answer: str) -> None:
    assert check("number", text, answer) == Verdict(False, extracted)


@pytest.mark.parametrize("name", ["boxed", "number", "choice", "exact"])
@pytest.mark.parametrize(
    "piece",
    [
        *(
            "\\boxed{",
            "\\boxed{1}",
            "\\frac{",
            "\\text{",
            "1",
            "1,",
            "1 ",
            "1/",
            "1.",
            "-",
            "$ ",
            "{",
            "(",
            "= ",
            "a",
            "x ",
        ),
        *("x y ", " ", "answer ", "the answer is ", "the answer is an x. ", "(a)", "'"),
    ],
)
def test_degenerate_texts_take_no_time(name: str, piece: str) -> None:
    started = time.process_time()
    check(name, piece * 10_000, "26", "A. x\nB. y")
    assert time.process_time() - started < 5.0
