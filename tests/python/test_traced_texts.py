"""Texts read back from evaluations, records and traces."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from traced_texts import make_evaluation, make_record, make_token, make_trace, write_lines

from colm_cpp.errors import CorpusError
from colm_cpp.evaluate.records import KIND
from colm_cpp.report.traces import read_texts


class TestRead:
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
        assert [token.top_logprobs for token in second.tokens] == [(), ()]

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
        assert [(t.id, t.text, t.logprob) for t in text.tokens[1].top_logprobs] == [
            (1, " 4", -0.5),
            (2, " 5", -1.5),
            (3, "<b>", float("-inf")),
        ]

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
        (tmp_path / "meta.json").write_text(
            json.dumps({"format": KIND.format, "version": KIND.version}), encoding="utf-8"
        )
        with pytest.raises(CorpusError, match=r"meta\.json"):
            read_texts([tmp_path])
