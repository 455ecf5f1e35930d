"""The page of `colm serve` when something stops: the user, the server, the connection, a key that is wrong."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from served_page import EGGS, Web, chunk, opened, serve

pytestmark = pytest.mark.browser

LONG = 'root ::= "Sums: " ([0-9] " "){200}'
N_LONG = 400
TOKEN = {"id": 5, "text": "One", "source": "base", "defer_prob": 0.25}


@pytest.fixture
def own(chromium: Any) -> Iterator[Web]:
    """The page of a server with one slot, which the test may stop."""
    with serve("--parallel", "1", "--keep-alive", "0.1") as server, opened(chromium, server) as page:
        yield page


def eventually(what: Any, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("with_key", [False, True])
def test_stop_in_the_middle_frees_the_slot(with_key: bool, own: Web) -> None:
    """Also before another message: the only slot is free for it."""
    own.send(EGGS)  # which loads the pair
    before = own.server.metric("colm_tokens_total")
    own.force(LONG)
    own.send(EGGS, wait=False)
    own.slowly_until(own.page.locator(".answer >> nth=1 >> .t >> nth=3"))
    if with_key:
        own.page.keyboard.press("Escape")
    else:
        own.page.locator("#stop").click()
    own.wait()
    own.server.process.send_signal(signal.SIGCONT)
    eventually(lambda: own.server.writing() == 0)
    n = len(own.tokens())
    assert 3 < n < N_LONG
    assert n <= own.server.metric("colm_tokens_total") - before < N_LONG
    assert own.answer().locator(".ending").inner_text() == "Stopped."
    own.page.unroute("**/v1/chat/completions")
    own.send(EGGS)
    assert own.tokens()
    assert own.answer().locator(".problem").inner_text() == ""


def test_a_server_that_dies(own: Web) -> None:
    """What was written is kept, the error is said, and the same chat goes on once a server is there again."""
    own.send(EGGS)
    own.force(LONG)
    own.send(EGGS, wait=False)
    own.slowly_until(own.page.locator(".answer >> nth=1 >> .t >> nth=3"))
    own.server.kill()
    own.wait()
    problem = own.answer().locator(".problem")
    assert "connection to the server broke" in problem.inner_text()
    assert problem.get_attribute("role") == "alert"
    written = own.tokens()
    assert 3 < len(written) < N_LONG
    own.page.unroute("**/v1/chat/completions")
    own.send(EGGS)
    assert "cannot be reached" in own.answer().locator(".problem").inner_text()
    with serve(port=own.server.port):
        own.answer().get_by_role("button", name="Write again").click()
        own.page.locator(".answer >> nth=2 >> .t").first.wait_for()
        own.wait()
        assert own.answer().locator(".problem").inner_text() == ""
        assert own.tokens(1) == written


def test_waiting_for_a_slot_is_said(own: Web) -> None:
    own.send(EGGS)
    with opened(own.page.context.browser, own.server) as other:
        other.force(LONG)
        other.send(EGGS, wait=False)
        other.slowly_until(other.page.locator(".t >> nth=3"))
        own.send(EGGS, wait=False)
        own.slowly_until(own.page.get_by_text("waiting for a slot"))
        own.server.process.send_signal(signal.SIGCONT)
        own.wait()
        assert own.tokens()
        other.wait()


def test_prefill_is_shown(web: Web) -> None:
    """With a bar, from the comments of the stream. The connection that ends there is an error."""
    web.page.evaluate(
        """() => {
            window.seen = [];
            new MutationObserver(() => {
                const bar = document.querySelector(".progress progress");
                if (bar) window.seen.push([bar.value, bar.max, bar.parentNode.innerText.trim()]);
            }).observe(document.body, {childList: true, subtree: true});
        }"""
    )
    # A piece later than the first frame: the whole body comes at once, so the last comment is what is drawn.
    web.answer_with(": waiting for a slot", ": prefill 512/8000 tokens")
    web.send(EGGS)
    web.page.unroute("**/v1/chat/completions")
    assert "connection ended before the answer did" in web.answer().locator(".problem").inner_text()
    web.page.evaluate(
        """async () => {
            const { AnswerView } = await import("/page/view.js");
            const { newAnswer } = await import("/page/answer.js");
            const answer = newAnswer({pair: "demo", mode: "pair", rate: null}, "");
            answer.live = {progress: "prefill 512/8000 tokens", begun: 0};
            document.getElementById("talk").append(new AnswerView(answer, []).node);
        }"""
    )
    assert web.page.evaluate("window.seen.at(-1)") == [512, 8000, "prefill 512/8000 tokens"]


def test_an_error_in_the_middle_is_said(web: Web) -> None:
    error = {"error": {"message": "the text needs 900 tokens, and the context has 512", "type": "x"}}
    web.answer_with(chunk([TOKEN]), error)
    web.send(EGGS)
    assert web.tokens() == [("One", "base")]
    assert web.answer().locator(".problem").inner_text() == error["error"]["message"]


def test_errors_of_the_server_are_its_own_words(web: Web) -> None:
    web.send("word " * 600)
    said = web.answer().locator(".problem").inner_text()
    assert "512" in said
    web.page.get_by_role("button", name="New chat").click()
    web.options(**{"max-tokens": 5})
    web.force("root ::= (")
    web.send(EGGS)
    assert "grammar" in web.answer().locator(".problem").inner_text()


def test_a_full_queue_says_when_to_try_again(web: Web) -> None:
    web.page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=503, json={"error": {"message": "4 texts are being written"}}, headers={"Retry-After": "7"}
        ),
    )
    web.send(EGGS)
    assert web.answer().locator(".problem").inner_text() == "4 texts are being written (try again in 7 s)"


def test_a_key(chromium: Any) -> None:
    """The browser asks for the first one. When the server has another one later, the page asks."""
    with serve("--api-key", "key-one") as server:
        context = chromium.new_context(http_credentials={"username": "", "password": "key-one", "origin": server.url})
        web = Web(context.new_page(), server)
        web.open()
        web.send(EGGS)
        assert web.tokens()
        assert not web.page.locator("#key").is_visible()
    with serve("--api-key", "key-two", port=server.port):
        web.send(EGGS)
        web.page.locator("#key").wait_for()
        assert "API key is wrong" in web.answer().locator(".problem").inner_text()
        web.page.locator("#key-value").fill("key-three")
        web.page.locator("#key-value").press("Enter")
        web.page.locator("#key").wait_for()
        web.page.locator("#key-value").fill("key-two")
        with web.page.expect_response(lambda answer: answer.url.endswith("/v1/models") and answer.ok):
            web.page.locator("#key-value").press("Enter")
        web.send(EGGS)
        assert web.answer().locator(".problem").inner_text() == ""
        # The key is in no place that outlives the tab.
        assert "key-two" not in web.page.evaluate("JSON.stringify(localStorage)")
        assert web.failed == []
    context.close()
