"""The page, the tables and the command of what is deferred."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from traced_texts import make_evaluation, make_record, make_text, make_trace, plain_token

from colm_cpp.cli.patterns import patterns
from colm_cpp.errors import CorpusError, OptionError
from colm_cpp.report.html import render_page
from colm_cpp.report.patterns import find_patterns
from colm_cpp.report.script import SCRIPT
from colm_cpp.report.style import STYLE
from colm_cpp.report.traces import TracedText, read_texts
from colm_cpp.report.visible import on_one_line, visible

NASTY = ["</div><script>alert(1)</script>", ' & "quoted" \'', "\x1b[31m", "\r\n", "\u202eabc", "\ud800", "\x00", "\n\n"]


class _Page(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.generated: list[str] = []
        self.marked: list[str] = []
        self.titles: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._stack: list[str] = []
        self._marks = 0
        self.feed(page)
        self.close()
        assert not self._stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag in ("meta", "link", "br", "img"):
            return
        self._stack.append("generated" if "generated" in (given.get("class") or "") else tag)
        if self._stack[-1] == "generated":
            self.generated.append("")
        if self._stack[-1] != "generated" and "generated" in self._stack and given.get("role") == "button":
            assert given["tabindex"] == "0"
            self.titles.append(given["aria-label"] or "")
            if tag == "mark":
                self.marked.append("")

    def handle_endtag(self, tag: str) -> None:
        top = self._stack.pop()
        assert top in (tag, "generated")

    def handle_data(self, data: str) -> None:
        if "generated" in self._stack:
            self.generated[-1] += data
            if "mark" in self._stack:
                self.marked[-1] += data


class TestPage:
    def test_the_visible_text_is_that_of_the_records(self) -> None:
        texts = [
            make_text(["\n", *NASTY], "b" + "ab" * 4),
            make_text(["a\tb ", "  c\n", "\n", ""], "abab", ended=True),
        ]
        source = render_page(texts, find_patterns(texts, min_count=1))
        page = _Page(source)
        assert page.generated == [visible(text.text) for text in texts]
        deferred = [visible(token.text) for text in texts for token in text.tokens if token.deferred]
        assert page.marked == deferred
        assert len(page.titles) == sum(len(text.tokens) for text in texts)
        source.encode("utf-8")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", source.replace("\t", ""))

    def test_hidden_characters_are_shown(self) -> None:
        assert visible("a\x1b\r\n\t\u202e\ud800\ufeff\u200d\U000e0041") == (
            "a\\x1b\\x0d\n\t\\u202e\\ud800\\ufeff\u200d\\U000e0041"
        )
        assert on_one_line("a\n\tb") == "a↵⇥b"

    def test_nothing_is_loaded_and_nothing_runs(self) -> None:
        nasty = TracedText("<img src=x onerror=1>", "<script>1</script>\x07", make_text(NASTY, "a" * 8).tokens)
        source = render_page([nasty], find_patterns([nasty], min_count=1), sources=["<script src=//x>", "\x1b"])
        assert source.count(f"<script>{SCRIPT}</script>") == source.count("<script") == 1
        page = _Page(source)
        assert {tag for tag, _ in page.tags} <= {
            "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "p", "dl", "div",
            "dt", "dd", "section", "table", "thead", "tbody", "tr", "th", "td", "span", "code", "mark", "ol", "li", "b",
            "i", "article", "details", "summary", "small", "script",
        }  # fmt: skip
        names = {name for _, attributes in page.tags for name in attributes}
        assert names <= {
            "lang", "charset", "http-equiv", "content", "name", "class", "style", "dir", "id", "scope", "role",
            "tabindex", "aria-label", "data-label",
        }  # fmt: skip
        # One script, the page's own, which its policy names by hash: nothing else may run.
        assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]
        policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
        digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
        assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        assert "</" not in SCRIPT
        assert "url(" not in STYLE
        assert "@import" not in STYLE

    def test_hover_says_what_is_known(self, tmp_path: Path) -> None:
        (text,) = read_texts([make_trace(tmp_path / "t")])
        source = render_page([text], find_patterns([text]))
        assert re.search(r"There are \d+ runs; the longest has \d+ tokens\.", source)
        title = _Page(source).titles[1]
        first, second, third = title.split("\n")
        assert all(fact in first for fact in ("“ 4”", "defer probability 0.500", "assistant"))
        assert all(fact in second for fact in ("token 2", "id 1", "digits"))
        assert third.endswith(" “ 5” 22.3%, “<b>”")
        assert '<mark class="p5" role' in source
        assert '<span class="p5 e" role' in source
        assert "2+2=" in source

    @pytest.mark.parametrize(
        ("p", "shown"), [(0.0, "0.000"), (1e-9, "<0.001"), (0.0014, "0.001"), (0.9996, ">0.999"), (1.0, "1.000")]
    )
    def test_small_is_not_none(self, p: float, shown: str) -> None:
        text = TracedText("t", None, (plain_token("x", 0, 0, p),))
        (title,) = _Page(render_page([text], find_patterns([text]))).titles
        assert f"defer probability {shown}," in title

    def test_max_texts(self) -> None:
        texts = [make_text(["x"], "a", title=f"text {i}") for i in range(3)]
        found = find_patterns(texts)
        assert len(_Page(render_page(texts, found, max_texts=2)).generated) == 2
        assert "first 2 of 3 " in render_page(texts, found, max_texts=2)
        assert _Page(render_page(texts, found, max_texts=0)).generated == []
        assert "of 3 " not in render_page(texts, found).partition("<h2>The texts</h2>")[2].partition("<article")[0]

    def test_it_is_the_same_every_time(self) -> None:
        texts = [make_text(["x", "y"] * 20, "ab" * 20)]
        assert len({render_page(texts, find_patterns(texts)) for _ in range(2)}) == 1

    @pytest.mark.parametrize("mode", [0, 1, 2])
    def test_contrast(self, mode: int) -> None:
        """Light, dark and print: every text on every background at WCAG AA."""
        both, print_ = STYLE.split("@media print")
        colours = {
            name: values[mode % 2] for name, *values in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", both)
        }
        if mode == 2:
            assert "color-scheme: light;" in print_
            colours |= dict(re.findall(r"--(\w+): (#\w{6});", print_))
        rgb = {name: [int(value[i : i + 2], 16) for i in (1, 3, 5)] for name, value in colours.items()}
        shade = rgb["shade"]
        alpha = int(re.findall(r"\.p10 .*var\(--shade\) (\d+)%", STYLE)[0]) / 100
        strongest = [alpha * s + (1 - alpha) * c for s, c in zip(shade, rgb["card"], strict=True)]
        for background in (rgb["page"], rgb["card"], strongest):
            assert contrast(rgb["ink"], background) >= 4.5
        for background in (rgb["page"], rgb["card"]):
            assert contrast(rgb["soft"], background) >= 4.5
            assert contrast(rgb["bar"], background) >= 3
        assert contrast(rgb["under"], strongest) >= 3


def contrast(one: list[Any], other: list[Any]) -> float:
    """The contrast of two colours (WCAG 2.1)."""

    def luminance(colour: list[Any]) -> float:
        linear = [v / 12.92 if (v := c / 255) <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for c in colour]
        return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def run(*arguments: str | Path) -> Result:
    """Runs the command."""
    return CliRunner().invoke(patterns, [str(argument) for argument in arguments])


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = [
            make_record(0, ["So", " [b]4", " x", "\x1b", "\n", ""], "babaab", "eos"),
            make_record(1, ["8"] * 6, "aababa"),
        ]
        return make_evaluation(tmp_path / "eval", {"head@20": rows, "base": [make_record(0, ["q"], "b")]})

    def test_tables(self, folder: Path) -> None:
        result = run(folder)
        assert result.exit_code == 0
        first = result.stdout.partition("\n")[0]
        assert all(fact in first for fact in ("2 texts", "12 tokens", "7 deferred", "58.3%", "defer probability"))
        assert "\x1b" not in result.stdout
        lines = [line.split() for line in result.stdout.splitlines()]
        assert ["digits", "5", "3", "60.0%", "23%", "to", "88%", "████████████", "1.03", "42.9%", "54.6%"] in lines
        assert any(line[:4] == ["'8'", "6", "4", "66.7%"] for line in lines)
        assert "88[8]8[8]8" not in result.stdout  # one mark an example
        assert "8[8]8888" in result.stdout

    def test_text(self, folder: Path) -> None:
        plain = run(folder, "--text", "1").stdout
        title, _, shown = plain[plain.index("text 1: ") :].partition("\n")
        assert all(fact in title for fact in ("eval, head@20, problem 0", "3 of 6"))
        assert shown == "So[ [b]4] x[\\x1b][↵]\n\n"
        colored = run(folder, "--text", "1", "--color", "always").stdout
        assert "So\x1b[1;36m [b]4\x1b[0m x\x1b[1;36m\\x1b\x1b[0m" in colored
        assert "\x1b" not in run(folder, "--text", "1", "--color", "never").stdout

    def test_text_that_is_not_there(self, folder: Path) -> None:
        result = run(folder, "--text", "3")
        assert isinstance(result.exception, OptionError)
        assert re.search(r"--text .*\b3\b.*\b2\b", str(result.exception))
        assert run(folder, "--text", "0").exit_code == 2

    def test_json(self, folder: Path) -> None:
        result = run(folder, "--json", "--min-count", "1")
        value = json.loads(result.stdout)
        expected = find_patterns(read_texts([folder]), min_count=1).to_dict()
        assert value == {"paths": [str(folder)], "arm": "head@20", **json.loads(json.dumps(expected))}
        assert "\x1b" not in result.stdout

    def test_arm(self, folder: Path) -> None:
        assert json.loads(run(folder, "--json", "--arm", "base").stdout)["tokens"] == 1
        assert isinstance(run(folder, "--arm", "nope").exception, CorpusError)
        refused = run(folder / "records" / "base.jsonl", "--arm", "base")
        assert refused.exit_code == 2
        assert "--arm" in refused.stderr

    def test_several_paths(self, folder: Path, tmp_path: Path) -> None:
        trace = make_trace(tmp_path / "t.jsonl")
        paths = (folder, folder / "records" / "base.jsonl", trace)
        value = json.loads(run(*paths, "--json").stdout)
        assert value["paths"] == [str(path) for path in paths]
        # Arms defer differently: their numbers are never put together.
        assert [(v["arm"], v["texts"], v["tokens"]) for v in value["arms"]] == [
            ("head@20", 2, 12),
            ("base", 1, 1),
            (None, 1, 3),
        ]
        shown = run(*paths, "--text", "4").stdout
        assert [line for line in shown.splitlines() if line.startswith("arm ")] == [
            "arm head@20", "arm base", "arm none (traces)",
        ]  # fmt: skip
        assert "\ntext 4: t; " in shown

    def test_arms_are_counted_apart(self, tmp_path: Path) -> None:
        arms = {
            "few@10": [make_record(0, ["x"] * 10, "ab" + "b" * 8)],
            "all@90": [make_record(0, ["x"] * 10, "a" * 10)],
        }
        made = make_evaluation(tmp_path / "eval", arms)
        value = json.loads(run(made, "--json").stdout)
        assert {v["arm"]: v["rate"] for v in value["arms"]} == {"few@10": 0.1, "all@90": 1.0}
        assert json.loads(run(made, "--json", "--arm", "all@90").stdout)["rate"] == 1.0
        refused = run(made, "--html", tmp_path / "page.html")
        assert isinstance(refused.exception, OptionError)
        assert all(name in str(refused.exception) for name in ("few@10", "all@90", "--arm"))
        assert not (tmp_path / "page.html").exists()
        # The same arm of two evaluations is one.
        other = make_evaluation(tmp_path / "more", {"few@10": arms["few@10"]})
        value = json.loads(run(made, other, "--json", "--arm", "few@10").stdout)
        assert (value["arm"], value["texts"], value["rate"]) == ("few@10", 2, 0.1)

    def test_page(self, folder: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        result = run(folder, "--html", page, "--max-texts", "1", "--json")
        assert result.exit_code == 0
        assert str(page) in result.stderr
        json.loads(result.stdout)
        assert _Page(page.read_text(encoding="utf-8")).generated == ["So [b]4 x\\x1b\n"]
        refused = run(folder, "--html", tmp_path / "no" / "page.html")
        assert isinstance(refused.exception, OptionError)
        assert str(tmp_path / "no") in str(refused.exception)

    def test_usage(self, folder: Path) -> None:
        assert run().exit_code == 2
        assert run(folder, "--json", "--text", "1").exit_code == 2
        assert run(folder, "--min-count", "0").exit_code == 2

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        (tmp_path / "r.jsonl").touch()
        result = run(tmp_path / "r.jsonl")
        assert result.exit_code == 0
        first = result.stdout.partition("\n")[0]
        assert all(fact in first for fact in ("0 texts", "0 tokens", "0 deferred", "defer probability -"))

    def test_an_encoding_without_the_signs(self, folder: Path) -> None:
        result = CliRunner(charset="ascii").invoke(patterns, [str(folder), "--text", "1", "--min-count", "1"])
        assert result.exit_code == 0
        assert "############" in result.stdout
        assert "\\u21b5" in result.stdout
