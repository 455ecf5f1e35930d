"""The page of `colm serve` in Chromium: messages, answers, and who writes them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from served_page import EGGS, Web, expected

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.browser

OTHER = "A baker packs 24 boxes of 36 rolls and sells 517 rolls. How many rolls are left?"


def figures(web: Web, n: int = -1) -> str:
    return " ".join(web.answer(n).locator(".figures").inner_text().split())


def text_of(tokens: list[tuple[str, str]]) -> str:
    return "".join(text for text, _ in tokens)


def test_a_message_is_typed_and_each_token_has_its_writer(web: Web) -> None:
    web.greedy()
    web.page.locator("#message").click()
    web.page.keyboard.type("Tom brings 5 crates of 143 eggs to the farm", delay=1)
    web.page.keyboard.press("Shift+Enter")
    web.page.keyboard.type("and sells 266 eggs.", delay=1)
    web.page.keyboard.press("Enter")
    web.wait()
    prompt = "Tom brings 5 crates of 143 eggs to the farm\nand sells 266 eggs."
    assert web.page.locator(".user .text").inner_text() == prompt
    assert web.page.locator("#message").input_value() == ""
    tokens = expected(web.server, "demo", prompt)
    assert web.tokens() == tokens
    assert {writer for _, writer in tokens} == {"base", "assistant"}


def test_tokens_arrive_one_after_the_other(web: Web) -> None:
    """Each with its tint at once, and the figures with them."""
    web.page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const tokens = [...document.querySelectorAll(".answer .t")];
                window.seen.push([
                    tokens.length,
                    tokens.filter((t) => t.matches("mark.by-assistant")).length,
                    tokens.every((t) => getComputedStyle(t).backgroundColor !== "rgba(0, 0, 0, 0)"),
                    document.querySelector(".figures")?.innerText ?? "",
                ]);
            }).observe(document.getElementById("talk"), {childList: true, subtree: true});
        }"""
    )
    web.force('root ::= "The sums are: " ([0-9] " "){150}')
    web.send(EGGS)
    seen = web.page.evaluate("window.seen")
    assert len({n for n, *_ in seen if n > 0}) > 3
    assert all(tinted for n, _, tinted, _ in seen if n)
    growing = [said for n, _, _, said in seen if n][:-1]
    assert any(re.search(r"\d+ tokens\s+\d+", said) for said in growing)
    assert [n for n, *_ in seen] == sorted(n for n, *_ in seen)


def test_figures_are_those_of_the_server(web: Web) -> None:
    web.greedy()
    said: list[str] = []

    def listen(route: Route) -> None:
        answer = route.fetch()
        said.append(answer.text())
        route.fulfill(response=answer)

    web.page.route("**/v1/chat/completions", listen)
    web.send(EGGS)
    last = [json.loads(line[6:]) for line in said[0].split("\n\n") if line.startswith("data: {")][-1]
    stats = last["choices"][0]["colm"]["stats"]
    shown = figures(web)
    assert f"{stats['generated_tokens'] - 1} tokens" in shown  # the end is no token on the screen
    assert f"{100 * stats['deferral_rate']:.1f}% deferred" in shown
    calls = stats["assistant_calls"] / round(stats["deferral_rate"] * stats["generated_tokens"])
    assert f"{calls:.2f} calls per deferred token" in shown
    speed = re.search(r"([\d.]+) tokens/s", shown)
    assert speed
    assert float(speed[1]) == pytest.approx(stats["tokens_per_s"], abs=1)


@pytest.mark.parametrize("mode", ["base", "assistant"])
def test_one_model_alone(mode: str, web: Web) -> None:
    web.greedy()
    web.page.locator(f"[name=mode][value={mode}]").check()
    web.send(EGGS)
    assert web.tokens() == expected(web.server, f"demo:{mode}", EGGS)
    assert {writer for _, writer in web.tokens()} == {mode}
    assert web.answer().locator("h3").first.inner_text() == f"{mode.capitalize()} alone"


def test_the_slider_acts_on_the_next_message(web: Web) -> None:
    web.greedy()
    asked: list[str] = []
    web.page.on("request", lambda r: asked.append(json.loads(r.post_data)["model"]) if "completions" in r.url else None)
    web.send(EGGS)
    first = web.tokens()
    rate = web.page.locator("#rate")
    web.page.locator("[name=mode][value=base]").check()
    rate.focus()
    for _ in range(20):
        rate.press("ArrowRight")
    assert web.page.locator("#rate-shown").inner_text() == "40%"
    assert web.page.locator("[name=mode][value=pair]").is_checked()  # a rate is the pair's
    assert web.tokens() == first  # what is written stays
    web.send(OTHER)
    assert asked == ["demo", "demo@40%"]
    assert web.tokens() == expected(web.server, "demo@40%", EGGS, text_of(first), OTHER)
    web.page.locator("#own").check()
    assert web.page.locator("#rate-shown").inner_text() == "the head's own"
    web.send(OTHER)
    assert asked[-1] == "demo"


def test_the_conversation_and_the_options_are_sent(web: Web) -> None:
    sent: list[dict[str, object]] = []
    web.page.on("request", lambda r: sent.append(json.loads(r.post_data)) if "completions" in r.url else None)
    web.options(system="Be brief.", temperature=0.5, seed=7, **{"max-tokens": 5})
    web.send(EGGS)
    first = text_of(web.tokens())
    assert len(web.tokens()) == 5
    assert "cut off" in web.answer().locator(".ending").inner_text()
    web.send(OTHER)
    assert sent[1]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": EGGS},
        {"role": "assistant", "content": first},
        {"role": "user", "content": OTHER},
    ]
    assert (sent[1]["temperature"], sent[1]["max_tokens"], sent[1]["seed"]) == (0.5, 5, 7)


def test_compare(web: Web) -> None:
    """Base, assistant and pair beside each other; the chat goes on with the one that is chosen."""
    web.greedy()
    web.page.locator("#message").fill(EGGS)
    web.page.locator("#compare").click()
    web.wait()
    models = ["demo:base", "demo:assistant", "demo"]
    written = [expected(web.server, model, EGGS) for model in models]
    assert [web.tokens(n) for n in range(3)] == written
    boxes = [web.answer(n).bounding_box() for n in range(3)]
    lefts = [box["x"] for box in boxes if box]
    assert lefts == sorted(set(lefts))
    assert len({box["y"] for box in boxes if box}) == 1
    web.answer(0).get_by_role("button", name="Go on with this").click()
    web.page.locator("#own").check()
    web.send(OTHER)
    assert web.tokens() == expected(web.server, "demo", EGGS, text_of(written[0]), OTHER)


def test_an_answer_is_compared_afterwards(web: Web) -> None:
    web.greedy()
    web.send(EGGS)
    web.answer().get_by_role("button", name="Compare").click()
    web.page.locator(".compare").wait_for()
    web.wait()
    assert web.page.locator(".answer").count() == 3
    assert web.tokens(1) == expected(web.server, "demo:assistant", EGGS)


def test_edit_and_write_again(web: Web) -> None:
    web.greedy()
    web.send(EGGS)
    web.send(OTHER)
    first = web.page.locator(".user").first
    first.get_by_role("button", name="Edit").click()
    area = first.get_by_label("Edit the message")
    assert area.input_value() == EGGS
    area.press("Escape")
    assert web.page.locator(".turn").count() == 4
    first.get_by_role("button", name="Edit").click()
    area.fill(OTHER)
    area.press("Enter")
    web.page.locator(".turn >> nth=2").wait_for(state="detached")  # what followed is gone
    web.wait()
    assert web.page.locator(".user .text").all_inner_texts() == [OTHER]
    assert web.tokens() == expected(web.server, "demo", OTHER)
    web.page.locator("[name=mode][value=base]").check()
    web.answer().get_by_role("button", name="Write again").click()
    web.page.get_by_role("heading", name="Base alone").wait_for()
    web.wait()
    assert web.page.locator(".turn").count() == 2
    assert web.tokens() == expected(web.server, "demo:base", OTHER)


def test_copy(web: Web) -> None:
    web.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    web.force('root ::= "Sum:\\n```py\\n1+2\\n```\\n**so** 3"')
    web.send(EGGS)
    web.answer().get_by_role("button", name="Copy", exact=True).click()
    web.page.get_by_role("button", name="Copied").wait_for()
    assert web.page.evaluate("navigator.clipboard.readText()") == "Sum:\n```py\n1+2\n```\n**so** 3"
    web.answer().get_by_role("button", name="Copy code").click()
    assert web.page.evaluate("navigator.clipboard.readText()") == "1+2\n"
