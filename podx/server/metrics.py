"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from podx.requests.types import Recommendations

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
EXACT = {True: "true", False: "false", None: "unknown"}


class Metrics:
    """The counters of one application, in a registry of its own.

    Args:
        waiting: how many requests wait for a batch now.
        version: of the bundle that answers now.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, waiting: Callable[[], int], version: Callable[[], str]) -> None:
        self._registry = CollectorRegistry()
        self._waiting, self._version = waiting, version
        self._requests = Counter(
            "podx_requests", "Requests, by route and status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "podx_request_seconds", "From a request's first byte to its response.", ("route",), buckets=SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._sizes = Histogram("podx_batch_size", "Requests of a call.", buckets=SIZES, registry=self._registry)
        self._batch_seconds = Histogram(
            "podx_batch_seconds", "That a call took.", buckets=SECONDS, registry=self._registry
        )
        self._answers = Counter(
            "podx_answers", "Lists of items: certainly the best ones? of a cold-start user?", ("exact", "user"),
            registry=self._registry,
        )  # fmt: skip
        self._swaps = Counter("podx_swaps", "Bundles taken over, and refused.", ("result",), registry=self._registry)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request has been responded to."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        """The model has answered a batch."""
        self._sizes.observe(size)
        self._batch_seconds.observe(seconds)

    def answer(self, answer: Recommendations) -> None:
        """A list of items goes out."""
        self._answers.labels(EXACT[answer.exact], answer.user).inc()

    def swap(self, result: str) -> None:
        """A bundle was ``taken`` or ``refused``."""
        self._swaps.labels(result).inc()

    def collect(self) -> Iterator[Metric]:
        """What is read when it is asked for."""
        yield GaugeMetricFamily("podx_queue_waiting", "Requests that wait for a batch.", self._waiting())
        info = GaugeMetricFamily("podx_bundle_info", "The bundle that answers.", labels=["version"])
        info.add_metric([self._version()], 1)
        yield info

    def text(self) -> bytes:
        """All of them in Prometheus' format."""
        return generate_latest(self._registry)
