"""`colm serve --pair demo` in a process of its own, and its page in a real browser."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from chromium import find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Route

__all__ = ["EGGS", "TOKENS", "Server", "Web", "browser", "chunk", "expected", "opened", "serve"]

EGGS = "Tom brings 5 crates of 143 eggs to the farm and sells 266 eggs. How many eggs are left?"
TOKENS = [
    {"id": 1, "text": "One", "source": "base", "defer_prob": 0.25},
    {"id": 2, "text": " two", "source": "assistant", "defer_prob": 0.75},
]
"""Two tokens as the server sends them."""
_READY = re.compile(r"at (http://\S+)/v1 ")


class Server:
    """A server that runs.

    Attributes:
        url: its address.
        process: its process.
    """

    def __init__(self, *options: str, port: int = 0, models: Sequence[str] = ("--pair", "demo")) -> None:
        program = "from colm_cpp.cli import main; main()"
        arguments = ["serve", *models, "--port", str(port), *options]
        self.process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line)
            if match := _READY.search(line):
                self.url = match[1]
                break
        else:
            raise AssertionError(f"the server ended: {''.join(said)}")
        self.port = int(self.url.rpartition(":")[2])
        # Nobody reads the rest, and a full pipe would stop the server.
        self._reader = threading.Thread(target=self.process.stderr.read, daemon=True)
        self._reader.start()

    def writing(self) -> int:
        """Texts that are being written."""
        return int(self.metric("colm_texts_writing"))

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:
            text = answer.read().decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.process.kill()
        self.process.wait()
        self._close_pipe()

    def close(self) -> None:
        """Ends it as its user would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        assert self.process.stderr is not None
        self._reader.join()
        self.process.stderr.close()


@contextmanager
def serve(*options: str, port: int = 0, models: Sequence[str] = ("--pair", "demo")) -> Iterator[Server]:
    """A server, with the demo pair unless other models are given, ended afterwards."""
    server = Server(*options, port=port, models=models)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium, driven by Playwright. Skips the test where one of them is not there."""
    sync_api = pytest.importorskip("playwright.sync_api")
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


class Web:
    """The page in a tab.

    Attributes:
        page: Playwright's page.
        server: the server that it came from.
    """

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.server = server
        self.failed: list[str] = []
        page.on("pageerror", lambda error: self.failed.append(str(error)))
        page.on("console", self._said)

    def _said(self, message: Any) -> None:
        if "Content Security Policy" in message.text or "TrustedHTML" in message.text:
            self.failed.append(message.text)

    def open(self) -> None:
        """Loads the page, and waits until it knows the pairs."""
        self.page.goto(self.server.url)
        self.page.locator("#pair option").first.wait_for(state="attached")

    def options(self, **values: object) -> None:
        """Sets options of the next answers, by their ids."""
        if self.page.locator("#options").get_attribute("open") is None:
            self.page.locator("#options summary").click()
        for name, value in values.items():
            self.page.locator(f"#{name}").fill(str(value))
            self.page.locator(f"#{name}").blur()
        self.page.locator("#options summary").click()

    def greedy(self) -> None:
        """Has the likeliest token written, so that texts can be compared."""
        self.options(temperature=0)

    def send(self, text: str, *, wait: bool = True) -> None:
        """Types a message and sends it."""
        self.page.locator("#message").fill(text)
        self.page.locator("#message").press("Enter")
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits for the end of what is being written."""
        self.page.locator("#send:visible").wait_for()

    def slowly_until(self, shown: Locator) -> None:
        """Lets the server run for a few milliseconds at a time until the page shows something, and leaves it stopped.

        So a test sees what the page shows only for a moment, and no text ends before the test goes on.
        """
        end = time.monotonic() + 60
        while True:
            self.server.process.send_signal(signal.SIGSTOP)
            self.page.wait_for_timeout(20)  # sends what waits to be sent, and draws
            if shown.is_visible():
                return
            self.server.process.send_signal(signal.SIGCONT)
            assert time.monotonic() < end
            time.sleep(0.005)

    def answer(self, n: int = -1) -> Locator:
        """An answer, the last one by default."""
        answers = self.page.locator(".answer")
        return answers.last if n == -1 else answers.nth(n)

    def tokens(self, n: int = -1) -> list[tuple[str, str]]:
        """Text and writer of each token of an answer, as they are on the screen. It stays as written."""
        answer = self.answer(n)
        if "raw" not in (answer.locator(".text").get_attribute("class") or ""):
            answer.get_by_role("button", name="As written").click()
        shown = answer.locator(".text").evaluate(
            """(body) => [...body.querySelectorAll(".t")].map((t) => [t.textContent, t.className, t.localName])"""
        )
        writers = []
        for text, names, element in shown:
            (writer,) = re.findall(r"by-(\w+)", names)
            assert (element == "mark") == (writer != "base")  # told by the element, so by an underline, too
            writers.append((text, writer))
        return writers

    def force(self, grammar: str, **own: Any) -> None:
        """Has the models write what a grammar says, whatever the page asks for."""

        def with_grammar(route: Route) -> None:
            body = json.loads(route.request.post_data or "")
            body["colm"] = {"grammar": grammar, **own}
            route.continue_(post_data=json.dumps(body))

        self.page.route("**/v1/chat/completions", with_grammar)

    def answer_with(self, *events: object) -> None:
        """Has the browser get these events, in place of the server's: text as it is, the rest as data."""
        lines = [event if isinstance(event, str) else f"data: {json.dumps(event)}" for event in events]
        body = "".join(f"{line}\n\n" for line in lines)
        headers = {"Content-Type": "text/event-stream"}
        self.page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, headers=headers))


@contextmanager
def opened(chromium: Browser, server: Server, **context: Any) -> Iterator[Web]:
    """The page in a context of its own. Fails if a script of it fails or breaks its policy."""
    made = chromium.new_context(viewport=context.pop("viewport", {"width": 1280, "height": 800}), **context)
    try:
        web = Web(made.new_page(), server)
        web.open()
        yield web
        assert web.failed == []
    finally:
        made.close()


def chunk(tokens: list[dict[str, Any]], **choice: Any) -> dict[str, Any]:
    """A chunk as the server sends it, with these tokens."""
    likely = [{"token": token["text"], "logprob": -0.1, "bytes": None, "top_logprobs": []} for token in tokens]
    colm = {"tokens": tokens, **choice.pop("colm", {})}
    logprobs = {"content": likely, "refusal": None} if likely else None
    return {"choices": [{"index": 0, "delta": {}, "finish_reason": None, "logprobs": logprobs, "colm": colm, **choice}]}


def expected(server: Server, model: str, *messages: str, **fields: object) -> list[tuple[str, str]]:
    """Text and writer of each token that the server writes greedily, asked without the page."""
    roles = ("user", "assistant")
    body = {
        "model": model,
        "temperature": 0,
        "messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)],
        **fields,
    }
    request = urllib.request.Request(
        f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        tokens = json.load(answer)["choices"][0]["colm"]["tokens"]
    return [(token["text"], token["source"]) for token in tokens]
