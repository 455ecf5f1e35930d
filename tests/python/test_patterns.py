"""What is deferred: texts read back from disk, kinds of tokens, statistics, the page, the tables, the command."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from colm_cpp.cli import _trace
from colm_cpp.cli.patterns import patterns
from colm_cpp.errors import CorpusError, OptionError
from colm_cpp.evaluate.records import FORMAT, VERSION, Record
from colm_cpp.report import traces
from colm_cpp.report.html import render_page
from colm_cpp.report.parts import PARTS, classify
from colm_cpp.report.patterns import find_patterns
from colm_cpp.report.script import SCRIPT
from colm_cpp.report.style import STYLE
from colm_cpp.report.traces import TracedText, TracedToken, read_texts
from colm_cpp.report.visible import on_one_line, visible
from colm_cpp.results import Source, Stats, Token, TopLogprob, expert_of

CODES = dict(zip(PARTS, "FDOPSCMNW+E", strict=True))
"""A letter for each part."""

NASTY = ["</div><script>alert(1)</script>", ' & "quoted" \'', "\x1b[31m", "\r\n", "\u202eabc", "\ud800", "\x00", "\n\n"]


def make_text(pieces: list[str], sources: str = "", *, ended: bool = False, title: str = "t") -> TracedText:
    """A text with a source letter a token; p is 0.9 where deferred and 0.1 elsewhere."""
    letters = sources or "b" * len(pieces)
    tokens = tuple(
        TracedToken(piece, i, int(letter == "a"), 0.9 if letter == "a" else 0.1)
        for i, (piece, letter) in enumerate(zip(pieces, letters, strict=True))
    )
    return TracedText(title, None, tokens, ended)


def make_record(problem: int, pieces: list[str], sources: str, reason: str = "length", **other: Any) -> dict[str, Any]:
    """A record's fields."""
    made = Record(
        problem=problem,
        finish_reason=reason,  # type: ignore[arg-type]
        ids=tuple(range(len(pieces))),
        pieces=tuple(pieces),
        experts=sources.translate(str.maketrans("ba", "01")),
        defer_logits=tuple(1.0 if letter == "a" else -1.0 for letter in sources),
        prompt_tokens=3,
        base_steps=len(pieces),
        assistant_calls=sources.count("a"),
        prefill_s=0.1,
        decode_s=0.1,
    )
    return {**asdict(made), **other}


def write_lines(path: Path, values: list[dict[str, Any]]) -> Path:
    """A file of JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def make_evaluation(path: Path, arms: dict[str, list[dict[str, Any]]]) -> Path:
    """An evaluation's folder."""
    (path / "records").mkdir(parents=True)
    meta = {"format": FORMAT, "version": VERSION, "arms": {arm: {} for arm in arms}}
    (path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    for arm, records in arms.items():
        write_lines(path / "records" / f"{arm}.jsonl", records)
    return path


def make_token(text: str, id_: int, source: Source = "base", **other: Any) -> Token:
    return Token(id=id_, text=text, expert=expert_of(source), defer_logit=0.0, threshold=0.5, logprob=-0.5, **other)


def make_trace(path: Path, *, end: bool = True) -> Path:
    """A trace written by the command's own writer."""
    likely = (TopLogprob(1, " 4", -0.5), TopLogprob(2, " 5", -1.5), TopLogprob(3, "<b>", float("-inf")))
    last = make_token("<|im_end|>", 9)
    with _trace.Trace(path) as trace:
        trace.header({"prompt": "2+2=", "seed": 1})
        trace.token(make_token("It is", 0))
        trace.token(make_token(" 4", 1, "assistant", top_logprobs=likely))
        if end:
            trace.end(Stats(1, 3, 1 / 3, 3, 1, True, 1, 1, 1, 1, 0.1, 0.1, 20.0, 1), "eos", last)
    return path


class TestRead:
    def test_the_constants_are_those_of_the_writer(self) -> None:
        assert (traces.TRACE_FORMAT, traces.TRACE_VERSION) == (_trace.FORMAT, _trace.VERSION)

    def test_records(self, tmp_path: Path) -> None:
        rows = [
            make_record(4, ["x", ""], "ba", "eos"),
            make_record(1, ["y"], "b"),
            make_record(4, ["z", ""], "ab", "eos"),
        ]
        rows[2]["defer_logits"] = [None, None]
        first, second = read_texts([write_lines(tmp_path / "head@20.jsonl", rows)])
        assert (first.title, first.prompt, first.text, first.ended) == ("head@20, problem 1", None, "y", False)
        assert first.tokens[0].defer_prob == pytest.approx(0.2689414)
        # The later answer to problem 4 counts; infinite logits are those of who wrote.
        assert (second.text, second.ended, second.n_deferred) == ("z", True, 1)
        assert [token.defer_prob for token in second.tokens] == [1.0, 0.0]
        assert [token.other for token in second.tokens] == [(), ()]

    def test_evaluation_reads_the_arms_with_a_head(self, tmp_path: Path) -> None:
        names = ["base", "assistant", "random@20", "head@20", "entropy@20"]
        folder = make_evaluation(tmp_path / "eval", {name: [make_record(0, [name], "a")] for name in names})
        assert [text.text for text in read_texts([folder])] == ["head@20", "entropy@20"]
        assert [text.title for text in read_texts([folder])] == [
            "eval, head@20, problem 0",
            "eval, entropy@20, problem 0",
        ]
        assert [text.text for text in read_texts([folder, folder], "base")] == ["base", "base"]
        with pytest.raises(CorpusError, match=r"nope.* base, assistant"):
            read_texts([folder], "nope")

    def test_evaluation_without_a_head(self, tmp_path: Path) -> None:
        folder = make_evaluation(tmp_path / "eval", {"base": [make_record(0, ["x"], "b")]})
        with pytest.raises(CorpusError, match=r"base.*--arm"):
            read_texts([folder])
        assert read_texts([make_evaluation(tmp_path / "new", {})]) == []

    def test_trace(self, tmp_path: Path) -> None:
        (text,) = read_texts([make_trace(tmp_path / "a.trace")])
        assert (text.title, text.prompt, text.text, text.ended) == ("a", "2+2=", "It is 4", True)
        assert [token.source for token in text.tokens] == ["base", "assistant", "base"]
        assert [token.defer_prob for token in text.tokens] == [0.5, 0.5, 0.5]
        (five, p), markup = text.tokens[1].other
        assert (five, markup) == (" 5", ("<b>", None))
        assert p == pytest.approx(0.2231302)

    def test_traces_without_an_end_and_several_in_one_file(self, tmp_path: Path) -> None:
        whole, cut = make_trace(tmp_path / "a"), make_trace(tmp_path / "b", end=False)
        (tmp_path / "c").write_bytes(whole.read_bytes() + cut.read_bytes() + b'{"id": 7, "te')
        first, second = read_texts([tmp_path / "c"])
        assert (first.title, first.ended, len(first.tokens)) == ("c, text 1", True, 3)
        assert (second.title, second.ended, len(second.tokens)) == ("c, text 2", False, 2)

    def test_a_record_cut_short_is_left_out(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "r.jsonl", [make_record(0, ["x"], "b")])
        path.write_bytes(path.read_bytes() + b'{"problem":1,"te')
        assert len(read_texts([path])) == 1
        path.write_bytes(path.read_bytes() + b"\n")
        with pytest.raises(CorpusError, match=r"r\.jsonl:2 is damaged .*delete the line"):
            read_texts([path])

    def test_empty_file(self, tmp_path: Path) -> None:
        (tmp_path / "r.jsonl").write_bytes(b"\n")
        assert read_texts([tmp_path / "r.jsonl"]) == []

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"hello", r"x:1 .*JSON.*colm generate --trace"),
            (b"\xff\xfe", r"x:1 .*JSON"),
            (b"[" * 100_000, r"x:1 .*JSON"),
            (b'\n{"text": "a row"}\n', r"x:2 .*record.*trace"),
            (b"[1]\n", r"x:1 .*record.*trace"),
            (b'{"format": "colm-scores", "version": 1}\n', r"x:1 .*'colm-scores'.*'colm-trace'"),
            (b'{"format": "colm-trace", "version": 2}\n', r"x:1 .*version .*2.*1"),
            (b'{"format": "colm-trace", "version": 1, "prompt": 1}\n', r"x:1 .*prompt"),
        ],
    )
    def test_foreign_files(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(CorpusError, match=message):
            read_texts([tmp_path / "x"])

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("7", "JSON object"),
            ('{"id": 1, "text": "a"}', "id, text and source"),
            ('{"id": true, "text": "a", "source": "base"}', "its id "),
            ('{"id": 1, "text": "a", "source": "b"}', "'b'"),
            ('{"id": 1, "text": "a", "source": "base", "expert": 1}', "expert is 1"),
            ('{"id": 1, "text": "a", "source": "base", "expert": "0"}', "expert is '0'"),
            ('{"id": 1, "text": "a", "source": "base", "defer_prob": 1.5}', "defer_prob.* 1.5.*0 to 1"),
            ('{"id": 1, "text": "a", "source": "base", "defer_prob": NaN}', "defer_prob.* nan"),
            ('{"id": 1, "text": "a", "source": "base", "top_logprobs": {"a": 1}}', "top_logprobs"),
            ('{"id": 1, "text": "a", "source": "base", "top_logprobs": [1]}', "top_logprobs.*text"),
            ('{"id": 1, "text": "a", "source": "base", "top_logprobs": [{"text": "b", "logprob": 2}]}', "logprob 2"),
            ('{"stats": {}, "end_token": 1}', "id, text and source"),
            ('{"stats": {}}\n{"stats": {}}', "end of the trace"),
        ],
    )
    def test_damaged_traces(self, tmp_path: Path, line: str, message: str) -> None:
        path = tmp_path / "x"
        path.write_text('{"format": "colm-trace", "version": 1}\n' + line + "\n", encoding="utf-8")
        number = 2 + line.count("\n")
        with pytest.raises(CorpusError, match=rf"x:{number} .*{message}"):
            read_texts([path])

    def test_a_trace_of_an_older_version(self, tmp_path: Path) -> None:
        """It says the source of a token and has no number for the expert."""
        path = tmp_path / "x"
        header = json.dumps({"format": "colm-trace", "version": 1})
        tokens = [make_token("a", 1).to_dict(), make_token("b", 2, "assistant").to_dict()]
        texts = []
        for old in (False, True):
            lines = [{name: value for name, value in token.items() if not old or name != "expert"} for token in tokens]
            path.write_text("\n".join([header, *map(json.dumps, lines)]) + "\n", encoding="utf-8")
            texts += read_texts([path])
        assert texts[0] == texts[1]
        assert [(token.expert, token.source) for token in texts[0].tokens] == [(0, "base"), (1, "assistant")]

    @pytest.mark.parametrize(
        "change",
        [
            {"experts": "0x"},
            {"experts": ["0", "1"]},
            {"experts": "0"},
            {"ids": [1, "2"]},
            {"ids": None},
            {"pieces": ["a", 2]},
            {"problem": "0"},
            {"defer_logits": [0.0, "1"]},
            {"defer_logits": [0.0, float("nan")]},
            {"defer_logits": [0.0, 10**400]},
            {"extra": 1},
        ],
    )
    def test_damaged_records(self, tmp_path: Path, change: dict[str, Any]) -> None:
        row = make_record(0, ["x", "y"], "ba")
        path = write_lines(tmp_path / "r.jsonl", [row, {**row, **change}])
        with pytest.raises(CorpusError, match=r"r\.jsonl:2 .*record"):
            read_texts([path])

    def test_paths_that_are_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(CorpusError, match="nothing"):
            read_texts([tmp_path / "nothing"])
        with pytest.raises(CorpusError, match=re.escape(str(tmp_path))):
            read_texts([tmp_path])
        (tmp_path / "meta.json").write_text(json.dumps({"format": FORMAT, "version": VERSION}), encoding="utf-8")
        with pytest.raises(CorpusError, match=r"meta\.json"):
            read_texts([tmp_path])


class TestParts:
    @pytest.mark.parametrize(
        ("written", "parts"),
        [
            ("So|,| the", "FPW"),
            ("It| is| |2|0|,|000|.|5|.", "FWSDDDDDDP"),
            ("a| +| b|=|c| \u00d7| 3|%", "FOWOWODO"),
            ("x| \\|times| \\|frac|{|1|}{|2|}", "FOOOOMDMDM"),
            ("x| \\|(\\|boxed|{|4|}\\|).", "FMMMMDMM"),
            ("x| \\[| x|_|1|-|y| \\]| a|-b|_", "FMWMDOWMWPP"),
            ("It| costs| $|5| and| $|6|.", "FWPDWPDP"),
            ("It| is| $|N|_|1|$| now", "FWMWMDMW"),
            ("{|a|}|{", "FWPP"),
            ("a|  |\n|\t", "FSSS"),
            ("the| Mar|jorie| and| Paris|.| The| end", "FN+WNPWW"),
            ('He| saw| Dr|.| Smith|,| I| think|.\n|Then| "|Yes|"', "FWNPNPWWPWPWP"),
            ("a|\n\n|1|.| Identify|\n|-| Cost|\n|##| Total", "FSDPWSMWSMW"),
            ("a|.| **|Note|:**| This| x", "FPMWPWW"),
            ("let|'s| 4|th| 8|N", "F+D+D+"),
            ("is| \\(| 8|N| \\)", "FMDWM"),
            ("a||é|\u0301|x", "F++++"),
            ("see| `|x| =|`| now", "FCCCCW"),
            ("a\n|```|py|\n|x| = 1|\n|``|`\n|b", "FCCCCCCCCW"),
            ("a\n|~~~\n|x\n|```\n| y", "FCCCC"),
            ("a| <|b|>| x| < y|<br>", "FMMMWOM"),
            ("\\|alpha", "FM"),
            ("a|😀|\x00|\ud800", "FPPP"),
        ],
    )
    def test_table(self, written: str, parts: str) -> None:
        pieces = written.split("|")
        found = [CODES[part] for part in classify(make_text(pieces))]
        assert list(zip(pieces, found, strict=True)) == list(zip(pieces, parts, strict=True))

    def test_first_and_end(self) -> None:
        assert classify(make_text([])) == ()
        assert classify(make_text([""], ended=True)) == ("end",)
        assert classify(make_text(["7", "7", ""], ended=True)) == ("first", "digits", "end")
        assert classify(make_text(["", "", "é"])) == ("first", "piece", "word")

    def test_a_formula_left_open_ends_with_its_paragraph(self) -> None:
        pieces = ["\\[", " x", "\n\n", "of", " Paris"]
        assert classify(make_text(pieces))[3:] == ("word", "name")

    def test_long_lines_of_one_sign(self) -> None:
        for sign in ("A ", "`", "$", "\\", "{", "<a ", "``` ", " ", "*", "1,"):
            assert len(classify(make_text([sign] * 10_000))) == 10_000


class TestPatterns:
    def test_by_hand(self) -> None:
        texts = [
            make_text(["So", " 4", "+", "4", "=", "8", ""], "baabbaa", ended=True),
            make_text([" x", " 4", " 4", " 4"], "abab"),
        ]
        found = find_patterns(texts, min_count=2)
        assert (found.texts, found.tokens, found.deferred) == (2, 11, 6)
        assert found.rate == pytest.approx(6 / 11)
        assert found.mean_defer_prob == pytest.approx((6 * 0.9 + 5 * 0.1) / 11)
        parts = {count.part: count for count in found.parts}
        assert tuple(parts) == PARTS
        # " 4" and "8" and " 4" of the second text are deferred; "4" and two " 4" are not.
        digits = parts["digits"]
        assert (digits.tokens, digits.deferred) == (6, 3)
        assert (digits.rate, digits.share) == (0.5, 0.5)
        assert digits.lift == pytest.approx(0.5 / (6 / 11))
        assert digits.mean_defer_prob == pytest.approx(0.5)
        assert (parts["first"].tokens, parts["first"].deferred) == (2, 1)
        assert (parts["operator"].tokens, parts["operator"].deferred) == (2, 1)
        assert (parts["end"].tokens, parts["end"].deferred) == (1, 1)
        assert (parts["word"].tokens, parts["word"].rate, parts["word"].lift) == (0, None, None)
        assert parts["word"].share == 0.0
        # Runs end with their text: 2, 2, then 1 and 1.
        assert found.runs.lengths == {"1": 2, "2": 2, "3": 0, "4": 0, "5-8": 0, "9+": 0}
        assert (found.runs.runs, found.runs.mean, found.runs.longest) == (4, 1.5, 2)
        (four,) = found.most_deferred
        assert (four.text, four.tokens, four.deferred, four.rate) == (" 4", 4, 2, 0.5)
        assert [(e.title, e.position, e.before, e.token, e.after) for e in four.examples] == [
            ("t", 1, "So", " 4", "+4=8"),
            ("t", 2, " x 4", " 4", " 4"),
        ]

    def test_runs(self) -> None:
        sources = "b".join("a" * length for length in (1, 2, 3, 4, 5, 8, 9, 12))
        runs = find_patterns([make_text(["x"] * len(sources), sources)]).runs
        assert runs.lengths == {"1": 1, "2": 1, "3": 1, "4": 1, "5-8": 2, "9+": 2}
        assert (runs.runs, runs.mean, runs.longest) == (8, 5.5, 12)

    def test_tenths(self) -> None:
        tenths = find_patterns([make_text(["x"] * 20, "a" * 3 + "b" * 17), make_text(["x"], "a")]).tenths
        assert [tenth.tokens for tenth in tenths] == [3] + [2] * 9
        assert [tenth.deferred for tenth in tenths] == [3, 1] + [0] * 8
        assert tenths[1].rate == 0.5

    def test_most_deferred_are_in_order_and_spread_over_texts(self) -> None:
        texts = [
            make_text(["x", "x", "y", "z", "w"], "aabab", title="one"),
            make_text(["x", "y", "z", "w"], "aaab", title="two"),
        ]
        found = find_patterns(texts, min_count=2).most_deferred
        assert [(token.text, token.deferred) for token in found] == [("x", 3), ("z", 2), ("y", 1)]
        assert [(e.title, e.position) for e in found[0].examples] == [("one", 0), ("one", 1), ("two", 0)]
        assert [token.text for token in find_patterns(texts, min_count=3).most_deferred] == ["x"]

    def test_unknown_probabilities_are_left_out(self) -> None:
        tokens = (TracedToken("a", 0, 0, None), TracedToken("b", 1, 1, 0.8))
        assert find_patterns([TracedText("t", None, tokens)]).mean_defer_prob == 0.8
        assert find_patterns([TracedText("t", None, tokens[:1])]).mean_defer_prob is None

    @pytest.mark.parametrize("texts", [[], [make_text([])], [make_text(["x"])], [make_text([""], "a", ended=True)]])
    def test_next_to_nothing(self, texts: list[TracedText]) -> None:
        found = find_patterns(texts, min_count=1)
        json.dumps(found.to_dict(), allow_nan=False)
        assert found.runs.runs == found.deferred
        assert render_page(texts, found).count("<article") == len(texts)

    def test_no_deferral(self) -> None:
        found = find_patterns([make_text(["x", "y"])])
        assert (found.rate, found.runs.mean, found.runs.longest, found.most_deferred) == (0.0, None, 0, ())
        assert all(count.lift is None and count.share is None for count in found.parts)


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
        text = TracedText("t", None, (TracedToken("x", 0, 0, p),))
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
