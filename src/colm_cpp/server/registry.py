"""The pairs of a server by their names. They load when they are asked for and leave when they are idle."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..engine.pair import Pair
from ..errors import ColmError, NotEnoughMemory, OptionError, PairClosed
from ..learn.scoring import Scorer
from ..options import ASSISTANT
from .admission import Turns
from .errors import ApiError
from .names import Way, read_name

__all__ = ["Entry", "Registry"]

log = logging.getLogger("colm_cpp.server")


@dataclass(eq=False)
class Entry:
    """A pair that the server knows, loaded or not.

    Attributes:
        name: its name, the first part of model names.
        load: loads it. What it is given takes the loaded fraction and returns False once the load must end.
        make_scorer: what reads texts with the weights of the loaded pair: those of the base and of experts by their
            names.
        slots: texts that it writes at a time.
        about: one line about it.
        has_rates: whether its head knows thresholds of rates.
        experts: the names of its models beside the base.
        memory: bytes that it is estimated to take.
        created: when the server learnt of it, in seconds since 1970.
        pair: the pair; None while it is not loaded.
        turns: the turns of the loaded pair.
        users: requests that use it now.
        last_used: when the last of them ended, by the monotonic clock.
        reading: held by whoever uses the scorer.
    """

    name: str
    load: Callable[[Callable[[float], bool]], Pair]
    make_scorer: Callable[[Pair, Sequence[str]], Scorer]
    slots: int = 1
    about: str = ""
    has_rates: bool = False
    experts: tuple[str, ...] = (ASSISTANT,)
    memory: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    pair: Pair | None = None
    turns: Turns | None = None
    users: int = 0
    last_used: float = 0.0
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _scorer: tuple[tuple[str, ...], Scorer] | None = None

    def scorer(self, pair: Pair, experts: Sequence[str]) -> Scorer:
        """What reads with the base and these experts, the last that were asked for. Only where ``reading`` is held."""
        wanted = tuple(experts)
        if self._scorer is None or self._scorer[0] != wanted:
            self._forget_scorer()
            self._scorer = wanted, self.make_scorer(pair, wanted)
        return self._scorer[1]

    def _forget_scorer(self) -> None:
        scorer, self._scorer = self._scorer, None
        if scorer is not None:
            scorer[1].close()

    def leave(self) -> bool:
        """Frees the pair; whether it was loaded."""
        self._forget_scorer()
        pair, self.pair, self.turns = self.pair, None, None
        if pair is not None:
            pair.close()
        return pair is not None


class Registry:
    """All pairs. Used in one event loop."""

    def __init__(
        self, entries: Iterable[Entry], *, idle_s: float | None = None, memory: int | None = None, queue: int = 64
    ) -> None:
        """Nothing is loaded yet.

        Args:
            entries: the pairs. The first is the one that is meant where a request may leave out the model.
            idle_s: seconds without a request after which a pair leaves; None: pairs stay.
            memory: bytes that loaded pairs may take together, as estimated; None: what is free.
            queue: texts that may wait for each pair.

        Raises:
            OptionError: there is no pair, or two have one name.
        """
        self.entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.name in self.entries:
                raise OptionError(f"there are two pairs named {entry.name!r}; give one of them another name")
            self.entries[entry.name] = entry
        if not self.entries:
            raise OptionError("there is no pair to serve; give --pair, both models, or a --model-dir with pairs")
        self.idle_s = idle_s
        self.memory = memory
        self.queue = queue
        self._loading = asyncio.Lock()
        self._loads: set[asyncio.Future[Pair]] = set()  # that are awaited
        self._stopping = False

    @property
    def default(self) -> Entry:
        """The first pair."""
        return next(iter(self.entries.values()))

    def way(self, name: str | None) -> Way:
        """What a model name stands for; the default pair for None. ApiError 404: nothing."""
        experts = {entry.name: entry.experts for entry in self.entries.values()}
        return read_name(self.default.name if name is None else name, experts)

    @contextlib.asynccontextmanager
    async def use(self, name: str) -> AsyncIterator[tuple[Pair, Turns]]:
        """The pair, which stays while it is used. It is loaded first where it is not.

        Raises:
            ApiError: 503, memory is short and the other pairs are in use.
            PairClosed: the server is shutting down, and the pair is not loaded.
            ColmError: what loading raises.
        """
        entry = self.entries[name]
        entry.users += 1
        try:
            if entry.pair is None:
                # A client that leaves ends its wait, not the load, which others may wait for.
                await asyncio.shield(asyncio.ensure_future(self._load(entry)))
            assert entry.pair is not None
            assert entry.turns is not None
            yield entry.pair, entry.turns
        finally:
            entry.users -= 1
            entry.last_used = time.monotonic()

    async def _load(self, entry: Entry) -> None:
        entry.users += 1  # it must not leave before whoever asked for it uses it
        try:
            async with self._loading:
                if entry.pair is not None:
                    return
                self._make_room(entry)
                log.info("loading %s", entry.name)
                try:
                    pair = await self._read(entry)
                except NotEnoughMemory:
                    if not self._leave(self._idle()):
                        raise
                    pair = await self._read(entry)
                entry.pair, entry.turns = pair, Turns(entry.slots, self.queue)
        finally:
            entry.users -= 1

    async def _read(self, entry: Entry) -> Pair:
        """Loads a pair in a thread that the end of the process need not wait for: it may be downloading."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Pair] = loop.create_future()

        def give(pair: Pair | None, error: BaseException | None) -> None:
            if done.done():  # nobody waits any more
                if pair is not None:
                    pair.close()
            elif pair is not None:
                done.set_result(pair)
            else:
                done.set_exception(_closing() if self._stopping or error is None else error)

        def work() -> None:
            pair: Pair | None = None
            failed: BaseException | None = None
            try:
                pair = entry.load(lambda _: not self._stopping)
            except BaseException as error:
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(give, pair, failed)

        if self._stopping:
            raise _closing()
        self._loads.add(done)
        threading.Thread(target=work, name="colm-load", daemon=True).start()
        try:
            return await done
        finally:
            self._loads.discard(done)

    def stop_loading(self) -> None:
        """Has loads end soon, and lets none begin. A signal handler may call it."""
        self._stopping = True

    def refuse(self) -> None:
        """As :meth:`stop_loading`; and whoever waits for a load waits no longer. Only in the event loop."""
        self.stop_loading()
        for load in self._loads:
            if not load.done():
                load.set_exception(_closing())

    def _idle(self) -> list[Entry]:
        """Loaded pairs that nobody uses, the one unused for longest first."""
        loaded = [entry for entry in self.entries.values() if entry.pair is not None and not entry.users]
        return sorted(loaded, key=lambda entry: entry.last_used)

    def _make_room(self, wanted: Entry) -> None:
        if self.memory is None:
            return
        if wanted.memory > self.memory:
            raise ApiError(
                503,
                f"{wanted.name} is estimated to need {wanted.memory / 1e6:.0f} MB, and the server may use "
                f"{self.memory / 1e6:.0f} MB; raise --memory-mb, or serve it with a smaller n_ctx or fewer slots",
                code="memory_limit",
            )
        idle = self._idle()
        while wanted.memory + sum(e.memory for e in self.entries.values() if e.pair is not None) > self.memory:
            if not idle:
                raise ApiError(
                    503,
                    f"there is no memory for {wanted.name} while other pairs are in use; try again later",
                    code="memory_limit",
                    retry_after=5,
                )
            self._leave([idle.pop(0)])

    def _leave(self, leaving: list[Entry]) -> bool:
        """Frees these pairs; whether there were any."""
        for entry in leaving:
            if entry.leave():
                log.info("%s has left", entry.name)
        return bool(leaving)

    def leave_idle(self) -> None:
        """Frees pairs that were idle for long enough."""
        if self.idle_s is not None:
            now = time.monotonic()
            self._leave([entry for entry in self._idle() if now - entry.last_used >= self.idle_s])

    async def watch(self) -> None:
        """Frees idle pairs until it is cancelled."""
        while self.idle_s is not None:
            await asyncio.sleep(max(0.05, min(self.idle_s / 4, 5.0)))
            self.leave_idle()

    def close(self) -> None:
        """Frees all pairs."""
        self._leave([entry for entry in self.entries.values() if entry.pair is not None])


def _closing() -> ColmError:
    return PairClosed("the server is shutting down; ask another one, or later")
