"""The page of `colm serve` in Chromium: what is shown of one token, to the mouse, the finger and the keyboard."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest
from served_page import EGGS, Web, opened

pytestmark = pytest.mark.browser


def post(web: Web, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{web.server.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def asked(web: Web) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The tokens of the answer to EGGS: who wrote them, and their log-probabilities."""
    body = {"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": EGGS}], "logprobs": True}
    choice = post(web, "v1/chat/completions", {**body, "top_logprobs": 5})["choices"][0]
    return choice["colm"]["tokens"], choice["logprobs"]["content"]


def rows(web: Web, title: str) -> list[tuple[str, float]]:
    """A table of the panel: token and probability."""
    table = web.page.locator("#details table").filter(has=web.page.get_by_text(title, exact=True))
    lines = [row.inner_text().split("\t") for row in table.locator("tr").all()]
    return [(name.split("”")[0].strip("“"), float(p.strip("<>\n "))) for name, p, *_ in lines]


def check(web: Web, i: int) -> None:
    """The panel shows token `i`."""
    tokens, likely = asked(web)
    said = web.page.locator("#details").inner_text()
    assert f"Written by the {tokens[i]['source']}" in said
    assert f"Token {i + 1} of {len(tokens)}, id {tokens[i]['id']}" in said
    assert f"“{tokens[i]['text']}”" in said
    p = tokens[i]["defer_prob"]
    assert f"Defer probability: {'>0.999' if p > 0.999 else '<0.001' if p < 0.001 else f'{p:.3f}'}" in said
    shown = rows(web, f"Likely for the {tokens[i]['source']}")
    assert [name for name, _ in shown] == [entry["token"] for entry in likely[i]["top_logprobs"]]
    for (_, probability), entry in zip(shown, likely[i]["top_logprobs"], strict=True):
        assert probability == pytest.approx(2.718281828 ** entry["logprob"], abs=2e-3)


@pytest.fixture
def answered(web: Web) -> Web:
    web.greedy()
    web.send(EGGS)
    return web


def of_assistant(web: Web) -> int:
    """The number of the first token of the assistant."""
    return int(web.answer().locator("mark.t").first.get_attribute("data-i") or "")


def test_hover_shows_and_leaves(answered: Web) -> None:
    i = of_assistant(answered)
    panel = answered.page.locator("#details")
    answered.answer().locator("mark.t").first.hover()
    panel.wait_for()
    check(answered, i)
    panel.hover()  # the pointer may go to what it shows
    answered.page.wait_for_timeout(400)
    assert panel.is_visible()
    answered.page.locator("#title").hover()
    panel.wait_for(state="hidden")
    answered.answer().locator("mark.t").first.hover()
    panel.wait_for()
    answered.page.keyboard.press("Escape")
    assert not panel.is_visible()


def test_a_click_keeps_it_open(answered: Web) -> None:
    panel = answered.page.locator("#details")
    answered.answer().locator(".t").nth(2).click()
    answered.page.locator("#title").hover()
    answered.page.wait_for_timeout(400)
    assert panel.is_visible()
    answered.page.locator("#title").click()
    assert not panel.is_visible()


@pytest.mark.parametrize("source", ["assistant", "base"])
def test_what_the_other_would_have_said(source: str, answered: Web) -> None:
    """It is what the other model says of the same tokens before."""
    tokens, _ = asked(answered)
    node = answered.answer().locator(".t.by-" + source).nth(3)
    i = int(node.get_attribute("data-i") or "")
    other = "base" if source == "assistant" else "assistant"
    node.click()
    answered.page.get_by_role("button", name=f"What would the {other} have said?").click()
    answered.page.locator("#details caption").nth(1).wait_for()
    prompt = post(answered, "tokenize", {"model": "demo", "messages": [{"role": "user", "content": EGGS}]})["tokens"]
    body = {"model": f"demo:{other}", "prompt": prompt + [t["id"] for t in tokens[:i]], "max_tokens": 1}
    said = post(answered, "v1/completions", {**body, "logprobs": 5, "temperature": 0})
    likely = said["choices"][0]["logprobs"]["top_logprobs"][0]
    shown = rows(answered, f"Likely for the {other}")
    assert [name for name, _ in shown] == sorted(likely, key=lambda name: -likely[name])
    for name, probability in shown:
        assert probability == pytest.approx(2.718281828 ** likely[name], abs=2e-3)
    # It is known from then on, after a reload too.
    answered.page.reload()
    answered.answer().locator(f".t[data-i='{i}']").first.click()
    assert rows(answered, f"Likely for the {other}") == shown


def test_the_keyboard_is_enough(web: Web) -> None:
    """From the first key to what the other model would have said, without a pointer."""
    press = web.page.keyboard.press
    web.page.evaluate("document.activeElement.blur()")
    press("Tab")
    assert web.page.evaluate("document.activeElement.className") == "skip"
    press("Enter")
    assert web.page.evaluate("document.activeElement.id") == "message"
    press("Shift+Tab")  # the checkbox, then the slider, which the arrows move
    press("Shift+Tab")
    press("End")
    press("Home")
    for _ in range(3):
        press("PageUp")
    rate = web.page.locator("#rate-shown").inner_text()
    assert rate.endswith("%")
    assert rate != "0%"
    press("Tab")
    press("Space")  # as the head decides
    press("Tab")
    web.page.keyboard.type(EGGS)
    press("Enter")
    web.wait()
    for _ in range(30):
        press("Shift+Tab")
        if web.page.evaluate("document.activeElement.matches('.answer .t')"):
            break
    at = "Number(document.activeElement.dataset.i)"
    assert web.page.evaluate(at) == 0
    panel = web.page.locator("#details")
    assert panel.is_visible()
    described = "document.getElementById(document.activeElement.getAttribute('aria-describedby')).innerText"
    for i in range(1, 4):
        press("ArrowRight")
        assert web.page.evaluate(at) == i
        assert f"Token {i + 1} of" in web.page.evaluate(described)  # which screen readers read
    press("End")
    last = web.page.evaluate(at)
    press("ArrowRight")
    assert web.page.evaluate(at) == last
    press("ArrowLeft")
    assert web.page.evaluate(at) == last - 1
    assert web.page.evaluate("document.activeElement.getAttribute('role')") == "button"
    press("Enter")
    assert web.page.evaluate("document.activeElement.innerText").startswith("What would the")
    press("Enter")
    panel.locator("caption >> nth=1").wait_for()
    press("Escape")
    assert not panel.is_visible()
    assert web.page.evaluate(at) == last - 1  # back where it began
    # One stop of the Tab key for a whole answer.
    press("Tab")
    assert web.page.evaluate("document.activeElement.textContent") == "Copy"
    press("/")
    assert web.page.evaluate("document.activeElement.id") == "message"


def test_a_tap_on_a_phone(chromium: Any, demo_server: Any) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(chromium, demo_server, **phone) as web:
        web.greedy()
        web.send(EGGS)
        i = of_assistant(web)
        web.answer().locator("mark.t").first.tap()
        check(web, i)
        box = web.page.locator("#details").bounding_box()
        assert box
        assert box["y"] + box["height"] == pytest.approx(836, abs=2)  # at the bottom, whole
        assert (box["x"], box["width"]) == (8, 374)
        web.page.locator("#details .close").tap()
        assert not web.page.locator("#details").is_visible()
        # Where it would cover its token, it goes to the top, and the token out from under it.
        web.send(EGGS)
        token = web.answer().locator(".t").last
        token.tap()
        panel, own = web.page.locator("#details").bounding_box(), token.bounding_box()
        assert panel
        assert own
        assert panel["y"] + panel["height"] <= own["y"] or own["y"] + own["height"] <= panel["y"]


def test_tints(answered: Web) -> None:
    """Who wrote it, by colour and underline; the defer probability by shade; or nothing."""
    style = "(t) => [getComputedStyle(t).backgroundColor, getComputedStyle(t).textDecorationLine]"
    first = answered.answer().locator(".t.by-base").first
    base, assistant = first.evaluate(style), answered.answer().locator("mark.t").first.evaluate(style)
    assert base[0] != assistant[0]
    assert (base[1], assistant[1]) == ("none", "underline")
    answered.page.locator("#tint").select_option("probability")
    assert answered.answer().locator(".t.p0").first.evaluate(style)[0] == "rgba(0, 0, 0, 0)"
    assert answered.answer().locator("mark.t.p10").first.evaluate(style)[1] == "underline"
    answered.page.locator("#tint").select_option("none")
    assert answered.answer().locator("mark.t").first.evaluate(style) == ["rgba(0, 0, 0, 0)", "none"]
    answered.page.reload()
    assert answered.page.locator("#tint").input_value() == "none"
