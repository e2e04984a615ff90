"""Figures of one process, and of several that share a directory."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dicomweb_cors_proxy.logs import Record
from dicomweb_cors_proxy.metrics import Metrics, worker_ended
from tests.support.servers import Reply, stub
from tests.test_asgi import uvicorn

CONTRACT = {
    "dicomweb_proxy_requests": {"method", "resource", "status"},
    "dicomweb_proxy_request_duration_seconds": {"method", "resource"},
    "dicomweb_proxy_upstream_ttfb_seconds": {"resource"},
    "dicomweb_proxy_preflights": {"outcome"},
    "dicomweb_proxy_response_bytes": {"resource"},
    "dicomweb_proxy_requests_in_progress": set(),
    "dicomweb_proxy_upstream_connections": {"state"},
    "dicomweb_proxy_upstream_errors": {"reason"},
}


def example() -> Metrics:
    """Every metric with a sample."""
    metrics = Metrics(
        upstream_errors=["connect"], connections=lambda: {"active": 1, "idle": 2, "waiting": 0}
    )
    metrics.observe(
        Record(
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


def test_processes_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "shared"))
    asked = (2, 3)
    with stub(Reply(body=b"hello")) as archive, ExitStack() as running:
        workers = [running.enter_context(uvicorn(archive.url)) for _ in asked]
        roots = ["http://{}:{}".format(*worker.address) for worker in workers]
        for root, count in zip(roots, asked, strict=True):
            for _ in range(count):
                httpx.get(f"{root}/dicom-web/studies", trust_env=False).raise_for_status()
        shown = [httpx.get(f"{root}/metrics", trust_env=False).text for root in roots]
        running.pop_all().close()
    for figures in shown:
        assert 'requests_total{method="GET",resource="studies",status="200"} 5.0' in figures
        assert 'ttfb_seconds_count{resource="studies"} 5.0' in figures
        assert 'response_bytes_total{resource="studies"} 25.0' in figures
        assert "dicomweb_proxy_requests_in_progress 0.0" in figures
    assert 'upstream_connections{state="idle"} 2.0' in shown[1]

    # Both have ended. What they have counted stays, what they had open does not.
    for worker in workers:
        worker_ended(worker.child.pid)
    left = Metrics().exposition().decode()
    assert 'requests_total{method="GET",resource="studies",status="200"} 5.0' in left
    assert "upstream_connections{" not in left


# What is built on the metrics

DEPLOY = Path(__file__).parents[1] / "deploy"
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


def promtool(*arguments: str | Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool, of Debian's prometheus")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_prometheuss() -> None:
    promtool("check", "rules", ALERTS)


JOB = 'job="dicomweb-cors-proxy", instance="proxy:8080"'
NAMES = ("requests_total", "upstream_errors_total", "preflights_total")


@pytest.mark.parametrize(
    ("series", "alert"),
    [
        ({f"up{{{JOB}}}": "0x20"}, "DICOMwebProxyDown"),
        ({f'upstream_errors_total{{{JOB}, reason="credentials"}}': "0+1x20"},
         "DICOMwebArchiveRefusesProxy"),
        ({f'upstream_errors_total{{{JOB}, reason="connect"}}': "0+10x20",
          f'requests_total{{{JOB}, method="GET", status="502"}}': "0+100x20"},
         "DICOMwebArchiveFails"),
        ({f'requests_total{{{JOB}, method="GET", status="500"}}': "0+10x30",
          f'requests_total{{{JOB}, method="GET", status="200"}}': "0+90x30"},
         "DICOMwebServerErrors"),
        ({f'upstream_ttfb_seconds_bucket{{{JOB}, le="10.0"}}': "0+1x40",
          f'upstream_ttfb_seconds_bucket{{{JOB}, le="30.0"}}': "0+10x40",
          f'upstream_ttfb_seconds_bucket{{{JOB}, le="+Inf"}}': "0+10x40"},
         "DICOMwebArchiveSlow"),
        ({f'upstream_connections{{{JOB}, state="waiting"}}': "2x20"},
         "DICOMwebConnectionsExhausted"),
        ({f'preflights_total{{{JOB}, outcome="refused"}}': "0+5x40",
          f'preflights_total{{{JOB}, outcome="allowed"}}': "0+5x40"},
         "DICOMwebPreflightsRefused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_an_alert_fires(series: dict[str, str], alert: str, tmp_path: Path) -> None:
    """As long as what it stands for lasts, and not where there is none of it."""
    inputs = [
        {"series": name if name.startswith("up{") else f"dicomweb_proxy_{name}", "values": values}
        for name, values in series.items()
    ]
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}})'
    idle = [{**each, "values": "1x40"} for each in inputs if "waiting" not in each["series"]]
    tests = tmp_path / "tests.yaml"
    tests.write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(ALERTS)],
                "evaluation_interval": "1m",
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": given,
                        "promql_expr_test": [
                            {"expr": firing, "eval_time": "19m", "exp_samples": samples}
                        ],
                    }
                    for given, samples in (
                        (inputs, [{"labels": "{}", "value": 1}]),
                        (idle, []),
                    )
                ],
            }
        )
    )
    promtool("test", "rules", tests)


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            assert {"summary", "description"} <= rule["annotations"].keys()
            assert rule["labels"]["severity"] in {"warning", "critical"}
