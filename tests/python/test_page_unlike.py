"""The page of `colm serve` in Chromium, with a base and an assistant of unlike vocabularies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import ONE_THREAD, succeed
from conftest import TINY_LOAD, TinyModels
from served_page import Server, Web, expected, opened, serve
from test_page_tokens import rows
from test_unlike_oracle import talking_pair

import colm_cpp as colm

pytestmark = pytest.mark.browser

MESSAGE = "The river"
LOADED = (*ONE_THREAD, "--n-ctx", "256", "--type-k", "f32", "--type-v", "f32")
"""TINY_LOAD, in flags."""


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> tuple[Path, Path]:
    return talking_pair(tiny_model)


@pytest.fixture(scope="module")
def server(files: tuple[Path, Path]) -> Iterator[Server]:
    models = ("--base", str(files[0]), "--assistant", str(files[1]))
    with serve("--head", "random", "--name", "unlike", "--no-flash-attn", *LOADED, models=models) as server:
        yield server


@pytest.fixture
def web(chromium: Any, server: Server) -> Iterator[Web]:
    with opened(chromium, server) as web:
        web.options(temperature=0, seed=3, **{"max-tokens": 12})
        yield web


def test_what_the_other_would_have_said(web: Web, files: tuple[Path, Path]) -> None:
    """Of a token of each model. Ids of one mean nothing to the other, so it reads the text before the token."""
    web.send(MESSAGE)
    tokens = web.tokens()
    assert {writer for _, writer in tokens} == {"base", "assistant"}
    details = web.page.locator("#details")
    with colm.load(*files, "random", **TINY_LOAD) as pair:
        for writer, other, head in (("base", "assistant", "always"), ("assistant", "base", "never")):
            at = max(i for i, (_, by) in enumerate(tokens) if by == writer)
            assert at > 0
            web.answer().locator(".t").nth(at).click()
            details.get_by_role("button", name=f"What would the {other} have said?").click()
            details.locator("caption", has_text=f"Likely for the {other}").wait_for()
            text = f"user: {MESSAGE}\n" + "".join(text for text, _ in tokens[:at])
            (said,) = pair.generate(text, head=head, max_tokens=1, temperature=0.0, logprobs=5).tokens
            shown = rows(web, f"Likely for the {other}")
            assert [name for name, _ in shown] == [top.text for top in said.top_logprobs]
            web.page.keyboard.press("Escape")


def test_compare_shows_each_model(web: Web) -> None:
    web.page.locator("#message").fill(MESSAGE)
    web.page.locator("#compare").click()
    web.wait()
    assert web.page.locator(".answer h3").all_inner_texts() == [
        "Base alone",
        "Assistant alone",
        "Pair, as the head decides",
    ]
    for n, name in enumerate(("unlike:base", "unlike:assistant", "unlike")):
        assert web.tokens(n) == expected(web.server, name, MESSAGE, seed=3)[:12]


def test_a_trace_has_who_wrote_what(web: Web, tmp_path: Path) -> None:
    web.send(MESSAGE)
    with web.page.expect_download() as download:
        web.answer().get_by_role("button", name="Export trace").click()
    file = tmp_path / "trace.jsonl"
    download.value.save_as(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    written = expected(web.server, "unlike", MESSAGE, seed=3)[:12]
    assert [(line["text"], line["source"]) for line in lines[1:-1]] == written
    deferred = sum(by == "assistant" for _, by in written)
    assert f"1 texts, 12 tokens, {deferred} deferred" in succeed("patterns", file).stdout
