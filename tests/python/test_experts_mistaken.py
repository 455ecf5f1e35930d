"""Mistakes with several experts: each is refused, and the message names the expert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import expert_files
import numpy as np
import pytest
from adapter_files import N_EMBD
from commands import run
from conftest import TINY_LOAD
from expert_files import PROMPT

import colm_cpp as colm

files = expert_files.files
OPTIONS: dict[str, Any] = {"max_tokens": 4, "temperature": 0}


def experts_of(files: dict[str, Path], *names: str) -> dict[str, Path]:
    return {name: files[name] for name in names or ("math", "code")}


def pair_file(files: dict[str, Path], folder: Path, head: str, *more: str) -> Path:
    file = folder / "pair.toml"
    lines = ["version = 1", f'base = "{files["base"]}"', f'head = "{head}"', *more, "[experts]"]
    file.write_text("\n".join([*lines, *(f'{name} = "{files[name]}"' for name in ("math", "code"))]))
    return file


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a pair's file, which is not the current one."""
    (tmp_path / "pair").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "pair"


def test_a_head_with_an_expert_lies_beside_the_pairs_file(files: dict[str, Path], elsewhere: Path) -> None:
    """Not in the current folder, where another head of that name may lie."""
    always = colm.Head.linear(np.zeros(N_EMBD), 9.0)
    always.save(elsewhere / "head.gguf")
    always.replace(biases=(np.array([-9.0], np.float32),)).save("head.gguf")
    with colm.load(pair=pair_file(files, elsewhere, "head.gguf:code"), **TINY_LOAD) as pair:
        out = pair.generate(PROMPT, **OPTIONS)
    assert {token.source for token in out.tokens} == {"code"}


def test_a_rate_of_a_head_with_an_expert(files: dict[str, Path], elsewhere: Path) -> None:
    table: dict[str, Any] = {"rates": (0.0, 0.2, 1.0), "thresholds": (1.0, 0.75, 0.0)}
    colm.Head.linear(np.zeros(N_EMBD), 2.0, **table).save(elsewhere / "head.gguf")
    with colm.load(pair=pair_file(files, elsewhere, "head.gguf:math", "defer_rate = 0.2"), **TINY_LOAD) as pair:
        out = pair.generate(PROMPT, **OPTIONS)
    assert {(token.source, token.threshold) for token in out.tokens} == {("math", 0.75)}


def test_heads_behind_which_nobody_stands(files: dict[str, Path], tmp_path: Path) -> None:
    """Each message has a value that works."""
    file = tmp_path / "mine.gguf"
    head = colm.Head.linear(np.zeros(N_EMBD), name="a name")
    head.save(file)
    for given in ("confidence:law", f"{file}:law"):
        with pytest.raises(colm.HeadError, match=r"'law'.*math and code"):
            colm.load(files["base"], experts=experts_of(files), head=given, **TINY_LOAD)
    with pytest.raises(colm.HeadError, match=r"'law'.*assistant"):
        colm.load(files["base"], files["math"], head="confidence:law", **TINY_LOAD)
    for path in (file, str(file)):
        with pytest.raises(colm.HeadError, match=r"head='[^']*mine.gguf:math'"):
            colm.load(files["base"], experts=experts_of(files), head=path, **TINY_LOAD)
    with pytest.raises(colm.HeadError, match=r"replace\(expert_names=\('math',\)\)"):
        colm.load(files["base"], experts=experts_of(files), head=head, **TINY_LOAD)
    colm.load(files["base"], experts=experts_of(files), head=head.replace(expert_names=("math",)), **TINY_LOAD).close()


def test_a_missing_head_is_found_before_the_models_are_loaded(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "no-model.gguf").write_bytes(b"no model")
    with pytest.raises(colm.LoadError, match="no-head"):
        colm.load(tmp_path / "no-model.gguf", experts=experts_of(files), head=f"{tmp_path / 'no-head.gguf'}:math")


def test_names_of_a_heads_rows(files: dict[str, Path]) -> None:
    with pytest.raises(colm.HeadError, match="expert_names is None"):
        colm.Head.linear(np.zeros((2, N_EMBD)), expert_names=None)
    with pytest.raises(colm.HeadError, match="expert_names"):
        colm.Head.linear(np.zeros((2, N_EMBD)))


def test_options_of_an_expert_that_cannot_be(files: dict[str, Path]) -> None:
    for options, kind in (({"n_ctx": -1}, colm.OptionError), ({"n_contexts": 1}, TypeError)):
        experts: Any = {"math": files["math"], "code": {"model": files["code"], **options}}
        with pytest.raises(kind, match=r"the expert code: .*n_c"):
            colm.load(files["base"], experts=experts, **TINY_LOAD)


def test_prompts_name_the_expert(files: dict[str, Path]) -> None:
    with colm.load(files["base"], experts=experts_of(files), head="never", **TINY_LOAD) as pair:
        for prompt, words in (
            ({"base": "a", "code": []}, "prompt of code: .*no tokens"),
            ({"base": "a", "code": [1, 99999]}, "prompt of code: prompt token 1 is id 99999"),
            ({"base": [99999], "code": "a"}, "^prompt token 0"),
            ({}, "names no model"),
        ):
            with pytest.raises(colm.TokenizeError, match=words):
                pair.generate(prompt, **OPTIONS)


def test_a_session_of_other_experts_says_so(files: dict[str, Path], tmp_path: Path) -> None:
    with colm.load(files["base"], experts=experts_of(files), head="always:math", **TINY_LOAD) as pair:
        pair.generate(PROMPT, **OPTIONS)
        pair.save_session(tmp_path / "session")
    swapped = experts_of(files, "code", "math")
    words = r"1 \(math\).*2 \(code\).*1 \(code\).*2 \(math\)"
    with (
        colm.load(files["base"], experts=swapped, **TINY_LOAD) as pair,
        pytest.raises(colm.SessionMismatch, match=words),
    ):
        pair.load_session(tmp_path / "session")


def test_a_path_that_no_file_can_have(files: dict[str, Path]) -> None:
    for path in ("a\0.gguf", "\udcff\ud800.gguf"):
        with pytest.raises(colm.LoadError):
            colm.generate("x", base=files["base"], experts={"math": files["math"], "code": path}, head="never")


def test_a_system_message_is_a_text(files: dict[str, Path]) -> None:
    messages: Any = [{"role": "user", "content": "x"}]
    with colm.load(files["base"], experts=experts_of(files), head="never", **TINY_LOAD) as pair:
        for system in (1, {"math": 1}):
            with pytest.raises(colm.ChatTemplateError, match="system is 1"):
                pair.chat(messages, system=system, chat_template="{{ messages[-1].content }}", **OPTIONS)


def test_prices_that_are_given_twice(tmp_path: Path) -> None:
    scores = tmp_path / "scores"
    scores.mkdir()
    for arguments in (["--cost", "a=1", "--cost", "a=2"], ["--cost", "1", "--cost", "2"]):
        done = run("train", scores, "--out", tmp_path / "head.gguf", *arguments)
        assert (done.exit_code, "twice" in done.stderr) == (2, True), done.stderr


def test_a_file_at_fault_names_the_expert(files: dict[str, Path], tmp_path: Path) -> None:
    """Whoever finds the fault: the look at the header, at the adapter, or llama.cpp."""
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF" + bytes(60))
    adapter: Any = {"model": files["code"], "lora": tmp_path / "no-adapter.gguf"}
    for code in (tmp_path / "no-model.gguf", junk, adapter):
        experts = {"math": files["math"], "code": code}
        for check_memory in (True, False):
            with pytest.raises(colm.LoadError, match=r"^the expert code: "):
                colm.load(files["base"], experts=experts, check_memory=check_memory, **TINY_LOAD)


def test_a_template_at_fault_names_the_model(files: dict[str, Path]) -> None:
    messages: Any = [{"role": "user", "content": "x"}]
    with colm.load(files["base"], experts=experts_of(files), head="never", **TINY_LOAD) as pair:
        for template in ("{{ x", "{{ raise_exception('no') }}", None, 3):
            given: Any = {"base": "{{ messages[-1].content }}", "code": template}
            with pytest.raises(colm.ChatTemplateError, match=r"^prompt of code: "):
                pair.chat(messages, chat_template=given, **OPTIONS)


def test_experts_that_are_called_like_keys_of_a_message(files: dict[str, Path]) -> None:
    experts = {"role": files["math"], "content": files["code"]}
    prompt = {"base": "a", "role": "b c", "content": "d"}
    with colm.load(files["base"], experts=experts, head="always:role", **TINY_LOAD) as pair:
        one = pair.generate(prompt, **OPTIONS)
        (several,) = pair.generate_batch([prompt], **OPTIONS)
    with colm.load(files["base"], experts=experts_of(files), head="always:math", **TINY_LOAD) as pair:
        same = pair.generate({"base": "a", "math": "b c", "code": "d"}, **OPTIONS)
    assert one.text == several.text == same.text
