"""Figures of processes that serve, one or several that share a directory."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dicomweb_cors_proxy.observability.shared_metrics import SharedMetrics, worker_ended
from tests.integration.test_asgi import uvicorn
from tests.support.proxy import Proxy, fronting
from tests.support.servers import LOOPBACK, Reply, stub
from tests.support.sockets import ORIGIN, Head, Wire, answer, archive, request

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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


class Step(NamedTuple):
    """A request of a script, and what it adds to the figures."""

    raw: bytes
    labels: tuple[str, str, str]  # method, resource, status
    size: int = 0  # of the response's body; -1 for one of our own
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
