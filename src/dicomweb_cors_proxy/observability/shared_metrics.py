"""The metrics of several workers, added up."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import prometheus_client as prometheus
from prometheus_client import CollectorRegistry, disable_created_metrics, values
from prometheus_client.exposition import generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from dicomweb_cors_proxy.observability.log_setup import dropped_lines
from dicomweb_cors_proxy.observability.metrics import (
    BUCKETS,
    BYTES,
    CONNECTIONS,
    DROPPED_LINES,
    DURATION,
    ERRORS,
    IN_PROGRESS,
    OUTCOMES,
    PREFLIGHTS,
    REQUESTS,
    TOKEN_OUTCOMES,
    TOKENS,
    TTFB,
    Metrics,
    files_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from prometheus_client.core import Metric

    from dicomweb_cors_proxy.observability.records import RequestRecord

__all__ = ["SharedMetrics", "share", "worker_ended"]

# Omit the second series that prometheus_client adds to each counter, with its start time.
disable_created_metrics()  # type: ignore[no-untyped-call]

T = TypeVar("T", prometheus.Counter, prometheus.Histogram)


class _Children(dict[tuple[object, ...], T], Generic[T]):
    """The children of a metric by their labels' values; `labels` would take a lock each time."""

    def __init__(self, metric: T) -> None:
        self._metric: T = metric

    def __missing__(self, labels: tuple[object, ...]) -> T:
        child: T = self._metric.labels(*labels)
        self[labels] = child
        return child


class SharedMetrics(Metrics):
    """Metrics in the files of all processes that share the directory."""

    is_shared = True

    def __init__(
        self,
        *,
        upstream_errors: Iterable[str] = (),
        connections: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        super().__init__(upstream_errors=upstream_errors, connections=connections)
        registry = CollectorRegistry()
        counter = partial(prometheus.Counter, registry=registry)
        histogram = partial(prometheus.Histogram, registry=registry, buckets=BUCKETS)
        gauge = partial(prometheus.Gauge, registry=registry, multiprocess_mode="livesum")
        self._requests = _Children(counter(*REQUESTS))
        self._durations = _Children(histogram(*DURATION))
        self._ttfbs = _Children(histogram(*TTFB))
        self._bytes = _Children(counter(*BYTES))
        preflights = counter(*PREFLIGHTS)
        self._preflights = {f"preflight-{each}": preflights.labels(each) for each in OUTCOMES}
        failures = counter(*ERRORS)
        self._failures = {reason: failures.labels(reason) for reason in upstream_errors}
        tokens = counter(*TOKENS)
        self._token_outcomes = {outcome: tokens.labels(outcome) for outcome in TOKEN_OUTCOMES}
        self._in_progress = gauge(*IN_PROGRESS)
        self._connections = gauge(*CONNECTIONS)
        self._dropped_lines = counter(*DROPPED_LINES)
        self._published_dropped_lines = 0

    def observe(self, record: RequestRecord) -> None:
        method, resource = record.method, record.resource
        self._requests[method, resource, record.status].inc()
        self._durations[method, resource].observe(record.duration)
        self._bytes[(resource,)].inc(record.bytes_out)
        if record.ttfb is not None:
            self._ttfbs[(resource,)].observe(record.ttfb)
        if record.cors in self._preflights:
            self._preflights[record.cors].inc()
        if record.upstream_error is not None:
            self._failures[record.upstream_error].inc()
        if record.authentication is not None:
            self._token_outcomes[record.authentication].inc()

    def refresh(self) -> None:
        self._in_progress.set(self.in_progress)
        for state, count in self._count_connections().items():
            self._connections.labels(state).set(count)
        dropped = dropped_lines()
        self._dropped_lines.inc(dropped - self._published_dropped_lines)
        self._published_dropped_lines = dropped

    def exposition(self) -> bytes:
        self.refresh()
        registry = CollectorRegistry()
        registry.register(_Files(os.environ["PROMETHEUS_MULTIPROC_DIR"]))
        return generate_latest(registry)


class _Files(MultiProcessCollector):
    """The sum of the files of all processes; prometheus_client would read every .db file."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        files = list(map(str, files_of(self._directory)))
        metrics: Iterable[Metric] = self.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return metrics


def share(directory: str, slot: int | None = None) -> None:
    """Make all metrics that are created later add up in `directory`.

    Args:
        directory: of all the processes that share it.
        slot: number of this process, which continues the counters of its predecessor; default:
            its process ID.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
    identity = os.getpid if slot is None else partial(int, slot)
    # prometheus_client reads the variable only when it is imported.
    values.ValueClass = values.MultiProcessValue(identity)  # type: ignore[no-untyped-call]


def worker_ended(slot: int) -> None:
    """Remove the gauges of a process that has ended from the sum; its counters stay."""
    mark_process_dead(slot)  # type: ignore[no-untyped-call]
