"""The documentation site: it builds without a warning, its links lead somewhere, nothing comes from the network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import colm_cpp as colm

if any(importlib.util.find_spec(package) is None for package in ("mkdocs", "material", "mkdocstrings")):
    pytest.skip("the site needs pip install 'colm-cpp[docs]'", allow_module_level=True)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# What a page loads by itself; links are only followed.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """What a page refers to.

    Attributes:
        ids: places in it.
        links: where it leads, and what it loads.
        loaded: what it loads.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := given.get(name))}
        target = given.get(LOADED.get(tag, "href"))
        if target is None:
            return
        self.links.append(target)
        if tag in LOADED or (tag == "link" and given.get("rel") != "canonical"):
            self.loaded.append(target)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def broken(path: Path, link: str, pages: dict[Path, Page], site: Path) -> bool:
    """Whether a link of the page at ``path`` leads nowhere in the site."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = path
    if parts.path:
        base = site if parts.path.startswith("/") else path.parent
        target = Path(os.path.normpath(base / unquote(parts.path).lstrip("/")))
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return True
    anchor = unquote(parts.fragment)
    return bool(anchor) and target in pages and anchor not in pages[target].ids


def test_links_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    found = [
        f"{path.relative_to(site)}: {link}"
        for path, page in pages.items()
        for link in dict.fromkeys(page.links)
        if broken(path, link, pages, site)
    ]
    assert found == []
    assert len(pages) > 40


def styles(site: Path) -> Iterator[tuple[Path, str]]:
    for path in site.rglob("*.css"):
        for link in re.findall(r"url\(([^)]*)\)", path.read_text(encoding="utf-8")):
            yield path, link.strip("\"'")


def test_nothing_comes_from_the_network(site: Path, pages: dict[Path, Page]) -> None:
    loaded = [(path, link) for path, page in pages.items() for link in page.loaded]
    assert len(loaded) > len(pages)
    assert [(path, link) for path, link in [*loaded, *styles(site)] if urlsplit(link).netloc] == []


def test_every_public_name_has_its_place(pages: dict[Path, Page]) -> None:
    ids = set().union(*(page.ids for page in pages.values()))
    names = set(colm.__all__) - {"__version__"}
    assert {name for name in names if not ids & {f"colm_cpp.{name}", f"colm_cpp.errors.{name}"}} == set()
    assert {"colm_cpp.learn.train", "colm_cpp.tune.tune", "colm_cpp.Pair.agenerate"} <= ids


def test_roles_of_docstrings_are_plain_code(site: Path) -> None:
    for path in (site / "reference").glob("*.html"):
        assert re.findall(r":(?:func|class|meth|data|mod):", path.read_text(encoding="utf-8")) == [], path
