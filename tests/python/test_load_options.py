"""What is chosen for options of load() that are left open."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import TinyModels, TinyPairs

from colm_cpp import _core
from colm_cpp.engine.loading import prepare, quantised
from colm_cpp.options import LoadOptions


def with_gpu(monkeypatch: pytest.MonkeyPatch, *, has_gpu: bool) -> None:
    monkeypatch.setattr(_core, "devices", lambda: [{"gpu": False}, *([{"gpu": True}] if has_gpu else [])])


@pytest.mark.parametrize(
    ("has_gpu", "options", "size"),
    [
        (False, {}, 128),
        (True, {}, 512),
        (True, {"n_gpu_layers": 0}, 128),
        (True, {"n_ubatch": 7}, 7),
        (False, {"n_ubatch": 2048}, 2048),
    ],
)
def test_tokens_of_a_pass(monkeypatch: pytest.MonkeyPatch, has_gpu: bool, options: dict[str, Any], size: int) -> None:
    with_gpu(monkeypatch, has_gpu=has_gpu)
    assert LoadOptions(**options).pass_size() == size


@pytest.mark.parametrize(
    ("has_gpu", "quantised", "options", "mapped"),
    [
        (False, True, {}, False),
        (False, False, {}, True),
        (False, True, {"repack": False}, True),
        (False, True, {"batch_invariant": True}, True),
        (True, True, {}, True),
        (True, True, {"n_gpu_layers": 0}, False),
        (False, True, {"use_mmap": True}, True),
        (False, False, {"use_mmap": False}, False),
    ],
)
def test_mapped_unless_copied(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, quantised: bool, options: dict[str, Any], mapped: bool
) -> None:
    with_gpu(monkeypatch, has_gpu=has_gpu)
    chosen = LoadOptions(**options)
    assert chosen.maps_file(quantised=quantised) == mapped
    assert chosen.to_core("x.gguf", 64, 1, [], quantised=quantised).values["use_mmap"] == mapped


def test_what_isquantised() -> None:
    assert [quantised({"general.file_type": n}) for n in (0, 1, 32, 2, 15)] == [False, False, False, True, True]
    assert not quantised({})


def test_in_a_context(tiny_pair: TinyPairs) -> None:
    assert tiny_pair().base["n_ubatch"] == min(128, tiny_pair().base["n_batch"])


def test_scoring_takes_longer_passes(tiny_model: TinyModels, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, has_gpu=False)
    files = {"base": tiny_model(), "assistant": tiny_model(seed=2)}
    for n_sequences, given, size in ((1, None, 128), (8, None, 512), (8, 32, 32)):
        chosen = LoadOptions(n_ubatch=given), LoadOptions(n_ubatch=given)
        for core in prepare(files, chosen, check_memory=False, n_sequences=n_sequences)[0]:
            assert core.values["n_ubatch"] == size
