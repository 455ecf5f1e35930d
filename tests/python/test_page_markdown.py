"""Markdown on the page of `colm serve`: what becomes of it, and that each character stays with its token."""

from __future__ import annotations

import random
from typing import Any

import pytest
from served_page import EGGS, Web, chunk

pytestmark = pytest.mark.browser

RENDER = """async (texts) => {
    const { blocks, contentOf, render } = await import("/page/markdown.js");
    return texts.map((text) => {
        const node = document.createElement("div");
        const run = (content) => content.text;
        node.append(...blocks(contentOf(text)).map((block) => render(block, run)));
        for (const extra of node.querySelectorAll(".code-head")) extra.remove();
        for (const one of node.querySelectorAll("*")) {
            for (const { name } of [...one.attributes]) {
                if (!["href", "start"].includes(name)) one.removeAttribute(name);
            }
        }
        return node.innerHTML;
    });
}"""
CASES = {
    "plain": "<p>plain</p>",
    " At first: 3 * 4 = 12 * 1.": "<p>At first: 3 * 4 = 12 * 1.</p>",
    "one\ntwo\n\nthree": "<p>one\ntwo</p><p>three</p>",
    "**a** __b__ *c* _d_ ~~e~~ `f*g*`": "<p><strong>a</strong> <strong>b</strong> <em>c</em> <em>d</em> <s>e</s> "
    "<code>f*g*</code></p>",
    "**a *b* c**": "<p><strong>a <em>b</em> c</strong></p>",
    "snake_case_name 2*3*4": "<p>snake_case_name 2<em>3</em>4</p>",
    "a ** b ** c": "<p>a ** b ** c</p>",
    r"\*a\* \n": r"<p>*a* \n</p>",
    "# A\n### B": "<h3>A</h3><h5>B</h5>",
    "#no": "<p>#no</p>",
    "- a\n- b\n  - c\n- d": "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>",
    "3. a\n4. b": '<ol start="3"><li>a</li><li>b</li></ol>',
    "1. a\n\n2. b": "<ol><li>a</li><li>b</li></ol>",
    "> a\n> b": "<blockquote><p>a\nb</p></blockquote>",
    "a\n\n---\nb": "<p>a</p><hr><p>b</p>",
    "```py\nx = '*'\n```\ny": "<div><pre><code>x = '*'\n</code></pre></div><p>y</p>",
    "```\nopen": "<div><pre><code>open</code></pre></div>",
    "~~~~\n```\n~~~~": "<div><pre><code>```\n</code></pre></div>",
    "|a|b|\n|-|:-:|\n|1|*2*|": "<div><table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td>"
    "<td><em>2</em></td></tr></tbody></table></div>",
    "[t](https://a.b/c) ![i](http://a.b)": '<p><a href="https://a.b/c">t</a> <a href="http://a.b">i</a></p>',
    "see https://a.b/c.": '<p>see <a href="https://a.b/c">https://a.b/c</a>.</p>',
    "[t](javascript:x) [t](data:x) [t](//a.b)": "<p>[t](javascript:x) [t](data:x) [t](//a.b)</p>",
    "<b>x</b> &amp;": "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>",
    "": "",
}


def test_blocks_and_marks(web: Web) -> None:
    got = web.page.evaluate(RENDER, list(CASES))
    assert dict(zip(CASES, got, strict=True)) == CASES


def test_hostile_lengths_take_no_time(web: Web) -> None:
    """What makes careless parsers take squares of time, or dig too deep."""
    n = 20_000
    texts = [s * n for s in ("*", "**a ", "_a", "`", "[", "[a](", "> ", "- ", "|a", "~~", "#", "\\", "http://", "![")]
    texts += ["".join(" " * i + "- a\n" for i in range(300)), "*a **b " * 3000, "`" * 50 + " `" * n]
    texts += ["|a|\n|-|\n" * 3000]
    took = web.page.evaluate(
        f"async (texts) => {{ const render = {RENDER}; const took = [];"
        "for (const text of texts) { const begin = performance.now(); await render([text]);"
        "took.push(performance.now() - begin); } return took; }",
        texts,
    )
    slow = {text[:8]: ms for text, ms in zip(texts, took, strict=True) if ms > 5000}
    assert slow == {}


def test_every_character_stays_with_its_token(web: Web) -> None:
    """Tokens of random texts in random pieces: what is shown of a token is part of it, in order, and nothing is lost
    but marks and white space."""
    rng = random.Random(7)
    signs = [
        "a",
        "b ",
        "\n",
        "\n\n",
        "**",
        "*",
        "`",
        "- ",
        "1. ",
        "> ",
        "|",
        "# ",
        "```\n",
        "é",
        "\U0001d4b3",
        "_",
        "\\",
    ]
    signs.append("[c](https://d.e)")
    for _ in range(12):
        text = "".join(rng.choice(signs) for _ in range(120))
        cuts = sorted(rng.sample(range(1, len(text)), 40))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        tokens: list[dict[str, Any]] = [
            {"id": i, "text": piece, "source": rng.choice(["base", "assistant"]), "defer_prob": 0.5}
            for i, piece in enumerate(pieces)
        ]
        # In several pieces, so that blocks are drawn again while they grow.
        web.answer_with(*[chunk(tokens[i : i + 7]) for i in range(0, len(tokens), 7)], "data: [DONE]")
        web.send(EGGS)
        web.page.unroute("**/v1/chat/completions")
        shown = (
            web.answer()
            .locator(".text")
            .evaluate(
                """(body) => [...body.querySelectorAll(".t")].map(
                (t) => [Number(t.dataset.i), t.textContent, t.className]
            )"""
            )
        )
        assert [i for i, *_ in shown] == sorted(i for i, *_ in shown), text
        for i, part, names in shown:
            assert part in pieces[i], (text, i)
            assert f"by-{tokens[i]['source']}" in names.split()
        for letter in "abcé\U0001d4b3":
            assert sum(part.count(letter) for _, part, _ in shown) == text.count(letter), text
        assert "".join(part for part, _ in web.tokens()) == text
