"""Figures of one process, and of several that share a directory."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections import Counter
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from dicomweb_cors_proxy.observability.metrics import Metrics, files_of
from dicomweb_cors_proxy.observability.records import RequestRecord
from dicomweb_cors_proxy.observability.shared_metrics import SharedMetrics, share, worker_ended
from tests.integration.test_asgi import uvicorn
from tests.support.proxy import Proxy, fronting
from tests.support.servers import LOOPBACK, Reply, stub
from tests.support.sockets import ORIGIN, Head, Wire, answer, archive, request

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_processes_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "shared"))
    asked = (2, 3)
    with stub(Reply(body=b"hello")) as archive, ExitStack() as running:
        workers = [running.enter_context(uvicorn(archive.url)) for _ in asked]
        roots = ["http://{}:{}".format(*worker.address) for worker in workers]
        for root, count in zip(roots, asked, strict=True):
            for _ in range(count):
                httpx.get(
                    f"{root}/dicom-web/studies", timeout=60, trust_env=False
                ).raise_for_status()
        shown = [httpx.get(f"{root}/metrics", timeout=60, trust_env=False).text for root in roots]
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
    left = SharedMetrics().exposition().decode()
    assert 'requests_total{method="GET",resource="studies",status="200"} 5.0' in left
    assert "upstream_connections{" not in left


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


# Of a `serve`


class Step(NamedTuple):
    """A request of a script, and what it adds to the figures."""

    raw: bytes
    labels: tuple[str, str, str]  # method, resource, status
    size: int = 0  # of the answer's body; -1 for one of our own
    upstream: bool = True  # whether the archive answers
    error: str = ""


SERIES = "studies/{study}/series"
ASK = "Access-Control-Request-Method: GET"
STUDY = "/dicom-web/studies"
SCRIPT = [
    *[Step(request(), ("GET", "studies", "200"), 5)] * 3,
    Step(request("GET", f"{STUDY}/1.2/series"), ("GET", SERIES, "200"), 5),
    Step(request("GET", f"{STUDY}/1.2/series", "X-Do: 404"), ("GET", SERIES, "404"), 5),
    Step(request("GET", STUDY, "X-Do: cut"), ("GET", "studies", "200"), 5, error="protocol"),
    Step(request("GET", STUDY, "X-Do: garbage"), ("GET", "studies", "502"), -1, False, "protocol"),
    Step(request("GET", STUDY, "X-Do: hang"), ("GET", "studies", "504"), -1, False, "read_timeout"),
    Step(request("GET", "/dicom-web/workitems"), ("GET", "workitems", "502"), -1, False, "connect"),
    *[Step(request("OPTIONS", STUDY, ASK), ("OPTIONS", "studies", "204"), 0, False)] * 2,
    Step(
        request("OPTIONS", STUDY, ASK, origin=b"https://no.example"),
        ("OPTIONS", "studies", "403"),
        -1,
        upstream=False,
    ),
    Step(request("GET", "/nothing"), ("GET", "unmatched", "404"), -1, upstream=False),
    Step(request("POST", STUDY, body=b"x"), ("POST", "studies", "405"), -1, upstream=False),
    Step(request("DOE"), ("OTHER", "studies", "405"), -1, upstream=False),
]


async def act(wire: Wire, head: Head) -> None:
    what = head.get(b"x-do")
    if what == b"404":
        await wire.send(answer(b"hello", status=b"404 Not Found"))
    elif what == b"hang":
        await wire.closed()
    elif what == b"garbage":
        await wire.send(b"garbage\r\n\r\n")
        wire.writer.close()
    elif what == b"cut":
        await wire.send(answer(b"hello", length=99))
        wire.writer.close()
    else:
        await wire.send(answer(b"hello"))


Figures = dict[tuple[str, tuple[str, ...]], float]


async def play(port: int, step: Step) -> int:
    """Send the request on a connection of its own; the size of the body that came."""
    async with Wire(*await asyncio.open_connection(LOOPBACK, port)) as client:
        await client.send(step.raw)
        head = await client.head()
        assert str(head.status) == step.labels[-1]
        if head.status == 204:
            return 0
        try:
            return len(await client.body(head))
        except asyncio.IncompleteReadError as error:
            return len(error.partial)


async def figures(root: str) -> Figures:
    """Counts by name, without the prefix, and the values of labels; no buckets and sums."""
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{root}/metrics")).text
    return {
        (sample.name.removeprefix("dicomweb_proxy_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_sum"))
    }


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "two workers"])
async def test_they_add_up_to_a_scripts_requests(
    workers: int, serve: Callable[..., Proxy], tmp_path: Path
) -> None:
    folder = tmp_path / "figures"
    expected = Counter[tuple[str, tuple[str, ...]]]()
    async with archive(act) as there:
        settings = fronting(
            there.url, ORIGIN.decode(), read_timeout=0.5, ups_url=f"http://{LOOPBACK}:9"
        ) | {"server": {"workers": workers}, "logging": {"format": "json"}}
        env = {"PROMETHEUS_MULTIPROC_DIR": str(folder)} if workers > 1 else {}
        proxy = await asyncio.to_thread(partial(serve, settings, env=env))
        port = int(proxy.root.rpartition(":")[2])
        # Until each of several workers has had some: it then has a file of durations.
        while not expected or len(list(folder.glob("histogram_*"))) < workers > 1:
            for step in SCRIPT:
                size = await play(port, step)
                assert size == step.size if step.size >= 0 else size > 0
                method, resource, _ = step.labels
                expected["requests_total", step.labels] += 1
                expected["request_duration_seconds_count", (method, resource)] += 1
                expected["response_bytes_total", (resource,)] += size
                expected["upstream_ttfb_seconds_count", (resource,)] += step.upstream
                expected["upstream_errors_total", (step.error,)] += bool(step.error)
                if method == "OPTIONS":
                    outcome = "allowed" if step.labels[-1] == "204" else "refused"
                    expected["preflights_total", (outcome,)] += 1
            for path, status in (("/healthz", "200"), ("/readyz", "503"), ("/metrics", "200")):
                await play(port, Step(request("GET", path), ("GET", "", status)))
        wanted = {key: count for key, count in expected.items() if count}
        idle = {("requests_in_progress", ()): 0, ("upstream_connections", ("active",)): 0}
        async with asyncio.timeout(30):
            # The other worker may have yet to count its last, and tells its gauges now and then.
            while not idle.items() <= (shown := await figures(proxy.root)).items():
                pass
        assert shown["upstream_connections", ("waiting",)] == 0
        assert {
            key: count for key, count in shown.items() if count and key[0] != "upstream_connections"
        } == wanted
    proxy.child.terminate()
    assert await asyncio.to_thread(proxy.child.wait) == 0
    lines = [json.loads(line) for line in proxy.child.output.splitlines() if '"method"' in line]
    assert Counter((x["method"], x["resource"], str(x["status"])) for x in lines) == {
        labels: count for (name, labels), count in wanted.items() if name == "requests_total"
    }


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
        pytest.param({f'upstream_errors_total{{{JOB}, reason="token"}}': "0+1x20"},
                     "DICOMwebArchiveRefusesProxy", id="no token"),
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
        ({f"log_lines_dropped_total{{{JOB}}}": "0+1x20"}, "DICOMwebLogLinesDropped"),
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
