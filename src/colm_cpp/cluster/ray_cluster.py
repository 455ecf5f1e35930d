"""A Ray cluster: tasks go to its workers in order, and their results come back in that order.

A worker is a Ray actor that holds one loaded set of models. Where one is lost (its process was killed, its machine is
gone), its task goes to another one, and Ray starts it again where there is room.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._shown import shortened, shown
from ..answers.answering import Arm
from ..answers.problems import Problem
from ..corpus.shared_texts import SharedText
from ..corpus.texts import Text
from ..errors import ClusterError, ColmError
from ..extras import require
from ..learn.respond import Numbered, Row
from ..learn.scoring import ScoredGroup
from ..traces.record import Record
from .worker import Recipe, Worker

__all__ = ["MAX_TRIES", "Cluster"]

MAX_TRIES = 4  # of one task. A text that ends four workers would end them all.
_TASKS_AHEAD = 4  # for each worker: results that wait for an earlier one are held in memory
_ANSWERS_WITHIN = 10.0  # seconds that a cluster may take to accept a connection


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a worker belongs: a machine, and how much of it."""

    node: str
    n_cpus: float
    n_gpus: float


class Cluster:
    """Workers on all machines of a Ray cluster. Use it as a context manager.

    Attributes:
        n_workers: how many there are.
    """

    def __init__(
        self,
        recipe: Recipe,
        facts: Mapping[str, Any],
        *,
        address: str | None = None,
        n_threads: int | None = None,
        gpu: bool = False,
    ) -> None:
        """Connects to a cluster, or starts one on this machine, and begins a worker wherever there is room.

        Args:
            recipe: how a worker loads its models.
            facts: see :func:`.worker.facts_of`. Workers whose models or versions are others are refused.
            address: of the cluster, as :func:`ray.init` takes it. None: that of ``RAY_ADDRESS``, or a new cluster of
                this machine alone.
            n_threads: cores of a worker. None: a machine has one worker with all of its cores.
            gpu: a worker has a GPU, on machines that have one.

        Raises:
            MissingDependency: Ray is not installed.
            ClusterError: the cluster cannot be reached, or no machine in it has room for a worker.
        """
        self._ray = require("ray", "--ray")
        self._facts = dict(facts)
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address)
        try:
            places = self._places(n_threads, gpu)
            actor = self._ray.remote(max_restarts=-1, max_task_retries=0)(Worker)
            affinity = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            # By value: Ray cannot start a worker again whose arguments are in its store.
            sent = replace(recipe, folder=recipe.folder or os.getcwd())
            self._workers = [
                actor.options(
                    num_cpus=place.n_cpus,
                    num_gpus=place.n_gpus,
                    scheduling_strategy=affinity(place.node, soft=True),
                ).remote(sent)
                for place in places
            ]
        except BaseException:
            self.close()
            raise
        self.n_workers = len(self._workers)

    def _connect(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM) if main else None
        host, _, port = (address or "").rpartition(":")
        try:
            if host and port.isdecimal():  # Ray itself tries for minutes where nothing answers
                socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWERS_WITHIN).close()
            self._ray.init(address=address or None, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises bare ones, too, where a start takes too long
            place = "a cluster on this machine" if address is None else f"the cluster {shown(address)}"
            raise ClusterError(
                f"{place} cannot be reached ({shortened(str(error))}); check that 'ray status' shows it, and that all "
                "machines have the same versions of Python and Ray"
            ) from error
        finally:
            if main:
                signal.signal(signal.SIGTERM, handler)  # Ray has put its own in its place

    def _places(self, n_threads: int | None, gpu: bool) -> list[_Place]:
        places = []
        for node in self._ray.nodes():
            if not node["Alive"]:
                continue
            n_cpus = int(node["Resources"].get("CPU", 0))
            n_gpus = int(node["Resources"].get("GPU", 0)) if gpu else 0
            own = n_threads or n_cpus
            n = n_cpus // own if own else 0
            if n_gpus:
                n = min(n, n_gpus) if n_threads else n_gpus
                own = own if n_threads else max(n_cpus // n_gpus, 1)
            places += [_Place(node["NodeID"], own, 1 if n_gpus else 0)] * n
        if not places:
            wanted = f"{n_threads} cores" if n_threads else "a core"
            raise ClusterError(
                f"no machine of the cluster has {wanted} for a worker; add machines to it, or give fewer --n-threads"
            )
        return places

    # -- what workers do -------------------------------------------------------------------------------------------

    def score(self, groups: Iterable[list[Text | SharedText]], top_k: int) -> Generator[ScoredGroup, None, None]:
        """For :func:`colm_cpp.learn.score`."""
        return self.in_order("score", ((group, top_k) for group in groups))

    def answer(
        self, documents: Iterable[Numbered], options: Mapping[str, Any], chat: bool, system: str | None, n_parallel: int
    ) -> Generator[Row, None, None]:
        """For :func:`colm_cpp.learn.respond`."""
        tasks = ((some, options, chat, system, n_parallel) for some in _some(documents, n_parallel))
        for rows in self.in_order("answer", tasks):
            yield from rows

    def write(
        self, asked: Sequence[tuple[Problem, Arm]], options: Mapping[str, Any], chat: bool, n_parallel: int
    ) -> Generator[tuple[int, Record], None, None]:
        """For :func:`colm_cpp.learn.evaluate`."""
        tasks = ((some, options, chat, n_parallel) for some in _some(asked, n_parallel))
        yield from enumerate(itertools.chain.from_iterable(self.in_order("write", tasks)))

    def in_order(self, call: str, tasks: Iterable[tuple[Any, ...]]) -> Generator[Any, None, None]:
        """The results of a worker's method for each task, in the order of the tasks.

        Raises:
            ClusterError: a task ended several workers, or a machine has other models or versions.
            ColmError: what the method raised.
        """
        numbered: Iterator[tuple[int, tuple[Any, ...]]] = enumerate(tasks)
        first = next(numbered, None)
        if first is None:
            return
        numbered = itertools.chain([first], numbered)
        given: dict[int, tuple[Any, ...]] = {}  # tasks without a result
        tries: dict[int, int] = {}
        again: deque[int] = deque()
        results: dict[int, Any] = {}
        # A worker is asked for its facts first: it loads its models then.
        asked = {self._facts_of(worker): (worker, -1) for worker in self._workers}
        free: deque[Any] = deque()
        n_read = n_next = 0
        more = True
        while more or given:
            while free and (again or (more and n_read - n_next < _TASKS_AHEAD * self.n_workers)):
                if again:
                    number = again.popleft()
                else:
                    number, task = next(numbered, (-1, ()))
                    if number < 0:
                        more = False
                        break
                    given[number] = task
                    n_read += 1
                worker = free.popleft()
                asked[getattr(worker, call).remote(*given[number])] = worker, number
            if more or given:
                (ready,), _ = self._ray.wait(list(asked), num_returns=1)
                worker, number = asked.pop(ready)
                try:
                    result = self._ray.get(ready)
                except self._ray.exceptions.RayTaskError as error:
                    raise _cause(error) from error
                except self._ray.exceptions.RayError as error:
                    tries[number] = tries.get(number, 0) + 1
                    if number < 0 or tries[number] == MAX_TRIES:
                        what = "a worker cannot be started" if number < 0 else f"a task ended {MAX_TRIES} workers"
                        raise ClusterError(
                            f"{what} ({shortened(str(error))}); see Ray's logs of its machines, and whether these have "
                            "colm-cpp and enough memory"
                        ) from error
                    again.append(number)
                    asked[self._facts_of(worker)] = worker, -1
                    continue
                free.append(worker)
                if number < 0:
                    self._check(result)
                else:
                    del given[number]
                    results[number] = result
            while n_next in results:
                yield results.pop(n_next)
                n_next += 1

    def _facts_of(self, worker: Any) -> Any:
        # Ray asks again by itself, until the worker has been started somewhere.
        return worker.facts.options(max_task_retries=-1).remote()

    def _check(self, facts: Mapping[str, Any]) -> None:
        for name, value in self._facts.items():
            if facts.get(name) != value:
                raise ClusterError(
                    f"a machine of the cluster has {name} {shown(facts.get(name))}, and this one {shown(value)}; "
                    "install the same versions, and put the same model files, on all machines"
                )

    def processes(self) -> Iterator[int]:
        """The numbers of the workers' processes, on their machines."""
        yield from self._ray.get([worker.process.remote() for worker in self._workers])

    def close(self) -> None:
        """Ends the workers, and leaves the cluster."""
        if self._own:
            self._ray.shutdown()
        else:
            for worker in getattr(self, "_workers", ()):
                self._ray.kill(worker)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _some(things: Iterable[Any], n_parallel: int) -> Iterator[list[Any]]:
    """Tasks of a few things: one, or where many are written at a time, four times as many."""
    things = iter(things)
    n = 1 if n_parallel == 1 else 4 * n_parallel
    while some := list(itertools.islice(things, n)):
        yield some


def _cause(error: Any) -> ColmError:
    """What a worker raised, as it raised it."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, ColmError):
        return cause
    return ClusterError(f"a worker failed ({shortened(str(error).strip().splitlines()[-1])}); see Ray's logs")
