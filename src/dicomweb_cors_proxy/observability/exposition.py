"""Prometheus's text format for metrics that are counted in plain numbers."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.core import Metric

__all__ = ["Exposition", "Spread"]


class Spread(Protocol):
    """Values by bucket.

    Attributes:
        counts: number of values in each bucket, and above all of them.
        total: sum of the values.
    """

    counts: list[int]
    total: float


class Exposition(Collector):
    """Metrics to be exposed, in the order in which they are added.

    A metric is a name, a help text and the names of its labels. Its figures are given by the
    values of these labels.

    Args:
        bounds: of the buckets of all histograms.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, float("inf"))
        self._families: list[Metric] = []

    def counter(
        self,
        metric: tuple[str, str, tuple[str, ...]],
        figures: Mapping[tuple[str, ...], float],
    ) -> None:
        """Add a counter."""
        self._add(CounterMetricFamily(*metric[:2], labels=metric[2]), figures)

    def gauge(
        self,
        metric: tuple[str, str, tuple[str, ...]],
        figures: Mapping[tuple[str, ...], float],
    ) -> None:
        """Add a gauge."""
        self._add(GaugeMetricFamily(*metric[:2], labels=metric[2]), figures)

    def histogram(
        self,
        metric: tuple[str, str, tuple[str, ...]],
        spreads: Mapping[tuple[str, ...], Spread],
    ) -> None:
        """Add a histogram."""
        family = HistogramMetricFamily(*metric[:2], labels=metric[2])
        for labels, spread in spreads.items():
            family.add_metric(labels, self._buckets(spread), spread.total)
        self._families.append(family)

    def collect(self) -> Iterable[Metric]:
        """Return the metrics; see `prometheus_client.registry.Collector`."""
        return self._families

    def text(self) -> bytes:
        """Return the metrics in Prometheus's text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def _add(
        self,
        family: CounterMetricFamily | GaugeMetricFamily,
        figures: Mapping[tuple[str, ...], float],
    ) -> None:
        for labels, figure in figures.items():
            family.add_metric(labels, figure)
        self._families.append(family)

    def _buckets(self, spread: Spread) -> list[tuple[str, float]]:
        """Return bounds as Prometheus writes them, each with the number of values up to it."""
        return [
            (floatToGoString(bound), up_to)  # type: ignore[no-untyped-call]
            for bound, up_to in zip(self._bounds, accumulate(spread.counts), strict=True)
        ]
