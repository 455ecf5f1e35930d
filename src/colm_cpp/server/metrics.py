"""What the server counts, in the form of Prometheus."""

from __future__ import annotations

import bisect
import itertools
import time
from collections import Counter as TokenCounts
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ..results import Stats, Token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric

    from .registry import Registry

__all__ = ["Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class _Pairs(Collector):
    """What the pairs do at this moment."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.metrics_core import GaugeMetricFamily

        loaded = GaugeMetricFamily("colm_pair_loaded", "Whether a pair is loaded.", labels=["pair"])
        writing = GaugeMetricFamily("colm_texts_writing", "Texts that are being written.", labels=["pair"])
        waiting = GaugeMetricFamily("colm_texts_waiting", "Texts that wait for a slot.", labels=["pair"])
        slots = GaugeMetricFamily("colm_slots", "Slots of a pair.", labels=["pair"])
        for name, entry in self._registry.entries.items():
            loaded.add_metric([name], float(entry.pair is not None))
            slots.add_metric([name], entry.slots)
            writing.add_metric([name], 0 if entry.turns is None else entry.turns.writing)
            waiting.add_metric([name], 0 if entry.turns is None else entry.turns.waiting)
        return [loaded, slots, writing, waiting]


class _Between(Collector):
    """Seconds between tokens: a histogram that takes many equal values at once, as tokens come together."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float, n: int) -> None:
        """So many tokens took so long each."""
        self._counts[bisect.bisect_left(_SECONDS, seconds)] += n
        self._sum += seconds * n

    def collect(self) -> Iterable[Metric]:
        from prometheus_client.metrics_core import HistogramMetricFamily

        bounds = [*map(float, _SECONDS), float("inf")]
        buckets = list(zip(map(floatToGoString, bounds), itertools.accumulate(self._counts), strict=True))
        name, about = "colm_time_between_tokens_seconds", "Between tokens of a stream."
        return [HistogramMetricFamily(name, about, buckets=buckets, sum_value=self._sum)]


class _Clock:
    """Times of one streamed text."""

    def __init__(self, first: Histogram, between: _Between) -> None:
        self._first, self._between = first, between
        self._begin = self._last = time.monotonic()
        self._begun = False

    def tokens(self, n: int) -> None:
        """So many tokens have come at once."""
        now = time.monotonic()
        if not self._begun:
            self._first.observe(now - self._begin)
            self._begun = True
        else:
            self._between.observe((now - self._last) / n, n)
        self._last = now


class Metrics:
    """The counters of one server."""

    def __init__(self, registry: Registry) -> None:
        self._all = CollectorRegistry()
        self._all.register(_Pairs(registry))
        ProcessCollector(registry=self._all)
        self._requests = Counter(
            "colm_requests", "Requests by route and status.", ["route", "status"], registry=self._all
        )
        self._tokens = Counter(
            "colm_tokens", "Tokens written, by who wrote them.", ["pair", "source"], registry=self._all
        )
        self._prompt = Counter("colm_prompt_tokens", "Tokens of prompts.", ["pair"], registry=self._all)
        self._calls = Counter("colm_assistant_calls", "Times that an expert was asked.", ["pair"], registry=self._all)
        by_model: dict[str, Any] = {"labelnames": ["pair", "model"], "registry": self._all}
        self._of_models = {
            "calls": Counter("colm_model_calls", "Times that a model was asked.", **by_model),
            "tokens_read": Counter("colm_model_tokens_read", "Tokens that a model read.", **by_model),
            "seconds": Counter("colm_model_seconds", "Seconds in batches of a model.", **by_model),
        }
        self._texts = Counter("colm_texts", "Texts that have ended.", ["pair"], registry=self._all)
        self._seconds = Histogram(
            "colm_request_seconds", "Whole requests.", ["route"], buckets=_SECONDS, registry=self._all
        )
        self._first = Histogram(
            "colm_time_to_first_token_seconds", "Until a stream's first token.", buckets=_SECONDS, registry=self._all
        )
        self._between = _Between()
        self._all.register(self._between)
        self._loaded = Gauge("colm_up", "The server answers.", registry=self._all)
        self._loaded.set(1)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def written(self, pair: str, tokens: Sequence[Token], stats: Stats) -> None:
        """A text has ended."""
        written = TokenCounts(token.source for token in tokens)
        for model, work in stats.experts.items():
            self._tokens.labels(pair, model).inc(written[model])
            for what, counter in self._of_models.items():
                counter.labels(pair, model).inc(getattr(work, what))
        self._prompt.labels(pair).inc(stats.prompt_tokens)
        self._calls.labels(pair).inc(stats.assistant_calls)
        self._texts.labels(pair).inc()

    def clock(self) -> _Clock:
        """For one streamed text."""
        return _Clock(self._first, self._between)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._all)
