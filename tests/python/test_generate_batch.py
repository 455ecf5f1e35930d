"""``colm generate --batch``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commands
import pytest
import tiny_models as tm
from click.testing import Result
from conftest import ASSISTANT, BASE, TinyModels

import colm_cpp as colm

Lines = list[dict[str, Any]]


@pytest.fixture
def run(tiny_model: TinyModels) -> Callable[..., Result]:
    files = [
        "--base",
        str(tiny_model(**BASE, chat_template=tm.CHATML)),
        "--assistant",
        str(tiny_model(**ASSISTANT)),
        "--head",
        "confidence",
    ]
    options = ["--n-threads", "1", "--n-ctx", "128", "--max-tokens", "12", "--threshold", "0.7", "--quiet"]

    def run(*arguments: str) -> Result:
        return commands.run("generate", *files, *options, *arguments)

    return run


def write(path: Path, rows: Lines) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(text: str) -> Lines:
    return [json.loads(line) for line in text.splitlines()]


ROWS: Lines = [
    {"prompt": "The sun", "id": "first"},
    {"prompt": "a", "options": {"max_tokens": 3}},
    {"prompt": "Once upon a time", "options": {"temperature": 0, "threshold": 0.0}, "id": 7},
    {"messages": [{"role": "user", "content": "Hello"}]},
    {"prompt": "12 + 7 =", "options": {"seed": 5}},
]


def test_in_the_order_of_the_rows(run: Callable[..., Result], tmp_path: Path, pair: colm.Pair) -> None:
    """The same texts as alone, with options and seeds of their own."""
    out = tmp_path / "out.jsonl"
    result = run(
        "--batch", write(tmp_path / "in.jsonl", ROWS), "--out", str(out), "--parallel", "2", "--temperature", "0.8",
        "--seed", "40", "--json",
    )  # fmt: skip
    assert (result.exit_code, result.stdout) == (0, "")
    written = lines(out.read_text(encoding="utf-8"))
    assert [line["number"] for line in written] == [0, 1, 2, 3, 4]
    assert [line["line"] for line in written] == [1, 2, 3, 4, 5]
    assert [line.get("id") for line in written] == ["first", None, 7, None, None]
    assert [line["stats"]["seed"] for line in written] == [40, 41, 42, 43, 5]
    assert len(written[1]["tokens"]) <= 3
    assert all(token["source"] == "assistant" for token in written[2]["tokens"])
    alone = pair.generate("The sun", max_tokens=12, threshold=0.7, temperature=0.8, seed=40)
    assert [token["id"] for token in written[0]["tokens"]] == [token.id for token in alone.tokens]


def test_as_they_end(run: Callable[..., Result], tmp_path: Path) -> None:
    """On stdout, the short one first; without the tokens."""
    rows = [{"prompt": "The sun", "options": {"max_tokens": 30}}, {"prompt": "a", "options": {"max_tokens": 1}}]
    result = run("--batch", write(tmp_path / "in.jsonl", rows), "--temperature", "0")
    assert result.exit_code == 0, result.stderr
    written = lines(result.stdout)
    assert [line["number"] for line in written] == [1, 0]
    assert set(written[0]) == {"number", "line", "text", "finish_reason", "stats"}


def test_a_text_that_fails_is_alone_with_it(run: Callable[..., Result], tmp_path: Path) -> None:
    rows: Lines = [
        {"prompt": "fine"},
        {"prompt": "x " * 500},
        {"prompt": ""},
        {"text": "no prompt"},
        {"prompt": "a", "options": {"top_p": 2}},
        {"prompt": "a", "options": {"warmth": 2}},
        {"prompt": "a", "messages": []},
        {"messages": [{"role": "user"}]},
        {"prompt": "\ud800"},
        {"prompt": "fine too"},
    ]
    path = tmp_path / "in.jsonl"
    write(path, rows)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n{not json\n")
    out = tmp_path / "out.jsonl"
    result = run("--batch", str(path), "--out", str(out))
    assert result.exit_code == 1
    assert all(fact in result.stderr for fact in ("colm: error: ", "9 of 11 ", "'error'"))
    written = lines(out.read_text(encoding="utf-8"))
    assert [line["number"] for line in written] == list(range(11))
    assert [number for number, line in enumerate(written) if "error" not in line] == [0, 9]
    for number, words in {
        1: "128", 2: "prompt", 3: "messages", 4: "top_p", 5: "warmth", 6: "messages",
        7: "role", 8: "surrogate", 10: "JSON",
    }.items():  # fmt: skip
        assert words in written[number]["error"], number
    assert written[10]["line"] == 12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a prompt", "--batch", "x.jsonl"], "PROMPT"),
        (["--batch", "x.jsonl", "--trace", "t.jsonl"], "--trace"),
        (["a", "--out", "o.jsonl"], "--out"),
        (["a", "--parallel", "2"], "--parallel"),
    ],
)
def test_what_does_not_go_together(run: Callable[..., Result], arguments: list[str], words: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "--batch" in result.stderr


def test_files_that_cannot_be_used(run: Callable[..., Result], tmp_path: Path) -> None:
    assert "absent.jsonl" in run("--batch", str(tmp_path / "absent.jsonl")).stderr
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    refused = run("--batch", str(empty)).stderr
    assert all(fact in refused for fact in (str(empty), "prompt", "messages"))
    good = write(tmp_path / "in.jsonl", ROWS[:1])
    refused = run("--batch", good, "--out", str(tmp_path / "no" / "folder")).stderr
    assert "--out" in refused
    assert str(tmp_path / "no") in refused
