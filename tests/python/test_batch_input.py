"""What `generate_batch` is given: single texts, messages, options of each, and what comes of a bad one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, ids

import colm_cpp as colm

GREEDY: dict[str, Any] = {"max_tokens": 3, "temperature": 0}


@pytest.fixture
def chatty(shared_pairs: Callable[..., colm.Pair]) -> colm.Pair:
    """A pair whose base has a chat template."""
    return shared_pairs({**BASE, "chat_template": tm.CHATML}, ASSISTANT)


def test_an_empty_prompt_among_many(pair: colm.Pair) -> None:
    prompts = [f"{i} apples" for i in range(200)]
    prompts[77] = ""
    results = pair.generate_batch(prompts, return_exceptions=True, max_tokens=1, temperature=0)
    failed = [i for i, result in enumerate(results) if isinstance(result, colm.ColmError)]
    assert failed == [77]
    assert isinstance(results[77], colm.TokenizeError)
    assert results[77].index == 77
    with pytest.raises(colm.TokenizeError, match="77 of 200") as error:
        pair.generate_batch(prompts, max_tokens=1, temperature=0)
    assert error.value.index == 77
    kept = error.value.results  # type: ignore[attr-defined]
    assert [type(result) for result in kept] == [type(result) for result in results]
    assert ids(kept[78]) == ids(results[78])  # type: ignore[arg-type]


def test_the_index_of_a_text_that_fails_while_it_is_written(pair: colm.Pair) -> None:
    none_allowed = dict.fromkeys(range(pair.n_shared), float("-inf"))
    each: list[Any] = [{}, {}, {"logit_bias": none_allowed}]
    with pytest.raises(colm.GenerationError) as error:
        pair.generate_batch(["a", "b", "c"], each=each, **GREEDY)
    assert error.value.index == 2
    with pytest.raises(colm.TokenizeError) as alone:
        pair.generate("")
    assert alone.value.index is None


@pytest.mark.parametrize("prompts", ["The sun", b"The sun", bytearray(b"a"), {"role": "user", "content": "a"}, 5, None])
def test_what_is_no_list_of_prompts(pair: colm.Pair, prompts: Any) -> None:
    for call in (pair.generate_batch, pair.stream_batch):
        with pytest.raises(colm.TokenizeError, match=rf"{type(prompts).__name__}.*generate\(\)"):
            call(prompts)


def test_each_is_as_long_as_prompts(pair: colm.Pair) -> None:
    """Both lengths are told, before anything is written where they are known."""
    for n_prompts, n_each in ((2, 1), (1, 2), (3, 0), (0, 3)):
        with pytest.raises(colm.OptionError, match=rf"each.*\b{n_each}\b.*\b{n_prompts}\b"):
            pair.stream_batch(["a"] * n_prompts, each=[{}] * n_each, **GREEDY)
    with pytest.raises(colm.OptionError, match=r"each.*\b1\b"):
        pair.generate_batch(["a", "b"], each=iter([{}]), **GREEDY)
    with pytest.raises(colm.OptionError, match=r"each.*more than 1\b"):
        pair.generate_batch(iter(["a"]), each=[{}, {}], **GREEDY)
    with pytest.raises(colm.OptionError, match=r"each.*dict"):
        pair.generate_batch(["a"], each={"max_tokens": 3}, **GREEDY)  # type: ignore[arg-type]
    assert len(pair.generate_batch(iter(["a", "b"]), each=iter([{}, {}]), **GREEDY)) == 2


@pytest.mark.parametrize("wrong", [{"treshold": 0.5}, {"top_p": 2}, None, 5, "max_tokens"])
def test_one_bad_entry_of_each(pair: colm.Pair, wrong: Any) -> None:
    results = pair.generate_batch(["a", "b", "c"], each=[{}, wrong, {}], return_exceptions=True, **GREEDY)
    assert [type(result) for result in results] == [colm.Completion, colm.OptionError, colm.Completion]
    if isinstance(wrong, dict):
        assert next(iter(wrong)) in str(results[1])


def test_messages(chatty: colm.Pair) -> None:
    """Through the chat template, beside texts and ids, and with chat()'s temperature."""
    messages = [{"role": "user", "content": "Hello"}]
    options: dict[str, Any] = {"max_tokens": 8, "seed": 3, "threshold": 0.7}
    prompts: list[Any] = [messages, "Hello", tuple(messages), chatty.tokenize("Hello"), messages]
    each: list[Any] = [{}, {"seed": 3}, {"seed": 3, "temperature": 0}, {"seed": 3}, {"temperature": 1.5, "seed": 3}]
    together = chatty.generate_batch(prompts, each=each, **options)
    alone = [
        chatty.chat(messages, **options),
        chatty.generate("Hello", **options),
        chatty.chat(messages, **{**options, "temperature": 0}),
        chatty.generate("Hello", **options),
        chatty.chat(messages, **{**options, "temperature": 1.5}),
    ]
    assert [ids(one) for one in together] == [ids(one) for one in alone]
    assert len({one.text for one in together}) >= 3
    (given,) = chatty.generate_batch([messages], **{**options, "temperature": 0})
    assert ids(given) == ids(alone[2])


def test_messages_that_are_refused_are_alone_with_it(pair: colm.Pair, chatty: colm.Pair) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    kinds = [type(r) for r in pair.generate_batch(["a", messages], return_exceptions=True, **GREEDY)]
    assert kinds == [colm.Completion, colm.ChatTemplateError]  # no template
    wrong: list[Any] = ["a", messages[0], [{"content": "a"}], [[messages]], 5]
    kinds = [type(r) for r in chatty.generate_batch(wrong, return_exceptions=True, **GREEDY)]
    assert kinds == [colm.Completion, colm.TokenizeError, colm.ChatTemplateError, *[colm.TokenizeError] * 2]


@pytest.mark.parametrize("prompt", [[{"role": "user", "content": "a"}], ({"role": "user"},), {"role": "user"}])
def test_generate_points_from_messages_to_chat(chatty: colm.Pair, prompt: Any) -> None:
    def before_loading(prompt: Any) -> Any:
        return colm.generate(prompt, base="absent.gguf", assistant="absent.gguf", head="always")

    for call in (chatty.generate, chatty.stream, before_loading):
        with pytest.raises(colm.TokenizeError, match=r"chat\(\)"):
            call(prompt)


_SNIPPET = """
import colm_cpp as colm

pair = colm.load("a", "b")
texts: list[str] = [completion.text for completion in pair.generate_batch(["a"], max_tokens=3)]
more: list[str] = [c.text for c in pair.generate_batch([[{"role": "user", "content": "a"}]], return_exceptions=False)]
for result in pair.generate_batch(["a"], return_exceptions=True):
    if isinstance(result, colm.ColmError):
        print(result.index)
    else:
        print(result.text)
answer: str = pair.chat([{"role": "user", "content": "a"}], temperature=0.5, queue_timeout=3).text
"""
_WRONG = """
import colm_cpp as colm

pair = colm.load("a", "b")
pair.chat([{"role": "user", "content": "a"}], temperature="hot")
pair.generate_batch(["a"], return_exceptions=True)[0].text
pair.chat([{"role": "user", "content": "a"}], warmth=3)
"""


@pytest.mark.slow
def test_types(tmp_path: Path) -> None:
    """As a type checker sees them: `.text` needs no cast, and chat() knows its options."""
    pytest.importorskip("mypy")

    def errors(code: str) -> list[str]:
        path = tmp_path / "snippet.py"
        path.write_text(code)
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        return [line for line in done.stdout.splitlines() if "error:" in line]

    assert errors(_SNIPPET) == []
    assert [line.split(":")[1] for line in errors(_WRONG)] == ["5", "6", "7"]
