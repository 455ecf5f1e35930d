"""The page of `colm serve` in Chromium: chats that stay in the browser, and traces that leave it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner
from served_page import EGGS, TOKENS, Web, chunk, expected

from colm_cpp.cli.patterns import patterns
from colm_cpp.report.traces import read_texts

pytestmark = pytest.mark.browser

OTHER = "A baker packs 24 boxes of 36 rolls and sells 517 rolls. How many rolls are left?"


def titles(web: Web) -> list[str]:
    return web.page.locator("#chats .chat").all_inner_texts()


def test_a_reload_keeps_the_chats(web: Web) -> None:
    web.greedy()
    web.send(EGGS)
    first = web.tokens()
    web.page.get_by_role("button", name="New chat").click()
    assert web.page.locator(".turn").count() == 0
    web.page.locator("[name=mode][value=base]").check()
    web.send(OTHER)
    web.page.reload()
    assert titles(web) == [OTHER[:60].strip(), EGGS[:60].strip()]
    assert web.tokens() == expected(web.server, "demo:base", OTHER)
    assert web.page.locator("[name=mode][value=base]").is_checked()
    web.page.locator("#chats .chat").nth(1).click()
    assert web.tokens() == first
    figures = web.answer().locator(".figures").inner_text()
    assert "tokens/s" in figures
    web.page.locator("[name=mode][value=pair]").check()
    web.send(OTHER)  # the chat goes on
    said = "".join(text for text, _ in first)
    assert web.tokens() == expected(web.server, "demo", EGGS, said, OTHER)
    assert len(titles(web)) == 2


def test_a_reload_in_the_middle_keeps_what_was_written(web: Web) -> None:
    web.send(EGGS)
    web.force('root ::= "Sums: " ([0-9] " "){200}')
    web.send(OTHER, wait=False)
    web.slowly_until(web.page.locator(".answer >> nth=1 >> .t >> nth=3"))
    web.server.process.send_signal(signal.SIGCONT)
    web.page.reload()
    written = web.tokens()
    assert 3 < len(written) < 400
    assert "closed while this was written" in web.answer().locator(".ending").inner_text()


def test_deleting_asks_once_more(web: Web) -> None:
    for text in (EGGS, OTHER):
        web.page.get_by_role("button", name="New chat").click()
        web.send(text)
    delete = web.page.locator("#chats .delete").first
    delete.click()
    assert len(titles(web)) == 2
    delete.click()
    assert titles(web) == [EGGS[:60].strip()]
    everything = web.page.locator(".foot .delete")
    everything.click()
    everything.click()
    assert titles(web) == []
    web.page.reload()
    assert titles(web) == []
    assert web.page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('colm.chat.'))") == []


def test_damaged_and_foreign_entries_are_left_alone(web: Web) -> None:
    web.send(EGGS)
    web.page.evaluate(
        """() => {
            localStorage.setItem("colm.chat.1", "{");
            localStorage.setItem("colm.chat.2", JSON.stringify({turns: [{text: 7}]}));
            localStorage.setItem("colm.chat.3", JSON.stringify({turns: [{text: "a"}, {answers: []}]}));
            localStorage.setItem("colm.settings", "nonsense");
            localStorage.setItem("theirs", "x");
        }"""
    )
    web.page.reload()
    assert titles(web) == [EGGS[:60].strip()]
    web.send(OTHER)
    assert web.tokens()
    assert web.page.evaluate("localStorage.getItem('theirs')") == "x"


def test_full_storage_is_said(web: Web) -> None:
    web.page.evaluate("localStorage.setItem('theirs', 'x'.repeat(5 * 2 ** 20 - 4000))")
    web.send(EGGS)
    web.send(EGGS)
    assert "storage is full" in web.page.locator("#problem").inner_text()
    assert web.tokens()  # the chat goes on


def test_a_trace_is_read_by_colm_patterns(web: Web, tmp_path: Path) -> None:
    web.greedy()
    web.send(EGGS)
    with web.page.expect_download() as download:
        web.answer().get_by_role("button", name="Export trace").click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    (text,) = read_texts([str(path)])
    assert text.prompt == EGGS
    assert [(token.text, token.source) for token in text.tokens] == expected(web.server, "demo", EGGS)
    assert all(len({top.text for top in token.top_logprobs}) == 5 for token in text.tokens)  # one of them was written
    assert any(token.defer_prob is not None and 0 < token.defer_prob < 1 for token in text.tokens)
    page = tmp_path / "page.html"
    result = CliRunner().invoke(patterns, [str(path), "--json", "--html", str(page)])
    assert result.exit_code == 0, result.output
    counted = json.loads(result.stdout)
    assert counted["tokens"] == len(text.tokens)
    assert counted["deferred"] == sum(token.source == "assistant" for token in text.tokens)
    assert page.read_text().count("<mark") > 0


def test_a_chat_is_exported_whole(web: Web, tmp_path: Path) -> None:
    """All answers, each a trace: stopped ones, and those of Compare."""
    web.page.locator("#message").fill(EGGS)
    web.page.locator("#compare").click()
    web.wait()
    web.answer_with(chunk(TOKENS), "data: [DONE]")  # no end and no figures
    web.send(OTHER)
    with web.page.expect_download() as download:
        web.page.get_by_role("button", name="Export chat").click()
    path = tmp_path / "chat.jsonl"
    download.value.save_as(path)
    texts = read_texts([str(path)])
    assert [text.prompt for text in texts] == [EGGS] * 3 + [OTHER]
    assert {token.source for token in texts[0].tokens} == {"base"}
    assert {token.source for token in texts[1].tokens} == {"assistant"}
    assert [token.text for token in texts[3].tokens] == [token["text"] for token in TOKENS]
