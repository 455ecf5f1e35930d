"""The page of `colm serve` in Chromium: hostile text, contrast, narrow screens, what screen readers get."""

from __future__ import annotations

from typing import Any

import pytest
from served_page import EGGS, TOKENS, Web, chunk, opened

pytestmark = pytest.mark.browser

HOSTILE = (
    "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'><svg onload='window.ran = 1'>"
    "</textarea><style>*{display:none}</style>\x1b[31mred\u202egnp.exe\u2066\x00\x07\u200b&lt;b&gt;"
)
ESCAPED = ("\\x1b", "\\u202e", "\\u2066", "\\x00", "\\x07", "\\u200b")

# Each text on the screen with the contrast to what it stands on, as WCAG 2.1 counts it. A canvas knows every form of
# a colour.
CONTRASTS = """() => {
    const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = (colour) => {
        context.clearRect(0, 0, 1, 1);
        context.fillStyle = colour;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = (top, below) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i]);
    const behind = (node) => {
        if (!node) return [255, 255, 255];
        return over(rgba(getComputedStyle(node).backgroundColor), behind(node.parentElement));
    };
    const luminance = (colour) => {
        const [r, g, b] = colour.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const contrast = (one, other) => {
        const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const found = [];
    for (const node of document.querySelectorAll("body *")) {
        if (!node.checkVisibility({visibilityProperty: true}) || getComputedStyle(node).clipPath !== "none") continue;
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        const pseudo = [null, "::before", "::after", "::placeholder"].filter((kind) => {
            const field = "select, textarea, input:not([type=radio]):not([type=range])";
            if (kind === null) return own || node.matches(field);
            if (kind === "::placeholder") return Boolean(node.placeholder);
            return !["none", "normal"].includes(getComputedStyle(node, kind).content);
        });
        if (node.closest(":disabled") || node.closest("[hidden]")) continue;
        for (const kind of pseudo) {
            const ground = behind(node);
            const ink = over(rgba(getComputedStyle(node, kind).color), ground);
            const name = `${node.localName}.${node.className} ${kind ?? ""} ${node.textContent.slice(0, 20)}`;
            found.push([name, contrast(ink, ground)]);
        }
    }
    return found;
}"""


def shades() -> list[dict[str, Any]]:
    """A token of every shade and writer."""
    return [
        {"id": i, "text": f" t{i}{source[0]}", "source": source, "defer_prob": i / 10}
        for source in ("base", "assistant")
        for i in range(11)
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("chosen", ["system", "switch"])
def test_contrast(scheme: Any, chosen: str, chromium: Any, demo_server: Any) -> None:
    """Of every text at least 4.5, whether the system or the switch chose the colours."""
    opposite = {"light": "dark", "dark": "light"}
    with opened(chromium, demo_server, color_scheme=scheme if chosen == "system" else opposite[scheme]) as web:
        if chosen == "switch":
            web.page.locator("#theme").select_option(scheme)
            web.page.reload()  # it is kept
        ground = web.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(20, 22, 26)") == (scheme == "dark")
        text = "\n# Head\n`code` and [link](https://example.org)\n> quote\n\n```py\nx\n```\n\x1b\n|a|b|\n|-|-|\n|c|d|\n"
        written = [*shades(), {"id": 1, "text": text, "source": "base", "defer_prob": 0.5}]
        web.answer_with(chunk(written), chunk([], finish_reason="length", colm={"stats": STATS}), "data: [DONE]")
        web.send(EGGS)
        web.answer_with(chunk(TOKENS), {"error": {"message": "an error"}})
        web.send(EGGS)
        web.page.locator("#options summary").click()
        web.page.evaluate("document.getElementById('problem').textContent = 'a problem'")
        web.page.evaluate("document.getElementById('key').hidden = false")
        web.answer(0).locator(".t").nth(15).click()
        n = 0
        for tint in ("writer", "probability", "none"):
            # The list of a select is in front of nothing; the panel stays open.
            web.page.evaluate(f"document.body.dataset.tint = {tint!r}")
            for raw in (False, True):
                web.page.evaluate(
                    f"document.querySelector('.answer').view.raw === {str(raw).lower()} || "
                    "document.querySelector('.answer').view.toggleRaw()"
                )
                found = web.page.evaluate(CONTRASTS)
                assert [entry for entry in found if entry[1] < 4.5] == []
                n = max(n, len(found))
        assert n > 80


STATS = {
    "prompt_tokens": 9,
    "generated_tokens": 23,
    "deferral_rate": 0.5,
    "assistant_calls": 11,
    "tokens_per_s": 12.5,
    "seed": 1,
}


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_screen(width: int, chromium: Any, demo_server: Any) -> None:
    size = {"viewport": {"width": width, "height": 800}, "is_mobile": width < 600, "has_touch": width < 600}
    with opened(chromium, demo_server, **size) as web:
        table = "|" + "column|" * 12 + "\n|" + "-|" * 12 + "\n|" + "w" * 90 + "|" * 12 + "\n"
        long = [
            {"id": 1, "text": "x" * 300 + " \n\n", "source": "base", "defer_prob": 0.1},
            {"id": 2, "text": "```\n" + "y" * 300 + "\n```\n", "source": "assistant", "defer_prob": 0.9},
            {"id": 3, "text": table, "source": "base", "defer_prob": None},
        ]
        web.answer_with(chunk(long), chunk([], finish_reason="stop", colm={"stats": STATS}), "data: [DONE]")
        web.page.locator("#message").fill("z" * 300 + " " + "word " * 90)
        web.page.locator("#compare").click()
        web.wait()
        web.page.locator("#options summary").click()
        assert web.page.evaluate("innerWidth") == width  # else it was made smaller to fit what is too wide
        assert web.page.evaluate("document.documentElement.scrollWidth") <= width
        wide = """[...document.querySelectorAll("body *")].filter((e) => {
            if (!e.checkVisibility({visibilityProperty: true}) || getComputedStyle(e).clipPath !== "none") return false;
            if (e.parentElement.closest("pre, .wide")) return false;
            return e.getBoundingClientRect().right > innerWidth + 0.5;
        }).map((e) => `${e.localName}.${e.className}`)"""
        assert web.page.evaluate(wide) == []
        token = web.answer(0).locator(".t").first
        (token.tap if width < 600 else token.click)(position={"x": 3, "y": 3})
        assert web.page.locator("#details").is_visible()
        assert web.page.evaluate("document.documentElement.scrollWidth") <= width
        assert web.page.evaluate(wide) == []


def test_the_list_of_chats_opens_on_a_phone(chromium: Any, demo_server: Any) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
    with opened(chromium, demo_server, **phone) as web:
        web.send(EGGS)
        side = web.page.locator("#side")
        assert not side.is_visible()
        web.page.locator("#open-side").tap()
        side.wait_for()
        assert web.page.locator("#open-side").get_attribute("aria-expanded") == "true"
        web.page.keyboard.press("Escape")
        side.wait_for(state="hidden")
        assert web.page.evaluate("document.activeElement.id") == "open-side"
        web.page.locator("#open-side").tap()
        web.page.locator("#new-chat").tap()
        side.wait_for(state="hidden")
        assert web.page.locator(".turn").count() == 0


def test_hostile_messages_are_text(web: Web) -> None:
    web.page.locator("#message").evaluate("(area, text) => { area.value = text; }", HOSTILE)
    sent: list[Any] = []
    web.page.on("request", lambda r: sent.append(r.post_data_json) if "completions" in r.url else None)
    web.page.locator("#send").click()
    web.wait()
    assert sent[0]["messages"][0]["content"] == HOSTILE  # what is sent is what was typed
    shown = web.page.locator(".user .text").inner_text()
    assert shown.startswith("<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>")
    for sign in ESCAPED:
        assert sign in shown
    for place in ("#title", "#chats .chat"):
        assert "\u202e" not in web.page.locator(place).first.inner_text()
    assert web.page.evaluate("window.ran") is None
    assert web.page.locator("#talk script, #talk img, #talk svg, #talk style").count() == 0
    web.page.reload()
    assert web.page.locator(".user .text").inner_text() == shown
    assert web.page.evaluate("window.ran") is None


def test_hostile_tokens_of_a_model_are_text(web: Web) -> None:
    """A grammar has the models write them, so that they come as any answer comes."""
    links = "![i](http://a.b/c) [j](javascript:alert) [ok](https://a.b/c)"
    web.force(rf'root ::= "<script>window.ran = 1</script>\n\n<img src=x onerror=alert(1)> \x1b[31m \u202e {links}"')
    web.send(EGGS)
    body = web.answer().locator(".text")
    shown = body.inner_text()
    assert "<script>window.ran = 1</script>" in shown
    assert "<img src=x onerror=alert(1)>" in shown
    assert "[31m" in shown
    assert "\x1b" not in shown
    assert "\\x1b" in shown
    assert "\\u202e" in shown
    assert [link.get_attribute("href") for link in body.locator("a").all()] == ["http://a.b/c", "https://a.b/c"]
    assert {link.get_attribute("rel") for link in body.locator("a").all()} == {"noopener noreferrer nofollow"}
    assert body.locator("script, img, style, iframe").count() == 0
    assert web.page.evaluate("window.ran") is None
    web.answer().get_by_role("button", name="As written").click()
    assert "[j](javascript:alert)" in body.inner_text()


def test_hostile_tokens_from_elsewhere(web: Web) -> None:
    """What no model of the demo can write: every hidden character in one token, also in its alternatives."""
    token = {"id": 7, "text": HOSTILE, "source": "base", "defer_prob": 0.5}
    answer = chunk([token])
    answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] = [
        {"token": HOSTILE, "logprob": -0.1, "bytes": None},
        {"token": "\u2028\ud800", "logprob": -9999.0, "bytes": None},
    ]
    web.answer_with(answer, "data: [DONE]")
    web.send(EGGS)
    web.answer().locator(".t").first.click()
    for place in (web.answer().locator(".text"), web.page.locator("#details")):
        shown = place.inner_text()
        assert not set(shown) & set("\x1b\u202e\u2066\x00\x07\u200b\u2028")
        for sign in ESCAPED:
            assert sign in shown
    assert "\\u2028\\ud800" in web.page.locator("#details").inner_text()
    assert web.page.evaluate("window.ran") is None


def test_the_policy_holds(web: Web) -> None:
    """No script but the page's own, no style, no other host, and no text as HTML, whoever tries."""
    tries = """async () => {
        const blocked = [];
        addEventListener("securitypolicyviolation", (event) => blocked.push(event.effectiveDirective));
        const node = document.createElement("p");
        document.body.append(node);
        node.setAttribute("style", "color: red");
        const script = document.createElement("script");
        try { script.src = "data:text/javascript,window.ran=1"; } catch { blocked.push("script"); }
        try { node.innerHTML = "<b>x</b>"; } catch { blocked.push("html"); }
        try { await fetch("http://127.0.0.2:1/"); } catch { blocked.push("fetch"); }
        await new Promise((done) => setTimeout(done, 200));
        return [...new Set(blocked)].sort();
    }"""
    blocked = web.page.evaluate(tries)
    assert {"connect-src", "fetch", "html", "require-trusted-types-for", "script", "style-src-attr"} <= set(blocked)
    assert web.page.evaluate("window.ran") is None
    web.failed.clear()  # which the policy just said


def test_only_this_server_is_asked(web: Web) -> None:
    hosts: set[str] = set()
    web.page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
    web.page.reload()
    web.send(EGGS)
    web.answer().locator(".t").first.click()
    web.page.locator("#details .other button").click()
    web.page.locator("#details caption").nth(1).wait_for()
    assert hosts == {web.server.url.split("/")[2]}
    assert web.page.context.cookies() == []


def test_what_screen_readers_get(web: Web) -> None:
    """A name for every control, landmarks, headings, and the answer once it is whole."""
    web.send(EGGS)
    answer = "".join(web.page.locator(".answer .t").all_inner_texts())
    assert answer.strip() in web.page.locator("#status").inner_text()
    tree = web.page.locator("body").aria_snapshot()
    for part in (
        'navigation "Chats"',
        "main",
        'form "Next message"',
        'textbox "Message"',
        'slider "Deferral rate"',
        'group "Who writes the next answer"',
        'radio "Pair" [checked]',
        'article "Your message"',
        'article "Answer"',
        "status",
    ):
        assert part in tree, part
    unnamed = web.page.evaluate(
        """[...document.querySelectorAll("button, input, select, textarea, a")].filter((node) => {
            if (!node.checkVisibility()) return false;
            const own = node.textContent.trim() || node.getAttribute("aria-label") || node.title;
            return !own && !node.labels?.length;
        }).map((node) => node.outerHTML)"""
    )
    assert unnamed == []
    assert web.page.locator(".answer").get_attribute("aria-busy") == "false"
    assert web.page.locator("#rate").get_attribute("aria-valuetext") == "the head's own"
