"""Values and calls that once ended in an error of Python's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import colm_cpp as colm
from colm_cpp.chat_limits import MAX_DEPTH
from colm_cpp.learn import Scorer
from colm_cpp.options import MAX_SEED, LoadOptions

SHORT = {"max_tokens": 6, "head": "confidence"}


@pytest.mark.parametrize("seed", [np.uint8(254), np.int8(126), np.uint32(MAX_SEED)])
def test_seeds_of_a_batch_from_a_numpy_scalar(pair: colm.Pair, seed: np.integer) -> None:
    """They count on as those from an int do, and wrap behind the largest."""
    prompts = ["a", "b", "c"]
    texts = pair.generate_batch(prompts, seed=seed, **SHORT)  # type: ignore[arg-type]
    assert [text.stats.seed for text in texts] == [(int(seed) + i) % (MAX_SEED + 1) for i in range(3)]


def test_load_options_keep_whole_numbers_as_int() -> None:
    options = LoadOptions(n_ctx=np.int8(100), n_batch=np.uint8(64), n_threads=np.int16(2))  # type: ignore[arg-type]
    assert [type(n) for n in (options.n_ctx, options.n_batch, options.n_threads)] == [int] * 3
    assert options == LoadOptions(n_ctx=100, n_batch=64, n_threads=2)


def test_two_threads_read_one_batch(pair: colm.Pair) -> None:
    """Each result goes to one of them."""

    def prompts() -> Iterator[str]:
        for i in range(24):
            yield f"text {i}"

    batch = pair.stream_batch(prompts(), n_parallel=3, seed=1, **SHORT)  # type: ignore[arg-type]
    results: list[object] = []
    errors: list[BaseException] = []

    def read() -> None:
        try:
            results.extend(batch)
        except BaseException as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)
    assert errors == []
    assert sorted(number for number, _ in results) == list(range(24))  # type: ignore[misc]
    assert all(isinstance(text, colm.Completion) for _, text in results)  # type: ignore[misc]


def test_prompts_that_read_their_own_batch(pair: colm.Pair) -> None:
    batch: colm.BatchStream
    seen: list[BaseException] = []

    def prompts() -> Iterator[str]:
        yield "a"
        try:
            next(batch)
        except colm.ColmError as error:
            seen.append(error)
        yield "b"

    batch = pair.stream_batch(prompts(), **SHORT)  # type: ignore[arg-type]
    assert sorted(number for number, _ in batch) == [0, 1]
    assert [type(error) for error in seen] == [colm.GenerationError]


LIST: list[Any] = ["text"]
LIST.append(LIST)
DICT: dict[str, Any] = {"role": "user", "content": "x"}
DICT["self"] = DICT
MESSAGE = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "options"),
    [
        ([MESSAGE], {"template_variables": {"a": LIST}}),
        ([MESSAGE], {"template_variables": DICT}),
        ([MESSAGE], {"tools": [DICT]}),
        ([MESSAGE], {"documents": [DICT]}),
        ([DICT], {}),
        ([{"role": "user", "content": LIST}], {}),
    ],
)
def test_values_for_a_chat_template_that_contain_themselves(
    pair: colm.Pair, messages: list[Any], options: dict[str, Any]
) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    with pytest.raises(colm.ChatTemplateError, match=str(MAX_DEPTH)):
        pair.render_chat(messages, chat_template=template, **options)


def test_content_that_is_a_list_for_a_template_that_takes_text(pair: colm.Pair) -> None:
    template = "{% for message in messages %}{{ '<' + message.content + '>' }}{% endfor %}"
    parts = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    with pytest.raises(colm.ChatTemplateError, match="content of message 1 is a list"):
        pair.render_chat([MESSAGE, parts], chat_template=template)
    with pytest.raises(colm.ChatTemplateError) as other:
        pair.render_chat([MESSAGE], chat_template="{{ messages + 1 }}")
    assert "content" not in str(other.value)
    assert pair.render_chat([parts], chat_template="{{ messages[0].content[0].text }}") == "x"


ARRAY = np.array([1, 2])


@pytest.mark.parametrize("name", ["base_options", "assistant_options", "check_memory"])
def test_arrays_where_load_takes_a_dict_or_a_flag(name: str) -> None:
    with pytest.raises(colm.OptionError, match=name):
        colm.load("demo", **{name: ARRAY})  # type: ignore[arg-type]
    with pytest.raises(colm.OptionError, match=name):
        colm.generate("x", pair="demo", head="confidence", load_options={name: ARRAY}, keep=False)  # type: ignore[misc]
    with pytest.raises(colm.OptionError, match=name):
        Scorer("a.gguf", "b.gguf", **{name: ARRAY})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["load_options", "keep"])
def test_arrays_where_generate_takes_a_dict_or_a_flag(name: str) -> None:
    with pytest.raises(colm.OptionError, match=name):
        colm.generate("x", pair="demo", head="confidence", **{name: ARRAY})  # type: ignore[arg-type]


def test_load_without_models() -> None:
    with pytest.raises(colm.OptionError, match=r"load\(\) needs base= and assistant=, or pair="):
        colm.load()
