"""Contexts of several experts: made at the first turn, and what becomes of a text where there is no room for one."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import expert_files
import pytest
from conftest import TINY_LOAD, token_ids
from expert_files import PROMPT

import colm_cpp as colm
from colm_cpp.engine import memory
from colm_cpp.machine.limits import FreeMemory

files = expert_files.files
OPTIONS: dict[str, Any] = {"temperature": 0, "max_tokens": 8}


@pytest.fixture
def experts(files: dict[str, Path]) -> dict[str, Path]:
    return {"math": files["math"], "code": files["code"]}


@pytest.fixture
def made(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """How many contexts llama.cpp has made since the last call."""
    caplog.set_level(logging.DEBUG, "colm_cpp.llama")

    def count() -> int:
        n = sum("constructing llama_context" in record.message for record in caplog.records)
        caplog.clear()
        return n

    return count


def test_a_context_is_made_at_the_first_turn(files: dict[str, Path], experts: dict[str, Path], made: Any) -> None:
    with colm.load(files["base"], experts=experts, **TINY_LOAD) as pair:
        assert made() == 3  # the first passes at load
        pair.generate(PROMPT, head="never", **OPTIONS)
        assert made() == 0
        first = pair.generate(PROMPT, head="always:code", **OPTIONS)
        assert made() == 1
        pair.generate(PROMPT, head="random:code", **OPTIONS)
        assert made() == 0
        pair.forget()
        assert token_ids(pair.generate(PROMPT, head="always:code", **OPTIONS)) == token_ids(first)
        assert made() == 0
        pair.generate(PROMPT, head="always:math", **OPTIONS)
        assert made() == 1
        # A wider batch has contexts of its own, of which the same is true.
        pair.generate_batch([PROMPT] * 2, head="never", n_parallel=2, **OPTIONS)
        made()
        pair.generate_batch([PROMPT] * 2, head="always:math", n_parallel=2, **OPTIONS)
        assert made() == 1


def test_a_pair_has_both_contexts_from_the_beginning(files: dict[str, Path], made: Any) -> None:
    with colm.load(files["base"], files["math"], "always", **TINY_LOAD) as pair:
        assert made() == 2
        pair.generate(PROMPT, **OPTIONS)
        assert made() == 0


def test_a_batch_makes_the_assistants_context_at_its_first_turn(files: dict[str, Path], made: Any) -> None:
    with colm.load(files["base"], files["math"], **TINY_LOAD) as pair:
        pair.generate_batch([PROMPT] * 2, head="never", n_parallel=2, **OPTIONS)  # with the first passes of batches
        made()
        pair.generate_batch([PROMPT] * 3, head="never", n_parallel=3, **OPTIONS)
        assert made() == 1
        texts = pair.generate_batch([PROMPT] * 3, head="always", n_parallel=3, **OPTIONS)
        assert made() == 1
        assert [token_ids(text) for text in texts] == [token_ids(pair.generate(PROMPT, head="always", **OPTIONS))] * 3
        pair.generate_batch([PROMPT] * 3, head="always", n_parallel=3, **OPTIONS)
        assert made() == 0


@pytest.mark.parametrize("n_parallel", [1, 3])
@pytest.mark.parametrize("lookahead", [0, 4])
def test_no_room_ends_the_text_that_needs_it(
    files: dict[str, Path], experts: dict[str, Path], monkeypatch: pytest.MonkeyPatch, n_parallel: int, lookahead: int
) -> None:
    """The error names the expert and what it needs; texts beside it go on; with room again, so does the expert."""
    options = {**OPTIONS, "lookahead": lookahead}
    heads = ["never", "always:math", "always:code"]
    with colm.load(files["base"], experts=experts, n_parallel=n_parallel, **TINY_LOAD) as pair:
        plain = [pair.generate(PROMPT, head=head, **options) for head in heads]
    with colm.load(files["base"], experts=experts, n_parallel=n_parallel, **TINY_LOAD) as pair:
        pair.generate(PROMPT, head="always:code", **options)  # has its context, and needs no more room
        with monkeypatch.context() as patch:
            patch.setattr(memory, "free_memory", lambda: FreeMemory(12345, "a test"))
            each: list[Any] = [{"head": head} for head in heads]
            written = pair.generate_batch(
                [PROMPT] * 3, each=each, n_parallel=n_parallel, return_exceptions=True, **options
            )
            error = written[1]
            assert isinstance(error, colm.NotEnoughMemory)
            assert error.expert == "math"
            assert error.available == 12345
            assert error.needed > 2**20
            assert "math" in str(error)
            for i in (0, 2):
                text = written[i]
                assert isinstance(text, colm.Completion)
                assert token_ids(text) == token_ids(plain[i])
        again = pair.generate(PROMPT, head="always:math", **options)
        assert token_ids(again) == token_ids(plain[1])


@pytest.mark.parametrize("lookahead", [0, 4])
def test_what_others_have_read_is_not_lost(
    files: dict[str, Path], experts: dict[str, Path], monkeypatch: pytest.MonkeyPatch, lookahead: int
) -> None:
    """Nothing was read by an expert without a context, so no cache can be damaged."""
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 4, "lookahead": lookahead, "threshold": 0}
    prompt = "a long prompt that all have read before " * 3
    with colm.load(files["base"], experts=experts, **TINY_LOAD) as pair:
        first = pair.generate(prompt, head="confidence:code", **options)
        monkeypatch.setattr(memory, "free_memory", lambda: FreeMemory(0))
        with pytest.raises(colm.NotEnoughMemory, match="math"):
            pair.generate(prompt, head="confidence:math", **options)
        again = pair.generate(prompt, head="confidence:code", **options)
    assert token_ids(again) == token_ids(first)
    for who in ("base", "code"):
        n_first, n_again = (text.stats.experts[who].tokens_read for text in (first, again))
        assert n_again < first.stats.prompt_tokens / 2 < n_first


def test_what_was_written_before_is_not_lost(
    files: dict[str, Path], experts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"head": "random:math", "seed": 6, "temperature": 0, "max_tokens": 20, "threshold": 0.7}
    with colm.load(files["base"], experts=experts, **TINY_LOAD) as pair:
        whole = pair.generate(PROMPT, **options)
    before = [token.source for token in whole.tokens].index("math")
    assert before > 0
    for lookahead in (0, 3):
        with colm.load(files["base"], experts=experts, **TINY_LOAD) as pair:
            monkeypatch.setattr(memory, "free_memory", lambda: FreeMemory(0))
            stream = pair.stream(PROMPT, lookahead=lookahead, **options)
            read = []
            with pytest.raises(colm.NotEnoughMemory, match="math"):
                read.extend(token.id for token in stream)
            monkeypatch.undo()
            assert stream.token_ids[stream.stats.prompt_tokens :] == token_ids(whole)[:before]


SCRIPT = """
import json, resource, sys
import colm_cpp as colm
base, math, code = sys.argv[1:]
large = {"model": math, "n_ctx": 1 << 22}
with colm.load(base, experts={"math": large, "code": code}, n_ctx=256, n_threads=1, check_memory=False) as pair:
    options = {"temperature": 0, "max_tokens": 4}
    pair.generate("x", head="always:code", **options)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + (64 << 20), hard))
    try:
        pair.generate("x", head="always:math", **options)
    except colm.NotEnoughMemory as error:
        said = [error.expert, error.needed, str(error)]
    texts = [pair.generate("x", head=head, **options).finish_reason for head in ("never", "always:code")]
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    texts.append(pair.generate("x", head="always:math", **options).finish_reason)
print(json.dumps([said, texts]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_where_the_system_refuses_a_context(files: dict[str, Path]) -> None:
    """What llama.cpp cannot allocate is the same error."""
    arguments = [sys.executable, "-c", SCRIPT, *(str(files[name]) for name in ("base", "math", "code"))]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (expert, needed, words), texts = json.loads(done.stdout)
    assert expert == "math"
    assert needed > 64 << 20  # estimated, though nothing was compared with it
    assert f"It is estimated to need {needed // 1_000_000} MB" in words
    assert "the expert math" in words
    assert len(texts) == 3
