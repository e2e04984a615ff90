"""What the proxy counts, in Prometheus's terms.

With `PROMETHEUS_MULTIPROC_DIR` set, the processes that share that directory add up their figures
there, and each of them answers for all; else every `Metrics` stands for itself.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dicomweb_cors_proxy.logs import Record

__all__ = ["CONTENT_TYPE", "REFRESH", "Metrics", "share", "worker_ended"]

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

# Seconds between two looks at the gauges, where another process may be the one to tell.
REFRESH: Final = 5.0

# Seconds. From an answer out of a cache to one off a tape.
_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

# No second series beside every counter to tell when it began.
disable_created_metrics()  # type: ignore[no-untyped-call]

T = TypeVar("T", Counter, Gauge, Histogram)


class _Children(dict[tuple[object, ...], T], Generic[T]):
    """The children of a metric by their labels' values; `labels` would take a lock each time."""

    def __init__(self, metric: T) -> None:
        self._metric: T = metric

    def __missing__(self, labels: tuple[object, ...]) -> T:
        child: T = self._metric.labels(*labels)
        self[labels] = child
        return child


class Metrics:
    """The figures of one application.

    Args:
        upstream_errors: the reasons that there are, to begin with zero.
        connections: counts the connections to the archive by their state.

    Attributes:
        in_progress: requests that are being answered.
    """

    def __init__(
        self,
        *,
        upstream_errors: Iterable[str] = (),
        connections: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if shared:
            Path(shared).mkdir(parents=True, exist_ok=True)
        self.is_shared = bool(shared)
        self._registry = registry = CollectorRegistry()
        self._requests = _Children(
            Counter(
                "dicomweb_proxy_requests",
                "Requests answered, preflights included.",
                ("method", "resource", "status"),
                registry=registry,
            )
        )
        self._duration = _Children(
            Histogram(
                "dicomweb_proxy_request_duration_seconds",
                "From a request's head to the last byte of its answer.",
                ("method", "resource"),
                registry=registry,
                buckets=_BUCKETS,
            )
        )
        self._ttfb = _Children(
            Histogram(
                "dicomweb_proxy_upstream_ttfb_seconds",
                "Until the archive's answer began, waiting for a connection included.",
                ("resource",),
                registry=registry,
                buckets=_BUCKETS,
            )
        )
        self._bytes = _Children(
            Counter(
                "dicomweb_proxy_response_bytes",
                "Bytes of answers' bodies sent to clients.",
                ("resource",),
                registry=registry,
            )
        )
        preflights = Counter(
            "dicomweb_proxy_preflights",
            "CORS preflights by what the policy said.",
            ("outcome",),
            registry=registry,
        )
        self._preflights = {
            f"preflight-{outcome}": preflights.labels(outcome) for outcome in ("allowed", "refused")
        }
        errors = Counter(
            "dicomweb_proxy_upstream_errors",
            "Failures of the archive, or on the way to it.",
            ("reason",),
            registry=registry,
        )
        self._errors = {reason: errors.labels(reason) for reason in upstream_errors}
        self.in_progress = 0
        self._in_progress = Gauge(
            "dicomweb_proxy_requests_in_progress",
            "Requests that are being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._in_progress.set_function(lambda: self.in_progress)
        self._count_connections = connections
        self._connections = Gauge(
            "dicomweb_proxy_upstream_connections",
            "Connections to the archive: active, idle; and requests waiting for one.",
            ("state",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        for state in connections():
            self._connections.labels(state).set_function(partial(self._count, state))

    def _count(self, state: str) -> float:
        return self._count_connections()[state]

    def observe(self, record: Record) -> None:
        """Count a request that has ended."""
        method, resource = record.method, record.resource
        self._requests[method, resource, record.status].inc()
        self._duration[method, resource].observe(record.duration)
        self._bytes[(resource,)].inc(record.bytes_out)
        if record.ttfb is not None:
            self._ttfb[(resource,)].observe(record.ttfb)
        if record.cors in self._preflights:
            self._preflights[record.cors].inc()
        if record.upstream_error is not None:
            self._errors[record.upstream_error].inc()

    def refresh(self) -> None:
        """Leave the gauges for other processes to tell."""
        self._in_progress.set(self.in_progress)
        for state, count in self._count_connections().items():
            self._connections.labels(state).set(count)

    def exposition(self) -> bytes:
        """Return all figures, of every process that shares them, in Prometheus's text format."""
        registry = self._registry
        if self.is_shared:
            self.refresh()
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def share(directory: str, slot: int | None = None) -> None:
    """Let every `Metrics` made from now on add up in `directory`.

    Args:
        directory: of all the processes that share it.
        slot: this process's among them, in which it counts on from where its predecessor has ended;
            default: one of its own.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    identity = os.getpid if slot is None else partial(int, slot)
    # prometheus_client has looked for the variable when it was imported.
    values.ValueClass = values.MultiProcessValue(identity)  # type: ignore[no-untyped-call]


def worker_ended(slot: int) -> None:
    """Take the gauges of a process that has ended out of the sum; its counters stay."""
    mark_process_dead(slot)  # type: ignore[no-untyped-call]
