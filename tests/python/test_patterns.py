"""Kinds of tokens, and the statistics of what is deferred."""

from __future__ import annotations

import json

import pytest
from traced_texts import make_text, plain_token

from colm_cpp.report.html import render_page
from colm_cpp.report.parts import PARTS, classify
from colm_cpp.report.patterns import find_patterns
from colm_cpp.report.traces import TracedText

CODES = dict(zip(PARTS, "FDOPSCMNW+E", strict=True))
"""A letter for each part."""


class TestParts:
    @pytest.mark.parametrize(
        ("written", "parts"),
        [
            ("So|,| the", "FPW"),
            ("It| is| |2|0|,|000|.|5|.", "FWSDDDDDDP"),
            ("a| +| b|=|c| \u00d7| 3|%", "FOWOWODO"),
            ("x| \\|times| \\|frac|{|1|}{|2|}", "FOOOOMDMDM"),
            ("x| \\|(\\|boxed|{|4|}\\|).", "FMMMMDMM"),
            ("x| \\[| x|_|1|-|y| \\]| a|-b|_", "FMWMDOWMWPP"),
            ("It| costs| $|5| and| $|6|.", "FWPDWPDP"),
            ("It| is| $|N|_|1|$| now", "FWMWMDMW"),
            ("{|a|}|{", "FWPP"),
            ("a|  |\n|\t", "FSSS"),
            ("the| Mar|jorie| and| Paris|.| The| end", "FN+WNPWW"),
            ('He| saw| Dr|.| Smith|,| I| think|.\n|Then| "|Yes|"', "FWNPNPWWPWPWP"),
            ("a|\n\n|1|.| Identify|\n|-| Cost|\n|##| Total", "FSDPWSMWSMW"),
            ("a|.| **|Note|:**| This| x", "FPMWPWW"),
            ("let|'s| 4|th| 8|N", "F+D+D+"),
            ("is| \\(| 8|N| \\)", "FMDWM"),
            ("a||é|\u0301|x", "F++++"),
            ("see| `|x| =|`| now", "FCCCCW"),
            ("a\n|```|py|\n|x| = 1|\n|``|`\n|b", "FCCCCCCCCW"),
            ("a\n|~~~\n|x\n|```\n| y", "FCCCC"),
            ("a| <|b|>| x| < y|<br>", "FMMMWOM"),
            ("\\|alpha", "FM"),
            ("a|😀|\x00|\ud800", "FPPP"),
        ],
    )
    def test_table(self, written: str, parts: str) -> None:
        pieces = written.split("|")
        found = [CODES[part] for part in classify(make_text(pieces))]
        assert list(zip(pieces, found, strict=True)) == list(zip(pieces, parts, strict=True))

    def test_first_and_end(self) -> None:
        assert classify(make_text([])) == ()
        assert classify(make_text([""], ended=True)) == ("end",)
        assert classify(make_text(["7", "7", ""], ended=True)) == ("first", "digits", "end")
        assert classify(make_text(["", "", "é"])) == ("first", "piece", "word")

    def test_a_formula_left_open_ends_with_its_paragraph(self) -> None:
        pieces = ["\\[", " x", "\n\n", "of", " Paris"]
        assert classify(make_text(pieces))[3:] == ("word", "name")

    def test_long_lines_of_one_sign(self) -> None:
        for sign in ("A ", "`", "$", "\\", "{", "<a ", "``` ", " ", "*", "1,"):
            assert len(classify(make_text([sign] * 4_000))) == 4_000


class TestPatterns:
    def test_by_hand(self) -> None:
        texts = [
            make_text(["So", " 4", "+", "4", "=", "8", ""], "baabbaa", ended=True),
            make_text([" x", " 4", " 4", " 4"], "abab"),
        ]
        found = find_patterns(texts, min_count=2)
        assert (found.texts, found.tokens, found.deferred) == (2, 11, 6)
        assert found.rate == pytest.approx(6 / 11)
        assert found.mean_defer_prob == pytest.approx((6 * 0.9 + 5 * 0.1) / 11)
        parts = {count.part: count for count in found.parts}
        assert tuple(parts) == PARTS
        # " 4" and "8" and " 4" of the second text are deferred; "4" and two " 4" are not.
        digits = parts["digits"]
        assert (digits.tokens, digits.deferred) == (6, 3)
        assert (digits.rate, digits.share) == (0.5, 0.5)
        assert digits.lift == pytest.approx(0.5 / (6 / 11))
        assert digits.mean_defer_prob == pytest.approx(0.5)
        assert (parts["first"].tokens, parts["first"].deferred) == (2, 1)
        assert (parts["operator"].tokens, parts["operator"].deferred) == (2, 1)
        assert (parts["end"].tokens, parts["end"].deferred) == (1, 1)
        assert (parts["word"].tokens, parts["word"].rate, parts["word"].lift) == (0, None, None)
        assert parts["word"].share == 0.0
        # Runs end with their text: 2, 2, then 1 and 1.
        assert found.runs.lengths == {"1": 2, "2": 2, "3": 0, "4": 0, "5-8": 0, "9+": 0}
        assert (found.runs.runs, found.runs.mean, found.runs.longest) == (4, 1.5, 2)
        (four,) = found.most_deferred
        assert (four.text, four.tokens, four.deferred, four.rate) == (" 4", 4, 2, 0.5)
        assert [(e.title, e.position, e.before, e.token, e.after) for e in four.examples] == [
            ("t", 1, "So", " 4", "+4=8"),
            ("t", 2, " x 4", " 4", " 4"),
        ]

    def test_runs(self) -> None:
        sources = "b".join("a" * length for length in (1, 2, 3, 4, 5, 8, 9, 12))
        runs = find_patterns([make_text(["x"] * len(sources), sources)]).runs
        assert runs.lengths == {"1": 1, "2": 1, "3": 1, "4": 1, "5-8": 2, "9+": 2}
        assert (runs.runs, runs.mean, runs.longest) == (8, 5.5, 12)

    def test_tenths(self) -> None:
        tenths = find_patterns([make_text(["x"] * 20, "a" * 3 + "b" * 17), make_text(["x"], "a")]).tenths
        assert [tenth.tokens for tenth in tenths] == [3] + [2] * 9
        assert [tenth.deferred for tenth in tenths] == [3, 1] + [0] * 8
        assert tenths[1].rate == 0.5

    def test_most_deferred_are_in_order_and_spread_over_texts(self) -> None:
        texts = [
            make_text(["x", "x", "y", "z", "w"], "aabab", title="one"),
            make_text(["x", "y", "z", "w"], "aaab", title="two"),
        ]
        found = find_patterns(texts, min_count=2).most_deferred
        assert [(token.text, token.deferred) for token in found] == [("x", 3), ("z", 2), ("y", 1)]
        assert [(e.title, e.position) for e in found[0].examples] == [("one", 0), ("one", 1), ("two", 0)]
        assert [token.text for token in find_patterns(texts, min_count=3).most_deferred] == ["x"]

    def test_unknown_probabilities_are_left_out(self) -> None:
        tokens = (plain_token("a", 0, 0, None), plain_token("b", 1, 1, 0.8))
        assert find_patterns([TracedText("t", None, tokens)]).mean_defer_prob == 0.8
        assert find_patterns([TracedText("t", None, tokens[:1])]).mean_defer_prob is None

    @pytest.mark.parametrize("texts", [[], [make_text([])], [make_text(["x"])], [make_text([""], "a", ended=True)]])
    def test_next_to_nothing(self, texts: list[TracedText]) -> None:
        found = find_patterns(texts, min_count=1)
        json.dumps(found.to_dict(), allow_nan=False)
        assert found.runs.runs == found.deferred
        assert render_page(texts, found).count("<article") == len(texts)

    def test_no_deferral(self) -> None:
        found = find_patterns([make_text(["x", "y"])])
        assert (found.rate, found.runs.mean, found.runs.longest, found.most_deferred) == (0.0, None, 0, ())
        assert all(count.lift is None and count.share is None for count in found.parts)
