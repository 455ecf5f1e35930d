"""Tasks, and the records of answers on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import evaluations
import pytest
from evaluations import make_record, write_lines

from colm_cpp.errors import CorpusError
from colm_cpp.learn import Record, RecordFolder, load_prompts, load_task

folder = evaluations.folder


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_names_its_bad_rows(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    rows: list[Any] = [
        {"prompt": "one", "answer": 1},
        "{broken",
        {"prompt": "no answer"},
        {"answer": "no prompt"},
        {"prompt": "flag", "answer": True},
        {"messages": [{"role": "user"}], "answer": "x"},
        {"messages": [{"content": "x"}], "answer": "x"},
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "answer": "x"},
        {"messages": "hello", "answer": "x"},
        {"messages": [], "answer": "x"},
        {"prompt": "blank", "answer": "  "},
        ["a list"],
        {"messages": chat, "answer": "two"},
        {"prompt": "code", "tests": "assert True"},
        {"prompt": "half", "answer": 2.5},
    ]
    task = load_task(write_lines(tmp_path / "t.jsonl", rows))
    assert [(p.index, p.prompt, p.answer) for p in task.problems] == [
        (0, "one", "1"),
        (12, "u", "two"),
        (13, "code", "assert True"),
        (14, "half", "2.5"),
    ]
    assert task.problems[1].messages == tuple(chat)
    assert task.problems[0].messages == ({"role": "user", "content": "one"},)
    reasons = {row.line: row.reason for row in task.bad_rows}
    assert set(reasons) == set(range(2, 13))
    for line, facts in {
        2: ["JSON"], 3: ["answer"], 4: ["prompt", "messages"], 5: ["answer"], 6: ["message", "text"],
        7: ["message", "role"], 8: ["messages", "assistant"], 9: ["messages", "list"], 10: ["messages", "list"],
        11: ["answer"],
    }.items():  # fmt: skip
        assert all(fact in reasons[line] for fact in facts), reasons[line]
    assert str(task.bad_rows[0]).startswith(f"{tmp_path / 't.jsonl'}:2: ")


def test_skip_and_limit_keep_the_rows_numbers(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "t.jsonl", [{"prompt": f"p{i}", "answer": i} for i in range(6)])
    assert [p.index for p in load_task(file, skip=2, limit=3).problems] == [2, 3, 4]
    assert load_task(file, skip=2).digest == load_task(file).digest
    assert [p.index for p in load_prompts(file, skip=1, limit=2)] == [1, 2]
    with pytest.raises(CorpusError, match=r"t\.jsonl"):
        load_task(file, skip=6)
    with pytest.raises(CorpusError, match=r"t\.jsonl.* 6"):
        load_prompts(file, skip=6)


def test_a_task_without_problems(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"t\.jsonl:1: .*answer"):
        load_task(write_lines(tmp_path / "t.jsonl", [{"prompt": "x"}]))
    with pytest.raises(CorpusError, match=r"none\.jsonl"):
        load_task(tmp_path / "none.jsonl")


def test_prompts_need_no_answer(tmp_path: Path) -> None:
    said = {"role": "user", "content": "u"}
    rows: list[Any] = [
        {"prompt": "one"},
        {"messages": [said, {"role": "assistant", "content": "a"}]},
        {"text": "no prompt"},
    ]
    prompts = load_prompts(write_lines(tmp_path / "p.jsonl", rows))
    assert [(p.index, p.prompt, p.messages) for p in prompts] == [
        (0, "one", ({"role": "user", "content": "one"},)),
        (1, "u", (said,)),
    ]


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written() -> None:
    record = make_record(3, "abba", defer_logits=(None, -1.25, 0.0, 3.5), pieces=("é", "\n", "", "\u2028日"))
    line = record.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == record
    assert record.text == "é\n\u2028日"
    assert (record.n_tokens, record.n_deferred) == (4, 2)
    assert (record.experts, record.n_runs) == ("1001", 2)


def test_a_record_of_an_older_version_is_read() -> None:
    """It has letters for the experts."""
    record = make_record(3, "abba")
    value = json.loads(record.to_json())
    assert value.pop("experts") == "1001"
    assert Record.from_json(json.dumps({**value, "sources": "abba"})) == record
    for other in ({"sources": "abbc"}, {"sources": "abba", "experts": "1001"}, {"sources": 1}):
        with pytest.raises(ValueError, match=r"sources|not a record"):
            Record.from_json(json.dumps({**value, **other}))


@pytest.mark.parametrize(
    "changes",
    [{"more": 1}, {"experts": "0"}, {"ids": [1]}, {"pieces": None}, {"logprobs": []}],
    ids=lambda of: next(iter(of)),
)
def test_what_is_no_record(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Record.from_json(json.dumps({**json.loads(make_record().to_json()), **changes}))
    earlier = json.loads(make_record().to_json())
    del earlier["n_parallel"]
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json(json.dumps(earlier))
    with pytest.raises(ValueError, match="not a record"):
        Record.from_json("[]")


def test_a_folder_keeps_answers(folder: RecordFolder) -> None:
    records = [make_record(i, "ab" * (i + 1)) for i in range(3)]
    for record in records:
        folder.append("base", record)
    again = RecordFolder.create_or_open(folder.path, {"task": "t", "options": {"seed": 1}})
    assert again.meta == folder.meta
    assert again.read("base") == {record.problem: record for record in records}
    assert again.arms() == ["base"]
    again.set_arm("later", {"head": "always"})
    assert again.read("later") == {}
    assert again.arms() == ["base"]  # nothing answered yet


def test_a_line_cut_short_is_dropped_and_written_over(folder: RecordFolder) -> None:
    folder.append("base", make_record(0))
    folder.append("base", make_record(1))
    file = folder.path / "records" / "base.jsonl"
    whole = file.read_bytes()
    for cut in (1, 5, len(make_record(1).to_json())):
        file.write_bytes(whole[:-cut])
        assert set(folder.read("base")) == {0}  # even where nothing is missing but the end: append() writes over it
        folder.append("base", make_record(2))
        lines = file.read_bytes().splitlines()
        assert [json.loads(line)["problem"] for line in lines] == [0, 2]
        assert file.read_bytes().endswith(b"\n")


def test_a_damaged_line_in_the_middle_is_named(folder: RecordFolder) -> None:
    for i in range(3):
        folder.append("base", make_record(i))
    file = folder.path / "records" / "base.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0] + lines[1][:20] + b"\n" + lines[2])
    with pytest.raises(CorpusError, match=r"base\.jsonl:2 "):
        folder.read("base")
    file.write_bytes(lines[0] + lines[2][:20] + b"\n")  # even the last, where its end is there
    with pytest.raises(CorpusError, match=r"base\.jsonl:2 "):
        folder.read("base")


def test_other_facts_are_refused(folder: RecordFolder) -> None:
    with pytest.raises(CorpusError, match=r'options {"seed": 1}.*{"seed": 2}'):
        RecordFolder.create_or_open(folder.path, {"task": "t", "options": {"seed": 2}})


def test_a_changed_head_is_refused_once_it_has_answered(folder: RecordFolder) -> None:
    folder.set_arm("mine@20", {"head": "h.gguf", "head_sha256": "1", "threshold": 0.5})
    folder.set_arm("mine@20", {"head": "h.gguf", "head_sha256": "2", "threshold": 0.5})
    folder.append("mine@20", make_record())
    folder.set_arm("mine@20", {"head": "h.gguf", "head_sha256": "2", "threshold": 0.5})
    with pytest.raises(CorpusError, match=r"mine@20 .*head_sha256 and threshold; .*mine@20"):
        folder.set_arm("mine@20", {"head": "h.gguf", "head_sha256": "3", "threshold": 0.4})
    assert RecordFolder.open(folder.path).meta["arms"]["mine@20"]["head_sha256"] == "2"


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        (None, r"meta\.json"),
        ("{", r"meta\.json"),
        ('{"format": "colm-scores", "version": 1}', r"meta\.json"),
        ('{"format": "colm-evaluation", "version": 99}', "version 99.* 2"),
        # Its answers do not say how many were written at once.
        (
            '{"format": "colm-evaluation", "version": 1}',
            r"meta\.json .*version 1.* 2",
        ),
    ],
)
def test_what_is_no_evaluation(meta: str | None, said: str, tmp_path: Path) -> None:
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(CorpusError, match=said):
        RecordFolder.open(tmp_path)
