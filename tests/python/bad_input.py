"""Files, pairs and checks for the tests of what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny_models as tm
from gguf import GGUFValueType as T

import colm_cpp as colm

INF = float("inf")


NAN = float("nan")


FAST: dict[str, Any] = {"n_ctx": 64, "n_threads": 1, "n_threads_batch": 1}


VOCAB = tm.Vocab()


# -- files ----------------------------------------------------------------------------------------------------


LORA_A, LORA_B = "blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"


def make_adapter(
    path: Path,
    *,
    arch: str = "llama",
    keys: Mapping[str, tuple[Any, ...]] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Path:
    """A LoRA adapter for the tiny llama, damaged as asked."""
    writer = gguf.GGUFWriter(path, arch)
    all_keys = {
        "general.type": ("adapter", T.STRING),
        "adapter.type": ("lora", T.STRING),
        "adapter.lora.alpha": (8.0, T.FLOAT32),
        **(keys or {}),
    }
    for key, value in all_keys.items():
        writer.add_key_value(key, *value)
    small = np.full((4, 32), 0.01, dtype=np.float32)
    for name, data in ({LORA_A: small, LORA_B: small.T.copy()} if tensors is None else tensors).items():
        writer.add_tensor(name, data)
    tm.finish(writer)
    return path


def make_files(folder: Path) -> None:
    """The files that every case starts from."""
    tm.make_model(folder / "base.gguf", seed=1, extra_tail=(tm.DEFER,), chat_template=tm.CHATML, n_ctx_train=512)
    tm.make_model(folder / "assistant.gguf", seed=2, n_embd=64, n_ctx_train=512)
    colm.Head.linear(np.linspace(-1, 1, 32)).save(folder / "head.gguf")
    make_adapter(folder / "adapter.gguf")


# -- loading --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad-input")
    make_files(folder)
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[colm.Pair]:
    with colm.load(folder / "base.gguf", folder / "assistant.gguf", "confidence", **FAST) as pair:
        yield pair


@pytest.fixture
def still_usable(pair: colm.Pair) -> Iterator[None]:
    """What a test did to the pair must not show in the text after it."""
    expected = pair.generate("the fox", max_tokens=4, temperature=0).text
    yield
    assert pair.generate("the fox", max_tokens=4, temperature=0).text == expected


def load(folder: Path, **options: Any) -> colm.Pair:
    given = {"base": folder / "base.gguf", "assistant": folder / "assistant.gguf", "head": "confidence", **FAST}
    return colm.load(**{**given, **options})


def says(error: pytest.ExceptionInfo[BaseException], *parts: object) -> None:
    for part in parts:
        assert str(part) in str(error.value), f"{part!r} is not in: {error.value}"


# -- generation options ---------------------------------------------------------------------------------------


def ban(pair: colm.Pair, *ids: int) -> dict[int, float]:
    return dict.fromkeys(ids or range(pair.n_shared), -INF)


# -- chat -----------------------------------------------------------------------------------------------------


HELLO = [{"role": "user", "content": "hi"}]
