"""The rows of ``colm generate --batch``: options beside the prompt, and rows that are refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import run
from conftest import ASSISTANT, BASE, TinyModels

import colm_cpp as colm
from colm_cpp.cli._batch import read_batch

Lines = list[dict[str, Any]]
Write = Callable[..., Lines]


@pytest.fixture
def write(tiny_model: TinyModels, tmp_path: Path) -> Write:
    """The results of rows, by the order of the rows."""
    files = ["--base", str(tiny_model(**BASE)), "--assistant", str(tiny_model(**ASSISTANT)), "--head", "never"]
    files += ["--n-threads", "1", "--n-ctx", "128", "--temperature", "0", "--quiet", "--json", "--force"]

    def write(*rows: Any, arguments: tuple[str, ...] = ()) -> Lines:
        batch, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        batch.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = ["generate", "--batch", str(batch), "--out", str(out), *files, *arguments]
        run(*command)
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    return write


def ids(line: dict[str, Any]) -> list[int]:
    return [token["id"] for token in line["tokens"]]


def test_options_beside_the_prompt(write: Write) -> None:
    """They mean what they mean under "options", and go before those of the command line."""
    beside = write(
        {"prompt": "The sun", "max_tokens": 3},
        {"prompt": "The sun", "options": {"max_tokens": 3}},
        {"prompt": "The sun"},
        {"prompt": "The sun", "max_tokens": 3, "options": {"head": "always"}},
        {"prompt": "The sun", "seed": 5, "logprobs": 2, "stop": ["\n"], "max_tokens": -1},
        arguments=("--max-tokens", "7"),
    )
    assert [len(ids(line)) for line in beside[:4]] == [3, 3, 7, 3]
    assert ids(beside[0]) == ids(beside[1]) == ids(beside[2])[:3]
    assert {token["source"] for token in beside[3]["tokens"]} == {"assistant"}
    assert beside[4]["stats"]["seed"] == 5
    assert all(len(token["top_logprobs"]) == 2 for token in beside[4]["tokens"])
    assert len(ids(beside[4])) > 7


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        ({"prompt": "x", "max_token": 3}, ["'max_token'", "'max_tokens'"]),
        ({"prompt": "x", "options": {"temprature": 0}}, ["'temprature'", "'temperature'"]),
        ({"prompt": "x", "message": []}, ["'message'", "'messages'"]),
        ({"prompt": "x", "answer": 42}, ["'answer'", "id"]),
        ({"prompt": "x", "options": {"prompt": "y"}}, ["'prompt'"]),
        ({"prompt": "x", "\u202ebad": 1}, ["\\u202e"]),
        ({"prompt": "x", "max_tokens": 3, "options": {"max_tokens": 3}}, ["max_tokens", "options"]),
        ({"prompt": "x", "temperature": None}, ["temperature", "None"]),
        ({"prompt": "x", "top_p": 2}, ["top_p", "2"]),
        ({"prompt": "x", "options": [1]}, ["options", "list"]),
        ({"promt": "x"}, ["prompt", "messages"]),
    ],
)
def test_what_is_refused(row: dict[str, Any], facts: list[str], write: Write) -> None:
    refused, whole = write(row, {"prompt": "x", "max_tokens": 1})
    assert "text" not in refused
    for fact in facts:
        assert fact in refused["error"]
    assert "error" not in whole


def test_biases_as_json_has_them(write: Write) -> None:
    plain = write({"prompt": "The sun", "max_tokens": 2})[0]
    first = ids(plain)[0]
    banned, wanted, both, odd = write(
        {"prompt": "The sun", "max_tokens": 2, "logit_bias": {str(first): "-inf"}},
        {"prompt": "The sun", "max_tokens": 2, "options": {"logit_bias": {"40": 1e6}}},
        {"prompt": "The sun", "logit_bias": {"the": 1}},
        {"prompt": "The sun", "logit_bias": {"4" * 5000: 1}},
    )
    assert first not in ids(banned)
    assert ids(wanted) == [40, 40]
    assert "'the'" in both["error"]
    assert len(odd["error"]) < 400


@pytest.mark.parametrize("key", ["7", "07", 7])
def test_keys_of_biases_in_python(key: Any, pair: colm.Pair) -> None:
    options: Any = {"logit_bias": {key: 1e6}, "max_tokens": 2, "temperature": 0}
    assert [token.id for token in pair.generate("a", **options).tokens] == [7, 7]


@pytest.mark.parametrize("biases", [{"7": 1, 7: 2}, {"7": "x"}, {"٣": 1}, {" 7": 1}, {"1e1": 1}, {"": 1}, {7.0: 1}])
def test_biases_that_are_refused(biases: Any, pair: colm.Pair) -> None:
    with pytest.raises(colm.OptionError, match="logit_bias"):
        pair.generate("a", logit_bias=biases)


def test_the_page_that_describes_rows(tmp_path: Path) -> None:
    """Its examples are rows that can be written."""
    text = Path(__file__).parents[2].joinpath("docs", "batch-format.md").read_text(encoding="utf-8")
    example = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert example is not None
    file = tmp_path / "rows.jsonl"
    file.write_text(example[1], encoding="utf-8")
    rows = read_batch(str(file), {})
    assert len(rows) == 4
    assert [row.error for row in rows] == [None] * 4
    assert rows[3].options is not None
    assert rows[3].options["logit_bias"] == {"151643": "-inf"}
