"""The page of `colm patterns` in a real browser: it fits a phone, and everybody is shown what is known of a token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Tab, browse, find_chromium

from colm_cpp.report.html import render_page
from colm_cpp.report.patterns import find_patterns
from colm_cpp.report.traces import TracedText
from colm_cpp.results import Token, TopLogprob

pytestmark = pytest.mark.slow

PHONE, DESK = 390, 1280


def token(piece: str, i: int, p: float, likely: tuple[TopLogprob, ...] = ()) -> Token:
    return Token(i, piece, int(i % 4 == 3), math.log(p / (1 - p)), 0.5, -0.5, likely)


def text(number: int) -> TracedText:
    """One with all that may be too wide: a long word, a long line, many likely tokens, Arabic, an end."""
    pieces = ["The", " answer", " is", " 4", "2", ".", "\n", "x" * 90, " = ", "١٢٣", " and", " so", " on", "\n\n"] * 3
    likely = (TopLogprob(-1, " five", math.log(0.25)), TopLogprob(-2, "y" * 60, math.log(0.125)))
    tokens = [token(piece, i, 0.123 + i / 100, likely if i % 5 == 0 else ()) for i, piece in enumerate(pieces)]
    title = f"a-folder-with-a-rather-long-name_and_no_blank_{number}, learned@20, problem {number}"
    return TracedText(title, "a prompt " + "z" * 200, (*tokens, token("", 99, 0.5)), True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [text(i) for i in range(3)]
    path = tmp_path_factory.mktemp("page") / "page.html"
    sources = ["/a/long/path/without/any/blank/in/it/" + "deeper/" * 10 + "records.jsonl"]
    path.write_text(render_page(texts, find_patterns(texts, min_count=1), sources=sources), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with browse(program, tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def popover(tab: Tab, token: str) -> dict[str, Any] | None:
    """What the browser shows beside the token of a CSS selector; None where it shows nothing."""
    shown: dict[str, Any] | None = tab.value(
        f"""(() => {{
            const style = getComputedStyle(document.querySelector({token!r}), "::after");
            if (style.content === "none" || style.display === "none") return null;
            return {{content: style.content, width: parseFloat(style.width), left: parseFloat(style.left)}};
        }})()"""
    )
    return shown


def nth(i: int, of_text: int = 1) -> str:
    return f"#text-{of_text} .generated > :nth-child({i})"


def middle_of(tab: Tab, token: str) -> tuple[float, float]:
    x, y = tab.value(
        f"""(() => {{
            const token = document.querySelector({token!r});
            token.scrollIntoView({{block: "center"}});
            const box = token.getClientRects()[0];
            return [box.left + box.width / 2, box.top + box.height / 2];
        }})()"""
    )
    return x, y


def too_wide(tab: Tab) -> list[str]:
    """The elements that reach beyond the screen, or hold more than they show."""
    found: list[str] = tab.value(
        """[...document.querySelectorAll("body *")].filter((e) => {
            if (getComputedStyle(e).clipPath !== "none" || e.closest("thead")) return false;
            if (e.getBoundingClientRect().right > innerWidth + 0.5) return true;
            return e.clientWidth && e.scrollWidth > e.clientWidth + 1;
        }).map((e) => `${e.tagName}.${e.className} ${e.scrollWidth} in ${e.clientWidth}`)"""
    )
    return found


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [320, PHONE, 768, 930, DESK])
def test_nothing_is_wider_than_the_screen(width: int, dark: bool, tab: Tab, page: Path) -> None:
    tab.open(page, width=width, dark=dark)
    assert tab.value("innerWidth") == width  # else it was made smaller to fit what is too wide
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert too_wide(tab) == []
    # Also with what is shown beside tokens, wherever in a line they stand.
    for i in range(1, 44):
        tab.value(f"document.querySelector('{nth(i)}').focus()")
        assert popover(tab, nth(i)) is not None
        assert tab.value("document.documentElement.scrollWidth") <= width


def test_tables_become_lists_on_a_phone(tab: Tab, page: Path) -> None:
    labels = "[...document.querySelectorAll('section td')].map((c) => getComputedStyle(c, '::before').content)"
    tab.open(page, width=PHONE)
    shown = set(tab.value(labels))
    assert {'"tokens"', '"rate"', '"lift"', '"95% interval"', '"mean defer probability"'} <= shown
    tab.open(page, width=DESK)
    assert set(tab.value(labels)) == {"none"}
    # Whatever is drawn, it stays a table for those who hear it.
    assert tab.value("document.querySelectorAll('[role=table] [role=row] [role=rowheader]').length") > 10


@pytest.mark.parametrize("script", [True, False])
def test_focus_and_hover_show_the_defer_probability(script: bool, tab: Tab, page: Path) -> None:
    """Without the script too."""
    tab.open(page, width=DESK, script=script)
    assert popover(tab, nth(4)) is None
    tab.send("DOM.enable")
    root = tab.send("DOM.getDocument")["root"]["nodeId"]
    node = tab.send("DOM.querySelector", nodeId=root, selector=nth(4))["nodeId"]
    tab.send("DOM.focus", nodeId=node)
    shown = popover(tab, nth(4))
    assert shown is not None
    assert "defer probability 0.153" in shown["content"]
    assert "written by the assistant" in shown["content"]
    tab.point(*middle_of(tab, nth(6)))
    hovered = popover(tab, nth(6))
    assert hovered is not None
    assert "defer probability 0.173" in hovered["content"]
    assert popover(tab, nth(4)) is None  # one at a time
    tab.point(1, 1)
    assert popover(tab, nth(6)) is None


def test_keys(tab: Tab, page: Path) -> None:
    """Tab goes from text to text, arrows from token to token, Escape closes and Enter opens."""
    tab.open(page, width=DESK)
    focused = "[document.activeElement.closest('article')?.id, [...document.activeElement.parentElement.children]"
    focused += ".indexOf(document.activeElement) + 1]"
    stops = []
    for _ in range(6):
        tab.press("Tab")
        stops.append(tab.value(f"{focused}.concat(document.activeElement.tagName)"))
    # Of each text its prompt, then one token.
    assert stops == [[f"text-{i // 2 + 1}", 1, "SUMMARY" if i % 2 == 0 else "SPAN"] for i in range(6)]
    tab.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft")
    assert tab.value(focused) == ["text-3", 3]
    assert popover(tab, nth(3, 3)) is not None
    tab.press("Escape")
    assert popover(tab, nth(3, 3)) is None
    tab.press("Enter")
    assert popover(tab, nth(3, 3)) is not None
    tab.press("Escape", "ArrowRight")
    assert popover(tab, nth(4, 3)) is not None
    tab.press("End", "ArrowRight")
    assert tab.value(focused) == ["text-3", 43]
    tab.press("Home")
    assert tab.value(focused) == ["text-3", 1]
    # The text is left, and come back to where it was left.
    tab.value("document.querySelector('#text-2 .generated > :nth-child(5)').focus()")
    assert tab.value("document.querySelectorAll('#text-2 .generated > [tabindex=\"0\"]').length") == 1


def test_a_tap_shows_and_another_closes(tab: Tab, page: Path) -> None:
    tab.open(page, width=PHONE)
    tab.tap(*middle_of(tab, nth(4)))
    shown = popover(tab, nth(4))
    assert shown is not None
    assert "0.153" in shown["content"]
    assert shown["width"] > 100
    tab.tap(*middle_of(tab, "h1"))
    assert popover(tab, nth(4)) is None


def test_what_it_says_is_heard(tab: Tab, page: Path) -> None:
    """In the tree of what screen readers get: a name for each token, and one for each text."""
    tab.open(page, width=DESK)
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    names = {
        (node["role"]["value"], node["name"]["value"]) for node in nodes if node.get("name") and not node["ignored"]
    }
    assert ("group", "tokens of text 2") in names
    assert any(role == "button" and "defer probability 0.153" in name for role, name in names)
    assert {"table", "row", "rowheader", "columnheader"} <= {role for role, _ in names} | {
        node["role"]["value"] for node in nodes if not node["ignored"]
    }
    tab.open(page, width=PHONE)
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    assert {"table", "row", "rowheader", "cell"} <= {node["role"]["value"] for node in nodes if not node["ignored"]}


def test_nothing_is_asked_of_the_network(tab: Tab, page: Path) -> None:
    tab.open(page, width=DESK)
    assert tab.value("performance.getEntriesByType('resource').map((entry) => entry.name)") == []
    # The policy lets the page's script run and no other.
    tab.value("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))")
    assert tab.value("window.ran === undefined")
