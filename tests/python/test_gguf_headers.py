"""A GGUF file's header is parsed once, and again when the file has changed."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp import _core
from colm_cpp.tune.architecture import GgufFacts

IN_ACCESS, IN_OPEN = 0x01, 0x20
EARLIER = 1_000_000_000  # seconds: long enough ago that the file cannot have changed twice within a tick


def settle(path: Path, at: int = EARLIER) -> Path:
    os.utime(path, (at, at))
    return path


@pytest.fixture
def model(tiny_model: TinyModels, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_model(**BASE), tmp_path / "model.gguf"))


def architecture(path: Path) -> Any:
    return _core.inspect_gguf(str(path))["metadata"]["general.architecture"]


def rewrite(path: Path) -> str:
    """Another architecture of as many letters, in place."""
    data = path.read_bytes()
    now = str(architecture(path))
    other = now[:-1] + ("x" if now[-1] != "x" else "y")
    path.write_bytes(data.replace(now.encode(), other.encode(), 1))
    assert path.stat().st_size == len(data)
    return other


def test_a_known_header_is_not_read_again_until_the_file_changes(model: Path) -> None:
    known = architecture(settle(model))
    other = rewrite(model)
    assert architecture(settle(model)) == known
    assert architecture(settle(model, EARLIER + 1)) == other


def test_a_header_of_another_size_is_read_again(model: Path) -> None:
    assert not _core.inspect_gguf(str(settle(model)))["truncated"]
    os.truncate(model, model.stat().st_size - 1)
    assert _core.inspect_gguf(str(settle(model)))["truncated"]


def test_a_file_that_changed_just_now_is_read_each_time(model: Path) -> None:
    now = int(time.time())
    architecture(settle(model, now))
    other = rewrite(model)
    assert architecture(settle(model, now)) == other


def test_the_folder_is_part_of_a_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    copy = Path(shutil.copy(model, tmp_path / "other"))
    other = rewrite(copy)
    settle(copy)
    settle(model)
    names = []
    for folder in (model.parent, copy.parent):
        monkeypatch.chdir(folder)
        names.append(architecture(Path("model.gguf")))
    assert names == [architecture(model), other]
    assert len(set(names)) == 2


def opened(work: Callable[[], object], *paths: Path) -> list[int]:
    """How often ``work`` opens each file (inotify(7))."""
    libc = ctypes.CDLL(None, use_errno=True)
    queue = libc.inotify_init1(os.O_NONBLOCK)
    assert queue >= 0
    try:
        # Reading too: two openings with nothing between them would come as one event.
        watches = [libc.inotify_add_watch(queue, os.fsencode(path), IN_ACCESS | IN_OPEN) for path in paths]
        counts = [0] * len(paths)
        work()
        while True:
            try:
                events = os.read(queue, 2**20)
            except BlockingIOError:
                return counts
            for watch, mask, _, _ in struct.iter_unpack("iIII", events):
                counts[watches.index(watch)] += mask == IN_OPEN
    finally:
        os.close(queue)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify")
def test_loading_a_pair_parses_each_header_once(tiny_model: TinyModels, tmp_path: Path) -> None:
    paths = [Path(shutil.copy(tiny_model(**one), tmp_path / name)) for name, one in (("b", BASE), ("a", ASSISTANT))]

    def load() -> None:
        colm.load(*map(str, paths), head="random", **TINY_LOAD).close()

    for path in paths:
        settle(path)
    parse = opened(lambda: architecture(paths[0]), paths[0])[0]
    assert parse > 0
    architecture(paths[1])
    assert opened(lambda: [architecture(path) for path in paths], *paths) == [0, 0]
    by_llama_cpp = opened(load, *paths)
    for path in paths:
        settle(path, EARLIER + 1)
    assert opened(load, *paths) == [n + parse for n in by_llama_cpp]


@pytest.mark.parametrize(("arch", "n"), [("qwen2", 0), ("qwen3", 0), ("llama", 1)])
def test_tuning_parses_a_header_in_python_only_where_it_must(
    arch: str, n: int, tiny_model: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That takes seconds for a large vocabulary. Llama 3 has factors of its rotary frequencies, as a tensor."""
    made: list[str] = []
    reader = gguf.GGUFReader

    def counted(path: str) -> Any:
        made.append(path)
        return reader(path)

    monkeypatch.setattr(gguf, "GGUFReader", counted)
    facts = GgufFacts(tiny_model(**{**BASE, "arch": arch}))
    facts.corrections()
    facts.correct(object())
    assert len(made) == n
