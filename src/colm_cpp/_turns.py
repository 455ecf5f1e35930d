"""Who may compute on a pair: one text at a time, in order of asking."""

from __future__ import annotations

import threading
from collections import deque

__all__ = ["Turns"]


class Turns:
    """A queue for a pair's two contexts.

    Texts of different threads queue: interleaving them step by step would make each re-read its text over and over.
    A thread that already holds a turn is let in at once instead, since it would wait for itself forever: a
    ``generate()`` inside ``for token in pair.stream(...)`` is correct, only slower.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._holders: dict[int, int] = {}  # id of the owner -> thread that last acted for it

    def take(self, owner: object) -> None:
        """Blocks until it is ``owner``'s turn."""
        me = threading.get_ident()
        with self._changed:
            if me not in self._holders.values():
                ticket = object()
                self._waiting.append(ticket)
                try:
                    while self._holders or self._waiting[0] is not ticket:
                        self._changed.wait()
                finally:  # KeyboardInterrupt leaves the queue too
                    self._waiting.remove(ticket)
                    self._changed.notify_all()
            self._holders[id(owner)] = me

    def keep(self, owner: object) -> None:
        """Notes that ``owner`` is now served by this thread (a stream may be handed from thread to thread)."""
        with self._changed:
            if id(owner) in self._holders:
                self._holders[id(owner)] = threading.get_ident()

    def give_back(self, owner: object) -> None:
        """Ends ``owner``'s turn; does nothing where it has none."""
        with self._changed:
            if self._holders.pop(id(owner), None) is not None:
                self._changed.notify_all()
