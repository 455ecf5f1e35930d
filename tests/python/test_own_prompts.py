"""A prompt for each model: rows of a batch, conversations in a batch, the command line, and `colm.generate()`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import expert_files
import pytest
from commands import error_of, run, succeed
from conftest import TINY_LOAD, TinyModels, token_ids
from expert_files import PROMPT

import colm_cpp as colm
from colm_cpp.engine import loading

PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module")
def files(tiny_model: TinyModels) -> dict[str, Path]:
    """Each model has a template of its own in its file."""
    return expert_files.make_files(tiny_model, PLAIN, "Q {{ messages[-1].content }} A")


pair = expert_files.pair


@pytest.fixture
def arguments(files: dict[str, Path]) -> list[str]:
    experts = [f"{name}={files[name]}" for name in ("math", "code")]
    models = ["--base", str(files["base"]), "--expert", experts[0], "--expert", experts[1], "--head", "always:math"]
    load = [*("--n-ctx", "256", "--n-threads", "1", "--n-threads-batch", "1", "--type-k", "f32", "--type-v", "f32")]
    return ["generate", *models, *load, "--no-flash-attn", "--temperature", "0", "--max-tokens", "6", "--quiet"]


def written(pair: colm.Pair, prompt: str, who: str = "math") -> list[int]:
    return token_ids(pair.generate(prompt, head=f"always:{who}", **OPTIONS))


def test_conversations_in_a_batch(pair: colm.Pair) -> None:
    """A template and a system message for each model, of all conversations or of one."""
    each: list[Any] = [{}, {"system": {"math": "Compute."}}, {"chat_template": {"math": "X"}}, {}]
    prompts: list[Any] = [MESSAGES, MESSAGES, MESSAGES, PROMPT]
    own: dict[str, Any] = {"chat_template": {"math": None}}
    texts = pair.generate_batch(prompts, each=each, head="always:math", n_parallel=2, **own, **OPTIONS)
    assert [token_ids(text) for text in texts] == [
        written(pair, "Q Hi A"),
        written(pair, "Q Hi A"),  # its template shows no system message
        written(pair, "X"),
        written(pair, PROMPT),
    ]
    each = [{"system": {"math": "Compute."}}, {"system": "All."}]
    texts = pair.generate_batch([MESSAGES] * 2, each=each, head="always:math", n_parallel=2, **OPTIONS)
    assert [token_ids(text) for text in texts] == [
        written(pair, "system: Compute.\nuser: Hi\n"),
        written(pair, "system: All.\nuser: Hi\n"),
    ]


def test_conversations_that_are_refused(pair: colm.Pair) -> None:
    for prompts, each, words in (
        ([PROMPT], [{"system": "x"}], "system is for conversations"),
        ([MESSAGES], [{"system": {"law": "x"}}], "system names 'law'"),
        ([{"base": "a", "law": "b"}], [{}], "prompt names 'law'"),
        ([{"math": "b"}], [{}], "give 'base'"),
    ):
        with pytest.raises(colm.ColmError, match=words):
            pair.generate_batch(prompts, each=each, head="never", **OPTIONS)  # type: ignore[arg-type]


def test_rows(pair: colm.Pair, arguments: list[str], tmp_path: Path) -> None:
    rows: list[Any] = [
        {"prompt": {"base": "Once", "math": PROMPT}},
        {"messages": MESSAGES, "chat_template": {"math": None}},
        {"messages": MESSAGES, "system": {"math": "Compute."}},
        {"messages": MESSAGES, "system": "All."},
        {"prompt": "Once"},
        {"prompt": {"base": "Once", "law": "x"}},
        {"prompt": {"base": 3}},
        {"prompt": "Once", "system": {"math": "x"}},
        {"messages": MESSAGES, "chat_template": 3},
    ]
    batch, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    batch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(*arguments, "--batch", batch, "--out", out, "--json", "--parallel", "3")
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [[token["id"] for token in line["tokens"]] for line in lines[:5]] == [
        written(pair, PROMPT),
        written(pair, "Q Hi A"),
        written(pair, "system: Compute.\nuser: Hi\n"),
        written(pair, "system: All.\nuser: Hi\n"),
        written(pair, "Once"),
    ]
    for line, words in zip(lines[5:], ("law", "prompt", "system is for messages", "chat_template"), strict=True):
        assert words in line["error"]


def test_on_the_command_line(pair: colm.Pair, arguments: list[str], tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text(PROMPT + "\n")
    template = tmp_path / "own.jinja"
    template.write_text("T {{ messages[-1].content }}")

    def answer(*more: str) -> list[int]:
        done = succeed(*arguments, "--json", *more)
        return [token["id"] for token in json.loads(done.stdout)["tokens"]]

    assert answer("Once", "--prompt-for", f"math={PROMPT}") == written(pair, PROMPT)
    assert answer("Once", "--prompt-for", f"math=@{few}") == written(pair, PROMPT)
    assert answer("Once", "--prompt-for", f"code={PROMPT}") == written(pair, "Once")
    assert answer("Hi", "--template-for", "math") == written(pair, "Q Hi A")
    assert answer("Hi", "--template-for", f"math={template}") == written(pair, "T Hi")
    assert answer("Hi", "--system-for", "math=Compute.") == written(pair, "system: Compute.\nuser: Hi\n")
    done = json.loads(run(*arguments, "--json", "Once", "--prompt-for", f"math={PROMPT}").stdout)
    assert done["prompt"] == "Once"
    assert done["own"] == {"prompt": {"math": PROMPT}}
    for more, words in (
        (("--prompt-for", "law=x"), "base, math, code"),
        (("--prompt-for", "math"), "has no text"),
        (("--prompt-for", "math=x", "--prompt-for", "math=y"), "given twice"),
        (("--prompt-for", "math=x", "--chat"), "remove one of the two"),
        (("--prompt-for", "math=x", "--system-for", "math=y"), "finished prompt"),
    ):
        assert words in run(*arguments, "Once", *more).stderr
    for own in (f"--prompt-for=math=@{few}", f"--template-for=math={template}"):
        path = own.rpartition("=")[2].removeprefix("@")
        refused = error_of(run(*arguments, "Once", own, "--trace", path, "--force"))
        assert "trace" in refused
    missing = error_of(run(*arguments, "Once", "--prompt-for", f"math=@{tmp_path / 'none'}"))
    assert "prompt of math" in missing


def test_in_a_terminal(pair: colm.Pair, arguments: list[str]) -> None:
    """`colm chat` reads what `colm generate` reads, at every turn."""
    plain = succeed("chat", *arguments[1:], stdin="Hi\n").stdout
    for own in (["--system-for", "math=Compute."], ["--template-for", "math"], ["--system-for", "base=Tell."]):
        told = succeed("chat", *arguments[1:], *own, stdin="Hi\n").stdout
        assert told == succeed("generate", "Hi", *arguments[1:], *own).stdout
        assert told != plain
    both = succeed(
        "chat", *arguments[1:], "--system-for", "math=Compute.", stdin="Hi\n/system Other.\n/drop\nHi\n"
    ).stdout
    first, second = both.splitlines()[:1], both.splitlines()[-1:]
    assert first == second  # a message for all is not one for a model that has its own
    assert "the models are base, math, code" in run("chat", *arguments[1:], "--system-for", "law=x").stderr


def test_in_one_call(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, pair: colm.Pair, tmp_path: Path) -> None:
    """`colm.generate()` takes experts and their prompts, and keeps the pair."""
    loads: list[int] = []
    load = loading.load
    monkeypatch.setattr(loading, "load", lambda *args, **given: loads.append(1) or load(*args, **given))
    experts: dict[str, Any] = {"math": files["math"], "code": {"model": files["code"], "n_batch": 9}}
    given: dict[str, Any] = {"base": files["base"], "experts": experts, "load_options": TINY_LOAD, **OPTIONS}
    try:
        out = colm.generate({"base": "Once", "math": PROMPT}, head="always:math", **given)
        assert token_ids(out) == written(pair, PROMPT)
        assert token_ids(colm.generate("Once", head="always:code", **given)) == written(pair, "Once", "code")
        assert len(loads) == 1
        given["experts"] = {**experts, "code": files["code"]}
        colm.generate("Once", head="always:code", **given)
        assert len(loads) == 2
        given["experts"] = {"code": files["code"], "math": files["math"]}  # another order is another pair
        colm.generate("Once", head="always:code", **given)
        assert len(loads) == 3
        text = f'version = 1\nbase = "{files["base"]}"\nhead = "always:code"\n[experts]\n'
        (tmp_path / "pair.toml").write_text(text + f'math = "{files["math"]}"\ncode = "{files["code"]}"\n')
        out = colm.generate("Once", pair=tmp_path, load_options=TINY_LOAD, **OPTIONS)  # type: ignore[arg-type]
        assert token_ids(out) == written(pair, "Once", "code")
        for more in ({"assistant": files["math"]}, {"pair": "demo"}, {"load_options": {"assistant_options": {}}}):
            with pytest.raises(colm.OptionError, match="experts="):
                colm.generate("a", head="never", **{**given, **more})  # type: ignore[arg-type]
        with pytest.raises(colm.TokenizeError, match="list of messages"):
            colm.generate(MESSAGES, head="never", **given)  # type: ignore[arg-type]
    finally:
        colm.unload()


def test_options_of_one_expert_go_first(files: dict[str, Path], tmp_path: Path) -> None:
    """Those given to a call; a pair's file is replaced by the caller's."""
    experts: Any = {"math": {"model": files["math"], "n_batch": 9}}
    out = colm.load(files["base"], experts=experts, **{**TINY_LOAD, "n_batch": 20})
    with out as pair:
        assert [facts["n_batch"] for facts in (pair.base, pair.experts["math"])] == [20, 9]
    text = f'version = 1\nbase = "{files["base"]}"\n[experts.math]\nmodel = "{files["math"]}"\nn_batch = 9\n'
    (tmp_path / "pair.toml").write_text(text)
    with colm.load(pair=tmp_path, **{**TINY_LOAD, "n_batch": 20}) as pair:
        assert pair.experts["math"]["n_batch"] == 20
