"""`colm.generate()` keeps its pair: what is loaded again, and what is not."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tm
from adapter_files import write_adapter
from conftest import ASSISTANT, BASE, TINY_LOAD, TinyModels

import colm_cpp as colm
from colm_cpp.engine import kept, loading

SHORT: dict[str, Any] = {"max_tokens": 4, "temperature": 0}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[colm.Pair]]:
    """The pairs loaded from now on."""
    made: list[weakref.ref[colm.Pair]] = []
    load = loading.load

    def counted(*arguments: Any, **options: Any) -> colm.Pair:
        pair = load(*arguments, **options)
        made.append(weakref.ref(pair))
        return pair

    monkeypatch.setattr(loading, "load", counted)
    colm.unload()
    yield made  # type: ignore[misc]
    colm.unload()


@pytest.fixture
def files(tiny_model: TinyModels, tmp_path: Path) -> dict[str, Any]:
    """Copies that a test may change."""
    for name, options in (("base", BASE), ("assistant", ASSISTANT)):
        shutil.copy(tiny_model(**options), tmp_path / f"{name}.gguf")
    return {"base": tmp_path / "base.gguf", "assistant": tmp_path / "assistant.gguf", "load_options": TINY_LOAD}


def test_the_second_call_loads_nothing(
    loads: list[Any], files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = colm.generate("a", head="confidence", **files, **SHORT)
    for head in ("confidence", "always", "never", colm.Head.confidence(32), "<|defer|>"):
        again = colm.generate("a", head=head, **files, **SHORT)
        sources = {token.source for token in again.tokens}
        assert sources == {"always": {"assistant"}, "never": {"base"}}.get(str(head), sources)
    assert colm.generate("a", head="confidence", **files, **SHORT).text == first.text
    monkeypatch.chdir(files["base"].parent)  # the same files by other names
    names = {**files, "base": "base.gguf", "assistant": "./assistant.gguf"}
    colm.generate("a", head="always", **names, **SHORT)
    assert len(loads) == 1


def changed_in_place(files: dict[str, Any]) -> None:
    tm.make_model(files["base"], **{**BASE, "seed": 9})


def replaced(files: dict[str, Any]) -> None:
    """By one of the same size and time."""
    before = files["assistant"].stat()
    other = tm.make_model(files["assistant"].with_name("other.gguf"), **ASSISTANT)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert other.stat().st_size == before.st_size
    other.rename(files["assistant"])


def other_options(files: dict[str, Any]) -> None:
    files["load_options"] = {**TINY_LOAD, "n_ctx": 128}


def other_options_of_one(files: dict[str, Any]) -> None:
    files["load_options"] = {**TINY_LOAD, "base_options": {"n_batch": 64}}


def other_models(files: dict[str, Any]) -> None:
    files["base"], files["assistant"] = files["assistant"], files["base"]


@pytest.mark.parametrize(
    "change",
    [
        changed_in_place,
        replaced,
        other_options,
        *(pytest.param(change, marks=pytest.mark.slow) for change in (other_options_of_one, other_models)),
    ],
)
def test_what_is_loaded_again(loads: list[Any], files: dict[str, Any], change: Any) -> None:
    colm.generate("a", head="always", **files, **SHORT)
    change(files)
    colm.generate("a", head="always", **files, **SHORT)
    assert len(loads) == 2
    gc.collect()
    assert loads[0]() is None  # one pair is kept, no more
    colm.generate("a", head="always", **files, **SHORT)
    assert len(loads) == 2


def test_an_adapter_that_changes(loads: list[Any], files: dict[str, Any]) -> None:
    """With a scale of its own, and by its path alone."""
    adapter = write_adapter(files["base"].with_name("lora.gguf"))
    for i, options in enumerate(
        [{"base_options": {"lora": [(adapter, 0.5)]}}, {"base_options": {"lora": str(adapter)}}]
    ):
        files["load_options"] = {**TINY_LOAD, **options}
        for _ in range(2):
            colm.generate("a", head="always", **files, **SHORT)
        assert len(loads) == 2 * i + 1
        write_adapter(adapter, seed=i + 1)
        colm.generate("a", head="always", **files, **SHORT)
        assert len(loads) == 2 * i + 2


def test_a_part_of_a_split_model_that_changes(tmp_path: Path) -> None:
    """Every part counts, not only the one that is named."""
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "m-00001-of-00003.gguf"):
        (tmp_path / name).write_bytes(b"1")
    first = str(tmp_path / "m-00001-of-00002.gguf")
    before = kept.stamps_of([first], [])
    assert [Path(path).name for path, _ in before] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert kept.stamps_of([first], []) == before
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(b"22")
    assert kept.stamps_of([first], []) != before


def test_unload_frees(loads: list[Any], files: dict[str, Any]) -> None:
    colm.unload()  # nothing yet
    colm.generate("a", head="always", **files, **SHORT)
    assert loads[0]() is not None
    colm.unload()
    gc.collect()
    assert loads[0]() is None
    colm.generate("a", head="always", **files, **SHORT)
    assert len(loads) == 2


def test_not_kept_where_it_is_not_wanted(loads: list[Any], files: dict[str, Any]) -> None:
    colm.generate("a", head="always", keep=False, **files, **SHORT)
    gc.collect()
    assert loads[0]() is None
    colm.generate("a", head="always", **files, **SHORT)
    colm.generate("a", head="always", keep=False, **files, **SHORT)
    assert len(loads) == 2
    assert not loads[1]().closed


def test_a_failure_loads_nothing_again(loads: list[Any], files: dict[str, Any]) -> None:
    for wrong in ({"prompt": ""}, {"head": "no such head"}, {"top_p": 2}):
        with pytest.raises(colm.ColmError):
            colm.generate(**{"prompt": "a", "head": "always", **files, **SHORT, **wrong})
    assert len(loads) == 1


def test_threads(loads: list[Any], files: dict[str, Any]) -> None:
    """Eight at once load one pair; another pair does not end the texts of the first."""
    alone = colm.generate("The sun", head="confidence", **files, **{**SHORT, "max_tokens": 60}).text
    colm.unload()
    other = {**files, "load_options": {**TINY_LOAD, "n_ctx": 128}}
    texts: list[str] = []

    def run(i: int) -> None:
        chosen = other if i == 7 else files
        texts.append(colm.generate("The sun", head="confidence", **chosen, **{**SHORT, "max_tokens": 60}).text)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == [alone] * 8
    assert 3 <= len(loads) <= 4  # the other pair may have come in between


def test_the_process_ends_with_a_pair_that_is_kept(files: dict[str, Any]) -> None:
    code = """if True:
        import sys, colm_cpp as c
        print(c.generate("a", base=sys.argv[1], assistant=sys.argv[2], head="always", max_tokens=2).stats.seed >= 0)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(files["base"]), str(files["assistant"])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
