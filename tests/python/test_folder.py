"""Folders that work goes on in: the same facts or not at all, one writer, whole rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from colm_cpp.errors import CorpusError, FolderInUse
from colm_cpp.files.folder import FolderKind, lock_folder, refuse_other_facts
from colm_cpp.files.rows import add_row, begin_rows

KIND = FolderKind("colm-things", 3, "things", "colm thing", "make new things", ("rows.jsonl", "mark.json"))


def test_work_goes_on_with_the_same_facts_only(tmp_path: Path) -> None:
    facts = {"seed": 1, "files": ("a", "b")}
    assert KIND.go_on(tmp_path / "new", facts) is None
    made = KIND.begin(tmp_path / "new", {**facts, "arms": {}}, lambda _: False)
    assert made["files"] == ["a", "b"]  # as it will be read again
    assert KIND.go_on(tmp_path / "new", facts, own=["arms"]) == made
    for other, said in (
        ({"files": ("a", "b")}, "seed 1, not null"),
        ({**facts, "seed": 2}, "seed 1, not 2"),
        ({**facts, "more": True}, "more null, not true"),
    ):
        with pytest.raises(CorpusError, match=f"things with {said}"):
            KIND.go_on(tmp_path / "new", other, own=["arms"])


def test_what_stands_before_meta_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that ends between the two leaves a folder that can be begun again."""
    real, calls = os.replace, []

    def dying(source: str, target: str) -> None:
        calls.append(Path(target).name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        KIND.begin(tmp_path, {}, lambda _: False, {"mark.json": {"n": 0}})
    monkeypatch.setattr(os, "replace", real)
    assert calls == ["mark.json", "meta.json"]
    assert KIND.go_on(tmp_path, {}) is None
    KIND.begin(tmp_path, {}, lambda path: path.name == "mark.json", {"mark.json": {"n": 0}})
    assert KIND.go_on(tmp_path, {}) == {"format": "colm-things", "version": 3}


def test_other_folders_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("mine")
    with pytest.raises(CorpusError, match=r"rows\.jsonl"):
        KIND.begin(tmp_path, {}, lambda _: False)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    for meta, said in (
        ({"format": "colm-others", "version": 3}, "does not describe things"),
        ({"format": "colm-things", "version": 4}, "version 4 .* 3"),
        ([], "does not describe things"),
    ):
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(CorpusError, match=said):
            KIND.go_on(tmp_path, {})


def test_one_process_writes(tmp_path: Path) -> None:
    held = lock_folder(tmp_path)
    with held, pytest.raises(FolderInUse):
        lock_folder(tmp_path)
    assert not held.lock.is_locked
    with lock_folder(tmp_path):
        pass


def test_rows_go_on_behind_the_last_whole_one(tmp_path: Path) -> None:
    path, header = tmp_path / "rows.jsonl", {"format": "rows", "n": 1}
    assert begin_rows(path, header, json.loads, "rows") == 0
    add_row(path, '{"a": 1}')
    with path.open("ab") as file:
        file.write(b'{"a": 2, "b')  # the process ended here
    add_row(path, '{"a": 3}')
    assert path.read_bytes().splitlines()[1:] == [b'{"a": 1}', b'{"a": 3}']
    assert begin_rows(path, header, json.loads, "rows") == 2
    with pytest.raises(CorpusError, match="rows with n 1, not 2"):
        begin_rows(path, {**header, "n": 2}, json.loads, "rows")
    with path.open("ab") as file:
        file.write(b"damage")
    with pytest.raises(CorpusError, match="damaged last line"):
        add_row(path, '{"a": 4}')


def test_the_first_fact_that_was_given_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="things with b 1, not 2"):
        refuse_other_facts(tmp_path, "things", {"a": 1, "b": 1}, {"b": 2, "a": 2})
