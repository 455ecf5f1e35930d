"""The checkers of choices and of exact texts."""

from __future__ import annotations

import pytest
from checks import check

from colm_cpp.answers.checkers import Verdict, make_checker

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
