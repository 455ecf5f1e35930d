"""The page of `colm serve` with several experts: the demo pair, whose assistant is loaded under two names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from served_page import EGGS, Server, Web, chunk, expected, opened, serve
from test_page_looks import CONTRASTS

from colm_cpp.sources.preset import DEMO_FOLDER

pytestmark = pytest.mark.browser

NAMES = ("base", "math", "code")
EXPERTS = [f"{name}={DEMO_FOLDER / 'assistant.gguf'}" for name in NAMES[1:]]
MODELS = ("--base", str(DEMO_FOLDER / "base.gguf"), "--expert", EXPERTS[0], "--expert", EXPERTS[1])


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve("--head", "random:math", "--name", "three", models=MODELS) as server:
        yield server


@pytest.fixture
def web(chromium: Any, server: Server) -> Iterator[Web]:
    with opened(chromium, server) as web:
        yield web


def tokens_of(*names: str) -> list[dict[str, Any]]:
    """A token of each, with a space before it."""
    return [{"id": i, "text": f" t{i}", "source": name, "defer_prob": 0.5} for i, name in enumerate(names)]


def test_each_model_can_be_chosen(web: Web) -> None:
    web.greedy()
    labels = web.page.locator(".choices label").all_inner_texts()
    assert [label.strip() for label in labels] == ["Base alone", "Pair", "math alone", "code alone"]
    for name in ("code", "base"):
        web.page.locator(f"[name=mode][value={name}]").check()
        web.send(EGGS)
        tokens = web.tokens()
        assert {writer for _, writer in tokens} == {name}
    web.page.reload()  # the choice is kept
    web.page.locator("#pair option").first.wait_for(state="attached")
    assert web.page.locator("[name=mode]:checked").get_attribute("value") == "base"


def test_compare_shows_all(web: Web) -> None:
    web.options(temperature=0, **{"max-tokens": 12})
    web.page.locator("#message").fill(EGGS)
    web.page.locator("#compare").click()
    web.wait()
    assert web.page.locator(".answer h3").all_inner_texts()[:3] == ["Base alone", "math alone", "code alone"]
    written = [expected(web.server, f"three:{name}", EGGS)[:12] for name in NAMES]
    assert [web.tokens(n) for n in range(3)] == written
    assert web.page.locator(".answer").count() == 4


def test_experts_are_told_apart(web: Web) -> None:
    """By colour, by the line, and by a sign where a run begins."""
    web.answer_with(chunk(tokens_of("base", "math", "math", "code", "base")), "data: [DONE]")
    web.send(EGGS)
    looks = web.answer().evaluate(
        """(answer) => [...answer.querySelectorAll(".t")].map((t) => {
            const style = getComputedStyle(t);
            const sign = getComputedStyle(t, "::before").content;
            return [style.backgroundColor, style.textDecorationStyle, sign];
        })"""
    )
    base, first, second, code, last = looks
    assert base == last
    assert first[:2] == second[:2]
    assert len({base[0], first[0], code[0]}) == 3
    assert (first[1], code[1]) == ("solid", "dashed")
    assert [sign for _, _, sign in looks] == ["none", '"m"', "none", '"c"', "none"]
    assert "".join(text for text, _ in web.tokens()) == " t0 t1 t2 t3 t4"  # signs are no text
    assert web.page.locator("#legend").inner_text().split() == ["by", "the", "base", "by", "math", "by", "code"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nine_experts_can_be_read(scheme: Any, chromium: Any, server: Server) -> None:
    names = ["base", *(f"e{i}" for i in range(1, 10))]
    with opened(chromium, server, color_scheme=scheme) as web:

        def nine(route: Any) -> None:
            listed = route.fetch().json()
            for model in listed["data"]:
                model["colm"]["models"] = names
            route.fulfill(json=listed)

        web.page.route("**/v1/models", nine)
        web.open()
        web.answer_with(chunk(tokens_of(*names)), "data: [DONE]")
        web.send(EGGS)
        assert [entry for entry in web.page.evaluate(CONTRASTS) if entry[1] < 4.5] == []
        signs = web.page.locator("#legend [data-sign]").evaluate_all("(all) => all.map((one) => one.dataset.sign)")
        assert len(set(signs)) == 9
        colours = web.page.locator(".answer .t").evaluate_all(
            "(all) => all.map((one) => getComputedStyle(one).backgroundColor)"
        )
        assert len(set(colours)) == 10


def test_what_the_others_would_have_said(web: Web) -> None:
    web.greedy()
    web.page.locator("[name=mode][value=math]").check()
    web.send(EGGS)
    web.answer().locator(".t").nth(2).click()
    details = web.page.locator("#details")
    assert "Written by math" in details.inner_text()
    for name in ("the base", "code"):
        details.get_by_role("button", name=f"What would {name} have said?").click()
        details.locator("caption", has_text=f"Likely for {name}").wait_for()
    assert details.locator("caption").count() == 3


def test_a_trace_has_numbers_and_names(web: Web) -> None:
    web.options(temperature=0, **{"max-tokens": 10})
    web.page.locator("[name=mode][value=code]").check()
    web.send(EGGS)
    with web.page.expect_download() as download:
        web.answer().get_by_role("button", name="Export trace").click()
    lines = [json.loads(line) for line in download.value.path().read_text().splitlines()]
    assert {(line["expert"], line["source"]) for line in lines[1:-1]} == {(2, "code")}
    assert lines[-1]["stats"]["experts"]["code"]["calls"] > 0
