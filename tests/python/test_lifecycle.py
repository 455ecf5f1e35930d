"""What loading and closing leave behind: the log and the memory."""

from __future__ import annotations

import logging
from pathlib import Path

import lifecycle
import pytest
import tiny_models as tm
from lifecycle import _BEGIN, child_says, linux_only, load

import colm_cpp as colm
from colm_cpp import errors

folder = lifecycle.folder
pair = lifecycle.pair


# -- log ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "between",
    [
        "import llama_cpp",
        *(pytest.param(b, marks=pytest.mark.slow) for b in ("", "colm.grammar.to_gbnf({'type': 'string'})")),
    ],
)
def test_quiet_by_default(folder: Path, between: str) -> None:
    output = child_says(
        folder,
        f"""
        with load(n_ctx=256) as pair:
            {between or "pass"}
            pair.generate("the", max_tokens=3, seed=1)
            with load(n_ctx=256) as another:
                another.generate("the", max_tokens=3, seed=1, grammar={{"type": "string"}})
        for path in ("/nowhere.gguf", __file__ if "__file__" in globals() else sys.executable):
            try:
                colm.load(path, path)
            except colm.LoadError:
                pass
        """,
    )
    assert output == ""


@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
def test_log_reaches_the_logger(folder: Path, caplog: pytest.LogCaptureFixture, level: int) -> None:
    caplog.set_level(level, logger="colm_cpp.llama")
    with load(folder, n_ctx=256) as pair:
        pair.generate("the", max_tokens=1, seed=1)
    levels = {record.levelno for record in caplog.records if record.name == "colm_cpp.llama"}
    if level == logging.ERROR:
        assert levels == set()
    else:
        assert min(levels) == level
        assert any("llama" in record.getMessage() for record in caplog.records)
        assert not any(record.getMessage().endswith("\n") for record in caplog.records)


def test_log_of_a_failed_load(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)) * 4)
    with pytest.raises(errors.LoadError):
        colm.load(path, path)
    caplog.clear()
    with load(folder, n_ctx=256):
        pass
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


# -- memory ---------------------------------------------------------------------------------------------------


_MEMORY = (
    _BEGIN
    + """
import gc, psutil
def grown(before=0):
    gc.collect()
    return (psutil.Process().memory_info().rss - before) / 2**20
def steady(use, rounds):
    for _ in range(5):
        use()
    before = psutil.Process().memory_info().rss
    for _ in range(rounds):
        use()
    return grown(before)
"""
)


def megabytes(folder: Path, code: str) -> list[float]:
    # Without the fixed threshold glibc keeps freed blocks of this size for itself.
    output = child_says(folder, code, begin=_MEMORY, MALLOC_MMAP_THRESHOLD_="65536")
    return [float(line) for line in output.split()]


@linux_only
def test_pairs_leave_no_memory_behind(folder: Path) -> None:
    (grown,) = megabytes(
        folder,
        """
        def use():
            with load(n_ctx=2048, use_mmap=False) as pair:
                pair.generate("the fox", max_tokens=3, seed=1, grammar='root ::= "a"+')
        print(steady(use, 20))
        """,
    )
    assert grown < 4  # a pair takes 2.5 MB


@pytest.mark.slow
@linux_only
def test_failed_loads_leave_no_memory_behind(folder: Path) -> None:
    other = folder / "other.gguf"
    other.write_bytes(tm.make_model(folder / "bpe.gguf").read_bytes().replace(b"gpt2", b"rwkv"))
    (grown,) = megabytes(
        folder,
        f"""
        def use():
            try:
                load("slow", {other.stem!r}, n_ctx=256, use_mmap=False)
            except colm.VocabMismatch:
                pass
        print(steady(use, 8))
        """,
    )
    assert grown < 10  # the base takes 20 MB


@linux_only
def test_closing_and_dropping_free(folder: Path) -> None:
    taken, closed, again, dropped = megabytes(
        folder,
        """
        load(n_ctx=256).close()
        before = psutil.Process().memory_info().rss
        pair = load("slow", "slow", use_mmap=False)
        pair.generate("the", max_tokens=2, threshold=0, seed=1)
        stream = pair.stream("the")
        next(stream)
        print(grown(before))
        pair.close()
        print(grown(before))  # pair and stream still exist; what they held does not
        pair = load("slow", "slow", use_mmap=False)
        print(grown(before))
        del pair
        print(grown(before))
        """,
    )
    assert min(taken, again) > 40
    assert max(closed, dropped) < 10


def test_not_enough_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Memory", (), {"available": 1_000_000})()
    monkeypatch.setattr("psutil.virtual_memory", lambda: free)
    with pytest.raises(errors.NotEnoughMemory) as error:
        load(folder)
    assert error.value.available == 1_000_000
    assert error.value.needed > 1_000_000
    assert isinstance(error.value, (errors.LoadError, MemoryError))
    for part in ("1 MB", "n_ctx", "check_memory=False"):
        assert part in str(error.value)
    with load(folder, check_memory=False, n_ctx=256) as pair:
        assert pair.generate("the", max_tokens=1, seed=1).stats.generated_tokens == 1
