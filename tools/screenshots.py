#!/usr/bin/env python3
"""Writes the pictures of docs/page: the page of `colm serve` on a phone and on a desktop, light and dark.

It needs Chromium, and playwright and the extra `server` of this package. The pictures are those of the demo pair.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "python"))

from served_page import EGGS, browser, serve  # noqa: E402

FOLDER = ROOT / "docs" / "page"
MOST = 150_000  # bytes of a picture
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
QUESTIONS = (
    "A baker packs 24 boxes of 36 rolls and sells 517 rolls. How many rolls are left?",
    EGGS,
)


def main() -> None:
    """Takes all pictures."""
    FOLDER.mkdir(exist_ok=True)
    with serve("--parallel", "4") as server, browser() as chromium:
        for name, (width, height) in SIZES.items():
            for scheme in ("light", "dark"):
                page = chromium.new_page(
                    viewport={"width": width, "height": height},
                    color_scheme=scheme,  # type: ignore[arg-type]
                    has_touch=name == "phone",
                    is_mobile=name == "phone",
                )
                page.goto(server.url)
                page.locator("#options summary").click()
                page.locator("#temperature").fill("0")
                page.locator("#options summary").click()
                for question in QUESTIONS if name == "desktop" else (EGGS,):
                    page.locator("#message").fill(question)
                    page.locator("#message").press("Enter")
                    page.locator("#send:visible").wait_for()
                # A token that is the assistant's, with what the base would have said.
                token = page.locator(".answer").last.locator("mark.t").last
                if name == "phone":
                    token.tap()
                else:
                    token.click()
                page.get_by_role("button", name="What would the base have said?").click()
                page.get_by_text("Likely for the base").wait_for()
                picture(page, f"{name}-{scheme}")
                if scheme == "light":
                    page.keyboard.press("Escape")
                    page.locator("#message").fill(EGGS)
                    page.locator("#compare").click()
                    page.locator("#send:visible").wait_for()
                    if name == "desktop":
                        picture(page, "compare")
                page.close()


def picture(page: object, name: str) -> None:
    """Takes one picture."""
    path = FOLDER / f"{name}.png"
    page.screenshot(path=path)  # type: ignore[attr-defined]
    size = path.stat().st_size
    if size > MOST:
        raise SystemExit(f"{path} has {size} bytes, more than {MOST}")
    print(f"{path.relative_to(ROOT)}: {size} bytes")


if __name__ == "__main__":
    main()
