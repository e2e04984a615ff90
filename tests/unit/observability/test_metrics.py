"""Figures of one process, and of several that share a directory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.parser import text_string_to_metric_families

from dicomweb_cors_proxy.observability.metrics import CONTENT_TYPE, Metrics, files_of
from dicomweb_cors_proxy.observability.records import RequestRecord
from dicomweb_cors_proxy.observability.shared_metrics import SharedMetrics, share

CONTRACT = {
    "dicomweb_proxy_requests": {"method", "resource", "status"},
    "dicomweb_proxy_request_duration_seconds": {"method", "resource"},
    "dicomweb_proxy_upstream_ttfb_seconds": {"resource"},
    "dicomweb_proxy_preflights": {"outcome"},
    "dicomweb_proxy_response_bytes": {"resource"},
    "dicomweb_proxy_requests_in_progress": set(),
    "dicomweb_proxy_upstream_connections": {"state"},
    "dicomweb_proxy_upstream_errors": {"reason"},
    "dicomweb_proxy_access_tokens": {"outcome"},
    "dicomweb_proxy_log_lines_dropped": set(),
}


def example() -> Metrics:
    """Every metric with a sample."""
    metrics = Metrics(
        upstream_errors=["connect"], connections=lambda: {"active": 1, "idle": 2, "waiting": 0}
    )
    metrics.observe(
        RequestRecord(
            method="GET",
            request_id="",
            client=None,
            resource="studies",
            status=502,
            upstream_error="connect",
            ttfb=0.1,
            duration=0.2,
            bytes_out=5,
        )
    )
    return metrics


def test_names_and_labels_are_the_contracts() -> None:
    families = list(text_string_to_metric_families(example().exposition().decode()))
    assert {
        family.name: {label for sample in family.samples for label in sample.labels} - {"le"}
        for family in families
    } == CONTRACT


def test_the_content_type_is_prometheus_clients() -> None:
    assert CONTENT_TYPE == CONTENT_TYPE_PLAIN_0_0_4


def test_only_files_of_metrics_are_found_and_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """prometheus_client itself reads every file that ends in .db."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    share(str(tmp_path), 7)
    SharedMetrics(upstream_errors=["connect"]).refresh()
    own = {file.name for file in tmp_path.iterdir()}
    assert own == {"counter_7.db", "gauge_livesum_7.db"}
    others = [
        "patients.db", "counter.db", "counter_7.db.bak", "my_counter_7.db", "gauge_7.db",
        "counter_patients.db", "counter_\u0667.db",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).write_text("Doe^Jane")
    (tmp_path / "summary_7.db").mkdir()
    assert {file.name for file in files_of(str(tmp_path))} == own
    figures = SharedMetrics().exposition().decode()
    assert 'upstream_errors_total{reason="connect"} 0.0' in figures


# What is built on the metrics

DEPLOY = Path(__file__).parents[3] / "deploy"
DASHBOARD, ALERTS = DEPLOY / "grafana-dashboard.json", DEPLOY / "alerts.yaml"


@pytest.mark.parametrize("file", [DASHBOARD, ALERTS], ids=lambda file: file.name)
def test_dashboard_and_alerts_ask_for_what_there_is(file: Path) -> None:
    series = set(re.findall(r"^(dicomweb_\w+)", example().exposition().decode(), re.MULTILINE))
    asked = set(re.findall(r"\bdicomweb_proxy_\w+", file.read_text(encoding="utf-8")))
    assert asked
    assert asked <= series


def test_every_metric_is_on_the_dashboard_and_in_the_page() -> None:
    page = (DEPLOY.parent / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for text in (DASHBOARD.read_text(encoding="utf-8"), page):
        assert not [name for name in CONTRACT if name not in text]


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            assert {"summary", "description"} <= rule["annotations"].keys()
            assert rule["labels"]["severity"] in {"warning", "critical"}
