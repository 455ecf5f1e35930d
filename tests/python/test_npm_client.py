"""OpenAI's JavaScript client, unmodified, against ``colm serve --pair demo``: ``tests/npm/conformance.test.js``.

Here the server is started and what it must write is found out: by the pair itself, with the options that the fields of
a request stand for. ``npm ci --prefix tests/npm`` installs the client.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ASSISTANT, BASE, TinyModels
from served_page import serve
from server_cases import ADD, CHAT, CHAT_ERRORS, COMPLETION_ERRORS, MESSAGES, PROMPT, RESPONSES_ERRORS, SCHEMA
from server_world import F32, TOOLS_TEMPLATE

import colm_cpp as colm

pytest.importorskip("prometheus_client")

pytestmark = pytest.mark.npm
NPM = Path(__file__).parents[1] / "npm"
KEY = "a-key"
FLAGS = ["--type-k", "f32", "--type-v", "f32", "--no-flash-attn"]
AT_LEAST = 60
WAYS: dict[str, dict[str, Any]] = {
    "demo": {},
    "demo@20%": {"defer_rate": 0.2},
    "demo:base": {"head": "never"},
    "demo:assistant": {"head": "always"},
    "demo:mixture": {"strategy": "compose", "threshold": 0.0},
}


@pytest.fixture(scope="module")
def node() -> str:
    """The program that runs JavaScript. Skips the tests where it or the client is missing."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not installed (Debian: apt-get install nodejs npm)")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < 20:
        pytest.skip(f"node is {version}; OpenAI's client needs node 20 or newer")
    if not (NPM / "node_modules" / "openai").is_dir():
        pytest.skip("the client is not installed (npm ci --prefix tests/npm)")
    return program


@pytest.fixture(scope="module")
def folder(tiny_model: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs beside the demo pair: one whose template knows tools, and one whose texts do not end."""
    made = tmp_path_factory.mktemp("pairs")
    never_ends = {"row_scale": dict.fromkeys(("<|im_end|>", "<|endoftext|>"), 0.0)}
    for name, n_ctx, more in (("tiny", 1024, {}), ("endless", 16384, never_ends)):
        options = {"n_ctx_train": n_ctx, "chat_template": TOOLS_TEMPLATE, **more}
        base, assistant = tiny_model(**BASE, **options), tiny_model(**ASSISTANT, **options)
        (made / f"{name}.toml").write_text(
            f'version = 1\nbase = "{base}"\nassistant = "{assistant}"\nhead = "confidence"\n'
            f"[options]\nn_ctx = {n_ctx}\nn_threads = 1\nn_threads_batch = 1\n"
        )
    return made


def sent(fields: dict[str, Any]) -> dict[str, Any]:
    """The body of a request. The Python client has an argument for fields that it does not know."""
    plain = {name: value for name, value in fields.items() if name != "extra_body"}
    return {**plain, **fields.get("extra_body", {})}


def answer(written: colm.Completion) -> dict[str, Any]:
    """What must come."""
    return {
        "text": written.text,
        "reason": "length" if written.finish_reason == "length" else "stop",
        "tokens": [
            {"id": t.id, "text": t.text, "source": t.source, "defer_prob": t.defer_prob, "logprob": t.logprob}
            for t in written.tokens
        ],
        "top": [[top.text for top in t.top_logprobs] for t in written.tokens],
        "n": written.stats.generated_tokens,
    }


def likely(pair: colm.Pair, way: dict[str, Any]) -> dict[str, Any]:
    """A text that a pair would write, and how likely each token was when it was written."""
    written = pair.generate(PROMPT, temperature=0, max_tokens=8, **way)
    ids = [*pair.tokenize(PROMPT), *(token.id for token in written.tokens)]
    return {"ids": ids, "logprobs": [token.logprob for token in written.tokens]}


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    """What the program must know: what is sent, and what must come."""
    texts = ["The quick fox", "and the dog", "One"]
    greedy: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
    with (
        colm.load(pair="demo", n_parallel=4, **F32) as demo,  # type: ignore[arg-type]
        colm.load(pair=folder / "tiny.toml", n_parallel=4, **F32) as tiny,  # type: ignore[arg-type]
    ):
        return {
            "key": KEY,
            "messages": MESSAGES,
            "prompt": PROMPT,
            "promptIds": demo.tokenize(PROMPT),
            "schema": SCHEMA,
            "add": ADD,
            "greedy": answer(demo.chat(MESSAGES, temperature=0, max_tokens=None)),
            "asSchema": answer(demo.chat(MESSAGES, temperature=0, grammar=SCHEMA, max_tokens=None)),
            "chat": [
                {
                    "name": case.name,
                    "body": sent(case.sent),
                    "expected": answer(demo.chat(MESSAGES, **{"max_tokens": None, **(case.stands_for or {})})),
                }
                for case in CHAT
            ],
            "texts": texts,
            "ids": [tiny.tokenize(text) for text in texts],
            "written": [answer(tiny.generate(text, **greedy)) for text in texts],
            "withLogprobs": answer(tiny.generate(texts[0], logprobs=2, **greedy)),
            "likely": {name: likely(demo, way) for name, way in WAYS.items()},
            "errors": [
                {"route": route, "body": sent(fields), "status": status, "param": param}
                for route, cases in (
                    ("chat", CHAT_ERRORS),
                    ("completions", [(fields, 400, param or None) for fields, param in COMPLETION_ERRORS]),
                    ("responses", [(fields, 400, param) for fields, param in RESPONSES_ERRORS]),
                )
                for fields, status, param in cases
            ],
        }


@pytest.fixture(scope="module")
def report(node: str, folder: Path, told: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What node's test runner says, in the form of TAP."""
    more = ["--model-dir", str(folder), "--api-key", KEY, "--queue", "2", "--keep-alive", "0.2", "--grace", "0.5"]
    with serve(*FLAGS, *more) as server:
        file = tmp_path_factory.mktemp("told") / "told.json"
        file.write_text(json.dumps({**told, "address": server.url, "pid": server.process.pid}))
        program = [node, "--test", "--test-reporter=tap", str(NPM / "conformance.test.js")]
        ran = subprocess.run(
            program, env={**os.environ, "COLM_TOLD": str(file)}, capture_output=True, text=True, timeout=500
        )
        assert server.process.wait(20) == 0  # the last case ends the server
        yield ran.stdout + ran.stderr


def failures(report: str) -> str:
    """The parts of a report that say what failed."""
    lines = report.splitlines()
    ends = [i for i, line in enumerate(lines) if line.strip() == "..."]
    begins = [i for i, line in enumerate(lines) if line.strip().startswith("not ok")]
    return "\n".join("\n".join(lines[i : next((e for e in ends if e > i), len(lines))]) for i in begins) or report


def count(report: str, what: str) -> int:
    """A number at the end of a report."""
    found = re.search(rf"^# {what} (\d+)$", report, re.MULTILINE)
    assert found is not None, report
    return int(found[1])


def test_all_cases_pass(report: str) -> None:
    failed = [count(report, what) for what in ("fail", "cancelled", "skipped", "todo")]
    assert failed == [0, 0, 0, 0], failures(report)
    assert count(report, "pass") == count(report, "tests") >= AT_LEAST
