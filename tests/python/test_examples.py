"""The programs in ``examples``, each run as a reader would run it, with the demo pair."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

import pytest

import colm_cpp as colm

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUESTIONS = ["There were 5 drawers with 131 pencils in each. How many?", "Tom has 3 apples and buys 4. How many?"]
RUN_HERE = {
    "batch_of_jsonl.py",
    "practice.py",
    "stream_to_browser.py",
    "structured_output.py",
    "ten_texts_asyncio.py",
    "tool_call.py",
}


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def answers(*questions: str) -> list[str]:
    with colm.load("demo") as pair:
        return [pair.chat([{"role": "user", "content": question}], temperature=0).text for question in questions]


def test_every_example_is_run_here() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} == RUN_HERE


def test_batch_of_jsonl(tmp_path: Path) -> None:
    too_long = "word " * 2000
    rows = [{"id": number, "question": question} for number, question in enumerate([*QUESTIONS, too_long])]
    (tmp_path / "questions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    run("batch_of_jsonl.py", tmp_path / "questions.jsonl", tmp_path / "answers.jsonl")
    written = {row["id"]: row for row in map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())}
    assert [written[number]["answer"] for number in range(2)] == answers(*QUESTIONS)
    assert "context" in written[2]["error"]


def test_practice(tmp_path: Path) -> None:
    folder = tmp_path / "practice"
    assert "small.gguf" in run("practice.py", folder)
    texts = [json.loads(line) for line in (folder / "texts.jsonl").read_text().splitlines()]
    assert len(texts) > 100
    assert all(re.fullmatch(r".*Answer: \d+", text["completion"], re.S) for text in texts)
    asked = [
        {json.loads(line)["prompt"] for line in (folder / f"{name}.jsonl").read_text().splitlines()}
        for name in ("texts", "prompts", "task")
    ]
    assert len(set.union(*asked)) == sum(map(len, asked))  # what is learned, measured and judged is not the same
    with colm.load(folder / "my-pair") as pair:
        assert pair.chat([{"role": "user", "content": QUESTIONS[0]}], temperature=0).text == answers(QUESTIONS[0])[0]
    with colm.load(folder / "small.gguf", folder / "other.gguf", "confidence") as pair:
        assert not pair.one_vocabulary


def test_structured_output() -> None:
    pytest.importorskip("pydantic")
    said = re.fullmatch(
        r"Pets\(owner=('.*'|\".*\"), kind='(cat|dog|bird)', number=(\d+)\)\n", run("structured_output.py", "Mia")
    )
    assert said is not None
    assert int(said[3]) <= 99


def test_ten_texts_asyncio() -> None:
    *lines, summary = run("ten_texts_asyncio.py").splitlines()
    questions = {
        number: f"There were {number} drawers with 13{number} pencils in each drawer. How many pencils are there?"
        for number in range(10)
    }
    written = dict(line.split(": ", 1) for line in lines)
    assert {number: written[str(number)] for number in questions} == {
        number: text.strip() for number, text in zip(questions, answers(*questions.values()), strict=True)
    }
    assert int(summary.split()[-2]) > 1


def test_tool_call() -> None:
    call, result, answer = run("tool_call.py", "What is 12 times 31?").split("\n", 2)
    asked = json.loads(call.removeprefix("call: "))
    expected = asked["a"] + asked["b"] if asked["name"] == "add" else asked["a"] * asked["b"]
    assert result == f"result: {expected}"
    assert answer.startswith("answer: ")


def test_stream_to_browser() -> None:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / "stream_to_browser.py"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        env={**os.environ, "no_proxy": "127.0.0.1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urllib.request.urlopen(address, timeout=30) as response:
            assert "<form>" in response.read().decode()
        with urllib.request.urlopen(f"{address}/ask?{urlencode({'text': 'word ' * 2000})}", timeout=30) as response:
            assert "context" in response.read().decode()
        with urllib.request.urlopen(f"{address}/ask?{urlencode({'text': QUESTIONS[0]})}", timeout=30) as response:
            events = re.findall(r"event: (\w+)\ndata: (.*)\n\n", response.read().decode())
        tokens = [json.loads(data) for name, data in events if name == "message"]
        assert {token["source"] for token in tokens} == {"base", "assistant"}
        assert "".join(token["text"] for token in tokens)
        assert json.loads(events[-1][1]) == {"finish_reason": "eos"}
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
