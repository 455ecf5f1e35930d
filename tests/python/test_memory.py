"""Memory is estimated before it is allocated: for the models, and for many texts at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny_models as tm
from conftest import ASSISTANT, BASE, TINY_LOAD, RealModels, TinyModels, TinyPairs

import colm_cpp as colm
from colm_cpp import _core
from colm_cpp.corpus.selection import select
from colm_cpp.engine import memory
from colm_cpp.engine.memory import ModelMemory, PairMemory, assistant_rows, base_rows
from colm_cpp.errors import LoadError, NotEnoughMemory, OptionError
from colm_cpp.learn import RecordFolder, Scorer, calibrate, evaluate, load_prompts, load_task, make_arms
from colm_cpp.learn.respond import respond
from colm_cpp.machine.limits import FreeMemory

MB = 2**20


@pytest.fixture
def nothing_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(*_: Any) -> None:
        pytest.fail("contexts were allocated")

    monkeypatch.setattr(_core, "Stream", made)
    monkeypatch.setattr(_core, "ScoringPair", made)


def leave(monkeypatch: pytest.MonkeyPatch, megabytes: float, limited_by: str = "") -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: FreeMemory(int(megabytes * MB), limited_by))


def test_many_texts_are_refused_before_anything_is_allocated(
    tiny_model: TinyModels, monkeypatch: pytest.MonkeyPatch, nothing_is_made: None
) -> None:
    with colm.load(tiny_model(**BASE), tiny_model(**ASSISTANT), "confidence", n_ctx=32768, n_threads=1) as pair:
        leave(monkeypatch, 1500, "the control group /x may use 5 bytes")
        before = psutil.Process().memory_info().rss
        with pytest.raises(NotEnoughMemory) as error:
            pair.stream_batch(["the"] * 3, n_parallel=256)
        assert psutil.Process().memory_info().rss - before < 10 * MB
    # Each took 3,044 MiB when it was not refused.
    assert error.value.needed == pytest.approx(3044 * MB, rel=0.05)
    assert error.value.available == 1500 * MB
    assert isinstance(error.value, (LoadError, MemoryError))
    for part in ("256", "3.2 GB", "1.6 GB", "n_parallel=", "n_ctx", "check_memory", "/x"):
        assert part in str(error.value), str(error.value)


def test_as_many_as_there_is_room_for(tiny_pair: TinyPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair(n_ctx=4096)
    leave(monkeypatch, 150)
    with pytest.raises(NotEnoughMemory) as error:
        pair.generate_batch(["the"] * 3, n_parallel=256, max_tokens=1)
    most = int(str(error.value).partition("n_parallel=")[2].partition(";")[0])
    assert 1 < most < 256
    assert len(pair.generate_batch(["the"] * 3, n_parallel=most, max_tokens=1)) == 3
    with pytest.raises(NotEnoughMemory):
        pair.stream_batch(["the"], n_parallel=most + 1)


def test_no_room_for_one(tiny_pair: TinyPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    leave(monkeypatch, 1)
    with pytest.raises(NotEnoughMemory, match=r"n_parallel=1\b"):
        pair.stream_batch(["the"], n_parallel=8)
    assert pair.generate("the", max_tokens=1).stats.generated_tokens == 1  # what is there already goes on


def test_it_is_not_checked_where_that_was_asked_for(tiny_pair: TinyPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 1)
    pair = tiny_pair(check_memory=False)
    assert len(pair.generate_batch(["the", "fox"], n_parallel=2, max_tokens=1)) == 2
    with pytest.raises(NotEnoughMemory):
        tiny_pair()


def test_options_are_refused_first(tiny_pair: TinyPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair(n_batch=4)
    leave(monkeypatch, 1)
    for n_parallel in (0, 5, 257):
        with pytest.raises(OptionError, match=str(n_parallel)):
            pair.stream_batch(["the"], n_parallel=n_parallel)


def test_the_limits_of_the_process_count(tiny_pair: TinyPairs, monkeypatch: pytest.MonkeyPatch) -> None:
    from colm_cpp.machine import limits

    pair = tiny_pair()
    monkeypatch.setattr(limits, "_groups", lambda controller, root: iter([(2, Path("/g"))]))
    texts = {"memory.max": str(100 * MB), "memory.current": str(99 * MB), "memory.stat": ""}
    monkeypatch.setattr(limits, "_text", lambda path: texts.get(path.name))
    for use in (lambda: pair.stream_batch(["the"]), tiny_pair):
        with pytest.raises(NotEnoughMemory, match="control group /g") as error:
            use()
        assert error.value.available == MB


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"There are {i} pears and", "answer": "1", "completion": "x"} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def use_respond(pair: colm.Pair, prompts: Path) -> None:
    respond(pair, select([prompts]), prompts.parent / "out", {"max_tokens": 2}, n_parallel=16)


def use_calibrate(pair: colm.Pair, prompts: Path) -> None:
    head = colm.Head.confidence(pair.n_embd)
    calibrate(pair, head, load_prompts(prompts), {"max_tokens": 2, "seed": 1}, chat=False, n_parallel=16)


def use_evaluate(pair: colm.Pair, prompts: Path) -> None:
    arms = make_arms(["base", "assistant"], {}, [])
    folder = RecordFolder.create_or_open(prompts.parent / "records", {})
    evaluate(pair, load_task(prompts), folder, arms, {"max_tokens": 2}, chat=False, n_parallel=16)


@pytest.mark.parametrize("use", [use_respond, use_calibrate, use_evaluate])
def test_whatever_writes_many_texts(
    use: Callable[[colm.Pair, Path], None],
    tiny_model: TinyModels,
    prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    nothing_is_made: None,
) -> None:
    base = tiny_model(**{**BASE, "chat_template": tm.CHATML})
    with colm.load(base, tiny_model(**ASSISTANT), "confidence", **TINY_LOAD) as pair:
        leave(monkeypatch, 30)
        with pytest.raises(NotEnoughMemory, match="16"):
            use(pair, prompts)


def test_scoring(tiny_model: TinyModels, monkeypatch: pytest.MonkeyPatch, nothing_is_made: None) -> None:
    files = tiny_model(**BASE), tiny_model(**ASSISTANT)
    # 256 rows of logits, of which a pair has 1 and 16.
    leave(monkeypatch, 40)
    colm.load(*files, **TINY_LOAD).close()
    with pytest.raises(NotEnoughMemory) as error:
        Scorer(*files, n_ctx=4096)
    assert error.value.needed > 40 * MB


# What a pair takes, and what it takes for n_parallel texts, in a process of its own.
MEASURE = """
import json, sys
import psutil
import colm_cpp as colm
files, options, n_parallel = json.loads(sys.argv[1])
rss = lambda: psutil.Process().memory_info().rss
before = rss()
pair = colm.load(*files, "confidence", check_memory=False, n_threads=1, **options)
pair.generate("the fox", max_tokens=3, threshold=0.5, seed=1)
loaded = rss()
with pair.stream_batch(["the fox"] * n_parallel, n_parallel=n_parallel, max_tokens=3, threshold=0.5, seed=1) as stream:
    next(stream)
    print(loaded - before, rss() - loaded)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is told to give freed memory back")
@pytest.mark.parametrize(
    ("arch", "options", "n_parallel"),
    [
        ("llama", {"n_ctx": 4096}, 24),
        pytest.param("llama", {"n_ctx": 300, "type_k": "f32", "type_v": "f32"}, 256, marks=pytest.mark.slow),
        pytest.param("gemma3", {"n_ctx": 4096, "flash_attn": False}, 48, marks=pytest.mark.slow),
        pytest.param("jamba", {"n_ctx": 2048}, 64, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_near_what_is_taken(
    arch: str, options: dict[str, Any], n_parallel: int, tiny_model: TinyModels
) -> None:
    """Never less, and at most 30 MB and 15% more for each model."""
    files = [str(tiny_model(arch=arch, seed=seed, n_embd=64)) for seed in (1, 2)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([files, options, n_parallel])],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded, batch = (int(word) for word in done.stdout.split())
    models = [ModelMemory.of(file, colm.LoadOptions(**options)) for file in files]
    at_load = sum(model.loaded(options["n_ctx"], n_outputs=16).total for model in models)
    rows = (base_rows(n_parallel), assistant_rows(n_parallel))
    of_batch = sum(
        m.context(options["n_ctx"], n_outputs=n, n_texts=n_parallel).total for m, n in zip(models, rows, strict=True)
    )
    for measured, estimated in ((loaded, at_load), (batch, of_batch)):
        assert measured <= estimated <= 1.15 * measured + 60 * MB, (measured / MB, estimated / MB)


@pytest.fixture
def qwen(real_models: RealModels) -> PairMemory:
    models = [ModelMemory.of(str(real_models[name]), colm.LoadOptions()) for name in ("base", "assistant")]
    return PairMemory(tuple(models), (4096, 4096), 512)


@pytest.mark.real_models
def test_the_named_pair_with_128_texts(qwen: PairMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 16_000)
    with pytest.raises(NotEnoughMemory) as error:
        qwen.check_batch(128)
    # 24 layers of 2 KV heads of 64 values and 28 of 2 of 128, keys and values, two bytes each: 21.5 GB.
    assert error.value.needed >= 128 * 4096 * (24 * 2 * 64 + 28 * 2 * 128) * 2 * 2
    assert error.value.needed == pytest.approx(21.5e9, rel=0.02)
    qwen.check_batch(64)


@pytest.mark.parametrize(
    ("options", "on"),
    [
        ({}, True),
        ({"flash_attn": False}, False),
        ({"flash_attn": True, "type_k": "f32"}, True),
        ({"type_k": "f32"}, False),
        ({"type_v": "f32"}, False),
        ({"type_k": "f32", "type_v": "q8_0"}, True),
        ({"type_k": "q8_0", "type_v": "f32"}, False),
        ({"type_k": "bf16", "type_v": "bf16"}, True),
    ],
)
def test_attention_without_flash_attention_is_counted(
    options: dict[str, Any], on: bool, tiny_model: TinyModels
) -> None:
    model = ModelMemory.of(str(tiny_model()), colm.LoadOptions(**options))
    assert model.n_heads == (0 if on else 4)
    mask, scores = 4 * 128 * 8192, 4 * 128 * 8192 * 4
    more = model.context(8192).compute - model.context(4096).compute
    assert more > (mask + (0 if on else scores)) / 2


def test_on_a_gpu(tiny_model: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"gpu": True, "free_bytes": 30 * MB}
    monkeypatch.setattr(_core, "devices", lambda: [{"gpu": False, "free_bytes": 0}, gpu])
    leave(monkeypatch, 10_000)

    def check(n_parallel: int, **options: Any) -> None:
        model = ModelMemory.of(str(tiny_model()), colm.LoadOptions(**options))
        PairMemory((model, model), (4096, 4096), 512).check_batch(n_parallel)

    with pytest.raises(NotEnoughMemory, match=r"GPU.*n_gpu_layers.*n_parallel=30;") as error:
        check(100)
    assert error.value.needed == 2 * 100 * 4096 * 128
    assert error.value.available == 30 * MB
    check(30)
    check(100, offload_kqv=False)
    check(100, n_gpu_layers=0)
