"""Prometheus metrics of one application, in a registry of its own. No label holds an id, a key or a prompt.

Counters and histograms are of this process; what the database knows is read when somebody scrapes.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.faults import OUR_FAULTS
from models.overview import Load, Waiting
from models.status import BatchStatus

LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)  # the last: a synchronous wait
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # any word may stand there
OTHER = "other"


class Metrics:
    """What is counted, and how it is written down."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self.requests = CounterMetric(
            "batchmill_http_requests", "Answered requests.", ("method", "route", "status"), registry=self._registry
        )
        self.latency = Histogram(
            "batchmill_http_request_seconds",
            "Time to the end of the answer, waits and streams included.",
            ("method", "route"),
            buckets=LATENCY_SECONDS,
            registry=self._registry,
        )
        self._load = LoadCollector()
        self._registry.register(self._load)

    def exposition(self, load: Load | None) -> bytes:
        """The metrics as Prometheus reads them. None: the database does not answer, and its numbers are left out."""
        self._load.load = load
        return generate_latest(self._registry)


class LoadCollector:
    """The load as gauges, made anew for each scrape: a model or a status that is gone leaves no line behind."""

    def __init__(self) -> None:
        self.load: Load | None = None

    def collect(self) -> Iterable[Metric]:
        """The gauges of the load that was set last."""
        up = GaugeMetricFamily("batchmill_database_up", "Whether the database answered this scrape.")
        up.add_metric((), float(self.load is not None))
        yield up
        if self.load is not None:
            yield from _queue(self.load)
            yield _workers(self.load)
            yield _batches(self.load)
            yield _dead_letters(self.load)


def _queue(load: Load) -> Iterable[Metric]:
    """By model, a model with workers and nothing to do included: a line that is not there raises no alert."""
    depth = GaugeMetricFamily("batchmill_queue_depth", "Queued jobs.", labels=("model",))
    oldest = GaugeMetricFamily("batchmill_oldest_queued_seconds", "Age of the oldest queued job.", labels=("model",))
    by_model: defaultdict[str, list[Waiting]] = defaultdict(list)
    for group in load.waiting:
        by_model[group.model].append(group)
    for model in sorted(by_model.keys() | {worker.model for worker in load.workers}):
        depth.add_metric((model,), sum(group.num_jobs for group in by_model[model]))
        oldest.add_metric((model,), load.age_seconds(by_model[model]) or 0.0)
    return (depth, oldest)


def _workers(load: Load) -> Metric:
    gauge = GaugeMetricFamily("batchmill_workers", "Live workers.", labels=("model", "state"))
    for labels, num in Counter((worker.model, worker.state) for worker in load.workers).items():
        gauge.add_metric(labels, num)
    return gauge


def _batches(load: Load) -> Metric:
    gauge = GaugeMetricFamily("batchmill_batches", "Batches that are stored.", labels=("status",))
    for status in BatchStatus:
        gauge.add_metric((status,), load.batches_by_status.get(status, 0))
    return gauge


def _dead_letters(load: Load) -> Metric:
    """Of every reason: a line that is not there raises no alert. What was replayed is nobody's to do any more."""
    gauge = GaugeMetricFamily("batchmill_dead_letters", "Dead letters that nobody replayed.", labels=("reason",))
    for code in sorted(OUR_FAULTS):
        gauge.add_metric((code,), load.dead_letters.get(code, 0))
    return gauge


class RequestMetrics:
    """Middleware: count each request under the route's template and time it to its end."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request through."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500  # if nothing was sent: the outermost handler answers so

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self.app(scope, receive, send_noting)
        finally:
            method = scope["method"] if scope["method"] in METHODS else OTHER
            route = getattr(scope.get("route"), "path", OTHER)
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.latency.labels(method, route).observe(time.perf_counter() - started)
