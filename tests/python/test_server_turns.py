"""Who may write now: the turns of ``colm serve``."""

from __future__ import annotations

import asyncio

import pytest

from colm_cpp.server.admission import Turns
from colm_cpp.server.errors import ApiError


def test_as_many_texts_as_there_are_slots_wait_in_the_pair() -> None:
    async def all_texts() -> None:
        turns = Turns(2, 10)
        with turns.admitted(6):
            takes = [asyncio.ensure_future(turns.take()) for _ in range(6)]
            await asyncio.sleep(0)
            assert [take.done() for take in takes] == [True] * 4 + [False] * 2
            assert (turns.writing, turns.waiting) == (2, 4)
            # Two texts end in one step: the pair has the two that follow already, and gets two more.
            turns.give_back()
            turns.give_back()
            await asyncio.gather(*takes)
            assert (turns.writing, turns.waiting) == (2, 4)
            for _ in range(4):
                turns.give_back()
            assert turns.writing == 0

    asyncio.run(all_texts())


def test_a_full_queue_counts_texts_that_wait_in_the_pair() -> None:
    turns = Turns(2, 3)
    with turns.admitted(5), pytest.raises(ApiError) as raised, turns.admitted(1):
        pass
    assert raised.value.status == 503
    with turns.admitted(4), turns.admitted(9):  # who finds room may bring more
        assert turns.waiting == 13
