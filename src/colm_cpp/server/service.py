"""What all routes share: the pairs, the texts in progress, and how a request comes by its texts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from ..engine.pair import Pair
from ..options import GenerationOptions
from ..results import Completion, Token
from .admission import Turns
from .errors import Json
from .metrics import Metrics
from .names import Way
from .registry import Registry
from .settings import Settings
from .sse import EventStream, unless_gone
from .texts import Text, Texts

__all__ = ["Job", "Service", "all_of"]

_Result = TypeVar("_Result")


@dataclass
class Service:
    """One server.

    Attributes:
        registry: its pairs.
        settings: limits and rights.
        metrics: what is counted.
        texts: the texts that are being written.
    """

    registry: Registry
    settings: Settings
    metrics: Metrics
    texts: Texts = field(default_factory=Texts)

    @contextlib.asynccontextmanager
    async def job(self, model: str | None, n_texts: int = 1) -> AsyncIterator[Job]:
        """A request for texts of this model, admitted. Its texts end with it.

        Raises:
            ApiError: there is no such model, or no room.
            ColmError: the pair cannot be loaded.
        """
        way = self.registry.way(model)
        async with self.registry.use(way.pair) as (pair, turns):
            with turns.admitted(n_texts):
                job = Job(self, way, pair, turns)
                try:
                    yield job
                finally:
                    job.close()


@dataclass(eq=False)
class Job:
    """A request that was admitted.

    Attributes:
        service: whose it is.
        way: what its model name stands for.
        pair: the pair.
        turns: the pair's turns.
        texts: its texts, once they are made.
    """

    service: Service
    way: Way
    pair: Pair
    turns: Turns
    texts: list[Text] = field(default_factory=list)

    async def make(self, prompts: Sequence[Any], options: Callable[[int], GenerationOptions]) -> list[Text]:
        """A text for each prompt, of ids or by the names of models; ``options`` gives those of its number.

        In a thread, since a grammar may take long.
        """

        def make() -> None:
            for number, prompt in enumerate(prompts):
                self.texts.append(Text(self.pair, prompt, options(number)))

        await asyncio.to_thread(make)
        return self.texts

    def limit(self, asked: int | None) -> int | None:
        """``max_tokens`` within the server's limit. -1 asks for as many as the context has room for, as None does."""
        most = self.service.settings.max_tokens
        if asked is None or asked == -1:
            return most
        return asked if most is None else min(asked, most)

    async def write(self, text: Text) -> Completion:
        """The whole text."""
        written = await text.completion(self.turns, self.service.texts)
        self.service.metrics.written(self.way.pair, written.tokens, written.stats)
        return written

    async def likeliest(self, text: Text) -> list[tuple[int, float]]:
        """The likeliest ids behind its prompt, in the turn of the request."""
        found = await text.likeliest(self.service.texts)
        self.service.metrics.written(self.way.pair, [], text.stats)
        return found

    async def bunches(self, text: Text) -> AsyncIterator[list[Token]]:
        """Its tokens as they are written."""
        metrics = self.service.metrics
        clock = metrics.clock()
        tokens: list[Token] = []
        async with contextlib.aclosing(text.bunches(self.turns, self.service.texts)) as bunches:  # type: ignore[type-var]
            try:
                async for bunch in bunches:
                    clock.tokens(len(bunch))
                    tokens += bunch
                    yield bunch
            finally:
                metrics.written(self.way.pair, tokens, text.stats)

    async def answered(
        self,
        request: Request,
        answer: Any,
        resources: contextlib.AsyncExitStack,
        *,
        in_events: bool | None,
        error_name: str | None = None,
    ) -> Response:
        """What the client gets: ``answer.whole()``, or ``answer.events()``, with which ``resources`` end."""
        if not in_events:
            return Json(await unless_gone(request, answer.whole()))
        return EventStream(
            answer.events(),
            resources.pop_all(),
            progress=self.progress,
            keep_alive=self.service.settings.keep_alive,
            error_name=error_name,
        )

    def progress(self) -> str:
        """What is being done, in words."""
        return "; ".join(dict.fromkeys(text.progress() for text in self.texts)) or "working"

    def close(self) -> None:
        """Ends its texts."""
        for text in self.texts:
            text.close()


async def all_of(work: Sequence[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """What all of them return. The first error cancels the others and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        return [task.result() for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def merged(streams: Sequence[AsyncIterator[_Result]]) -> AsyncIterator[_Result]:
    """What several give, as it comes. The first error ends all of them and is raised."""
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as only:  # type: ignore[type-var]
            async for item in only:
                yield item
        return
    # Each item is something given, an error, or None for an end.
    items: asyncio.Queue[tuple[_Result] | Exception | None] = asyncio.Queue(maxsize=4 * len(streams))

    async def read(stream: AsyncIterator[_Result]) -> None:
        try:
            async with contextlib.aclosing(stream) as opened:  # type: ignore[type-var]
                async for item in opened:
                    await items.put((item,))
        except Exception as error:
            await items.put(error)
        else:
            await items.put(None)

    tasks = [asyncio.ensure_future(read(stream)) for stream in streams]
    try:
        left = len(tasks)
        while left:
            found = await items.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield found[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
