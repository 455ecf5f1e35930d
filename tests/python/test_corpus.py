"""Reading texts: what each kind of row becomes, and what is wrong with those that cannot be used."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from colm_cpp.corpus.documents import BadRow, Document, Row, json_rows, read_documents
from colm_cpp.corpus.selection import select
from colm_cpp.errors import CorpusError, OptionError

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
SYSTEM = {"role": "system", "content": "Be brief"}


def rows_file(folder: Path, rows: Iterable[Any], name: str = "rows.jsonl") -> Path:
    """A file with a line for each row; a row of bytes stands as it is."""
    path = folder / name
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def read_one(folder: Path, row: Any, **options: bool) -> Document | BadRow:
    """What the second line of a file becomes; the first is a good row."""
    first, second = read_documents([rows_file(folder, [{"completion": "first"}, row])], **options)
    assert (first.line, second.line) == (1, 2)
    assert second.path == str(folder / "rows.jsonl")
    return second


# -- good rows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"prompt": "2+2=", "completion": "4"}, "2+2=", "4"),
        ({"prompt": "", "completion": "4"}, "", "4"),
        ({"completion": "a text"}, "", "a text"),
        ({"text": "a text"}, "", "a text"),
        ({"prompt": "p", "text": "c"}, "p", "c"),
        ({"prompt": "p", "completion": "c", "text": "another", "id": 7}, "p", "c"),
        ({"prompt": " ", "completion": "\n"}, " ", "\n"),  # white space is text
        (
            {"prompt": "caf\u00e9 \U0001f600", "completion": "\u65e5\u672c\u0000"},
            "caf\u00e9 \U0001f600",
            "\u65e5\u672c\u0000",
        ),
    ],
)
def test_prompts_and_completions(tmp_path: Path, row: Any, prompt: str, completion: str) -> None:
    assert read_one(tmp_path, row) == Document(str(tmp_path / "rows.jsonl"), 2, (), prompt, completion)


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ASSISTANT],
        [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
        [USER, ASSISTANT, USER],  # the last turn is only read
        [ASSISTANT],
        [{**USER, "content": ""}, ASSISTANT],
        [USER, {**ASSISTANT, "content": ""}, USER, ASSISTANT],
        [{**USER, "name": "Jo"}, {**ASSISTANT, "tool_calls": [{"id": 1}]}],  # a template may look at more
    ],
)
def test_conversations(tmp_path: Path, messages: list[dict[str, Any]]) -> None:
    document = read_one(tmp_path, {"messages": messages, "prompt": 3})
    assert document == Document(str(tmp_path / "rows.jsonl"), 2, tuple(messages))


def test_prompts_to_answer(tmp_path: Path) -> None:
    def answerable(row: Any) -> Document | BadRow:
        return read_one(tmp_path, {"completion": "x", **row}, needs_completion=False)

    # Neither the reference nor its type matters.
    for completion in ("reference", "", None, 5):
        document = answerable({"prompt": "p", "completion": completion})
        assert isinstance(document, Document)
        assert (document.prompt, document.completion, document.messages) == ("p", "", ())
    for tail in ([], [ASSISTANT], [ASSISTANT, ASSISTANT]):
        document = answerable({"messages": [USER, ASSISTANT, USER, *tail]})
        assert isinstance(document, Document)
        assert document.messages == (USER, ASSISTANT, USER)


# -- bad rows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{", "not JSON ("),
        (b'{"prompt": "a"} {"prompt": "b"}', "not JSON (Extra data at column 17)"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8 (byte 0xe9)"),
        ('{"completion": "x"}'.encode("utf-16"), "not UTF-8 (byte 0xff)"),
        (b"\xef\xbb\xbf{}", "not JSON (Unexpected UTF-8 BOM (decode using utf-8-sig) at column 1)"),  # not on line 1
        (b"[" * 200_000, "JSON nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "no JSON that can be read ("),
        ([1], "a JSON list, not an object"),
        ("x", "a JSON str, not an object"),
        (None, "a JSON NoneType, not an object"),
        ({}, "neither completion nor messages"),
        ({"prompt": "p"}, "neither completion nor messages"),
        ({"prompt": "p", "completion": None}, "neither completion nor messages"),
        ({"prompt": "p", "completion": ""}, "the completion is empty"),
        ({"text": ""}, "the completion is empty"),
        ({"prompt": 5, "completion": "c"}, "prompt is a JSON int, not a text"),
        ({"prompt": "p", "completion": ["c"]}, "completion is a JSON list, not a text"),
        ({"prompt": "\ud800", "completion": "c"}, "a lone surrogate"),
        ({"prompt": "p", "completion": "a\udfff"}, "a lone surrogate"),
        ({"messages": []}, "messages is no list of messages"),
        ({"messages": {"role": "user"}}, "messages is no list of messages"),
        ({"messages": None, "completion": "c"}, "messages is no list of messages"),
        ({"messages": ["Hi"]}, "a message has no role"),
        ({"messages": [{"content": "Hi"}, ASSISTANT]}, "a message has no role"),
        ({"messages": [USER, {"role": "assistant"}]}, "a message of role 'assistant' has no text"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "no turn of the assistant to learn from"),
        ({"messages": [{"role": "user"}, ASSISTANT]}, "a message of role 'user' has no text"),
        ({"messages": [{**USER, "content": [{"type": "text"}]}, ASSISTANT]}, "a message of role 'user' has no text"),
        ({"messages": [{**USER, "content": "\udc00"}, ASSISTANT]}, "a message holds a lone surrogate"),
        ({"messages": [SYSTEM, USER]}, "no turn of the assistant to learn from"),
        ({"messages": [USER, {**ASSISTANT, "content": ""}]}, "no turn of the assistant to learn from"),
    ],
)
def test_bad_rows(tmp_path: Path, row: Any, reason: str) -> None:
    bad = read_one(tmp_path, row)
    assert isinstance(bad, BadRow)
    assert bad.reason.startswith(reason)
    assert str(bad) == f"{tmp_path / 'rows.jsonl'}:2: {bad.reason}"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"completion": "c"}, "there is no prompt to answer"),
        ({"prompt": ""}, "there is no prompt to answer"),
        ({"prompt": None}, "prompt is a JSON NoneType, not a text"),
        ({"prompt": "\ud800"}, "a lone surrogate"),
        ({"messages": [ASSISTANT]}, "there is nothing but the assistant's turns"),
    ],
)
def test_bad_prompts_to_answer(tmp_path: Path, row: Any, reason: str) -> None:
    path = rows_file(tmp_path, [{"prompt": "p"}, row])
    good, bad = read_documents([path], needs_completion=False)
    assert isinstance(good, Document)
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert bad.reason.startswith(reason)


def test_escaped_pairs_of_surrogates_are_text(tmp_path: Path) -> None:
    document = read_one(tmp_path, rb'{"completion": "\ud83d\ude00"}')
    assert isinstance(document, Document)
    assert document.completion == "\U0001f600"


# -- files ----------------------------------------------------------------------------------------------------


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    # A BOM, CR LF, blank lines, U+2028 within a text, and no newline at the end.
    path.write_bytes(
        b'\xef\xbb\xbf{"text": "one"}\r\n\r\n  \t\n{"text": "a\xe2\x80\xa8b"}\n\nnonsense\n\x0c{"text": "z"}'
    )
    rows = list(json_rows(path))
    assert [row.line for row in rows] == [1, 4, 6, 7]
    assert [row.value["text"] for row in rows if isinstance(row, Row)] == ["one", "a\u2028b"]
    assert [row.reason.partition(" (")[0] for row in rows if isinstance(row, BadRow)] == ["not JSON", "not JSON"]


def test_plain_texts(tmp_path: Path) -> None:
    contents = {
        "plain.txt": b"\xef\xbb\xbfcaf\xc3\xa9\r\nline two\n",
        "json.txt": b'{"prompt": "p", "completion": "c"}\n',  # it is the name that tells
        "no-suffix": b"x",
        "empty.txt": b"",
        "blank.txt": b" \n\t\n",
        "latin1.txt": b"caf\xe9",
        "UPPER.JSONL": b'{"text": "t"}\n',
        "a.json": b'{"text": "t"}\n',
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    read = {Path(document.path).name: document for document in read_documents([tmp_path / name for name in contents])}
    plain = {name: document.completion for name, document in read.items() if isinstance(document, Document)}
    assert plain == {
        "plain.txt": "caf\u00e9\r\nline two\n",
        "json.txt": '{"prompt": "p", "completion": "c"}\n',
        "no-suffix": "x",
        "UPPER.JSONL": "t",
        "a.json": "t",
    }
    assert [read[name].line for name in contents] == [0, 0, 0, 0, 0, 0, 1, 1]
    # Without a line in it, a place is the file alone.
    assert str(read["empty.txt"]) == f"{tmp_path / 'empty.txt'}: an empty file"
    assert str(read["blank.txt"]) == f"{tmp_path / 'blank.txt'}: an empty file"
    assert str(read["latin1.txt"]) == f"{tmp_path / 'latin1.txt'}: not UTF-8 (byte 0xe9 at offset 3)"
    (unanswerable,) = read_documents([tmp_path / "plain.txt"], needs_completion=False)
    assert str(unanswerable) == f"{tmp_path / 'plain.txt'}: a plain text has no prompt to answer"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("none.jsonl", "none.txt"):
        path = tmp_path / name
        with pytest.raises(CorpusError, match=rf"{name}.*No such file"):
            list(read_documents([path]))
        with pytest.raises(CorpusError, match=rf"{name}.*No such file"):
            select([path])
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(CorpusError, match=r"folder\.jsonl"):
        list(read_documents([tmp_path / "folder.jsonl"]))


# -- selection ------------------------------------------------------------------------------------------------


@pytest.fixture
def two_files(tmp_path: Path) -> list[Path]:
    """Ten rows, the fourth of them bad."""
    first: list[Any] = [{"text": f"a{i}"} for i in range(3)]
    return [
        rows_file(tmp_path, [*first, b"bad", {"text": "a4"}], "a.jsonl"),
        rows_file(tmp_path, [{"text": f"b{i}"} for i in range(5)], "b.jsonl"),
    ]


def chosen(paths: list[Path], **options: int) -> list[str]:
    """The texts that are selected; a bad row is "-"."""
    corpus = select(paths, **options)
    texts = [row.completion if isinstance(row, Document) else "-" for row in corpus.documents()]
    assert len(texts) == corpus.n_documents
    assert [row.completion if isinstance(row, Document) else "-" for row in corpus.documents()] == texts  # once more
    return texts


ALL = ["a0", "a1", "a2", "-", "a4", "b0", "b1", "b2", "b3", "b4"]


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 10, 11, 10**9])
def test_limit_takes_the_first_rows(two_files: list[Path], limit: int) -> None:
    assert chosen(two_files) == ALL
    assert chosen(two_files, limit=limit) == ALL[:limit]


def test_seed_draws_rows_that_keep_their_order(two_files: list[Path]) -> None:
    drawn = [chosen(two_files, limit=4, seed=seed) for seed in range(8)]
    assert all(texts == [text for text in ALL if text in texts] and len(set(texts)) == 4 for texts in drawn)
    assert chosen(two_files, limit=4, seed=3) == drawn[3]
    assert len({tuple(texts) for texts in drawn}) > 4
    assert set().union(*drawn) >= {"a0", "b4"}  # from the whole, not from its beginning
    assert chosen(two_files, limit=99, seed=1) == ALL
    # The very rows must stay the same in later versions: a folder of scores counts on them.
    expected = set(random.Random(5).sample(range(10), 3))
    assert chosen(two_files, limit=3, seed=5) == [text for i, text in enumerate(ALL) if i in expected]


def test_facts_tell_corpora_apart(two_files: list[Path], tmp_path: Path) -> None:
    facts = select(two_files).facts
    assert [described["file"] for described in facts["corpus"]] == ["a.jsonl", "b.jsonl"]
    assert select(two_files, limit=3).facts == facts  # a larger limit goes on
    assert select(two_files[::-1]).facts != facts
    sampled = select(two_files, limit=3, seed=1).facts
    assert sampled["sample"] == {"seed": 1, "limit": 3}
    assert select(two_files, limit=4, seed=1).facts != sampled
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    copies = [path.rename(elsewhere / path.name) for path in two_files]
    assert select(copies).facts == facts  # wherever the files are
    copies[0].write_bytes(copies[0].read_bytes().replace(b"a0", b"a9"))
    assert select(copies).facts != facts


def test_refused_selections(two_files: list[Path]) -> None:
    for limit in (0, -1):
        with pytest.raises(OptionError, match=f"limit.* {limit}.*\\b1\\b"):
            select(two_files, limit=limit)
    with pytest.raises(CorpusError, match="corpus"):
        select([])


def test_an_empty_file_is_an_empty_corpus(tmp_path: Path) -> None:
    path = rows_file(tmp_path, [])
    assert select([path]).n_documents == 0
    corpus = select([path], limit=5, seed=1)
    assert (corpus.n_documents, list(corpus.documents())) == (0, [])
