"""Values and calls that once ended in an error of Python's own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.chat.limits import MAX_DEPTH
from colm_cpp.learn import Scorer
from colm_cpp.options import MAX_SEED, LoadOptions

SHORT = {"max_tokens": 6, "head": "confidence"}


@pytest.mark.parametrize("seed", [np.uint8(254), np.int8(126), np.uint32(MAX_SEED)])
def test_seeds_of_a_batch_from_a_numpy_scalar(pair: colm.Pair, seed: np.integer) -> None:
    """They count on as those from an int do, and wrap behind the largest."""
    prompts = ["a", "b", "c"]
    texts = pair.generate_batch(prompts, seed=seed, **SHORT)  # type: ignore[call-overload]
    assert [text.stats.seed for text in texts] == [(int(seed) + i) % (MAX_SEED + 1) for i in range(3)]


def test_load_options_keep_whole_numbers_as_int() -> None:
    options = LoadOptions(n_ctx=np.int8(100), n_batch=np.uint8(64), n_threads=np.int16(2))
    assert [type(n) for n in (options.n_ctx, options.n_batch, options.n_threads)] == [int] * 3
    assert options == LoadOptions(n_ctx=100, n_batch=64, n_threads=2)


def test_two_threads_read_one_batch(pair: colm.Pair) -> None:
    """Each result goes to one of them."""

    def prompts() -> Iterator[str]:
        for i in range(24):
            yield f"text {i}"

    batch = pair.stream_batch(prompts(), n_parallel=3, seed=1, **SHORT)  # type: ignore[arg-type]
    results: list[tuple[int, object]] = []
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
    assert sorted(number for number, _ in results) == list(range(24))
    assert all(isinstance(text, colm.Completion) for _, text in results)


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
        colm.generate("x", pair="demo", head="confidence", load_options={name: ARRAY})  # type: ignore[arg-type]
    with pytest.raises(colm.OptionError, match=name):
        Scorer("a.gguf", "b.gguf", **{name: ARRAY})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["load_options", "keep"])
def test_arrays_where_generate_takes_a_dict_or_a_flag(name: str) -> None:
    with pytest.raises(colm.OptionError, match=name):
        colm.generate("x", pair="demo", head="confidence", **{name: ARRAY})  # type: ignore[arg-type]


def test_load_without_models() -> None:
    with pytest.raises(colm.OptionError, match=r"load\(\) needs base= and assistant=, or pair="):
        colm.load()


@pytest.mark.parametrize("beta", [-0.5, 1000.5, 1e300, float("inf")])
def test_beta_of_contrastive_is_bounded(pair: colm.Pair, beta: float) -> None:
    with pytest.raises(colm.OptionError, match=r"beta.*1000"):
        pair.generate("a", strategy="contrastive", beta=beta, head="always")


def test_the_largest_beta_of_contrastive(pair: colm.Pair) -> None:
    out = pair.generate("a", strategy="contrastive", beta=1000.0, head="always", max_tokens=6)
    assert out.stats.generated_tokens > 0


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), None])
def test_adapters_that_are_damaged_or_empty(tiny_model: TinyModels, tmp_path: Path, alpha: float | None) -> None:
    """None: an adapter without any tensor."""
    writer = gguf.GGUFWriter(tmp_path / "adapter.gguf", "llama")
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, 4.0 if alpha is None else alpha)
    if alpha is not None:
        writer.add_tensor("blk.0.attn_output.weight.lora_a", np.zeros((4, 32), np.float32))
        writer.add_tensor("blk.0.attn_output.weight.lora_b", np.zeros((32, 4), np.float32))
    tm.finish(writer)
    said = "without any tensor" if alpha is None else "adapter.lora.alpha"
    with pytest.raises(colm.LoadError, match=said):
        colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), lora=tmp_path / "adapter.gguf")


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
def test_memory_that_python_lacks(tiny_model: TinyModels) -> None:
    """The list of ids, and the text as UTF-8, are made by Python before the extension is called."""
    program = f"""
import resource, sys
import colm_cpp as colm
with colm.load(sys.argv[1], sys.argv[2], "confidence", **{TINY_LOAD!r}) as pair:
    text = "a" * (120 * 2**20)
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 60 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for call in (lambda: pair.detokenize(range(2**24)), lambda: pair.tokenize(text + "b"), lambda: pair.tokenize(text)):
        try:
            call()
        except Exception as error:
            print(type(error).__name__)
"""
    files = tiny_model(**BASE), tiny_model(**ASSISTANT)
    done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["OutOfMemory", "MemoryError", "OutOfMemory"]  # the second is the caller's own sum
