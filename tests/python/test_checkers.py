"""colm_cpp.answers.checkers: what counts as the right answer."""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import pytest

from colm_cpp.answers.checkers import CHECKERS, Verdict, make_checker
from colm_cpp.errors import OptionError

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has only the time limit")


def check(name: str, text: str, answer: str, prompt: str = "") -> Verdict:
    return make_checker(name).check(text, answer, prompt)


# --- make_checker ---


@pytest.mark.parametrize("name", CHECKERS)
def test_names(name: str) -> None:
    assert make_checker(name, pattern="x" if name == "regex" else None).name == name


@pytest.mark.parametrize("name", CHECKERS)
@pytest.mark.parametrize("text", ["", " \n", "\x00", "\ud800", "\\boxed{", "}" * 50, "{" * 50, "```", "((("])
def test_no_text_upsets_a_checker(name: str, text: str) -> None:
    checker = make_checker(name, pattern="y" if name == "regex" else None)
    assert not checker.check(text, "y" if name != "python" else "raise ValueError", "").correct


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(OptionError, match=re.escape(", ".join(CHECKERS))):
        make_checker("fuzzy")


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf"), 3601.0])
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


# --- choice ---

QUESTION = "Question: If I needed help with answering questions, what would help me?\nChoices:\n"
REQUEST = (
    "\n\nPlease format your response in the following way:\n[Explanation]. Therefore, the answer is answer (label).\n"
    "Ensure the final sentence includes the answer followed by the label in parentheses.\n\nAnswer and Reasoning:"
)
TEXTS = ("getting tired", "better grade", "sharing information", "interesting", "work", "work hard")
PROMPT = QUESTION + "\n".join(f"{label}. {text}" for label, text in zip("ABCDEF", TEXTS, strict=True)) + REQUEST


@pytest.mark.parametrize("answer", ["sharing information", "Sharing  information.", "C", "c", "(C)", "C."])
@pytest.mark.parametrize(
    "text",
    [
        "It is best to ask. Therefore, the answer is sharing information (c).",
        "Therefore, the answer is sharing information (C).",
        "The answer is (c).",
        "The answer is C.",
        "The answer is C",
        "The answer is C because it helps.",
        "The answer is c.",
        "the answer is **sharing information**",
        "The correct answer to the question, therefore, is: C) sharing information",
        "Answer: C",
        "answer: c",
        "**Answer:** C. sharing information",
        "**Answer**: (C)",
        "Final answer:\n\nC. sharing information\n\nA is wrong since tiredness is no help.",
        "The answer is $\\boxed{C}$.",
        "So \\boxed{\\text{C}}",
        "The answer is \\boxed{sharing information}.",
        "The answer is answer (c).",
        "The answer is sharing information (label C).",
        "The answer is sharing information (label: c).",
        "The answer is option C.",
        "The best choice is C.",
        "The answer is (c), not (b).",
        "The answer is not better grade (b) but (c).",
        'The answer is "sharing information".',
        "The answer is A sharing information.",
        "The answer is (a). No: the answer is (c).",
        "The answer must be something good for one's work. A good way is sharing information (c).",
        "The answer could be sharing information (c).",
        "The answer must be sharing information.",
        "I would choose option C here, a safe bet.",
        "Sharing information (c)",
        "(c)",
        "C",
        "C.",
        "C. sharing information",
        "Some thoughts first.\n\nC",
        "If tired, one shares. A sensible step is sharing information.",
        "It is not interesting but sharing information",
        # said in full, the text outweighs the letter
        "The answer is sharing information (d).",
        "The answer is D. sharing information",
        # other words do not
        "The answer is a thing for work (c).",
        "The answer is\uff1a\uff23",
    ],
)
def test_choice_correct(text: str, answer: str) -> None:
    assert check("choice", text, answer, PROMPT) == Verdict(True, "C")


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        ("", None),
        ("I do not know.", None),
        ("The answer is a", None),
        ("The answer is a person who helps.", None),
        ("The answer is A person who helps.", None),
        ("The answer is unclear (z).", None),
        ("a) no idea", None),
        ("A person asks. I think a friend helps", None),
        ("The answer is getting tired (a).", "A"),
        ("The answer is a.", "A"),
        ("Answer: a", "A"),
        ("The answer is (c). On reflection, the answer is (b).", "B"),
        ("sharing information (c) is fine, but work hard (f).", "F"),
        ("The answer is work hard.", "F"),
        ("The answer is work.", "E"),
        ("sharing information is less than to work hard", "F"),
        ("sharing information helps. So I work.", "E"),
        ("It is sharing information. But maybe not.", None),
        ("person(s) know(c)", None),
    ],
)
def test_choice_wrong(text: str, extracted: str | None) -> None:
    assert check("choice", text, "sharing information", PROMPT) == Verdict(False, extracted)


@pytest.mark.parametrize(
    "choices",
    [
        "A. tea\nB. coffee\nC. milk",
        "A) tea\nB) coffee\nC) milk",
        "(A) tea\n(B) coffee\n(C) milk",
        "A: tea\nB: coffee\nC: milk",
        "[A] tea\n[B] coffee\n[C] milk",
        "- A. tea\n- B. coffee\n- C. milk",
        "**A.** tea\n**B.** coffee\n**C.** milk",
        "  A. tea \r\n  B. coffee \r\n\r\n  C. milk",
        "(A) tea (B) coffee (C) milk",
        "Choices: A) tea, B) coffee, C) milk",
        "A. one\nB. coffee\nC. three\nAnswer: B\n\nQuestion: next?\nA. tea\nB. coffee\nC. milk",
    ],
)
def test_choices_of_a_prompt(choices: str) -> None:
    prompt = f"What keeps you awake?\n{choices}\nAnswer:"
    for text in ("coffee", "The answer is coffee.", "(b)", "B"):
        assert check("choice", text, "coffee", prompt) == Verdict(True, "B")
    assert check("choice", "(a)", "tea", prompt) == Verdict(True, "A")
    assert check("choice", "(a)", "B", prompt) == Verdict(False, "A")


@pytest.mark.parametrize(
    ("choices", "text", "answer", "correct"),
    [
        ("A. e. coli\nB. yeast\nC. c\nD. d\nE. mould", "The answer is e. coli.", "e. coli", True),
        ("A. C\nB. C++\nC. Java", "The answer is C++.", "C++", True),
        ("A. C\nB. C++\nC. Java", "The answer is (b).", "C++", True),
        ("A. -5\nB. 5", "The answer is -5.", "-5", True),
        ("A. -5\nB. 5", "The answer is 5.", "-5", False),
        ("A. 1,000\nB. 10", "The answer is 1,000.", "A", True),
        ("A. $5\nB. $6", "The answer is $6.", "B", True),
        ("A. library\nB. bedroom\nC. table\nD. library", "The answer is library (d).", "library", True),
        ("A. library\nB. bedroom\nC. table\nD. library", "The answer is (a).", "D", True),
        ("A. child\u2019s hand\nB. sky", "The answer is the child's hand.", "child's hand", True),
        ("A. under a cabbage.\nB. sky", "It is (a).", "under a cabbage", True),
        ("A. caf\u00e9\nB. bar", "The answer is Caf\u00c9.", "caf\u00e9", True),
        ("A. tea\nB. coffee", "The answer is milk.", "milk", True),  # the reference is no choice: compared as texts
        ("A. tea\nB. coffee", "The answer is tea.", "coffee (b)", False),
        ("A. tea\nB. coffee", "The answer is coffee.", "coffee (b)", True),
        ("A. tea\nB. coffee", "The answer is coffee.", "B. coffee", True),
    ],
)
def test_choice_texts(choices: str, text: str, answer: str, correct: bool) -> None:
    assert check("choice", text, answer, f"What?\n{choices}\n").correct is correct


@pytest.mark.parametrize(
    ("text", "answer", "verdict"),
    [
        ("The answer is (b).", "B", Verdict(True, "B")),
        ("The answer is (b).", "C", Verdict(False, "B")),
        ("b", "(B)", Verdict(True, "B")),
        ("I cannot say", "B", Verdict(False, None)),
        ("So the answer is sharing information (c). Good luck.", "Sharing information", Verdict(True, None)),
        ("sharing  information", "sharing information", Verdict(True, None)),
        ("The answer is yes.", "no", Verdict(False, "yes")),
        ("", "no", Verdict(False, None)),
    ],
)
def test_choice_without_choices(text: str, answer: str, verdict: Verdict) -> None:
    got = check("choice", text, answer, "Just answer.")
    assert got.correct is verdict.correct
    if len(answer) <= 3:
        assert got == verdict


# --- exact, regex ---


@pytest.mark.parametrize(
    ("text", "answer", "verdict"),
    [
        (" Paris\n", "Paris", Verdict(True, "Paris")),
        ("New \n York", "New York", Verdict(True, "New York")),
        ("paris", "Paris", Verdict(False, "paris")),
        ("Paris.", "Paris", Verdict(False, "Paris.")),
        ("", "Paris", Verdict(False, None)),
    ],
)
def test_exact(text: str, answer: str, verdict: Verdict) -> None:
    assert check("exact", text, answer) == verdict


@pytest.mark.parametrize(
    ("pattern", "text", "verdict"),
    [
        (r"city: (\w+)", "city: Rome, city: Paris", Verdict(True, "Paris")),
        (r"[A-Z]\w+", "Rome, then Paris!", Verdict(True, "Paris")),
        (r"city:(.*)", "city:  Paris \n", Verdict(True, "Paris")),
        (r"city: (\w+)|town", "city: Paris, town", Verdict(True, "Paris")),
        (r"\w*", "Rome Paris", Verdict(True, "Paris")),
        (r"city: (\w+)", "city: paris", Verdict(False, "paris")),
        (r"city: (\w+)", "Paris", Verdict(False, None)),
    ],
)
def test_regex(pattern: str, text: str, verdict: Verdict) -> None:
    assert make_checker("regex", pattern=pattern).check(text, " Paris", "") == verdict


# --- python ---

ADD_TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\n"
ADD = "def add(a, b):\n    return a + b\n"
STUB = 'from math import *\n\n\ndef add(a: int, b: int) -> int:\n    """Adds.\n\n    >>> add(1, 2)\n    3\n    """\n'


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```\n"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        (ADD, ""),
        (f"Here you are:\n\n{fenced(ADD)}\nIt adds.", "Write add."),
        (fenced(ADD, ""), ""),
        (fenced(ADD, "py"), ""),
        (fenced(ADD, "Python"), ""),
        (fenced(ADD).replace("```", "~~~"), ""),
        (fenced("def add(a, b):\n    return 0\n") + "Better:\n" + fenced(ADD), ""),
        (fenced(ADD) + "Output:\n" + fenced("3\n", "text"), ""),
        (fenced(ADD)[:-4], ""),  # the closing fence was cut off
        ("1. So:\n   ```python\n   def add(a, b):\n       return a + b\n   ```\n", ""),
        (fenced(ADD).replace("\n", "\r\n"), ""),
        ("```python\nx = 1\n```python\n" + ADD + "```", ""),
        # continuations of a stub
        ("    return a + b\n", STUB),
        ("    return a + b", STUB.rstrip()),
        ("\n    return a + b\n", STUB.rstrip()),
        ("return a + b\n", STUB + "    "),
        ("return a + b\n", STUB),
        ("c = a + b\n    return c\n", STUB),
        ("c = a + b\nreturn c\n", STUB),
        ("    return a + b\n\n\nThis adds the numbers.", STUB),
        ("    return a + b\n\n\ndef other(x):\n    if", STUB),
        (fenced("    return a + b\n"), STUB),
        (fenced(ADD), STUB),
        (fenced(ADD) + "Call it:\n" + fenced("print(add(1, 2))\n"), STUB),
        ("    return a + b\n", "Complete the function:\n\n" + STUB),
        ("    return a + b\n```", STUB),
        ("    return a + b\n```\nDone.", "Complete:\n```python\n" + STUB),
        (fenced(ADD), "Complete:\n```python\n" + STUB),
        ("    return a + b\n", "Complete:\n" + fenced(STUB) + "Only code, please."),
        (fenced(ADD), "Complete:\n" + fenced(STUB) + "Only code, please."),
        ("\treturn a + b\n", "def add(a, b):\n\t'''Adds.'''\n"),
        ("  return a + b\n", "def add(a, b):\n  '''Adds.'''\n"),
        (" return a + b\n", "def add(\n    a,\n    b,\n):"),
        ("    return helper(a) + b\n", "def helper(x):\n    return x\n\n\n" + STUB),
        (fenced("def add(a, b):\n    return helper(a) + floor(b)\n"), "def helper(x):\n    return x\n\n\n" + STUB),
        (fenced("from __future__ import annotations\n" + ADD), STUB),
        # what runs must not matter
        (fenced(ADD + "if __name__ == '__main__':\n    input()\n"), ""),
        (fenced("import sys\nsys.setrecursionlimit(5000)\n" + ADD), ""),
        (fenced("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\n" + ADD), ""),
        (fenced("print('x' * 1_000_000)\n" + ADD), ""),
        (fenced("import atexit\natexit.register(print, 'bye')\n" + ADD), ""),
        (fenced("import sys\nsys.stdout = None\n" + ADD), ""),
        (fenced("s = '\\d'\n" + ADD), ""),
    ],
)
def test_python_passed(text: str, prompt: str) -> None:
    assert check("python", text, ADD_TESTS, prompt) == Verdict(True, "passed")


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("", "no code"),
        ("```python\n\n```", "no code"),
        ("```", "no code"),
        (fenced("def add(a, b):\n    return a - b\n"), "failed: AssertionError"),
        (fenced("def sub(a, b):\n    return a - b\n"), "failed: NameError"),
        ("I cannot do that.", "failed: SyntaxError"),
        (fenced('"""\n' + ADD), "failed: SyntaxError"),
        (fenced("x = '\ud800'\nraise LookupError\n"), "failed: LookupError"),
        (fenced(ADD + "add(1)\n"), "failed: TypeError"),
        (fenced(ADD + "input()\n"), "failed: EOFError"),
        (fenced("import sys\nsys.exit(0)\n"), "failed: SystemExit"),
        (fenced("raise SystemExit\n"), "failed: SystemExit"),
        (fenced("def add(a, b):\n    raise SystemExit(0)\n"), "failed: SystemExit"),
        (fenced("import os\nos._exit(0)\n"), "failed: ended before the tests"),
        (fenced("print('passed', flush=True)\nimport os\nos._exit(0)\n"), "failed: ended before the tests"),
        (fenced("def add(a, b):\n    import os\n    os._exit(0)\n"), "failed: ended before the tests"),
        (fenced("import os\nos.environ['TOKEN']\n"), "failed: KeyError"),
        (fenced("import sys\nprint(sys.argv[1])\n"), "failed: IndexError"),
        (fenced("def add(a, b):\n    return add(a, b)\n"), "failed: RecursionError"),
        (fenced("import builtins\nbuiltins.AssertionError = int\n"), "failed: NameError"),
    ],
)
def test_python_failed(text: str, outcome: str) -> None:
    assert check("python", text, ADD_TESTS) == Verdict(False, outcome)


@posix_only
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "failed: SIGSEGV"),
        ("open('big', 'wb').write(bytes(20 * 1024 * 1024))\n", "failed: OSError"),
    ],
)
def test_python_killed_or_limited(code: str, outcome: str) -> None:
    assert check("python", code, ADD_TESTS) == Verdict(False, outcome)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="macOS may not enforce the limit")
def test_python_memory_limit() -> None:
    code = "data = bytearray(300 * 1024 * 1024)\n" + ADD
    assert make_checker("python", memory_limit_mb=256).check(code, ADD_TESTS, "").extracted == "failed: MemoryError"
    assert make_checker("python").check(code, ADD_TESTS, "").correct


@pytest.mark.parametrize(
    "code",
    [
        "while True:\n    pass\n",
        "import time\ntime.sleep(60)\n",
        "while True:\n    print('x' * 10_000)\n",
        "try:\n    import time\n    time.sleep(60)\nfinally:\n    time.sleep(60)\n",
    ],
)
def test_python_time_limit(code: str) -> None:
    started = time.monotonic()
    verdict = make_checker("python", time_limit=1.0).check(code, ADD_TESTS, "")
    assert verdict == Verdict(False, "timed out")
    assert time.monotonic() - started < 20


@posix_only
def test_python_leaves_no_process_behind(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n" + ADD
    )
    started = time.monotonic()
    assert check("python", code, ADD_TESTS).correct
    assert time.monotonic() - started < 60
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if _gone(pid):
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still there")


@posix_only
def test_python_does_not_wait_for_what_escapes() -> None:
    command = "[sys.executable, '-c', 'import time; time.sleep(20)']"
    code = f"import subprocess, sys\nsubprocess.Popen({command}, start_new_session=True)\n{ADD}"
    started = time.monotonic()
    assert check("python", code, ADD_TESTS).correct
    assert time.monotonic() - started < 18


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")  # killed, but nobody has waited for it yet
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_python_environment_and_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLM_SECRET", "hidden")
    code = (
        "import os\nfound = os.environ.get('COLM_SECRET'), os.listdir()\nfolder = os.getcwd()\nopen('x', 'w').close()\n"
    )
    tests = f"assert found == (None, [])\nassert folder != {os.getcwd()!r}\n"
    assert check("python", code, tests).correct
    assert check("python", code, tests).correct  # a fresh folder every time


def test_python_tests_run_after_the_code_and_are_needed() -> None:
    assert check("python", ADD, "raise RuntimeError('no')").extracted == "failed: RuntimeError"
    assert check("python", ADD, "import solution\nassert solution.add is add").correct
