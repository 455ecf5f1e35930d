"""Values and calls that once ended in an error of Python's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

import colm_cpp as colm
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
