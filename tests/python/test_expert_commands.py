"""Several experts in a pair's file and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import expert_files
import pytest
from adapter_files import write_adapter
from commands import run, succeed
from conftest import TinyModels
from expert_files import BASE, PROMPT

import colm_cpp as colm
from colm_cpp.traces.trace import read_trace

files = expert_files.files


def test_a_pair_file_with_experts(files: dict[str, Path], tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "law.gguf")
    text = f"""version = 1
base = "{files["base"]}"
head = "random:law"
[options]
n_ctx = 64
[experts]
math = "{files["math"]}"
[experts.law]
model = "{files["base"]}"
adapter = "law.gguf"
n_batch = 16
"""
    (tmp_path / "pair.toml").write_text(text)
    with colm.load(str(tmp_path), n_threads=1) as pair:
        assert pair.names == ("base", "math", "law")
        assert pair.experts["law"]["adapters"][0]["path"] == str(adapter)
        assert pair.experts["law"]["n_batch"] == 16
        assert pair.n_ctx == 64
        out = pair.generate(PROMPT, max_tokens=12, seed=1)
        assert {token.source for token in out.tokens} == {"base", "law"}
    for old, new, words in (
        ("[experts]", 'assistant = "x"\n[experts]', "both assistant and experts"),
        ('model = "', 'modal = "', 'no "model"'),
        ("n_batch = 16", "n_bach = 16", "n_bach"),
        ('adapter = "law.gguf"', "adapter_scale = 2.0", "adapter_scale"),
    ):
        (tmp_path / "wrong.toml").write_text(text.replace(old, new).replace("[options]\nn_ctx = 64\n", ""))
        with pytest.raises(colm.OptionError, match=words):
            colm.load(pair=tmp_path / "wrong.toml")


def test_commands(files: dict[str, Path], tmp_path: Path) -> None:
    models = ["--base", str(files["base"]), "--expert", f"math={files['math']}", "--expert", f"code={files['code']}"]
    trace = tmp_path / "trace"
    args = ["generate", PROMPT, *models, "--head", "always:code", "--max-tokens", "4", "--temperature", "0", "-q"]
    done = succeed(*args, "--expert-option", "code:n_batch=9", "--trace", trace, "--json")
    answer = json.loads(done.stdout)
    assert {token["source"] for token in answer["tokens"]} == {"code"}
    assert answer["experts"] == {"math": str(files["math"]), "code": str(files["code"])}
    found = read_trace(trace)[0]
    assert found.facts["load_options"]["code"] == {"n_batch": 9}
    assert found.stats is not None
    assert found.stats["experts"]["math"]["calls"] == 0
    for more, words in (
        (["--assistant", "x"], "--expert stands in place of --assistant"),
        (["--expert", "math=x"], "given twice"),
        (["--expert-option", "law:n_ctx=4"], "law"),
        (["--expert", "law"], "NAME=MODEL"),
    ):
        failed = run(*args, *more)
        assert failed.exit_code == 2
        assert words in failed.stderr


def test_chat_with_experts(files: dict[str, Path], tiny_model: TinyModels) -> None:
    base = tiny_model(**BASE, chat_template="{{ messages[-1].content }}")
    models = ["--base", str(base), "--expert", f"math={files['math']}", "--expert", f"code={files['code']}"]
    args = ["chat", *models, "--head", "random:math", "--max-tokens", "4", "--n-ctx", "128"]
    done = succeed(*args, stdin="Hi\n/assistant code\nHi\n/stats\n/compare\n")
    assert "code 0" not in done.stdout.split("read for the last answer: ")[1].splitlines()[0]
    assert [line for line in done.stdout.splitlines() if line.startswith("-- ")] == [
        "-- base",
        "-- math",
        "-- code",
        "-- pair",
    ]
    for typed, words in (
        ("/assistant\n", "the experts of this pair are math, code"),
        ("/only law\n", "the models of this pair are base, math, code"),
        ("/only\n", "the models of this pair are base, math, code"),
    ):
        assert words in run(*args, stdin=typed).stderr
    for name in ("base", "math", "code"):
        shown = run(*args, stdin=f"/only {name}\nHi\n/stats\n").stdout
        last = shown.split("read for the last answer: ")[1].splitlines()[0]
        counts = dict(part.split(" ") for part in last.partition(";")[0].split(", "))
        assert {who for who, n in counts.items() if n != "0"} == {name}
        assert f"{name} 4" in shown or name == "base"
