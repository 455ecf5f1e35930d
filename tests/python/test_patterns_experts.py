"""What is deferred to each of several experts: counts, names, the page, the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from commands import succeed
from traced_texts import make_evaluation, make_record

from colm_cpp.report.html import render_page
from colm_cpp.report.patterns import expert_names, find_patterns
from colm_cpp.report.style import LOOKS, STYLE
from colm_cpp.report.traces import TracedText, read_arms
from colm_cpp.results import Token

PIECES = ["Three", " crates", " weigh", " 7", "2", " kg", "."]


def text_by(writers: str, names: dict[str, str], title: str = "t") -> TracedText:
    """A text with the number of each token's expert, 0 for the base."""
    tokens = tuple(
        Token(i, piece, int(digit), 1.0 if digit != "0" else -1.0, 0.5, -0.5, source=names[digit])
        for i, (piece, digit) in enumerate(zip(PIECES, writers, strict=True))
    )
    return TracedText(title, None, tokens)


NAMES = {"0": "base", "1": "math", "2": "code"}


def test_counts_by_expert() -> None:
    texts = [text_by("0012210", NAMES), text_by("0000100", NAMES)]
    found = find_patterns(texts)
    assert expert_names(texts) == ["math", "code"]
    assert found.experts == {"math": 3, "code": 2}
    parts = {count.part: count.experts for count in found.parts}
    assert parts["digits"] == {"math": 1, "code": 2}  # of " 7" and "2"
    assert sum(counts["math"] for counts in parts.values()) == 3
    assert found.runs.runs == 2  # a run is of whomever
    assert found.to_dict()["experts"] == {"math": 3, "code": 2}


def test_of_one_assistant_nothing_changes() -> None:
    found = find_patterns([text_by("0010000", {"0": "base", "1": "assistant"})])
    assert found.experts == {}
    assert "experts" not in found.to_dict()
    assert not any("experts" in part for part in found.to_dict()["parts"])
    named = find_patterns([text_by("0010000", NAMES)])
    assert named.to_dict()["experts"] == {"math": 1}


def test_an_evaluations_records_get_their_names(tmp_path: Path) -> None:
    record: dict[str, Any] = {**make_record(0, PIECES, "bbbbbbb"), "experts": "0012200"}
    folder = make_evaluation(tmp_path / "eval", {"learned@20": [record]})
    [before] = read_arms([folder])["learned@20"]
    assert [token.source for token in before.tokens] == [
        "base",
        "base",
        "assistant",
        "expert-2",
        "expert-2",
        "base",
        "base",
    ]
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "experts": ["math", "code"]}))
    [text] = read_arms([folder])["learned@20"]
    assert [token.source for token in text.tokens] == ["base", "base", "math", "code", "code", "base", "base"]
    assert find_patterns([text]).experts == {"math": 1, "code": 2}


def test_the_page_tells_experts_apart_without_colour() -> None:
    texts = [text_by("0012210", NAMES)]
    page = render_page(texts, find_patterns(texts))
    shown = page[page.index('class="text generated"') :]
    # A number where the run of each expert begins, and a line of its own look.
    assert re.findall(r'<mark class="(w\d) [^"]*"( data-by="\d")? role', shown) == [
        ("w1", ' data-by="1"'),
        ("w2", ' data-by="2"'),
        ("w2", ""),
        ("w1", ' data-by="1"'),
    ]
    assert '<mark class="w2" data-by="2">code</mark>' in page  # the legend
    assert "written by code" in page
    assert "written by the base" in page
    for number in range(1, LOOKS + 1):
        assert f"mark.w{number} " in STYLE
    # No two look alike without their colours, as far as lines differ; the number says the rest.
    assert LOOKS == 9


def test_names_are_escaped() -> None:
    nasty = {**NAMES, "1": "</style><script>"}
    texts = [text_by("0012210", nasty)]
    page = render_page(texts, find_patterns(texts))
    assert "<script>" not in page.replace(page[page.rindex("<script>") :], "")


@pytest.mark.parametrize("color", ["never", "always"])
def test_the_terminal_names_them(color: str, tmp_path: Path) -> None:
    record: dict[str, Any] = {**make_record(0, PIECES, "bbbbbbb"), "experts": "0012210"}
    folder = make_evaluation(tmp_path / "eval", {"learned@20": [record]})
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "experts": ["math", "code"]}))
    done = succeed("patterns", folder, "--text", "1", "--color", color)
    assert "written by math 2, code 2" in done.stdout
    if color == "never":
        assert "Three crates[math: weigh][code: 7][2][math: kg]." in done.stdout
    else:
        assert "\x1b[1;36m weigh" in done.stdout
        assert "\x1b[1;35m 7" in done.stdout
